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

"""Camera geometry: intrinsics, ROS calibration, lens distortion, resize and pad, projection.

Units: pixels, meters, radians. Frame of reference: the camera's optical frame (x right, y down, z forward). A pinhole
camera K = [[fx, s, cx], [0, fy, cy], [0, 0, 1]] maps (x, y, z) to (u, v) with [u, v, 1]ᵀ = K [x, y, z]ᵀ / z, u to the
right and v down.

Pixel convention: resizing by `scale` and padding by `pad` maps the point u to u·scale + pad; K is scaled and shifted in
the same way, as in the network's training. A K given by the user or by ROS is used without a shift, although OpenCV's
origin is the center of the first pixel, not its outer corner. The published method accepts this difference of at most
half a pixel, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray

from .errors import UserError

Float64Array = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]

NEAREST_DEPTH_M = 1e-6
# ROS name of the distortion model → accepted numbers of coefficients (OpenCV), in OpenCV's order.
DISTORTION_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
DISTORTION_ALIASES = {"fisheye": "equidistant", "kannala_brandt": "equidistant"}  # names that some drivers publish
MAX_COEFFICIENT = 1e6  # coefficients of real lenses are at most some hundreds; a value of 1e100 would overflow
UNDISTORT_TOLERANCE_PX = 1e-6


class UnusableDistortionError(UserError):
    """Error for a camera whose distortion cannot be used, but whose K can."""


def intrinsics_from_fov(vertical_fov_rad: float, width: int, height: int) -> Float64Array:
    """Return K (3, 3) px of a width × height image: one focal length for both axes, principal point (W/2, H/2).

    Raises UserError unless the field of view is between 0 and π.
    """
    _check_size("the image", width, height)
    if not 0.0 < vertical_fov_rad < math.pi:
        raise UserError(
            f"the field of view must be between 0 and pi rad, got {vertical_fov_rad}; convert it to radians"
        )
    focal = height / (2.0 * math.tan(vertical_fov_rad / 2.0))
    return np.array([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]])


def vertical_fov(k: ArrayLike, height: int) -> float:
    """Return the vertical field of view in rad, 2·atan(H / (2·fy)), of an image `height` px high with K (3, 3)."""
    return 2.0 * math.atan(height / (2.0 * validate_k(k)[1, 1]))


def validate_k(k: ArrayLike, name: str = "K") -> Float64Array:
    """Return a float64 (3, 3) copy of the intrinsics k in px. Raises UserError, with `name` in the text, if invalid."""
    wanted = f"{name} must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels with fx and fy above 0"
    try:
        matrix = np.array(k, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{wanted}, got a value that is not a matrix of numbers; pass a (3, 3) array") from None
    if matrix.shape != (3, 3):
        raise UserError(f"{wanted}, got shape {matrix.shape}; pass a (3, 3) array")
    usable = np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0
    if not usable or matrix[1, 0] != 0 or matrix[2].tolist() != [0, 0, 1]:
        raise UserError(f"{wanted}, got {matrix.tolist()}; use a calibrated K")
    return matrix


def _check_size(what: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise UserError(f"{what} must be at least 1 x 1 px, got {width} x {height} px; pass its width and height in px")


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
        _check_size("the image", self.width, self.height)
        model, distortion = _validate_distortion(self.distortion_model, self.distortion)
        object.__setattr__(self, "k", validate_k(self.k))
        object.__setattr__(self, "distortion_model", model)
        object.__setattr__(self, "distortion", distortion)


@dataclass(frozen=True)
class CameraInfoContent:
    """The fields of a sensor_msgs/CameraInfo, under the same names, and the size of its image.

    width, height              px at full resolution; 0 if unknown
    d                          (n,) distortion coefficients
    k, r, p                    (9,), (9,) and (12,), row-major
    roi_*                      region of interest, unbinned px
    image_width, image_height  px of the image
    rectified                  whether the image topic contains rectified images

    r and roi_do_rectify are not used: people are placed in the frame of this one camera, and K and P are cropped to the
    same region, as in image_geometry.
    """

    image_width: int
    image_height: int
    rectified: bool
    width: int
    height: int
    k: ArrayLike
    p: ArrayLike
    distortion_model: str = ""
    d: ArrayLike = ()
    r: ArrayLike = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    binning_x: int = 0
    binning_y: int = 0
    roi_x_offset: int = 0
    roi_y_offset: int = 0
    roi_width: int = 0
    roi_height: int = 0
    roi_do_rectify: bool = False


def has_empty_p(info: CameraInfoContent) -> bool:
    """Return whether P is all 0 although K is set, as from drivers that undistort images or do not rectify them."""
    p, k = np.asarray(info.p, dtype=np.float64).reshape(-1), np.asarray(info.k, dtype=np.float64).reshape(-1)
    return not p.any() and bool(k.size and k[0] != 0)


def camera_from_info(info: CameraInfoContent) -> CameraModel | None:
    """Return the camera of an image, or None if its CameraInfo is uncalibrated (k[0] or p[0] is 0).

    Raw images: K and the distortion. Rectified images: P[:, :3], or K if P is all 0, without distortion. The
    full-resolution matrix is cropped to the region of interest, then binned, as in image_geometry (ROS):
    cx' = (cx - x_offset) / binning_x.

    Raises UserError for an image of another size: it may have been cropped or resized, and the wrong assumption would
    give wrong positions. Raises UnusableDistortionError if only the distortion is unusable; the same content with an
    empty d is then accepted.
    """
    uses_p = info.rectified and not has_empty_p(info)
    name, numbers, columns = ("p", info.p, 4) if uses_p else ("k", info.k, 3)
    values = np.asarray(numbers, dtype=np.float64).reshape(-1)
    if values.size != 3 * columns:
        raise UserError(
            f"camera_info.{name} must have {3 * columns} numbers, got {values.size}; recalibrate the camera"
        )
    if values[0] == 0.0:
        return None
    full = validate_k(values.reshape(3, columns)[:, :3], f"camera_info.{name}")
    binning = np.maximum([info.binning_x, info.binning_y], 1)
    _require_matching_size(info, binning)
    to_region = np.array([[1.0, 0.0, -info.roi_x_offset], [0.0, 1.0, -info.roi_y_offset], [0.0, 0.0, 1.0]])
    k = np.diag([1.0 / binning[0], 1.0 / binning[1], 1.0]) @ to_region @ full
    if info.rectified:
        return CameraModel(k, np.zeros(0), "", info.image_width, info.image_height, "P" if uses_p else "K")
    distortion = np.asarray(info.d, dtype=np.float64)
    return CameraModel(k, distortion, info.distortion_model, info.image_width, info.image_height, "K")


def _require_matching_size(info: CameraInfoContent, binning: NDArray[np.int64]) -> None:
    """Raise UserError unless the image has the size of the binned region; an unknown size matches every image."""
    image = np.array([info.image_width, info.image_height])
    full = np.array([info.width, info.height])
    offset = np.array([info.roi_x_offset, info.roi_y_offset])
    region = np.array([info.roi_width, info.roi_height])
    region = np.where(region > 0, region, np.where(full > 0, full - offset, image * binning))
    # Less than one bin apart: drivers drop or keep an incomplete last bin.
    if (np.abs(region - image * binning) >= binning).any():
        expected_width, expected_height = region // binning
        raise UserError(
            f"camera_info describes images of {expected_width} x {expected_height} px (after region of interest and "
            f"binning), but the image is {image[0]} x {image[1]} px; publish the camera_info of these images"
        )


def distort_points(points_2d: ArrayLike, camera: CameraModel) -> Float64Array:
    """Distort points of an ideal pinhole camera with the same K: (..., 2) px → (..., 2) float64 px.

    NaN where the model is not valid: at and beyond the angle at which the distorted radius stops increasing. Intended
    for sparse points, because OpenCV needs about 400 bytes per point.
    """
    points = _as_points(points_2d, 2).astype(np.float64)
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
    points = _as_points(points_2d, 2).astype(np.float64)
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


@dataclass(frozen=True)
class ResizePad:
    """Mapping from the source image to the network's input: resize, then pad with black. Sizes and pads in px.

    Half of the padding is on each side, the odd pixel on the right and at the bottom. Resized sides are whole pixels,
    so the scales of the two axes differ slightly; both are stored, so that the mapping and its inverse are exact.
    """

    source_width: int
    source_height: int
    resized_width: int
    resized_height: int
    padded_width: int
    padded_height: int

    @classmethod
    def fit(cls, width: int, height: int, longest_side: int = 768, patch: int = 16) -> ResizePad:
        """Return the mapping that resizes the longest side to longest_side, then pads both sides to multiples of patch.

        All arguments in px.
        """
        resized = _fit_largest_inside(width, height, longest_side, longest_side)
        return cls(width, height, *resized, *(-(-side // patch) * patch for side in resized))

    @classmethod
    def fit_inside(cls, width: int, height: int, input_width: int, input_height: int) -> ResizePad:
        """Return the mapping to an input of fixed size: the largest image of the same aspect ratio, then padding."""
        return cls(
            width, height, *_fit_largest_inside(width, height, input_width, input_height), input_width, input_height
        )

    @property
    def scale_x(self) -> float:
        return self.resized_width / self.source_width

    @property
    def scale_y(self) -> float:
        return self.resized_height / self.source_height

    @property
    def pad_left(self) -> int:
        return (self.padded_width - self.resized_width) // 2

    @property
    def pad_top(self) -> int:
        return (self.padded_height - self.resized_height) // 2

    def points_to_input(self, points: ArrayLike) -> FloatArray:
        """Map (..., 2) px of the source to (..., 2) px of the input, in the points' floating dtype."""
        source = _as_points(points, 2)
        matrix = self._matrix().astype(source.dtype)
        return source * matrix.diagonal()[:2] + matrix[:2, 2]

    def points_to_source(self, points: ArrayLike) -> FloatArray:
        """Map (..., 2) px of the input to (..., 2) px of the source, in the points' floating dtype."""
        padded = _as_points(points, 2)
        matrix = self._matrix().astype(padded.dtype)
        return (padded - matrix[:2, 2]) / matrix.diagonal()[:2]

    def k_to_input(self, k: ArrayLike) -> Float64Array:
        """Convert intrinsics (3, 3) from px of the source to px of the input."""
        return self._matrix() @ validate_k(k)

    def k_to_source(self, k: ArrayLike) -> Float64Array:
        """Convert intrinsics (3, 3) from px of the input to px of the source."""
        return np.asarray(np.linalg.solve(self._matrix(), validate_k(k)), dtype=np.float64)

    def _matrix(self) -> Float64Array:
        """Return the matrix (3, 3) from homogeneous px of the source to homogeneous px of the input."""
        return np.array([[self.scale_x, 0.0, self.pad_left], [0.0, self.scale_y, self.pad_top], [0.0, 0.0, 1.0]])


