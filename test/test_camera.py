"""Intrinsics, CameraInfo, distortion, resize and pad, projection."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multihmr2_ros.camera import (
    CameraFacts,
    CameraModel,
    ResizePad,
    back_project,
    camera_from_info,
    distort_points,
    intrinsics_from_fov,
    intrinsics_from_horizontal_fov,
    project,
    undistort_points,
    validate_k,
    vertical_fov,
)
from multihmr2_ros.errors import UserError

K = np.array([[610.0, 0.0, 322.5], [0.0, 605.0, 236.25], [0.0, 0.0, 1.0]])
RECTIFIED_K = np.array([[580.0, 0.0, 318.0], [0.0, 580.0, 242.0], [0.0, 0.0, 1.0]])
# Landscape, portrait, rounded shorter sides with odd pads, the network's own size, and the two extremes.
SIZES = [(640, 480), (1920, 1080), (480, 640), (333, 517), (768, 576), (1, 1), (20000, 20), (768, 432)]
# Of a wide webcam, a wide rational lens with each number of coefficients, and a fisheye; 1280 × 720.
LENSES = [
    ("plumb_bob", [-0.21, 0.06, 0.0011, -0.0007]),
    ("plumb_bob", [-0.25, 0.09, 0.0004, -0.0009, -0.012]),
    ("rational_polynomial", [5.2, 3.1, -1e-5, 3e-5, 0.16, 5.5, 4.6, 0.83]),
    ("rational_polynomial", [0.1, 0.01, 0.001, 0.002, 0.003, 0.1, 0.02, 0.003, 0.002, 0.001, 0.001, 0.002]),
    ("rational_polynomial", [0.1, 0.01, 0.001, 0.002, 0.003, 0.1, 0.02, 0.003, 0.002, 0.001, 0.001, 0.002, 0.02, 0.03]),
    ("equidistant", [-0.013, 0.021, -0.015, 0.003]),
]
SKEW = np.eye(3, k=1) * [[1.0], [0.0], [0.0]]
LENS_K = np.array([[820.0, 0.0, 645.0], [0.0, 823.0, 357.0], [0.0, 0.0, 1.0]])


def some_points(count: int = 50) -> np.ndarray:
    """(count, 3) m, in front of the camera."""
    return np.random.default_rng(5).uniform([-2.0, -1.5, 1.0], [2.0, 1.5, 8.0], (count, 3))


def image_grid(width: int, height: int) -> np.ndarray:
    """(rows, columns, 2) px over the whole image, its corners and edges included."""
    u, v = np.meshgrid(np.linspace(0, width, 65), np.linspace(0, height, 37))
    return np.stack([u, v], axis=-1)


def facts(**changes: object) -> CameraFacts:
    """A calibrated 640 × 480 camera and a raw image of that size."""
    p = np.concatenate([RECTIFIED_K, [[-30.0], [0.0], [0.0]]], axis=1)
    return dataclasses.replace(CameraFacts(640, 480, False, 640, 480, K.ravel(), p.ravel()), **changes)


def camera_of(**changes: object) -> CameraModel:
    camera = camera_from_info(facts(**changes))
    assert camera is not None
    return camera


def refusal(function: Callable[..., object], *arguments: object) -> str:
    """The message of the UserError that the call must raise; it is one line."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- intrinsics


@pytest.mark.parametrize("fov", [math.radians(1.0), math.radians(60.0), math.radians(170.0)])
def test_field_of_view_and_intrinsics_are_inverse(fov: float) -> None:
    k = intrinsics_from_fov(fov, 640, 480)
    assert vertical_fov(k, 480) == pytest.approx(fov, rel=1e-12)
    assert k[0, 0] == k[1, 1]
    np.testing.assert_array_equal(k[:, 2], [320.0, 240.0, 1.0])


def test_fields_of_view_span_the_image() -> None:
    # A ray at half the angle must land on the image's border.
    horizontal = project([math.tan(0.6), 0.0, 1.0], intrinsics_from_horizontal_fov(1.2, 640, 480))
    vertical = project([0.0, math.tan(0.6), 1.0], intrinsics_from_fov(1.2, 640, 480))
    np.testing.assert_allclose(horizontal, [640.0, 240.0], atol=1e-9)
    np.testing.assert_allclose(vertical, [320.0, 480.0], atol=1e-9)


@pytest.mark.parametrize("fov", [0.0, -1.0, math.pi, 60.0, math.nan])
def test_impossible_field_of_view_is_refused(fov: float) -> None:
    assert "pass radians" in refusal(intrinsics_from_fov, fov, 640, 480)


def test_validate_k_copies_to_float64() -> None:
    assert validate_k(K.tolist()).dtype == validate_k(K.astype(np.float32)).dtype == np.float64
    assert not np.shares_memory(validate_k(K), K)


