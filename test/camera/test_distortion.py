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

"""Distortion and undistortion, against OpenCV and each other."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multihmr2_ros.camera import CameraModel, UnusableDistortionError, distort_points, project, undistort_points
from multihmr2_ros.lens import LensDistortion
from test.helpers.camera_cases import LENS_K, LENSES, SKEW, make_image_grid, make_points


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_distortion_agrees_with_opencv_on_3d_points(model: str, coefficients: list[float]) -> None:
    camera = CameraModel(LENS_K, np.array(coefficients), model, 1280, 720)
    points = make_points(200) * [0.4, 0.4, 1.0]
    no_motion, distortion = np.zeros(3), np.array(coefficients)
    if model == "equidistant":
        expected, _ = cv2.fisheye.projectPoints(points[None], no_motion, no_motion, LENS_K, distortion)
    else:
        expected, _ = cv2.projectPoints(points, no_motion, no_motion, LENS_K, distortion)
    actual = distort_points(project(points, LENS_K), camera)
    np.testing.assert_allclose(actual, expected.reshape(-1, 2), atol=1e-9)


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_undistortion_is_the_inverse_of_distortion_over_the_whole_image(model: str, coefficients: list[float]) -> None:
    camera = CameraModel(LENS_K, np.array(coefficients), model, 1280, 720)
    grid = make_image_grid(1280, 720)
    np.testing.assert_allclose(distort_points(undistort_points(grid, camera), camera), grid, atol=1e-6)
    np.testing.assert_allclose(undistort_points(distort_points(grid, camera), camera), grid, atol=1e-6)
    # A lens without effect would pass the checks above.
    assert np.abs(undistort_points(grid, camera) - grid).max() > 5.0


def test_skewed_k_keeps_the_round_trip() -> None:
    # OpenCV would ignore the skew.
    camera = CameraModel(LENS_K + 25.0 * SKEW, np.array(LENSES[0][1]), "plumb_bob", 1280, 720)
    bearing = np.array([0.3, -0.2, 1.0])
    distorted, _ = cv2.projectPoints(bearing, np.zeros(3), np.zeros(3), np.eye(3), camera.distortion)
    expected = camera.k @ [*distorted.ravel(), 1.0]
    np.testing.assert_allclose(distort_points(project(bearing, camera.k), camera), expected[:2], atol=1e-9)


@pytest.mark.parametrize(
    ("model", "coefficients", "limit"),
    [
        ("plumb_bob", [-0.3, 0, 0, 0], math.atan(math.sqrt(1 / 0.9))),  # r(1 - 0.3 r²) decreases beyond r² = 1/0.9
        ("plumb_bob", [0, 0, 0, 0, -0.05], math.atan((1 / 0.35) ** (1 / 6))),
        ("rational_polynomial", [0, 0, 0, 0, 0, -0.5, 0, 0], math.atan(math.sqrt(2))),  # pole of 1/(1 - 0.5 r²)
        ("equidistant", [-0.2, 0, 0, 0], math.sqrt(1 / 0.6)),  # θ(1 - 0.2 θ²) decreases beyond θ² = 1/0.6
        ("equidistant", [0, 0, 0, -0.4], (1 / 3.6) ** (1 / 8)),
    ],
)
def test_points_outside_the_lens_range_are_nan(model: str, coefficients: list[float], limit: float) -> None:
    camera = CameraModel(LENS_K, np.array(coefficients), model, 1280, 720)
    # At 1.6 times the limit a polynomial lens gives an inverted image, which is no mirror image.
    angles = limit * np.array([0.0, 0.5, -0.999, 1.001, -1.001, 1.6])
    bearings = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=-1)
    distorted = distort_points(project(bearings, LENS_K), camera)
    assert np.isnan(distorted).all(axis=-1).tolist() == [False, False, False, True, True, True]


def test_points_that_tangential_distortion_folds_over_are_nan() -> None:
    # On the axis x = 0: y + 3 · 0.2 · y², which decreases below y = -1 / 1.2, while the radial part has no effect.
    camera = CameraModel(LENS_K, np.array([0.0, 0.0, 0.2, 0.0]), "plumb_bob", 1280, 720)
    bearings = np.array([[0.0, 0.9, 1.0], [0.0, -0.83, 1.0], [0.0, -0.84, 1.0]])
    distorted = distort_points(project(bearings, LENS_K), camera)
    assert np.isnan(distorted).all(axis=-1).tolist() == [False, False, True]


def test_pixels_that_no_valid_ray_reaches_are_nan() -> None:
    # r(1 - 0.3 r²) is at most 2/3 r, at r² = 1 / 0.9.
    camera = CameraModel(LENS_K, np.array([-0.3, 0.0, 0.0, 0.0]), "plumb_bob", 1280, 720)
    edge = math.sqrt(1 / 0.9) * 2 / 3
    pixels = LENS_K[:2, 2] + np.array([[0.0], [0.5], [0.9999], [1.0001], [3.0], [-3.0]]) * [820.0 * edge, 0.0]
    assert np.isnan(undistort_points(pixels, camera)).all(axis=-1).tolist() == [False, False, False, True, True, True]


def test_fisheye_points_beyond_ninety_degrees_are_nan() -> None:
    camera = CameraModel(LENS_K, np.array([0.01, 0.001, 0.0, 0.0]), "equidistant", 1280, 720)
    angle = np.radians([0.0, 45.0, 89.0, 89.9, 90.1, 120.0, 179.0])
    theta_d = angle * (1 + 0.01 * angle**2 + 0.001 * angle**4)
    pixels = LENS_K[:2, 2] + np.stack([820.0 * theta_d, np.zeros(7)], axis=-1)
    recovered = np.arctan((undistort_points(pixels, camera)[:, 0] - 645.0) / 820.0)
    np.testing.assert_allclose(recovered, np.where(angle < np.pi / 2, angle, np.nan), atol=1e-8)


@pytest.mark.parametrize(("width", "height"), [(32_767, 4), (4, 32_767)])
def test_images_larger_than_opencv_can_undistort_are_refused(width: int, height: int) -> None:
    k = np.array([[30_000.0, 0, width / 2], [0, 30_000.0, height / 2], [0, 0, 1]])
    distortion = np.array([0.01, 0, 0, 0])
    lens = LensDistortion(CameraModel(k, distortion, "plumb_bob", min(width, 32_766), min(height, 32_766)))
    image = np.full((lens.camera.height, lens.camera.width, 3), 99, np.uint8)
    assert lens.undistort_image(image).shape == image.shape
    with pytest.raises(UnusableDistortionError, match=f"at most 32766 px, got {width} x {height} px"):
        CameraModel(k, distortion, "plumb_bob", width, height)
    assert CameraModel(k, np.zeros(0), "", width, height).width == width


@pytest.mark.parametrize(("model", "coefficients"), [*LENSES, ("", [])])
def test_distortion_of_nothing_and_of_unknown_points(model: str, coefficients: list[float]) -> None:
    camera = CameraModel(LENS_K, np.array(coefficients), model, 1280, 720)
    for function in (distort_points, undistort_points):
        assert function(np.zeros((0, 2)), camera).shape == (0, 2)
        assert function(np.zeros((4, 0, 2)), camera).shape == (4, 0, 2)
        assert function(np.full((3, 4, 2), 500.0, np.float32), camera).shape == (3, 4, 2)
        assert function([645, 357], camera).tolist() == [645.0, 357.0]  # the axis is unchanged
        unknown = function([[np.nan, 1.0], [600.0, 300.0]], camera)
        assert np.isnan(unknown[0]).any()
        assert np.isfinite(unknown[1]).all()


@given(st.lists(st.floats(-0.4, 0.4), min_size=8, max_size=8), st.sampled_from([4, 5, 8]))
def test_undistortion_never_gives_a_point_that_the_lens_puts_elsewhere(values: list[float], count: int) -> None:
    model = "rational_polynomial" if count == 8 else "plumb_bob"
    coefficients = np.array(values[:count])
    coefficients[2:4] *= 0.02
    camera = CameraModel(LENS_K, coefficients, model, 1280, 720)
    grid = make_image_grid(1280, 720)[::6, ::8]
    ideal = undistort_points(grid, camera)
    found = np.isfinite(ideal).all(axis=-1)
    bearings = np.concatenate([(ideal[found] - LENS_K[:2, 2]) / [820.0, 823.0], np.ones((found.sum(), 1))], axis=-1)
    again, _ = cv2.projectPoints(bearings, np.zeros(3), np.zeros(3), LENS_K, coefficients)
    np.testing.assert_allclose(again[:, 0], grid[found], atol=1e-5)


@given(st.lists(st.floats(-0.4, 0.4), min_size=8, max_size=8), st.sampled_from(sorted({model for model, _ in LENSES})))
def test_every_valid_ideal_point_is_found_again(values: list[float], model: str) -> None:
    coefficients = np.array(values[: {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[model]])
    if model != "equidistant":
        coefficients[2:4] = 0.0  # without tangential terms the valid ideal point is unique
    camera = CameraModel(LENS_K, coefficients, model, 1280, 720)
    ideal = make_image_grid(1280, 720)[::6, ::8]
    distorted = distort_points(ideal, camera)
    valid = np.isfinite(distorted).all(axis=-1)
    # If the lens compresses the image, 1e-6 px in it are more in the ideal one.
    np.testing.assert_allclose(undistort_points(distorted[valid], camera), ideal[valid], atol=0.05)
