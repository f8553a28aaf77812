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

"""Whether the ROS that is running reads what `cdr` writes."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message

from multihmr2_ros.messages.cdr import human_array_to_cdr, marker_array_to_cdr, point_cloud_to_cdr
from multihmr2_ros.messages.content import (
    HeaderContent,
    HumanArrayContent,
    PointCloudContent,
    delete_marker,
    label_marker,
    mesh_marker,
)
from multihmr2_ros.ros.message_objects import human_array_to_ros, marker_array_to_ros, point_cloud_to_ros

HEADER = HeaderContent(sec=1, nanosec=2, frame_id="camera")


def reads_our_bytes() -> bool:
    """Whether samples of all messages, serialised by `cdr`, are read back as what they say.

    Distributions differ in the definition of Marker, and middlewares need not use CDR: where this is false, publish
    message objects (`messages`).
    """
    white = (1.0, 1.0, 1.0, 1.0)
    markers = [
        mesh_marker(HEADER, "mesh", 1, np.eye(3), np.array([[0, 1, 2]]), white, 5),
        label_marker(HEADER, "label", 2, "1", (0.0, 1.0, 2.0), 0.1, white),
        delete_marker(HEADER, "mesh", 3),
    ]
    humans, cloud = _two_humans(), PointCloudContent(HEADER, np.eye(3))
    return (
        _is_read(human_array_to_cdr(humans).to_bytes(), human_array_to_ros(humans))
        and _is_read(marker_array_to_cdr(markers).to_bytes(), marker_array_to_ros(markers))
        and _is_read(point_cloud_to_cdr(cloud).to_bytes(), point_cloud_to_ros(cloud))
    )


def _is_read(data: bytes, message: Any) -> bool:
    if len(serialize_message(message)) != len(data):
        return False
    try:
        return bool(deserialize_message(data, type(message)) == message)
    except Exception:  # each middleware has its own for bytes that it does not understand
        return False


def _two_humans() -> HumanArrayContent:
    """Every number differs from its neighbours, so that a field in another's place is seen."""
    count = np.arange(1.0, 37.0)
    return HumanArrayContent(
        header=HEADER,
        k=count[:9],
        intrinsics_source=1,
        vertical_fov=2.0,
        age_at_receipt=3.0,
        inference_time=4.0,
        total_latency=5.0,
        dropped_frames=6,
        track_id=np.array([7, 8]),
        frame_id=("body_7", ""),
        state=np.array([2, 1]),
        age=count[8:10],
        score=count[9:11],
        pelvis=count[:6].reshape(2, 3),
        pelvis_orientation=count[:8].reshape(2, 4),
        pelvis_covariance=np.stack([count, count + 1]),
        velocity=count[:6].reshape(2, 3),
        velocity_covariance=count[:18].reshape(2, 9),
        velocity_frame="odom",
        stature=count[10:12],
        phenotype=count[:12].reshape(2, 6),
        box=np.arange(8).reshape(2, 4),
        joints=count[:12].reshape(2, 2, 3),
        joints_2d=count[:8].reshape(2, 2, 2),
        joint_rotations=count[:16].reshape(2, 2, 4),
        vertices=count[:6].reshape(2, 1, 3),
    )