# All zero; wrong shapes; column-major; last row (0, 0, 0.5); not upper triangular; no matrix of numbers.
@pytest.mark.parametrize("k", [0 * K, np.eye(4), K.ravel(), K.T, K / 2, K + SKEW.T, [[1.0, 2.0], [3.0]], "K", None])
def test_unusable_k_is_refused(k: object) -> None:
    assert refusal(validate_k, k, "my K").startswith("my K must be [[fx")


@pytest.mark.parametrize("value", [0.0, -600.0, math.nan, math.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_unusable_focal_lengths_are_refused(value: float, axis: int) -> None:
    k = K.copy()
    k[axis, axis] = value
    assert str(value) in refusal(validate_k, k)


# --- CameraInfo


def test_k_is_for_the_raw_image_and_p_for_the_rectified_one() -> None:
    lens = {"distortion_model": "plumb_bob", "d": [-0.2, 0.05, 0.0, 0.0, 0.0]}
    raw, rectified = camera_of(**lens), camera_of(**lens, rectified=True)
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
        ({"p": np.zeros(12), "rectified": True}, False),
        ({"k": np.zeros(9), "rectified": True}, True),  # a rectified image needs no K
        ({"k": np.zeros(9), "width": 0, "height": 0}, False),  # a message nobody filled
        ({"k": np.zeros(9), "width": 1}, False),  # nothing else matters then
    ],
)
def test_uncalibrated_cameras_give_none(changes: dict[str, object], calibrated: bool) -> None:
    assert (camera_from_info(facts(**changes)) is not None) == calibrated


@pytest.mark.parametrize("model", ["", "plumb_bob", "equidistant", "rational_polynomial"])
@pytest.mark.parametrize("d", [[], [0.0] * 5])
def test_zero_coefficients_mean_no_distortion(model: str, d: list[float]) -> None:
    camera = camera_of(distortion_model=model, d=d)
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
        ((101, 61, 0, 0), (0, 0)),  # a region without a size reaches to the image's end
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
    camera = camera_of(**region, **image, binning_x=binning[0], binning_y=binning[1])
    full_image = project(some_points(), RECTIFIED_K if rectified else K)
    expected = (full_image - [x, y]) / [bin_x, bin_y]
    np.testing.assert_allclose(project(some_points(), camera.k), expected, atol=1e-9)


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_distortion_survives_region_and_binning(model: str, coefficients: list[float]) -> None:
    info = {"k": LENS_K.ravel(), "width": 1280, "height": 720, "distortion_model": model, "d": coefficients}
    region = {"roi_x_offset": 200, "roi_y_offset": 100, "roi_width": 800, "roi_height": 600}
    full = camera_of(**info, image_width=1280, image_height=720)
    cut = camera_of(**info, **region, binning_x=2, binning_y=2, image_width=400, image_height=300)
    ideal = image_grid(1280, 720)
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
    wrong = facts(**changes)
    message = refusal(camera_from_info, wrong)
    assert f"images of {expected_size} px" in message
    assert f"the image is {wrong.image_width} x {wrong.image_height} px; publish" in message


def test_unknown_calibration_size_fits_any_image() -> None:
    camera = camera_of(width=0, height=0, image_width=123, image_height=45)
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
        ({"distortion_model": "plumb_bob", "d": [0.1] * 8}, "4 or 5 coefficients, but 8"),
        ({"distortion_model": "rational_polynomial", "d": [0.1] * 5}, "8 or 12 or 14 coefficients, but 5"),
        ({"distortion_model": "equidistant", "d": [0.1] * 5}, "4 coefficients, but 5"),
        ({"distortion_model": "", "d": [0.1] * 5}, "0 coefficients, but 5"),
        ({"distortion_model": "thin_prism", "d": [0.1] * 4}, "must be one of plumb_bob"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, object], message: str) -> None:
    assert message in refusal(camera_from_info, facts(**changes))


