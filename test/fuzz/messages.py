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

"""Fuzz targets for messages (images, calibration, recorded people) and for parameters."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from multihmr2_ros.bags.definitions import make_typestore
from multihmr2_ros.bags.reading import BagMessage, BagReader
from test.fuzz.mutations import HOSTILE_FLOATS, HOSTILE_INTEGERS, HOSTILE_TEXTS, damaged_bytes, damaged_value
from test.fuzz.target import Target
from test.helpers.bag_factory import (
    START_NS,
    camera_info,
    camera_messages,
    compressed_image,
    make,
    make_image,
    raw_image,
    serialized,
    write_bag,
)

ENCODINGS = (
    "rgb8",
    "bgr8",
    "mono8",
    "mono16",
    "rgba16",
    "bgra8",
    "yuv422",
    "yuyv",
    "bayer_rggb8",
    "bayer_gbrg16",
    "32FC1",
    "8UC3",
)


def damaged_message(rng: random.Random, message: Any) -> bytes:
    """Return the CDR of a message with hostile field values, or damaged CDR of a valid message."""
    if rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 3))):
            message = damaged_value(rng, message)
        try:
            return serialized(message)
        except Exception:  # a value of the wrong type cannot be sent either
            pass
    try:
        return damaged_bytes(rng, serialized(message), head=160)
    except Exception:
        return rng.randbytes(40)


def received(image: bytes, camera_info: bytes | None = None, *, is_compressed: bool = False) -> Any:
    from multihmr2_ros.ros.inputs import ReceivedImage

    return ReceivedImage(image, camera_info, is_compressed, 0.0, 0.0)


class RawImages(Target):
    """Fuzz target for sensor_msgs/Image as received by the node."""

    def __init__(self, folder: Path) -> None:
        self.seeds = [raw_image(make_image(3, 32, 24), encoding, START_NS) for encoding in ("rgb8", "bgr8", "mono8")]

    def damaged(self, rng: random.Random) -> bytes:
        message = rng.choice(self.seeds)
        if rng.random() < 0.4:
            message = make(
                "sensor_msgs/msg/Image", header=message.header, height=rng.choice((0, 1, 23, 24)),
                width=rng.randrange(40), encoding=rng.choice(ENCODINGS), is_bigendian=rng.randrange(3),
                step=rng.choice((32, 64, 96, 256)), data=np.zeros(rng.choice((0, 24, 1536, 2304, 6144)), np.uint8),
            )  # fmt: skip
        return damaged_message(rng, message) if rng.random() < 0.8 else serialized(message)

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.ros.frames import decode_camera_image

        image = decode_camera_image(received(data)).image
        assert image.dtype == np.uint8
        assert image.ndim == 3


class CompressedImages(Target):
    """Fuzz target for sensor_msgs/CompressedImage as received by the node: JPEG and PNG, damaged in and after the
    header."""

    def __init__(self, folder: Path) -> None:
        image = make_image(3, 48, 32)
        self.files = [
            cv2.imencode(".jpg", image)[1].tobytes(),
            cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[
                1
            ].tobytes(),
            cv2.imencode(".png", image)[1].tobytes(),
            cv2.imencode(".png", image[..., 0].astype(np.uint16))[1].tobytes(),
            cv2.imencode(".bmp", image)[1].tobytes(),
        ]
        self.message = compressed_image(image, START_NS)

    def damaged(self, rng: random.Random) -> bytes:
        data = damaged_bytes(rng, rng.choice(self.files), rng.choice(self.files), head=700)
        if data.startswith(b"\xff\xd8") and rng.random() < 0.7:
            data += b"\xff\xd9"  # otherwise the data is cut off, and nothing else would be tested
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = with_png_checksums(data)
        content, kind = np.frombuffer(data, np.uint8), rng.choice(("jpeg", "png", ""))
        message = make("sensor_msgs/msg/CompressedImage", header=self.message.header, format=kind, data=content)
        return serialized(message)

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.ros.frames import decode_camera_image

        image = decode_camera_image(received(data, is_compressed=True)).image
        assert image.dtype == np.uint8
        assert image.ndim == 3


def with_png_checksums(data: bytes) -> bytes:
    """Return the PNG with the checksum of every chunk corrected, so that decoders read the content."""
    import zlib

    content, place = bytearray(data), 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(content):
            break
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(content)


class Calibrations(Target):
    """Fuzz target for sensor_msgs/CameraInfo as received by the node, and for undistorting an image with it."""

    MODELS = ("plumb_bob", "rational_polynomial", "equidistant", "", "none", "fisheye", "thin_prism")

    def __init__(self, folder: Path) -> None:
        from multihmr2_ros.messages.content import HeaderContent
        from multihmr2_ros.ros.frames import DecodedImage
        from multihmr2_ros.ros.parameters import NodeParameters

        self.camera = DecodedImage(make_image(3), HeaderContent(frame_id="camera"), 0.0)
        self.parameters = [NodeParameters(image_rectified=rectified) for rectified in (False, True)]
        self.seeds = [camera_info(START_NS, d=d) for d in ((), (0.1, 0.02, 0.0, 0.01, 0.0), (0.1,) * 8, (0.1,) * 4)]

    def damaged(self, rng: random.Random) -> bytes:
        message = rng.choice(self.seeds)
        if rng.random() < 0.6:
            message.distortion_model = rng.choice(self.MODELS)
        else:
            message.distortion_model = {0: "", 5: "plumb_bob", 8: "rational_polynomial", 4: "equidistant"}[
                len(message.d)
            ]
        return damaged_message(rng, message)

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.ros.frames import read_intrinsics

        for parameters in self.parameters:
            given = read_intrinsics(received(b"", data), self.camera, parameters)
            assert given.k is None or np.isfinite(given.k).all()
            assert "\n" not in given.problem
            if given.lens is not None:
                given.lens.undistort_image(self.camera.image)
                given.lens.distort_points(np.array([[[10.0, 20.0], [np.nan, 1e30]]]))


class RecordedPeople(Target):
    """Fuzz target for multihmr2_ros/HumanArray from a bag, converted back to People."""

    TYPE = "multihmr2_ros/msg/HumanArray"

    def __init__(self, folder: Path) -> None:
        self.bag = BagReader(write_bag(folder / "people.mcap", camera_messages(1)))
        self.seeds = [self._message(count) for count in (0, 1, 2)]

    def _message(self, count: int) -> Any:
        from multihmr2_ros.bags.humans import human_array_to_cdr
        from multihmr2_ros.messages.content import HeaderContent
        from multihmr2_ros.messages.human_array import Timing, people_to_content
        from test.helpers.people_factory import make_people

        people = make_people(count, vertices=np.zeros((count, 3, 3)))
        content = people_to_content(people, HeaderContent(12, 5, "camera"), Timing(), with_vertices=True)
        return make_typestore().deserialize_cdr(human_array_to_cdr(content), self.TYPE)

    def damaged(self, rng: random.Random) -> bytes:
        return damaged_message(rng, rng.choice(self.seeds))

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.bags.humans import people_from_human_array

        message = self.bag.decode(BagMessage("/humans", self.TYPE, 0, data))
        people = people_from_human_array(message, (480, 640))
        assert len(people.select(np.zeros(len(people), np.bool_))) == 0


class Parameters(Target):
    """Fuzz target for parameters: values of any type, as set by a file or another node."""

    def __init__(self, folder: Path) -> None:
        from multihmr2_ros.ros.parameters import DEFAULTS, NodeParameters

        self.parameters = NodeParameters()
        self.names = [*DEFAULTS, "use_sim_time", ""]

    def damaged(self, rng: random.Random) -> bytes:
        return rng.randbytes(8)

    def parse(self, data: bytes) -> None:
        from rclpy.parameter import Parameter

        from multihmr2_ros.estimator import EstimatorConfig
        from multihmr2_ros.ros.parameters import apply_changes
        from multihmr2_ros.ros.restarts import make_configuration

        rng = random.Random(data)
        changes = []
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(self.names)
            value = getattr(self.parameters, name, True)
            if rng.random() < 0.8:
                value = damaged_value(rng, value)
            else:
                value = rng.choice(
                    (None, b"a", [1, 2], ["a"], [], True, 2**62, *HOSTILE_FLOATS, *HOSTILE_TEXTS, *HOSTILE_INTEGERS)
                )
            try:
                changes.append(Parameter(name, value=value))
            except (TypeError, ValueError, AssertionError, OverflowError):
                continue  # types that no parameter can have
        make_configuration(apply_changes(self.parameters, changes, is_configured=rng.random() < 0.5), EstimatorConfig())
