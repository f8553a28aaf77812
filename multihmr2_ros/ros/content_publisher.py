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

"""Publishes meshes and point clouds: as serialized bytes, or as message objects if this ROS cannot read the bytes.

`Publisher.publish(bytes)` of rclpy makes an additional copy of the bytes and holds the GIL during the call. For ten
meshes (20 MB), the copy takes 2 of 8 ms, and no callback runs in these 8 ms. The underlying function of rcl is part of
ROS 2's C API (rcl/publisher.h). It is called here directly on our memory, without the GIL.
"""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from multihmr2_ros.messages.cdr import CdrWriter, marker_array_to_cdr, point_cloud_to_cdr
from multihmr2_ros.messages.content import (
    HeaderContent,
    MarkerContent,
    PointCloudContent,
    make_delete_marker,
    make_label_marker,
    make_mesh_marker,
)
from multihmr2_ros.messages.conversion_packages import get_converter

from .conversions import header_to_ros

RCL = "librcl.so"  # already loaded by rclpy
SAMPLE_HEADER = HeaderContent(sec=1, nanosec=2, frame_id="camera")

Content = TypeVar("Content")


class SerializedMessage(ctypes.Structure):
    """The C struct rcl_serialized_message_t. The allocator (five pointers) is unused: rcl does not own the memory."""

    _fields_ = (
        ("buffer", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("allocator", ctypes.c_void_p * 5),
    )


class ContentPublisher(Generic[Content]):
    """Publisher of content through an rclpy publisher: serialized, or as message objects.

    to_cdr       serializes the content
    to_ros       converts the content to the same message as an object
    sends_bytes  whether this ROS can deserialize the bytes of `messages/cdr.py`
    """

    def __init__(
        self,
        publisher: Any,
        to_cdr: Callable[[Content], CdrWriter],
        to_ros: Callable[[Content], Any],
        *,
        sends_bytes: bool,
    ) -> None:
        self.publisher = publisher
        self._to_cdr = to_cdr
        self._to_ros = to_ros
        self._sends_bytes = sends_bytes
        self._publish_memory = load_rcl_publish(publisher) if sends_bytes else None
        # Reused for all messages: allocating new memory takes as long as filling it.
        self._memory = np.empty(0, np.uint8)

    def publish(self, content: Content) -> None:
        if not self._sends_bytes:
            self.publisher.publish(self._to_ros(content))
            return
        message = self._to_cdr(content)
        if self._publish_memory is None:
            self.publisher.publish(message.to_bytes())
            return
        size = message.size
        if size > len(self._memory):
            self._memory = np.empty(size, np.uint8)
        message.write_to(self._memory.data[:size])
        serialized = SerializedMessage(self._memory.ctypes.data, size, size)
        with self.publisher.handle:  # so that it is not destroyed meanwhile
            code = self._publish_memory(self.publisher.handle.pointer, ctypes.byref(serialized), None)
        if code:
            raise RuntimeError(f"rcl_publish_serialized_message: error {code} on {self.publisher.topic_name}")


def load_rcl_publish(publisher: Any) -> Callable[..., int] | None:
    """Return rcl's publish function; None if it cannot be called for this publisher."""
    try:
        function = ctypes.CDLL(RCL).rcl_publish_serialized_message
    except (OSError, AttributeError):
        return None
    if not hasattr(publisher.handle, "pointer"):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


def can_deserialize_cdr() -> bool:
    """Return whether this ROS can deserialize the messages of `messages/cdr.py`.

    ROS distributions differ in the definition of Marker, and a middleware may use another format than CDR. If False,
    publish message objects.
    """
    white = (1.0, 1.0, 1.0, 1.0)
    markers = [
        make_mesh_marker(SAMPLE_HEADER, "mesh", 1, np.eye(3), np.array([[0, 1, 2]]), white, 5),
        make_label_marker(SAMPLE_HEADER, "label", 2, "1", (0.0, 1.0, 2.0), 0.1, white),
        make_delete_marker(SAMPLE_HEADER, "mesh", 3),
    ]
    cloud = PointCloudContent(SAMPLE_HEADER, np.eye(3))
    return is_read_back(marker_array_to_cdr(markers).to_bytes(), marker_array_to_ros(markers)) and is_read_back(
        point_cloud_to_cdr(cloud).to_bytes(), point_cloud_to_ros(cloud)
    )


def is_read_back(data: bytes, message: Any) -> bool:
    if len(serialize_message(message)) != len(data):
        return False
    try:
        return bool(deserialize_message(data, type(message)) == message)
    except Exception:  # the type for invalid bytes depends on the middleware
        return False


def marker_array_to_ros(markers: Sequence[MarkerContent]) -> MarkerArray:
    return MarkerArray(markers=[_marker_to_ros(marker) for marker in markers])


def point_cloud_to_ros(content: PointCloudContent) -> PointCloud2:
    count, clouds = len(content.points), get_converter("sensor_msgs_py")
    if clouds is not None and count:  # some versions cannot create an empty cloud
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
        pose=Pose(position=_point_to_ros(marker.position)),
        scale=_vector_to_ros(marker.scale),
        color=ColorRGBA(r=red, g=green, b=blue, a=alpha),
        lifetime=Duration(sec=sec, nanosec=nanosec),
        points=[Point(x=x, y=y, z=z) for x, y, z in corners.tolist()],
        text=marker.text,
    )


def _point_to_ros(values: Any) -> Point:
    x, y, z = (float(value) for value in values)
    return Point(x=x, y=y, z=z)


def _vector_to_ros(values: Any) -> Vector3:
    x, y, z = (float(value) for value in values)
    return Vector3(x=x, y=y, z=z)
