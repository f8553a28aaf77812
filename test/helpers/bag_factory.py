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

"""Bags for tests: images and calibration of a camera, written with rosbags' own serialization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from multihmr2_ros.bags.definitions import make_typestore
from multihmr2_ros.bags.frames import BagSource
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.errors import UserError
from multihmr2_ros.transform_tree import Pose

WIDTH, HEIGHT, RATE = 96, 64, 10
START_NS = 1_700_000_000_000_000_000
TYPES = {
    "raw": "sensor_msgs/msg/Image",
    "compressed": "sensor_msgs/msg/CompressedImage",
    "camera_info": "sensor_msgs/msg/CameraInfo",
}


def make_image(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return a smooth image (height, width, 3) uint8 RGB that survives JPEG; its corner's red encodes the index."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([np.full_like(x, 10 * index), 2 * x, 3 * y], axis=2)
    return np.clip(image, 0, 255).astype(np.uint8)


def make(type_name: str, **fields: Any) -> Any:
    return make_typestore().types[type_name](**fields)


def header(time_ns: int, frame_id: str = "camera") -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def raw_image(image: np.ndarray, encoding: str, time_ns: int) -> Any:
    """Return a sensor_msgs/Image of an RGB image (H, W, 3), in one of three encodings."""
    pixels = {
        "rgb8": lambda: image,
        "bgr8": lambda: image[..., ::-1],
        "mono8": lambda: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
    }[encoding]()
    data = np.ascontiguousarray(pixels).ravel()
    height, width = image.shape[:2]
    return make(
        TYPES["raw"], header=header(time_ns), height=height, width=width, encoding=encoding, is_bigendian=0,
        step=len(data) // height, data=data,
    )  # fmt: skip


def compressed_image(image: np.ndarray, time_ns: int) -> Any:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return make(TYPES["compressed"], header=header(time_ns), format="jpeg", data=data.ravel())


def camera_info(
    time_ns: int, focal: float = 90.0, d: tuple[float, ...] = (), p_focal: float = 80.0, width: int = WIDTH
) -> Any:
    roi = make(
        "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )  # fmt: skip
    k = np.array([focal, 0, WIDTH / 2, 0, focal, HEIGHT / 2, 0, 0, 1], np.float64)
    p = np.array([p_focal, 0, WIDTH / 2, 0, 0, p_focal, HEIGHT / 2, 0, 0, 0, 1, 0], np.float64)
    return make(
        TYPES["camera_info"], header=header(time_ns), height=HEIGHT, width=width,
        distortion_model="plumb_bob" if d else "", d=np.array(d, np.float64), k=k, r=np.eye(3).ravel(), p=p,
        binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def transform(parent: str, child: str, pose: Pose, stamp_ns: int) -> Any:
    """Return a TFMessage with one transform."""
    x, y, z, qx, qy, qz, qw = pose
    geometry = "geometry_msgs/msg/"
    return make(
        "tf2_msgs/msg/TFMessage",
        transforms=[make(
            f"{geometry}TransformStamped", header=header(stamp_ns, parent), child_frame_id=child,
            transform=make(
                f"{geometry}Transform",
                translation=make(f"{geometry}Vector3", x=x, y=y, z=z),
                rotation=make(f"{geometry}Quaternion", x=qx, y=qy, z=qz, w=qw),
            ),
        )],
    )  # fmt: skip


def serialized(message: Any) -> bytes:
    return bytes(make_typestore().serialize_cdr(message, message.__msgtype__))


def write_bag(path: Path, messages: list[tuple[str, int, Any]], **options: Any) -> Path:
    """Write a bag; messages: (topic, recording time in ns, message)."""
    with BagWriter(path, **options) as writer:
        for topic, time_ns, message in messages:
            writer.write(topic, message.__msgtype__, serialized(message), time_ns)
    return path


def camera_messages(
    frames: int = 5, encoding: str = "rgb8", *, calibrated: bool = True, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> list[tuple[str, int, Any]]:
    """Return the messages of a camera at RATE on /camera/image_raw, with its calibration recorded after each image.

    encoding: "jpeg" gives compressed images.
    """
    messages = []
    for index in range(frames):
        time_ns = START_NS + index * 10**9 // RATE
        image = make_image(index, *size)
        if encoding == "jpeg":
            messages.append(("/camera/image_raw/compressed", time_ns, compressed_image(image, time_ns)))
        else:
            messages.append(("/camera/image_raw", time_ns, raw_image(image, encoding, time_ns)))
        if calibrated:
            messages.append(("/camera/camera_info", time_ns + 1000, camera_info(time_ns)))
    return messages


def refuses(path: Path, words: str, **options: str) -> None:
    """Assert that opening the bag raises a UserError of one line with these words and the bag's name."""
    with pytest.raises(UserError, match=words) as caught, BagSource(path, **options) as source:
        list(source)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
