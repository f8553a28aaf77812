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

"""Pinhole cameras: intrinsics, projection and back-projection (units and pixels: see the package)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multihmr2_ros.errors import UserError

Float64Array = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]
NEAREST_DEPTH_M = 1e-6
# Focal lengths of cameras, relative to the longer side of the image: from fisheye lenses to telescopes.
MIN_FOCAL_RATIO, MAX_FOCAL_RATIO = 0.05, 1e4


def intrinsics_from_fov(vertical_fov_rad: float, width: int, height: int) -> Float64Array:
    """Return K (3, 3) px of a width × height image: one focal length for both axes, principal point (W/2, H/2).

    Raises UserError unless the field of view is between 0 and π.
    """
    check_size("the image", width, height)
    if not 0.0 < vertical_fov_rad < math.pi:
        raise UserError(
            f"the field of view must be between 0 and pi rad, got {vertical_fov_rad}; convert it to radians"
        )
    focal = height / (2.0 * math.tan(vertical_fov_rad / 2.0))
    return np.array([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]])


def compute_vertical_fov(k: ArrayLike, height: int) -> float:
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


def require_k_in_pixels(k: Float64Array, width: int, height: int, name: str = "K") -> None:
    """Raise UserError if no camera has the focal lengths of k (3, 3): K may be in mm, or for a unit image."""
    low, high = MIN_FOCAL_RATIO * max(width, height), MAX_FOCAL_RATIO * max(width, height)
    if not (low <= k[0, 0] <= high and low <= k[1, 1] <= high):
        raise UserError(
            f"{name} must have focal lengths between {low:g} and {high:g} px for an image of {width} x {height} px, "
            f"got {k[0, 0]:g} and {k[1, 1]:g}; convert it to pixels"
        )


def project(points: ArrayLike, k: ArrayLike) -> FloatArray:
    """Project points (..., 3) m in the optical frame to (..., 2) px; NaN for points not in front (z ≤ 1e-6 m).

    Computed in the points' floating dtype (integers become float64).
    """
    xyz = as_points(points, 3)
    depth = np.where(xyz[..., 2:] > NEAREST_DEPTH_M, xyz[..., 2:], xyz.dtype.type(np.nan))
    intrinsics = np.asarray(k, dtype=xyz.dtype)
    return (xyz[..., :2] / depth) @ intrinsics[:2, :2].T + intrinsics[:2, 2]


def back_project(points_2d: ArrayLike, depth: ArrayLike, k: ArrayLike) -> FloatArray:
    """Convert points (..., 2) px with depth z (...) m to (..., 3) m in the optical frame, z · K⁻¹ [u, v, 1]ᵀ.

    Computed in the pixels' floating dtype (integers become float64).
    """
    pixels = as_points(points_2d, 2)
    intrinsics = np.asarray(k, dtype=pixels.dtype)
    z = np.asarray(depth, dtype=pixels.dtype)
    y = (pixels[..., 1] - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (pixels[..., 0] - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    return np.stack(np.broadcast_arrays(x * z, y * z, z), axis=-1)


def check_size(what: str, width: int, height: int) -> None:
    """Raise UserError unless both sides (px) are at least 1. what: the image or input, for the message."""
    if width < 1 or height < 1:
        raise UserError(f"{what} must be at least 1 x 1 px, got {width} x {height} px; pass its width and height in px")


def as_points(points: ArrayLike, columns: int) -> FloatArray:
    """Return the points as a floating array (..., columns). Raises ValueError for any other last axis."""
    array = np.asarray(points)
    if array.ndim == 0 or array.shape[-1] != columns:
        raise ValueError(f"points must have shape (..., {columns}), got {array.shape}")
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