# --- distortion


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_distortion_agrees_with_opencv_on_3d_points(model: str, coefficients: list[float]) -> None:
    camera = CameraModel(LENS_K, np.array(coefficients), model, 1280, 720)
    points = some_points(200) * [0.4, 0.4, 1.0]
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
    grid = image_grid(1280, 720)
    np.testing.assert_allclose(distort_points(undistort_points(grid, camera), camera), grid, atol=1e-6)
    np.testing.assert_allclose(undistort_points(distort_points(grid, camera), camera), grid, atol=1e-6)
    # A lens that did nothing would pass the above.
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
        ("plumb_bob", [-0.3, 0, 0, 0], math.atan(math.sqrt(1 / 0.9))),  # r(1 - 0.3 r²) shrinks past r² = 1/0.9
        ("plumb_bob", [0, 0, 0, 0, -0.05], math.atan((1 / 0.35) ** (1 / 6))),
        ("rational_polynomial", [0, 0, 0, 0, 0, -0.5, 0, 0], math.atan(math.sqrt(2))),  # pole of 1/(1 - 0.5 r²)
        ("equidistant", [-0.2, 0, 0, 0], math.sqrt(1 / 0.6)),  # θ(1 - 0.2 θ²) shrinks past θ² = 1/0.6
        ("equidistant", [0, 0, 0, -0.4], (1 / 3.6) ** (1 / 8)),
    ],
)
def test_points_outside_the_lens_range_are_nan(model: str, coefficients: list[float], limit: float) -> None:
    camera = CameraModel(LENS_K, np.array(coefficients), model, 1280, 720)
    # At 1.6 times the limit a polynomial lens images upside down, which is no mirror image.
    angles = limit * np.array([0.0, 0.5, -0.999, 1.001, -1.001, 1.6])
    bearings = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=-1)
    distorted = distort_points(project(bearings, LENS_K), camera)
    assert np.isnan(distorted).all(axis=-1).tolist() == [False, False, False, True, True, True]


def test_points_that_tangential_distortion_folds_over_are_nan() -> None:
    # On the axis x = 0: y + 3 · 0.2 · y², which shrinks below y = -1 / 1.2, while the radial part changes nothing.
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


@pytest.mark.parametrize(("model", "coefficients"), [*LENSES, ("", [])])
def test_distortion_of_nothing_and_of_unknown_points(model: str, coefficients: list[float]) -> None:
    camera = CameraModel(LENS_K, np.array(coefficients), model, 1280, 720)
    for function in (distort_points, undistort_points):
        assert function(np.zeros((0, 2)), camera).shape == (0, 2)
        assert function(np.zeros((4, 0, 2)), camera).shape == (4, 0, 2)
        assert function(np.full((3, 4, 2), 500.0, np.float32), camera).shape == (3, 4, 2)
        assert function([645, 357], camera).tolist() == [645.0, 357.0]  # the axis stays
        unknown = function([[np.nan, 1.0], [600.0, 300.0]], camera)
        assert np.isnan(unknown[0]).any()
        assert np.isfinite(unknown[1]).all()


@given(st.lists(st.floats(-0.4, 0.4), min_size=8, max_size=8), st.sampled_from([4, 5, 8]))
def test_undistortion_never_gives_a_point_that_the_lens_puts_elsewhere(values: list[float], count: int) -> None:
    model = "rational_polynomial" if count == 8 else "plumb_bob"
    coefficients = np.array(values[:count])
    coefficients[2:4] *= 0.02
    camera = CameraModel(LENS_K, coefficients, model, 1280, 720)
    grid = image_grid(1280, 720)[::6, ::8]
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
    ideal = image_grid(1280, 720)[::6, ::8]
    distorted = distort_points(ideal, camera)
    valid = np.isfinite(distorted).all(axis=-1)
    # Where the lens squeezes the image, 1e-6 px in it are more in the ideal one.
    np.testing.assert_allclose(undistort_points(distorted[valid], camera), ideal[valid], atol=0.05)


# --- resize and pad


def assert_follows_the_networks_rules(width: int, height: int) -> None:
    fit = ResizePad.fit(width, height)
    assert max(fit.resized_width, fit.resized_height) == 768
    horizontal = (width, fit.resized_width, fit.padded_width, fit.pad_left)
    vertical = (height, fit.resized_height, fit.padded_height, fit.pad_top)
    for source, resized, padded, before in (horizontal, vertical):
        assert abs(resized - max(1.0, source * 768 / max(width, height))) <= 0.5 + 1e-9
        assert padded % 16 == 0
        assert padded // 16 <= 48
        assert 0 <= padded - resized < 16
        assert padded - resized - 2 * before in (0, 1)  # the odd pixel is on the right or at the bottom


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_resize_and_pad_follow_the_networks_rules(width: int, height: int) -> None:
    assert_follows_the_networks_rules(width, height)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_resize_and_pad_follow_the_networks_rules_for_any_size(width: int, height: int) -> None:
    assert_follows_the_networks_rules(width, height)


