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

"""Several cameras: nodes of one process in different namespaces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray
from multihmr2_ros.msg import HumanArray
from tf2_msgs.msg import TFMessage

from test.helpers.ros_wire import EVERYTHING, Wire, image_message


def test_two_nodes_of_one_process_keep_apart(wire: Callable[..., Wire]) -> None:
    left = wire(namespace="left", body_prefix="left_body_", diagnostics_period_s=0.1)
    right = wire(namespace="right", body_prefix="right_body_", diagnostics_period_s=0.1)
    for node in (right.node, right.peer):  # one executor for all nodes
        right.executor.remove_node(node)
        left.executor.add_node(node)
    right.executor = left.executor
    right.estimator.people["pelvis"] = np.array([[-2.0, 0.1, 6.0]])
    humans = {side: left.listen(HumanArray, f"/{side}/humans", EVERYTHING) for side in ("left", "right")}
    transforms = left.listen(TFMessage, "/tf", EVERYTHING)
    diagnostics = left.listen(DiagnosticArray, "/diagnostics", EVERYTHING)

    (person,) = left.exchange(humans["left"], image_message()).humans
    assert (person.frame_id, person.pelvis.pose.position.x) == ("left_body_7", 1.0)
    assert not humans["right"]
    (person,) = right.exchange(humans["right"], image_message()).humans
    assert (person.frame_id, person.pelvis.pose.position.x) == ("right_body_7", -2.0)

    def frames() -> set[str]:
        return {transform.child_frame_id for message in transforms for transform in message.transforms}

    left.until(lambda: frames() == {"left_body_7", "right_body_7"})
    names = {"/left/perception_node", "/right/perception_node"}
    left.until(lambda: {message.status[0].name for message in diagnostics} == names)
