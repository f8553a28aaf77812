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

"""What player and recorder need of a topic: its message class and its quality of service."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from multihmr2_ros.errors import UserError

LATCHED = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


def message_class(type_name: str) -> Any:
    """The Python class of `package/msg/Name`. Raises UserError where the package is not in this shell."""
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the message type {type_name} is not in this shell; source the workspace of {package}"
        ) from error


def playing_qos(type_name: str, *, is_latched: bool) -> QoSProfile:
    """Images, point clouds and the like as sensors send them; everything else arrives reliably."""
    if is_latched:
        return LATCHED
    return SENSOR_DATA if type_name.startswith("sensor_msgs/") else RELIABLE


def recording_qos(publishers: Sequence[Any]) -> QoSProfile:
    """What all these publishers (rclpy's TopicEndpointInfo) match, and what asks most of them."""
    profiles = [publisher.qos_profile for publisher in publishers]
    is_reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
    is_latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        depth=100,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE,
    )
