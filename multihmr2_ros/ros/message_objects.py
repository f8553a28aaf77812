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

"""Python message objects of the same content that `cdr` serialises: slower, for where bytes cannot be published."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Point32, Pose, PoseWithCovariance, Quaternion, Vector3
from sensor_msgs.msg import PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from multihmr2_ros.messages.content import Array, HeaderContent, HumanArrayContent, MarkerContent, PointCloudContent
from multihmr2_ros.messages.conversion_packages import converter
from multihmr2_ros.msg import Human, HumanArray


def human_array_to_ros(content: HumanArrayContent) -> HumanArray:
    return HumanArray(
        header=header_to_ros(content.header),
        k=np.asarray(content.k, np.float64).ravel(),
        intrinsics_source=int(content.intrinsics_source),
        vertical_fov=float(content.vertical_fov),
        age_at_receipt=float(content.age_at_receipt),
        inference_time=float(content.inference_time),
        total_latency=float(content.total_latency),
        dropped_frames=int(content.dropped_frames),
        humans=[_human_to_ros(content, person) for person in range(len(content.score))],
    )


def marker_array_to_ros(markers: Sequence[MarkerContent]) -> MarkerArray:
    return MarkerArray(markers=[_marker_to_ros(marker) for marker in markers])


def point_cloud_to_ros(content: PointCloudContent) -> PointCloud2:
    count, clouds = len(content.points), converter("sensor_msgs_py")
    if clouds is not None and count:  # some of its versions cannot make an empty one
        cloud = clouds.create_cloud_xyz32(header_to_ros(content.header), np.asarray(content.points, np.float32))
        cloud.is_dense = content.is_dense
        return cloud
    return PointCloud2(
        header=header_to_ros(content.header),
        height=1,
        width=count,
        fields=[
            PointField(name=name, offset=4 * axis, datatype=PointField.FLOAT32, count=1)
            for axis, name in enumerate("xyz")
        ],
        is_bigendian=False,
        point_step=12,
        row_step=12 * count,
        data=array.array("B", np.asarray(content.points, "<f4").tobytes()),
        is_dense=content.is_dense,
    )


def header_to_ros(header: HeaderContent) -> Header:
    return Header(stamp=Time(sec=header.sec, nanosec=header.nanosec), frame_id=header.frame_id)


def _human_to_ros(content: HumanArrayContent, person: int) -> Human:
    x_offset, y_offset, height, width = (int(value) for value in content.box[person])
    pose = Pose(position=_point(content.pelvis[person]), orientation=_quaternion(content.pelvis_orientation[person]))
    return Human(
        track_id=int(content.track_id[person]) & 0xFFFFFFFF,
        frame_id=content.frame_id[person],
        state=int(content.state[person]),
        age=float(content.age[person]),
        score=float(content.score[person]),
        pelvis=PoseWithCovariance(pose=pose, covariance=_float64(content.pelvis_covariance[person])),
        velocity=_vector(content.velocity[person]),
        velocity_covariance=_float64(content.velocity_covariance[person]),
        velocity_frame=content.velocity_frame,
        stature=float(content.stature[person]),
        phenotype=np.asarray(content.phenotype[person], np.float32),
        box=RegionOfInterest(x_offset=x_offset, y_offset=y_offset, height=height, width=width),
        joints=[_point32(joint) for joint in np.asarray(content.joints[person], np.float32)],
        joints_2d=_float32_sequence(content.joints_2d[person]),
        joint_rotations=[_quaternion(rotation) for rotation in content.joint_rotations[person]],
        vertices=_float32_sequence(content.vertices[person]),
    )


def _marker_to_ros(marker: MarkerContent) -> Marker:
    red, green, blue, alpha = marker.color
    sec, nanosec = divmod(marker.lifetime_ns, 1_000_000_000)
    corners = np.asarray(marker.vertices, np.float64)[marker.faces.ravel()]
    return Marker(
        header=header_to_ros(marker.header),
        ns=marker.namespace,
        id=marker.id,
        type=int(marker.type),
        action=int(marker.action),
        pose=Pose(position=_point(marker.position)),
        scale=_vector(marker.scale),
        color=ColorRGBA(r=red, g=green, b=blue, a=alpha),
        lifetime=Duration(sec=sec, nanosec=nanosec),
        points=[Point(x=x, y=y, z=z) for x, y, z in corners.tolist()],
        text=marker.text,
    )


def _point(values: Any) -> Point:
    x, y, z = (float(value) for value in values)
    return Point(x=x, y=y, z=z)


def _point32(values: Any) -> Point32:
    x, y, z = (float(value) for value in values)
    return Point32(x=x, y=y, z=z)


def _vector(values: Any) -> Vector3:
    x, y, z = (float(value) for value in values)
    return Vector3(x=x, y=y, z=z)


def _quaternion(values: Any) -> Quaternion:
    x, y, z, w = (float(value) for value in values)
    return Quaternion(x=x, y=y, z=z, w=w)


def _float64(values: Array) -> Array:
    return np.asarray(values, np.float64).ravel()


def _float32_sequence(values: Array) -> array.array[float]:
    return array.array("f", np.asarray(values, np.float32).tobytes())
