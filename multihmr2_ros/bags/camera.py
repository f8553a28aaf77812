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

"""A writer for the messages of one camera on a base, without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.bags.definitions import require_type
from multihmr2_ros.bags.humans import HUMAN_ARRAY, human_array_to_cdr
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.messages.content import HeaderContent, HumanArrayContent

IMAGES, COMPRESSED_IMAGES = "/camera/image_raw", "/camera/image_raw/compressed"
CAMERA_INFO = "/camera/camera_info"
DEPTH, DEPTH_INFO = "/camera/depth/image_raw", "/camera/depth/camera_info"
GROUND_TRUTH = "/ground_truth/humans"
# Frames of REP-105, and the camera's optical frame, named as in REP-103.
ODOM_FRAME, BASE_FRAME, CAMERA_FRAME = "odom", "base_link", "camera_optical_frame"
JPEG_QUALITY = 90


class Link(NamedTuple):
    """A transform between two TF frames. parent_from_child (4, 4), m."""

    parent: str
    child: str
    parent_from_child: NDArray[np.float64]


class CameraBag:
    """Writer of a camera's messages to a bag. Every message is stamped with the time of its recording, ns since
    1970."""

    def __init__(self, writer: BagWriter) -> None:
        self._writer = writer

    def write_image(self, image: NDArray[np.uint8], time_ns: int, *, as_jpeg: bool) -> None:
        """Write an image (H, W, 3) uint8 RGB, raw or as JPEG."""
        if as_jpeg:
            _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            self._write(COMPRESSED_IMAGES, "sensor_msgs/msg/CompressedImage", time_ns, format="jpeg", data=data.ravel())
        else:
            self._write_raw(IMAGES, "rgb8", image, time_ns)

    def write_depth(self, depth_mm: NDArray[np.uint16], time_ns: int) -> None:
        """Write a depth image (H, W) mm, registered to the color image."""
        self._write_raw(DEPTH, "16UC1", depth_mm, time_ns)

    def write_camera_info(
        self,
        k: NDArray[np.float64],
        distortion: NDArray[np.float64],
        size: tuple[int, int],
        time_ns: int,
        topic: str = CAMERA_INFO,
    ) -> None:
        """Write a CameraInfo.

        k           (3, 3) px
        distortion  plumb_bob's coefficients, or empty
        size        (height, width) px
        time_ns     stamp
        topic       of the message
        """
        d = np.zeros(5)
        d[: len(distortion)] = distortion
        region = _make_message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        self._write(
            topic, "sensor_msgs/msg/CameraInfo", time_ns,
            height=size[0], width=size[1], distortion_model="plumb_bob", d=d, k=k.ravel(), r=np.eye(3).ravel(),
            p=np.hstack([k, np.zeros((3, 1))]).ravel(), binning_x=0, binning_y=0, roi=region,
        )  # fmt: skip

    def write_links(self, links: Sequence[Link], time_ns: int, *, static: bool) -> None:
        """Write transforms, as static (/tf_static) or at a time (/tf)."""
        transforms = []
        for parent, child, pose in links:
            translation = dict(zip("xyz", pose[:3, 3].tolist(), strict=True))
            quaternion = dict(zip("xyzw", Rotation.from_matrix(pose[:3, :3]).as_quat().tolist(), strict=True))
            transform = _make_message(
                "geometry_msgs/msg/Transform",
                translation=_make_message("geometry_msgs/msg/Vector3", **translation),
                rotation=_make_message("geometry_msgs/msg/Quaternion", **quaternion),
            )
            transforms.append(
                _make_message(
                    "geometry_msgs/msg/TransformStamped",
                    header=_make_header(time_ns, parent),
                    child_frame_id=child,
                    transform=transform,
                )
            )
        type_name = "tf2_msgs/msg/TFMessage"
        data = require_type(type_name).serialize_cdr(_make_message(type_name, transforms=transforms), type_name)
        self._writer.write("/tf_static" if static else "/tf", type_name, data, time_ns)

    def write_humans(self, content: HumanArrayContent, time_ns: int) -> None:
        """Write the true people in the image of the same stamp."""
        self._writer.write(GROUND_TRUTH, HUMAN_ARRAY, human_array_to_cdr(content), time_ns)

    def _write_raw(self, topic: str, encoding: str, image: NDArray[Any], time_ns: int) -> None:
        data = np.ascontiguousarray(image).astype(image.dtype.newbyteorder("<")).view(np.uint8).ravel()
        self._write(
            topic, "sensor_msgs/msg/Image", time_ns,
            height=image.shape[0], width=image.shape[1], encoding=encoding, is_bigendian=0,
            step=len(data) // image.shape[0], data=data,
        )  # fmt: skip

    def _write(self, topic: str, type_name: str, time_ns: int, **fields: Any) -> None:
        message = _make_message(type_name, header=_make_header(time_ns, CAMERA_FRAME), **fields)
        self._writer.write(topic, type_name, require_type(type_name).serialize_cdr(message, type_name), time_ns)


def make_camera_header(time_ns: int) -> HeaderContent:
    """Return the header of a message in the camera's frame."""
    return HeaderContent(time_ns // 10**9, time_ns % 10**9, CAMERA_FRAME)


def _make_header(time_ns: int, frame_id: str) -> Any:
    stamp = _make_message("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return _make_message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _make_message(type_name: str, **fields: Any) -> Any:
    """Make a message object of a common type."""
    return require_type(type_name).types[type_name](**fields)
