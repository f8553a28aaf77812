# Copyright 2026 multihmr2_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Runs nodes in one process, until it is stopped or a new process is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger

from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import make_threads_wait_passively

from .command_line import find_unused_remaps, start_rclpy

if TYPE_CHECKING:
    from .node import PerceptionNode

SPIN_PERIOD_S = 0.1  # signals are checked at this period
FAILED_STATUS = 1  # exit status after an unexpected error, as of Python; in a new process it may not occur
WRONG_CONFIGURATION_STATUS = 2  # exit status after which the launch file does not start the node again
NEW_PROCESS_STATUS = 3  # exit status that makes the launch file start a new process


def run_nodes(arguments: list[str], *make_nodes: Callable[[], PerceptionNode]) -> int:
    """Run nodes until SIGINT or SIGTERM, and return the exit status.

    arguments: as sys.argv. Returns 0 after a signal, and NEW_PROCESS_STATUS if a new process is needed. If a node
    cannot be configured: WRONG_CONFIGURATION_STATUS for a mistake of the user, FAILED_STATUS for another error.
    """
    make_threads_wait_passively()
    try:
        start_rclpy(arguments)
    except UserError as error:
        print(f"perception_node: {error}", file=sys.stderr)
        return WRONG_CONFIGURATION_STATUS
    nodes: list[PerceptionNode] = []
    status, has_ended = 0, True
    try:
        for make_node in make_nodes:
            nodes.append(make_node())
        for problem in find_unused_remaps(arguments, *nodes):
            nodes[0].get_logger().warning(problem)
        if failed := [node for node in nodes if node.parameters.autostart and not node.is_active]:
            is_mistake = all(isinstance(node.configuration_error, UserError) for node in failed)
            status = WRONG_CONFIGURATION_STATUS if is_mistake else FAILED_STATUS
        else:
            reason = _spin(*nodes)
            nodes[0].get_logger().fatal(f"{reason}; the process ends with status {NEW_PROCESS_STATUS}, for a new one")
            status = NEW_PROCESS_STATUS
    except KeyboardInterrupt:
        pass
    except UserError as error:
        get_logger("perception_node").fatal(str(error))
        status = WRONG_CONFIGURATION_STATUS
    finally:
        for node in nodes:
            has_ended &= node.close(publishes_empty=status != NEW_PROCESS_STATUS)
            node.destroy_node()
        rclpy.try_shutdown()
    if not has_ended:
        # A normal exit of Python crashes while a thread is inside the network.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _spin(*nodes: PerceptionNode) -> str:
    """Spin until a new process is needed, and return the reason."""
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    while not (reason := next(filter(None, (node.new_process_reason for node in nodes)), "")):
        executor.spin_once(timeout_sec=SPIN_PERIOD_S)
    return reason