@pytest.mark.parametrize(
    ("size", "resized", "padded", "pads"),
    [
        ((640, 480), (768, 576), (768, 576), (0, 0)),
        ((1920, 1080), (768, 432), (768, 432), (0, 0)),
        ((333, 517), (495, 768), (496, 768), (0, 0)),  # 494.66 → 495: the odd pixel is on the right
        ((1000, 333), (768, 256), (768, 256), (0, 0)),  # 255.74 → 256
        ((517, 333), (768, 495), (768, 496), (0, 0)),
        ((700, 500), (768, 549), (768, 560), (0, 5)),  # 5 above, 6 below
        ((20000, 20), (768, 1), (768, 16), (0, 7)),
        ((1, 1), (768, 768), (768, 768), (0, 0)),
    ],
)
def test_sizes_and_pads(size, resized, padded, pads) -> None:
    fit = ResizePad.fit(*size)
    assert (fit.resized_width, fit.resized_height) == resized
    assert (fit.padded_width, fit.padded_height) == padded
    assert (fit.pad_left, fit.pad_top) == pads
    corners = fit.points_to_input([[0, 0], size])
    np.testing.assert_allclose(corners, [pads, np.add(pads, resized)], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("fixed", [None, (768, 576), (448, 768)])
def test_maps_of_points_and_k_agree_and_invert(width: int, height: int, fixed: tuple[int, int] | None) -> None:
    fit = ResizePad.fit(width, height) if fixed is None else ResizePad.fit_inside(width, height, *fixed)
    k = intrinsics_from_fov(1.0, width, height)
    pixels = project(some_points(), k)
    np.testing.assert_allclose(fit.points_to_source(fit.points_to_input(pixels)), pixels, rtol=0, atol=1e-9)
    np.testing.assert_allclose(fit.k_to_source(fit.k_to_input(k)), k, rtol=0, atol=1e-9)
    in_input = project(some_points(), fit.k_to_input(k))
    np.testing.assert_allclose(in_input, fit.points_to_input(pixels), rtol=0, atol=1e-9)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 48), st.integers(1, 48))
def test_fixed_input_holds_the_largest_image(width: int, height: int, columns: int, rows: int) -> None:
    fit = ResizePad.fit_inside(width, height, 16 * columns, 16 * rows)
    assert (fit.padded_width, fit.padded_height) == (16 * columns, 16 * rows)
    assert fit.resized_width <= fit.padded_width
    assert fit.resized_height <= fit.padded_height
    assert fit.resized_width == fit.padded_width or fit.resized_height == fit.padded_height
    scale = min(16 * columns / width, 16 * rows / height)
    assert abs(fit.resized_width - max(1.0, width * scale)) <= 0.5 + 1e-9
    assert abs(fit.resized_height - max(1.0, height * scale)) <= 0.5 + 1e-9


@pytest.mark.parametrize("size", [(0, 480), (640, 0), (-1, 5)])
def test_empty_images_are_refused(size: tuple[int, int]) -> None:
    assert "the image must be at least 1 x 1" in refusal(ResizePad.fit, *size)
    assert "the network's input must be" in refusal(ResizePad.fit_inside, 640, 480, *size)


# --- projection


def test_projection_by_hand() -> None:
    # 1 m to the right and 0.5 m down at 4 m.
    np.testing.assert_allclose(project([1.0, 0.5, 4.0], K), [610 / 4 + 322.5, 605 / 8 + 236.25])


@pytest.mark.parametrize("z", [0.0, 1e-6, -1.0, math.nan])
def test_points_at_and_behind_the_camera_are_nan(z: float) -> None:
    pixels = project([[0.1, 0.2, z], [0.1, 0.2, 2.0]], K)
    assert np.isnan(pixels[0]).all()
    assert np.isfinite(pixels[1]).all()


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_back_projection_is_the_inverse_of_projection(dtype: type, atol: float) -> None:
    points = some_points(24).reshape(2, 3, 4, 3).astype(dtype)
    skewed = K + 3.0 * SKEW
    pixels = project(points, skewed)
    again = back_project(pixels, points[..., 2], skewed)
    assert pixels.dtype == again.dtype == dtype
    np.testing.assert_allclose(again, points, rtol=0, atol=atol)
    # K⁻¹ [u, v, 1]ᵀ z, as the specification has it.
    direct = np.linalg.solve(skewed, np.r_[pixels[1, 2, 3], 1.0]) * points[1, 2, 3, 2]
    np.testing.assert_allclose(again[1, 2, 3], direct, rtol=0, atol=atol)


def test_empties_dtypes_and_wrong_shapes() -> None:
    fit = ResizePad.fit(640, 360)
    for function in (fit.points_to_input, fit.points_to_source):
        assert function(np.zeros((2, 0, 2), np.float32)).shape == (2, 0, 2)
        assert function(np.zeros((3, 2), np.float32)).dtype == np.float32
    assert project(np.zeros((0, 3)), K).shape == (0, 2)
    assert back_project(np.zeros((0, 2)), np.zeros(0), K).shape == (0, 3)
    assert project([1, 2, 4], K).dtype == np.float64
    assert back_project([1, 2], 3, K).shape == (3,)
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        project(np.zeros((5, 2)), K)
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        back_project(np.zeros((5, 3)), np.zeros(5), K)


def test_camera_loads_without_opencv_torch_and_ros() -> None:
    code = "import sys, multihmr2_ros.camera; print({'cv2', 'torch', 'rclpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
