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

"""Lens distortion of calibrated cameras: validation of the coefficients, distortion and undistortion of points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray

from multihmr2_ros.camera.pinhole import Float64Array, FloatArray, as_points, back_project, check_size, validate_k
from multihmr2_ros.errors import UserError

# ROS name of the distortion model → accepted numbers of coefficients (OpenCV), in OpenCV's order.
DISTORTION_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
DISTORTION_ALIASES = {"fisheye": "equidistant", "kannala_brandt": "equidistant"}  # names that some drivers publish
MAX_COEFFICIENT = 1e6  # coefficients of real lenses are at most some hundreds; a value of 1e100 would overflow
MAX_SIDE = 32_766  # px, of an image that `cv2.remap` can undistort
UNDISTORT_TOLERANCE_PX = 1e-6


class UnusableDistortionError(UserError):
    """Error for a camera whose distortion cannot be used, but whose K can."""


@dataclass(frozen=True)
class CameraModel:
    """The calibrated camera of an image as recorded.

    k                 (3, 3) float64, px of this image
    distortion        (n,) float64, OpenCV's coefficients in OpenCV's order; empty without distortion
    distortion_model  ROS name; "" without distortion. For every model, coefficients that are all zero mean no
                      distortion, as in image_geometry (ROS). Zeros after the model's coefficients are dropped. Aliases
                      are replaced by the ROS name
    width, height     px, of this image
    source            "K" (raw image) or "P" (rectified image)

    Raises UserError for invalid numbers; UnusableDistortionError if only the distortion is unusable.
    """

    k: Float64Array
    distortion: Float64Array
    distortion_model: str
    width: int
    height: int
    source: Literal["K", "P"] = "K"

    def __post_init__(self) -> None:
        check_size("the image", self.width, self.height)
        model, distortion = _validate_distortion(self.distortion_model, self.distortion)
        if model and max(self.width, self.height) > MAX_SIDE:
            raise UnusableDistortionError(
                f"images with lens distortion must have sides of at most {MAX_SIDE} px, got {self.width} x "
                f"{self.height} px; use the rectified image"
            )
        object.__setattr__(self, "k", validate_k(self.k))
        object.__setattr__(self, "distortion_model", model)
        object.__setattr__(self, "distortion", distortion)


def distort_points(points_2d: ArrayLike, camera: CameraModel) -> Float64Array:
    """Distort points of an ideal pinhole camera with the same K: (..., 2) px → (..., 2) float64 px.

    NaN where the model is not valid: at and beyond the angle at which the distorted radius stops increasing. Intended
    for sparse points, because OpenCV needs about 400 bytes per point.
    """
    points = as_points(points_2d, 2).astype(np.float64)
    if not camera.distortion_model or not points.size:
        return points
    ideal = back_project(points.reshape(-1, 2), 1.0, camera.k)[:, :2]
    distorted, jacobian = _project_with_opencv(ideal, camera)
    with np.errstate(invalid="ignore"):
        in_range = np.arctan(np.hypot(*ideal.T)) < _find_limit_angle(camera)
        # The limit angle is computed without the tangential terms, which mirror the image beyond the model's range.
        in_range &= np.linalg.det(jacobian) > 0
    return _plane_to_pixels(np.where(in_range[:, None], distorted, np.nan), camera.k).reshape(points.shape)


def undistort_points(points_2d: ArrayLike, camera: CameraModel) -> Float64Array:
    """Undistort points of the image to an ideal pinhole camera with the same K: (..., 2) px → (..., 2) float64 px.

    Inverse of `distort_points`, accurate to 1e-6 px. NaN if no valid ideal point maps to the image point (for
    equidistant lenses also at 90° off the axis and beyond).
    """
    points = as_points(points_2d, 2).astype(np.float64)
    if not camera.distortion_model or not points.size:
        return points
    ideal = _undistort(back_project(points.reshape(-1, 2), 1.0, camera.k)[:, :2], camera)
    pixels = _plane_to_pixels(ideal, camera.k).reshape(points.shape)
    error = np.abs(distort_points(pixels, camera) - points).max(axis=-1, keepdims=True)
    return np.where(error < UNDISTORT_TOLERANCE_PX, pixels, np.nan)


def compute_undistortion_maps(camera: CameraModel) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Return the tables for `cv2.remap`: the position of each ideal pixel in the distorted image.

    Whole pixels (H, W, 2) int16, and fractions (H, W) uint16. OpenCV distorts points of focal length 1 and K is applied
    here, because OpenCV would ignore the skew of K.
    """
    import cv2

    is_fisheye = camera.distortion_model == "equidistant"
    make_maps = cv2.fisheye.initUndistortRectifyMap if is_fisheye else cv2.initUndistortRectifyMap
    size = (camera.width, camera.height)
    x, y = make_maps(np.eye(3), camera.distortion, np.eye(3), camera.k, size, cv2.CV_32FC1)
    (fx, skew, cx), (_, fy, cy) = camera.k[:2].tolist()
    whole, rest = cv2.convertMaps(fx * x + skew * y + cx, fy * y + cy, cv2.CV_16SC2)
    return np.asarray(whole, np.int16), np.asarray(rest, np.uint16)


