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

"""People → content of messages, and image messages → arrays: pure functions without DDS."""

from __future__ import annotations

import array
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

import cv2
from multihmr2_ros.msg import Human, HumanArray
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image

from multihmr2_ros.bags.humans import human_array_to_cdr
from multihmr2_ros.body import Body
from multihmr2_ros.camera import CameraModel, distort_points
from multihmr2_ros.errors import UserError
from multihmr2_ros.lens import LensDistortion, get_lens
from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.messages.content import HeaderContent, HumanArrayContent, MarkerType
from multihmr2_ros.messages.human_array import (
    INTRINSICS,
    Timing,
    compute_body_quaternions,
    compute_boxes,
    people_to_content,
)
from multihmr2_ros.messages.images import ENCODINGS, compressed_image_from_ros, image_from_ros
from multihmr2_ros.people import IntrinsicsSource, TrackState
from multihmr2_ros.ros.conversions import image_to_ros, people_to_markers, people_to_points, people_to_transforms
from test.helpers.people_factory import make_full_mesh, make_people

HEADER = HeaderContent(12, 34, "camera")
FACES = np.array([[0, 1, 2]])
STATES = np.array([TrackState.CONFIRMED, TrackState.TENTATIVE, TrackState.UNTRACKED])


def three_people(**changes: Any) -> Any:
    """Return one person confirmed as 4, one tentative as 5, and one without a track."""
    vertices = np.random.default_rng(1).normal(size=(3, 3, 3))
    return make_people(3, track_id=np.array([4, 5, -1]), track_state=STATES, vertices=vertices, **changes)


# --- people


def test_messages_have_the_values_of_people() -> None:
    people = three_people()
    content = people_to_content(people, HEADER, Timing(0.1, 0.2, 0.3, 4), with_vertices=True)
    message = deserialize_message(human_array_to_cdr(content), HumanArray)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (12, 34, "camera")
    assert (message.age_at_receipt, message.inference_time, message.total_latency) == (0.1, 0.2, 0.3)
    assert message.dropped_frames == 4
    assert (message.height, message.width) == people.image_size
    np.testing.assert_array_equal(message.k, people.k.ravel())
    assert [human.track_id for human in message.humans] == [4, 5, Human.NO_TRACK]
    assert [human.frame_id for human in message.humans] == ["body_4", "", ""]
    assert [human.state for human in message.humans] == [Human.CONFIRMED, Human.TENTATIVE, Human.UNTRACKED]
    for row, human in enumerate(message.humans):
        place = human.pelvis.pose.position
        np.testing.assert_array_equal([place.x, place.y, place.z], people.pelvis[row].astype(np.float64))
        np.testing.assert_array_equal(human.phenotype, people.running_shape[row])
        np.testing.assert_array_equal(np.reshape(human.vertices, (-1, 3)), people.vertices[row])
        np.testing.assert_array_equal(np.reshape(human.joints_2d, (-1, 2)), people.joints_2d[row])
        np.testing.assert_array_equal(np.reshape(human.joints, (-1, 3)), people.joints[row])
        quaternions = np.reshape(human.joint_rotations, (-1, 4))
        np.testing.assert_allclose(Rotation.from_quat(quaternions).as_matrix(), people.rotations[row], atol=1e-6)
        covariance = np.reshape(human.pelvis.covariance, (6, 6))
        np.testing.assert_array_equal(covariance[:3, :3], people.pelvis_covariance[row])
        assert np.isnan(covariance[3:]).all()
        assert np.isnan(covariance[:, 3:]).all()


def test_sources_of_intrinsics_have_the_numbers_of_the_message() -> None:
    assert {source: getattr(HumanArray, f"INTRINSICS_{source.name}") for source in IntrinsicsSource} == INTRINSICS


def test_vertices_are_left_out_unless_asked_for() -> None:
    assert people_to_content(three_people(), HEADER, Timing()).vertices.shape == (3, 0, 3)


@pytest.mark.parametrize("content", ["nobody in the image", "no image"])
def test_nobody(content: str) -> None:
    empty = make_people(0)
    nobody = HumanArrayContent(HEADER, 3) if content == "no image" else people_to_content(empty, HEADER, Timing())
    message = deserialize_message(human_array_to_cdr(nobody), HumanArray)
    assert len(message.humans) == 0
    assert any(message.k) == (content != "no image")
    assert people_to_transforms(empty, HEADER).transforms == []
    assert people_to_markers(empty, HEADER, FACES) == []
    assert people_to_points(empty, HEADER).points.shape == (0, 3)


