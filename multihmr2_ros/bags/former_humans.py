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

"""HumanArrays of older bags, recorded before joints and joint_rotations became flat arrays. Needs no ROS."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from multihmr2_ros.bags.definitions import require_type

HUMAN_ARRAY = "multihmr2_ros/msg/HumanArray"
FORMER_FIELD = "Point32[] joints"  # in the message definition stored in the bag
FORMER_HUMAN = """
uint32 track_id
string frame_id
uint8 state
float64 age
float32 score
geometry_msgs/PoseWithCovariance pelvis
geometry_msgs/Vector3 velocity
float64[9] velocity_covariance
string velocity_frame
float32 stature
float32[6] phenotype
sensor_msgs/RegionOfInterest box
geometry_msgs/Point32[] joints
float32[] joints_2d
geometry_msgs/Quaternion[] joint_rotations
float32[] vertices
"""
FORMER_HUMAN_ARRAY = """
std_msgs/Header header
float64[9] k
uint8 intrinsics_source
float64 vertical_fov
float64 age_at_receipt
float64 inference_time
float64 total_latency
uint32 dropped_frames
multihmr2_ros/Human[] humans
"""


def convert_former_human_array(data: bytes, definition: str) -> bytes:
    """Return a HumanArray (CDR) in the current layout. The size of the image, missing in the former layout, is 0.

    definition: of the message type, from the bag; "" if the bag has none. The layout is then found by trying both.
    Bytes of neither layout are returned unchanged.
    """
    if definition and FORMER_FIELD not in definition:
        return data
    store = require_type(HUMAN_ARRAY)
    if not definition:
        with contextlib.suppress(Exception):  # rosbags raises many types
            store.deserialize_cdr(data, HUMAN_ARRAY)
            return data
    with contextlib.suppress(Exception):
        message = _to_current_layout(_make_former_typestore().deserialize_cdr(data, HUMAN_ARRAY), store)
        return bytes(store.serialize_cdr(message, HUMAN_ARRAY))
    return data


@cache
def _make_former_typestore() -> Any:
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(FORMER_HUMAN, "multihmr2_ros/msg/Human"))
    store.register(get_types_from_msg(FORMER_HUMAN_ARRAY, HUMAN_ARRAY))
    return store


def _to_current_layout(message: Any, store: Any) -> Any:
    human_type = store.types["multihmr2_ros/msg/Human"]
    humans = [
        human_type(
            **_copy_fields(human, "joints", "joint_rotations"),
            joints=_flatten([(each.x, each.y, each.z) for each in human.joints]),
            joint_rotations=_flatten([(each.x, each.y, each.z, each.w) for each in human.joint_rotations]),
        )
        for human in message.humans
    ]
    return store.types[HUMAN_ARRAY](**_copy_fields(message, "humans"), height=0, width=0, humans=humans)


def _copy_fields(message: Any, *without: str) -> dict[str, Any]:
    return {name: value for name, value in vars(message).items() if name not in without and name[0] != "_"}


def _flatten(rows: list[tuple[float, ...]]) -> Any:
    return np.array(rows, np.float32).ravel()