def check_lens(camera: CameraModel) -> tuple[bool, str]:
    """Return whether at least half of the undistorted image lies inside the recorded image, and an error text.

    The text is "" if the corners of the image can be undistorted uniquely.
    """
    if not camera.distortion_model:
        return True, ""
    size = np.array([camera.width, camera.height])
    came = f"{camera.distortion_model} distortion {camera.distortion.tolist()!s:.200}"
    u, v = np.meshgrid(np.linspace(0, camera.width, 17), np.linspace(0, camera.height, 17))
    shown = distort_points(np.stack([u, v], axis=-1), camera)
    if np.mean(((shown >= 0) & (shown <= size)).all(axis=-1)) < 0.5:  # false for NaN, too
        return False, f"the {came} leaves less than half of the image; recalibrate the camera"
    # Beyond 90° a fisheye lens has no pinhole equivalent; such corners are not an error of the coefficients.
    is_wide = camera.distortion_model == "equidistant" and _find_limit_angle(camera) == math.pi / 2
    if not is_wide and np.isnan(undistort_points(size * [[0, 0], [1, 0], [0, 1], [1, 1]], camera)).any():
        return True, f"the {came} does not map the corners of the image one to one; recalibrate the camera"
    return True, ""


def _validate_distortion(name: str, distortion: ArrayLike) -> tuple[str, Float64Array]:
    """Return the model's ROS name and its coefficients; "" and none without distortion. Raises UserError."""
    coefficients = np.array(distortion, dtype=np.float64).reshape(-1)
    if not (np.abs(coefficients) <= MAX_COEFFICIENT).all():  # false for NaN, too
        raise UnusableDistortionError(
            f"distortion coefficients must be finite and within ±{MAX_COEFFICIENT:g}, got "
            f"{coefficients.tolist()!s:.200}; recalibrate the camera"
        )
    if not coefficients.any():
        return "", np.zeros(0)
    model = name.strip().lower().replace("-", "_").replace(" ", "_")
    model = DISTORTION_ALIASES.get(model, model)
    if model not in DISTORTION_COEFFICIENTS:
        known = ", ".join(DISTORTION_COEFFICIENTS)
        raise UnusableDistortionError(
            f"the distortion model must be one of {known}, got {name!r:.200}; use the rectified image"
        )
    counts = DISTORTION_COEFFICIENTS[model]
    for count in reversed(counts):
        if len(coefficients) >= count and not coefficients[count:].any():
            return model, coefficients[:count]
    wanted = " or ".join(map(str, counts))
    came = len(coefficients)
    raise UnusableDistortionError(
        f"the distortion model {name!r:.200} must have {wanted} coefficients, got {came}; recalibrate the camera"
    )