def test_the_body_frame_points_out_of_the_body_and_to_the_head() -> None:
    """Compared with Anny: front is the direction from the feet to the toes, up from the pelvis to the head."""
    import torch

    body = Body("low")
    turn = Rotation.random(random_state=3).as_matrix()
    rotations = torch.eye(3).repeat(1, 163, 1, 1)
    rotations[0, 0] = torch.from_numpy(turn)
    with torch.inference_mode():
        posed = body(torch.full((1, 6), 0.5), rotations)
    joints = posed.joints[0].numpy()
    people = make_people(1, joints=joints[None], bone_poses=posed.bone_poses.numpy())
    x, y, z = Rotation.from_quat(compute_body_quaternions(people)[0]).as_matrix().T

    def direction(start: str, end: str) -> np.ndarray:
        there = joints[body.bone_labels.index(end)] - joints[body.bone_labels.index(start)]
        return there / np.linalg.norm(there)

    assert x @ direction("foot.L", "toe1-1.L") > 0.7
    assert y @ direction("foot.R", "foot.L") > 0.95
    assert z @ direction("foot.L", "head") > 0.9


def test_transforms_are_those_of_confirmed_people() -> None:
    people = three_people()
    (transform,) = people_to_transforms(people, HEADER).transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("camera", "body_4")
    turn = transform.transform.rotation
    np.testing.assert_array_equal([turn.x, turn.y, turn.z, turn.w], compute_body_quaternions(people)[0])


@pytest.mark.parametrize(
    ("points", "box"),
    [
        ([[10.2, 20.7], [30.5, 40.1]], [10, 20, 21, 21]),  # x, y, height, width: whole pixels around the points
        ([[-50.0, 10.0], [700.0, 20.0], [5.0, 12.0]], [0, 10, 10, 640]),  # cut to the image
        ([[-50.0, 10.0], [700.0, 20.0]], [0, 0, 0, 0]),  # no joint inside
        ([[np.nan, np.nan], [3.0, 4.0]], [3, 4, 0, 0]),  # behind the camera
        ([[np.nan, np.nan], [np.nan, np.nan]], [0, 0, 0, 0]),
    ],
)
def test_box(points: list[list[float]], box: list[int]) -> None:
    assert compute_boxes(np.array([points], np.float32), (480, 640)).tolist() == [box]


def test_markers_have_the_ids_and_colors_of_the_tracks() -> None:
    markers = people_to_markers(three_people(), HEADER, FACES)
    assert [(marker.namespace, marker.id) for marker in markers] == [
        ("mesh", 4),
        ("label", 4),
        ("mesh", 5),
        ("label", 5),
        ("mesh_untracked", 2),
        ("label_untracked", 2),
    ]
    assert markers[0].color == (*(value / 255 for value in get_track_color(4)), 1.0)
    assert markers[1].type == MarkerType.TEXT_VIEW_FACING
    assert markers[1].text.startswith("#4: ")
    assert all(marker.lifetime_ns > 0 for marker in markers)


def test_a_mesh_with_a_number_that_is_not_finite_is_left_out() -> None:
    people = three_people()
    people.vertices[1, 0, 0] = np.nan
    assert ("mesh", 5) not in {(each.namespace, each.id) for each in people_to_markers(people, HEADER, FACES)}
    cloud = people_to_points(people, HEADER)
    assert cloud.points.shape == (8, 3)
    assert cloud.is_dense


def test_points_are_on_the_body() -> None:
    people = make_full_mesh(2, 1.0)
    points = people_to_points(people, HEADER).points
    assert points[:, 1].max() < people.pelvis[:, 1].max() + 0.5


# --- images


def image_message(pixels: np.ndarray, encoding: str, padding: int = 0, /, **changes: Any) -> Image:
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1])
    message.data = array.array("B", rows.tobytes())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


COLORED = np.random.default_rng(2).integers(0, 256, (6, 8, 3), np.uint8)
GRAY = COLORED[..., 0]


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("pixels", "encoding", "expected"),
    [
        (COLORED, "rgb8", COLORED),
        (COLORED[..., ::-1].copy(), "bgr8", COLORED),
        (np.dstack([COLORED, GRAY]), "rgba8", COLORED),
        (np.dstack([COLORED[..., ::-1], GRAY]), "bgra8", COLORED),
        (GRAY, "mono8", np.dstack([GRAY] * 3)),
        (GRAY.astype(np.uint16) * 257, "mono16", np.dstack([GRAY] * 3)),
    ],
)
def test_images(pixels: np.ndarray, encoding: str, expected: np.ndarray, padding: int) -> None:
    image = image_from_ros(image_message(pixels, encoding, padding))
    np.testing.assert_allclose(image.astype(int), expected, atol=1 if encoding == "mono16" else 0)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


