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

"""Intrinsics, and the facts that a CameraInfo gives about an image."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from multihmr2_ros.camera import (
    CameraInfoContent,
    CameraModel,
    camera_from_info,
    compute_vertical_fov,
    distort_points,
    intrinsics_from_fov,
    project,
    require_k_in_pixels,
    undistort_points,
    validate_k,
)
from test.helpers.camera_cases import LENS_K, LENSES, SKEW, K, get_refusal, make_image_grid, make_points

RECTIFIED_K = np.array([[580.0, 0.0, 318.0], [0.0, 580.0, 242.0], [0.0, 0.0, 1.0]])


def make_facts(**changes: object) -> CameraInfoContent:
    """Return a calibrated 640 × 480 camera and a raw image of that size."""
    p = np.concatenate([RECTIFIED_K, [[-30.0], [0.0], [0.0]]], axis=1)
    return dataclasses.replace(CameraInfoContent(640, 480, False, 640, 480, K.ravel(), p.ravel()), **changes)


def make_camera(**changes: object) -> CameraModel:
    camera = camera_from_info(make_facts(**changes))
    assert camera is not None
    return camera


# --- intrinsics


@pytest.mark.parametrize("fov", [math.radians(1.0), math.radians(60.0), math.radians(170.0)])
def test_field_of_view_and_intrinsics_are_inverse(fov: float) -> None:
    k = intrinsics_from_fov(fov, 640, 480)
    assert compute_vertical_fov(k, 480) == pytest.approx(fov, rel=1e-12)
    assert k[0, 0] == k[1, 1]
    np.testing.assert_array_equal(k[:, 2], [320.0, 240.0, 1.0])


def test_the_field_of_view_spans_the_image() -> None:
    # A ray at half the angle must be projected to the image border.
    vertical = project([0.0, math.tan(0.6), 1.0], intrinsics_from_fov(1.2, 640, 480))
    np.testing.assert_allclose(vertical, [320.0, 480.0], atol=1e-9)


@pytest.mark.parametrize("fov", [0.0, -1.0, math.pi, 60.0, math.nan])
def test_impossible_field_of_view_is_refused(fov: float) -> None:
    assert "convert it to radians" in get_refusal(intrinsics_from_fov, fov, 640, 480)


def test_validate_k_copies_to_float64() -> None:
    assert validate_k(K.tolist()).dtype == validate_k(K.astype(np.float32)).dtype == np.float64
    assert not np.shares_memory(validate_k(K), K)


# All zero; wrong shapes; column-major; last row (0, 0, 0.5); not upper triangular; no matrix of numbers.
@pytest.mark.parametrize("k", [0 * K, np.eye(4), K.ravel(), K.T, K / 2, K + SKEW.T, [[1.0, 2.0], [3.0]], "K", None])
def test_unusable_k_is_refused(k: object) -> None:
    assert get_refusal(validate_k, k, "my K").startswith("my K must be [[fx")


@pytest.mark.parametrize("value", [0.0, -600.0, math.nan, math.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_unusable_focal_lengths_are_refused(value: float, axis: int) -> None:
    k = K.copy()
    k[axis, axis] = value
    assert str(value) in get_refusal(validate_k, k)


# For a unit image; in mm; far too large; fy only.
@pytest.mark.parametrize("focal", [(0.9, 0.9), (3.6e-3, 3.6e-3), (1e12, 1e12), (600.0, 0.9)])
def test_focal_lengths_of_no_camera_are_refused(focal: tuple[float, float]) -> None:
    k = np.array([[focal[0], 0.0, 320.0], [0.0, focal[1], 240.0], [0.0, 0.0, 1.0]])
    text = get_refusal(camera_from_info, make_facts(k=k.ravel()))
    assert text.startswith("camera_info.k must have focal lengths between ")
    assert get_refusal(require_k_in_pixels, k, 640, 480).startswith(
        "K must have focal lengths between 32 and 6.4e+06 px"
    )
    require_k_in_pixels(K, 640, 480)


# --- CameraInfo


def test_k_is_for_the_raw_image_and_p_for_the_rectified_one() -> None:
    lens = {"distortion_model": "plumb_bob", "d": [-0.2, 0.05, 0.0, 0.0, 0.0]}
    raw, rectified = make_camera(**lens), make_camera(**lens, rectified=True)
    assert (raw.source, raw.distortion_model) == ("K", "plumb_bob")
    assert (rectified.source, rectified.distortion_model, rectified.distortion.size) == ("P", "", 0)
    np.testing.assert_array_equal(raw.k, K)
    np.testing.assert_array_equal(raw.distortion, lens["d"])
    np.testing.assert_array_equal(rectified.k, RECTIFIED_K)


@pytest.mark.parametrize(
    ("changes", "calibrated"),
    [
        ({"k": np.zeros(9)}, False),
        ({"p": np.zeros(12)}, True),  # a raw image needs no P
        ({"p": np.zeros(12), "rectified": True}, True),  # then K is valid
        ({"p": np.zeros(12), "k": np.zeros(9), "rectified": True}, False),
        ({"k": np.zeros(9), "rectified": True}, True),  # a rectified image needs no K
        ({"k": np.zeros(9), "width": 0, "height": 0}, False),  # a message with default values
        ({"k": np.zeros(9), "width": 1}, False),  # then nothing else matters
    ],
)
def test_uncalibrated_cameras_give_none(changes: dict[str, object], calibrated: bool) -> None:
    assert (camera_from_info(make_facts(**changes)) is not None) == calibrated


@pytest.mark.parametrize("d", [[], [-0.2, 0.05, 0.0, 0.0, 0.0]])
def test_k_is_for_the_rectified_image_where_p_is_all_zero(d: list[float]) -> None:
    camera = make_camera(p=np.zeros(12), rectified=True, distortion_model="plumb_bob", d=d)
    assert (camera.source, camera.distortion_model, camera.distortion.size) == ("K", "", 0)
    np.testing.assert_array_equal(camera.k, K)


@pytest.mark.parametrize("model", ["", "plumb_bob", "equidistant", "rational_polynomial"])
@pytest.mark.parametrize("d", [[], [0.0] * 5])
def test_zero_coefficients_mean_no_distortion(model: str, d: list[float]) -> None:
    camera = make_camera(distortion_model=model, d=d)
    assert camera.distortion_model == ""
    np.testing.assert_array_equal(undistort_points([[1.0, 2.0]], camera), [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("roi", "binning"),
    [
        ((0, 0, 0, 0), (0, 0)),
        ((0, 0, 640, 480), (1, 1)),
        ((100, 60, 320, 240), (0, 0)),
        ((100, 60, 320, 240), (2, 4)),
        ((0, 0, 0, 0), (2, 2)),
        ((101, 61, 0, 0), (0, 0)),  # a region without a size extends to the end of the image
        ((100, 60, 321, 241), (2, 2)),  # an incomplete last bin
    ],
)
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("last_bin", [math.floor, math.ceil])
def test_region_and_binning_move_pixels_as_cropping_and_binning_do(roi, binning, rectified, last_bin) -> None:
    x, y, width, height = roi
    bin_x, bin_y = max(1, binning[0]), max(1, binning[1])
    region = {"roi_x_offset": x, "roi_y_offset": y, "roi_width": width, "roi_height": height}
    image_width, image_height = last_bin((width or 640 - x) / bin_x), last_bin((height or 480 - y) / bin_y)
    image = {"image_width": image_width, "image_height": image_height, "rectified": rectified}
    camera = make_camera(**region, **image, binning_x=binning[0], binning_y=binning[1])
    full_image = project(make_points(), RECTIFIED_K if rectified else K)
    expected = (full_image - [x, y]) / [bin_x, bin_y]
    np.testing.assert_allclose(project(make_points(), camera.k), expected, atol=1e-9)


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_distortion_survives_region_and_binning(model: str, coefficients: list[float]) -> None:
    info = {"k": LENS_K.ravel(), "width": 1280, "height": 720, "distortion_model": model, "d": coefficients}
    region = {"roi_x_offset": 200, "roi_y_offset": 100, "roi_width": 800, "roi_height": 600}
    full = make_camera(**info, image_width=1280, image_height=720)
    cut = make_camera(**info, **region, binning_x=2, binning_y=2, image_width=400, image_height=300)
    ideal = make_image_grid(1280, 720)
    expected = (distort_points(ideal, full) - [200, 100]) / 2.0
    np.testing.assert_allclose(distort_points((ideal - [200, 100]) / 2.0, cut), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "expected_size"),
    [
        ({"image_width": 320, "image_height": 240}, "640 x 480"),  # resized without a new CameraInfo
        ({"image_width": 480, "image_height": 640}, "640 x 480"),  # rotated
        ({"binning_x": 2, "binning_y": 2}, "320 x 240"),
        ({"roi_x_offset": 8, "roi_width": 600, "roi_height": 400}, "600 x 400"),
        ({"image_height": 481}, "640 x 480"),
    ],
)
def test_image_of_another_size_is_refused_with_both_sizes(changes: dict[str, object], expected_size: str) -> None:
    wrong = make_facts(**changes)
    message = get_refusal(camera_from_info, wrong)
    assert f"images of {expected_size} px" in message
    assert f"the image is {wrong.image_width} x {wrong.image_height} px; publish" in message


def test_unknown_calibration_size_fits_any_image() -> None:
    camera = make_camera(width=0, height=0, image_width=123, image_height=45)
    assert (camera.width, camera.height) == (123, 45)
    np.testing.assert_array_equal(camera.k, K)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": np.full(9, np.nan)}, "camera_info.k"),
        ({"k": K.ravel()[:8]}, "camera_info.k must have 9 numbers"),
        ({"p": K.ravel(), "rectified": True}, "camera_info.p must have 12 numbers"),
        ({"p": np.r_[580.0, np.zeros(11)], "rectified": True}, "camera_info.p"),
        ({"distortion_model": "plumb_bob", "d": [0.1, math.nan, 0, 0, 0]}, "finite"),
        ({"distortion_model": "plumb_bob", "d": [0.1] * 8}, "4 or 5 coefficients, got 8"),
        ({"distortion_model": "rational_polynomial", "d": [0.1] * 5}, "8 or 12 or 14 coefficients, got 5"),
        ({"distortion_model": "equidistant", "d": [0.1] * 5}, "4 coefficients, got 5"),
        ({"distortion_model": "", "d": [0.1] * 5}, "equidistant, got ''"),
        ({"distortion_model": "thin_prism", "d": [0.1] * 4}, "must be one of plumb_bob"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, object], message: str) -> None:
    assert message in get_refusal(camera_from_info, make_facts(**changes))


def test_camera_loads_without_opencv_torch_and_ros() -> None:
    code = "import sys, multihmr2_ros.camera; print({'cv2', 'torch', 'rclpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