def _compute_radial_profile(camera: CameraModel) -> tuple[Polynomial, Polynomial]:
    """Return numerator and denominator of the distorted radius on the plane z = 1, without the tangential terms.

    The polynomials' variable is the ideal radius; for equidistant lenses it is the angle off the axis in rad.
    """
    c = np.pad(camera.distortion, (0, 4))
    if camera.distortion_model == "equidistant":
        return Polynomial([0, 1, 0, c[0], 0, c[1], 0, c[2], 0, c[3]]), Polynomial([1.0])
    denominator = [1, 0, c[5], 0, c[6], 0, c[7]] if camera.distortion_model == "rational_polynomial" else [1.0]
    return Polynomial([0, 1, 0, c[0], 0, c[1], 0, c[4]]), Polynomial(denominator)


def _find_limit_angle(camera: CameraModel) -> float:
    """Return the angle off the axis in rad, at most π/2, up to which the distorted radius increases."""
    numerator, denominator = _compute_radial_profile(camera)
    slope = numerator.deriv() * denominator - numerator * denominator.deriv()
    roots = np.concatenate([polynomial.trim(1e-15).roots() for polynomial in (slope, denominator)])
    real = roots.real[np.abs(roots.imag) < 1e-9 * np.abs(roots)]
    limit = float(real[real > 0].min(initial=math.inf))
    return min(limit, math.pi / 2) if camera.distortion_model == "equidistant" else math.atan(limit)


def _undistort(distorted: FloatArray, camera: CameraModel) -> FloatArray:
    """Undistort points (n, 2) on the plane z = 1 by Newton's method, starting from the radial solution.

    If there is no solution, the result is arbitrary or NaN.
    """
    angles = np.linspace(0.0, _find_limit_angle(camera), 2048, endpoint=False)
    numerator, denominator = _compute_radial_profile(camera)
    arguments = angles if camera.distortion_model == "equidistant" else np.tan(angles)
    radius = np.hypot(*distorted.T)
    with np.errstate(all="ignore"):
        ideal_radius = np.tan(np.interp(radius, numerator(arguments) / denominator(arguments), angles))
        ideal = distorted * (ideal_radius / np.where(radius > 0, radius, 1.0))[:, None]
        for _ in range(20):
            projected, jacobian = _project_with_opencv(ideal, camera)
            x, y = (projected - distorted).T
            (a, b), (c, d) = jacobian[:, 0].T, jacobian[:, 1].T
            step = np.stack([d * x - b * y, a * y - c * x], axis=-1) / (a * d - b * c)[:, None]
            ideal = ideal - step
            if not (np.abs(step) > 1e-12).any():
                break
    return ideal


def _project_with_opencv(ideal: FloatArray, camera: CameraModel) -> tuple[Float64Array, Float64Array]:
    """Return distorted points (n, 2) on the plane z = 1, and their Jacobian (n, 2, 2) with respect to ideal (n, 2)."""
    import cv2

    rays = np.concatenate([ideal, np.ones((len(ideal), 1))], axis=-1)[None]
    fisheye = camera.distortion_model == "equidistant"
    project_points = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    distorted, jacobian = project_points(rays, np.zeros(3), np.zeros(3), np.eye(3), camera.distortion)
    # Derivatives with respect to the translation in x and y, which at z = 1 equals a shift of the ideal point.
    columns = slice(11, 13) if fisheye else slice(3, 5)
    return np.float64(distorted).reshape(-1, 2), np.float64(jacobian).reshape(len(ideal), 2, -1)[..., columns]


def _plane_to_pixels(plane: FloatArray, k: Float64Array) -> Float64Array:
    """Convert points (n, 2) on the plane z = 1 to px."""
    return plane @ k[:2, :2].T + k[:2, 2]