def test_byte_order() -> None:
    pixels = (GRAY.astype(np.uint16) * 256).astype(">u2")
    image = image_from_ros(image_message(pixels, "mono16", is_bigendian=1))
    np.testing.assert_allclose(image[..., 0].astype(int), GRAY, atol=1)


def test_yuv() -> None:
    gray = np.dstack([np.full((6, 8), 128, np.uint8), GRAY])  # U or V, then Y
    for encoding, pixels in (("uyvy", gray), ("yuv422", gray), ("yuyv", gray[..., ::-1].copy())):
        image = image_from_ros(image_message(pixels, encoding)).astype(int)
        expected = np.clip((GRAY.astype(int) - 16) * 255 / 219, 0, 255)  # BT.601
        assert np.abs(image - expected[..., None]).max() <= 2, encoding


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_that_is_named_is_converted(encoding: str) -> None:
    channels = 4 if "a" in encoding.split("_")[0][3:5] else 3 if encoding[:3] in ("rgb", "bgr") else 1
    channels = 2 if encoding.startswith(("yuv", "uyvy", "yuyv")) else channels
    kind = np.uint16 if encoding.endswith("16") else np.uint8
    pixels = np.full((6, 8, channels), np.iinfo(kind).max // 2, kind)
    image = image_from_ros(image_message(pixels, encoding))
    assert image.shape == (6, 8, 3)
    assert abs(float(image.mean()) - 127) < 10


@pytest.mark.parametrize(
    "changes",
    [
        {"encoding": "32FC1"},
        {"encoding": "8UC3"},  # with three channels in an undefined order
        {"encoding": ""},
        {"height": 0},
        {"width": 0},
        {"width": 9},
        {"height": 7},
        {"step": 23},
        {"data": array.array("B")},
        {"width": 2**31, "height": 2**31, "step": 2**32 - 1},
    ],
)
def test_images_that_cannot_be_used(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        image_from_ros(image_message(COLORED, "rgb8", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images(extension: str) -> None:
    flat = np.full((48, 64, 3), (200, 20, 10), np.uint8)
    data = cv2.imencode(extension, flat[..., ::-1])[1].tobytes()
    for padded in (data, data + bytes(100)):
        image = compressed_image_from_ros(CompressedImage(format="x", data=array.array("B", padded)))
        np.testing.assert_allclose(image.astype(int), flat, atol=4)
    gray = cv2.imencode(extension, flat[..., 0])[1].tobytes()
    assert compressed_image_from_ros(CompressedImage(data=array.array("B", gray))).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("encoding", "image_format", "is_mosaic"),
    [
        ("bayer_rggb8", "bayer_rggb8; png compressed ", True),
        ("bayer_gbrg16", "bayer_gbrg16; png compressed ", True),
        ("bayer_rggb8", "bayer_rggb8; jpeg compressed ", True),  # ROS 1
        ("bayer_rggb8", "bayer_rggb8; jpeg compressed mono8", False),  # image_transport has converted it
        ("mono8", "mono8; png compressed ", False),
    ],
)
def test_compressed_bayer_images_have_colors(encoding: str, image_format: str, is_mosaic: bool) -> None:
    dtype = np.uint16 if encoding.endswith("16") else np.uint8
    pixels = np.full((48, 64), 30, dtype) << (8 if dtype == np.uint16 else 0)
    pixels[::2] *= 5
    data = cv2.imencode(".jpg" if "jpeg" in image_format else ".png", pixels)[1]
    image = compressed_image_from_ros(CompressedImage(format=image_format, data=array.array("B", data.tobytes())))
    assert image.shape == (48, 64, 3)
    assert (image[..., 0] == image[..., 2]).all() == (not is_mosaic)
    if is_mosaic:
        raw = Image(height=48, width=64, encoding=encoding, step=64 * pixels.itemsize, data=pixels.tobytes())
        assert np.abs(image.astype(int) - image_from_ros(raw)).mean() < 3


@pytest.mark.parametrize("cut", [0, 1, 100, -3])
def test_compressed_images_that_are_damaged(cut: int) -> None:
    data = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()[:cut]
    with pytest.raises(UserError, match="complete JPEG or PNG"):
        compressed_image_from_ros(CompressedImage(format="jpeg", data=array.array("B", data)))


def encoded_jpeg(*options: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)  # FF D9 may occur in any compressed data
    return bytes(cv2.imencode(".jpg", cv2.resize(noise, (320, 240)), list(options))[1])


JPEGS = {
    "baseline": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
}
TRAILERS = {
    "multipart separator": b"\r\n--boundary\r\n",
    "vendor": b"dhav\x00\x01\x02\x03",
    "markers": b"\xff\xda\xff" * 100,
    "another image": encoded_jpeg(),
    "one byte": b"\xff",
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("trailer", TRAILERS)
def test_bytes_after_a_jpegs_end(kind: str, trailer: str) -> None:
    """Separators and manufacturer data are not part of the image; an image without its end marker is truncated."""
    data = encoded_jpeg(*JPEGS[kind])
    plain = compressed_image_from_ros(CompressedImage(format="jpeg", data=array.array("B", data)))
    longer = CompressedImage(format="jpeg", data=array.array("B", data + TRAILERS[trailer]))
    np.testing.assert_array_equal(compressed_image_from_ros(longer), plain)
    if trailer != "another image":  # whose end marker would be taken for that of the first image
        cut = CompressedImage(format="jpeg", data=array.array("B", data[: len(data) // 2] + TRAILERS[trailer]))
        with pytest.raises(UserError, match="cut off"):
            compressed_image_from_ros(cut)


def test_the_end_of_a_preview_is_not_that_of_the_image() -> None:
    preview = encoded_jpeg()[:8000]
    segment = b"\xff\xe1" + (2 + len(preview) + 2).to_bytes(2, "big") + preview + b"\xff\xd9"
    data = encoded_jpeg()
    whole = data[:2] + segment + data[2:]
    image = compressed_image_from_ros(CompressedImage(format="jpeg", data=array.array("B", whole)))
    assert image.shape == (240, 320, 3)
    with pytest.raises(UserError, match="cut off"):
        compressed_image_from_ros(CompressedImage(format="jpeg", data=array.array("B", whole[:-500])))


def test_a_png_that_states_no_size() -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IEND" + bytes(4)
    with pytest.raises(UserError, match="complete JPEG or PNG"):
        compressed_image_from_ros(CompressedImage(format="png", data=array.array("B", data)))


def test_an_image_there_and_back() -> None:
    np.testing.assert_array_equal(image_from_ros(image_to_ros(COLORED, HEADER)), COLORED)
    assert image_to_ros(COLORED, HEADER).is_bigendian == (sys.byteorder == "big")


# --- the lens


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", [-0.25, 0.06, 0.002, -0.003, 0.0]),
        ("rational_polynomial", [0.3, 0.02, 0.001, 0.0, 0.0, 0.5, 0.1, 0.0]),
        ("equidistant", [0.05, -0.01, 0.002, 0.0]),
    ],
)
@pytest.mark.parametrize("skew", [0.0, 25.0, -40.0])
def test_an_undistorted_image_shows_things_where_a_pinhole_camera_sees_them(
    model: str, coefficients: list[float], skew: float
) -> None:
    k = np.array([[300.0, skew, 320.0], [0.0, 300.0, 240.0], [0.0, 0.0, 1.0]])
    camera = CameraModel(k, np.array(coefficients), model, 640, 480)
    lens = LensDistortion(camera)
    for ideal in ([320.0, 240.0], [420.0, 300.0], [180.0, 130.0], [450.0, 120.0]):
        x, y = distort_points(np.array(ideal), camera)
        rows, columns = np.mgrid[:480, :640]
        spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
        seen = lens.undistort_image(np.repeat(spot.astype(np.uint8)[..., None], 3, axis=2))[..., 0].astype(float)
        middle = [(columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()]
        np.testing.assert_allclose(middle, ideal, atol=0.15)


def test_a_new_camera_is_noticed() -> None:
    k = np.array([[300.0, 0.0, 320.0], [0.0, 300.0, 240.0], [0.0, 0.0, 1.0]])
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    cameras = [CameraModel(k, np.array([first, 0.0, 0.0, 0.0]), "plumb_bob", 640, 480) for first in (-0.2, 0.2)]
    lenses = [get_lens(camera) for camera in (cameras[0], cameras[1], cameras[0])]
    first, second, again = (lens.undistort_image(image) for lens in lenses if lens is not None)
    assert lenses[0] is lenses[2]
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)
