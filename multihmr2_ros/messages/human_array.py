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

"""HumanArray messages from their content. Needs no ROS: the caller passes the message classes, of rclpy or of
rosbags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from multihmr2_ros.messages.content import Array, HumanArrayContent

Make = Callable[..., Any]
Sequence = Callable[[Array], Any]


def human_array_message(content: HumanArrayContent, make: Make, sequence: Sequence) -> Any:
    """Return a multihmr2_ros/HumanArray with this content.

    make      makes a message: make("package/msg/Name", field=value, …)
    sequence  converts a float32 array (N,) to the type of float32[] in the message classes
    """
    header = content.header
    height, width = content.image_size
    return make(
        "multihmr2_ros/msg/HumanArray",
        header=make(
            "std_msgs/msg/Header",
            stamp=make("builtin_interfaces/msg/Time", sec=header.sec, nanosec=header.nanosec),
            frame_id=header.frame_id,
        ),
        height=int(height),
        width=int(width),
        k=_float64_to_ros(content.k),
        intrinsics_source=int(content.intrinsics_source),
        vertical_fov=float(content.vertical_fov),
        age_at_receipt=float(content.age_at_receipt),
        inference_time=float(content.inference_time),
        total_latency=float(content.total_latency),
        dropped_frames=int(content.dropped_frames),
        humans=[_human(content, row, make, sequence) for row in range(len(content.score))],
    )


def _human(content: HumanArrayContent, row: int, make: Make, sequence: Sequence) -> Any:
    x_offset, y_offset, height, width = map(int, content.box[row])
    pose = make(
        "geometry_msgs/msg/Pose",
        position=make("geometry_msgs/msg/Point", **_named("xyz", content.pelvis[row])),
        orientation=make("geometry_msgs/msg/Quaternion", **_named("xyzw", content.pelvis_orientation[row])),
    )
    covariance = _float64_to_ros(content.pelvis_covariance[row])
    return make(
        "multihmr2_ros/msg/Human",
        track_id=int(content.track_id[row]) & 0xFFFFFFFF,
        frame_id=content.frame_id[row],
        state=int(content.state[row]),
        age=float(content.age[row]),
        score=float(content.score[row]),
        pelvis=make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariance),
        velocity=make("geometry_msgs/msg/Vector3", **_named("xyz", content.velocity[row])),
        velocity_covariance=_float64_to_ros(content.velocity_covariance[row]),
        velocity_frame=content.velocity_frame,
        stature=float(content.stature[row]),
        phenotype=_float32(content.phenotype[row]),
        box=make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=x_offset, y_offset=y_offset, height=height, width=width, do_rectify=False,
        ),
        joints=sequence(_float32(content.joints[row])),
        joints_2d=sequence(_float32(content.joints_2d[row])),
        joint_rotations=sequence(_float32(content.joint_rotations[row])),
        vertices=sequence(_float32(content.vertices[row])),
    )  # fmt: skip


def _named(names: str, values: Array) -> dict[str, float]:
    return dict(zip(names, np.asarray(values, np.float64).tolist(), strict=True))


def _float64_to_ros(values: Array) -> Array:
    return np.asarray(values, np.float64).ravel()


def _float32(values: Array) -> Array:
    return np.asarray(values, np.float32).ravel()