def _fit_largest_inside(width: int, height: int, box_width: int, box_height: int) -> tuple[int, int]:
    """Return (width, height) px of the largest image of this aspect ratio in a box, at least 1; halves round up."""
    _check_size("the image", width, height)
    _check_size("the network's input", box_width, box_height)
    if width * box_height >= height * box_width:
        return box_width, max(1, (2 * height * box_width + width) // (2 * width))
    return max(1, (2 * width * box_height + height) // (2 * height)), box_height


def project(points: ArrayLike, k: ArrayLike) -> FloatArray:
    """Project points (..., 3) m in the optical frame to (..., 2) px; NaN for points not in front (z ≤ 1e-6 m).

    Computed in the points' floating dtype (integers become float64).
    """
    xyz = _as_points(points, 3)
    depth = np.where(xyz[..., 2:] > NEAREST_DEPTH_M, xyz[..., 2:], xyz.dtype.type(np.nan))
    intrinsics = np.asarray(k, dtype=xyz.dtype)
    return (xyz[..., :2] / depth) @ intrinsics[:2, :2].T + intrinsics[:2, 2]


def back_project(points_2d: ArrayLike, depth: ArrayLike, k: ArrayLike) -> FloatArray:
    """Convert points (..., 2) px with depth z (...) m to (..., 3) m in the optical frame, z · K⁻¹ [u, v, 1]ᵀ.

    Computed in the pixels' floating dtype (integers become float64).
    """
    pixels = _as_points(points_2d, 2)
    intrinsics = np.asarray(k, dtype=pixels.dtype)
    z = np.asarray(depth, dtype=pixels.dtype)
    y = (pixels[..., 1] - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (pixels[..., 0] - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    return np.stack(np.broadcast_arrays(x * z, y * z, z), axis=-1)


def _as_points(points: ArrayLike, columns: int) -> FloatArray:
    """Return the points as a floating array (..., columns). Raises ValueError for any other last axis."""
    array = np.asarray(points)
    if array.ndim == 0 or array.shape[-1] != columns:
        raise ValueError(f"points must have shape (..., {columns}), got {array.shape}")
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
