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

"""What a robot knows of the scene beside the picture: a registered depth image, the plane of the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multihmr2_ros.errors import UserError

from .maps import RelativeDepth

Floats = NDArray[np.floating]


def metres(depth: NDArray[np.generic]) -> NDArray[np.float32]:
    """Depth in float32 m, NaN where there is none, of values as ROS's REP-118 has them: uint16 mm (16UC1, 0: none) or
    floats in m (32FC1; NaN, infinite and not positive: none)."""
    depth = np.asarray(depth)
    values = depth.astype(np.float32)
    if depth.dtype == np.uint16:
        values *= np.float32(1e-3)
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(np.nan))


def check_depth(depth: NDArray[np.generic] | RelativeDepth | None, image_size: tuple[int, int]) -> None:
    """Raises UserError unless depth, where there is one, is an image (H, W) of REP-118's types and of the colour
    image's (height, width), or a relative map of that size."""
    if depth is None:
        return
    if isinstance(depth, RelativeDepth):
        depth.check(image_size)
        return
    is_image = isinstance(depth, np.ndarray) and depth.ndim == 2
    if not is_image or depth.dtype not in (np.uint16, np.float32, np.float64):
        came = f"{depth.dtype} {depth.shape}" if isinstance(depth, np.ndarray) else type(depth).__name__
        raise UserError(f"a depth image must be (height, width) uint16 mm or float32 m, got {came}; convert it first")
    if depth.shape != tuple(image_size):
        (height, width), (wanted_height, wanted_width) = depth.shape, image_size
        raise UserError(
            f"a depth image must be registered to the colour image of {wanted_width} x {wanted_height} px, got "
            f"{width} x {height} px; publish the registered one"
        )


@dataclass(frozen=True)
class Ground:
    """The plane of the ground, normal · x = offset_m, in the camera's optical frame: normal (3,) points up, away from
    the ground, with unit length, so that −offset_m is the camera's height above it.

    Any normal that names the plane can be given: it is scaled, and turned to the camera's side. Raises UserError for
    one that names none, and for a camera on the ground itself.
    """

    normal: NDArray[np.float64]
    offset_m: float

    def __post_init__(self) -> None:
        normal = np.asarray(self.normal, np.float64)
        length = float(np.linalg.norm(normal)) if normal.shape == (3,) else 0.0
        if not (np.isfinite(length) and length > 0 and np.isfinite(self.offset_m)):
            raise UserError(
                f"a ground plane must have a normal of 3 numbers, not all 0, and an offset in m, got "
                f"{np.asarray(self.normal).tolist()} and {self.offset_m}; correct it"
            )
        if self.offset_m == 0:
            raise UserError("the camera must be above the ground, got a plane through it; correct the plane's offset")
        scale = -np.sign(self.offset_m) / length
        object.__setattr__(self, "normal", normal * scale)
        object.__setattr__(self, "offset_m", float(self.offset_m * scale))

    @classmethod
    def of_fixed_frame(cls, fixed_from_camera: ArrayLike, height_m: float = 0.0) -> Ground:
        """The plane z = height_m of a fixed frame (z up, as ROS's odom and map) by the camera's pose (4, 4) in it.

        Raises UserError for a camera that is not above it.
        """
        pose = np.asarray(fixed_from_camera, np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise UserError(f"the camera's pose must be a finite (4, 4) matrix, got shape {pose.shape}; pass one")
        below_m = height_m - float(pose[2, 3])
        if below_m >= 0:
            raise UserError(
                f"the camera must be above the ground, got {below_m:.3f} m below; give a frame whose z axis points up"
            )
        return cls(pose[2, :3], below_m)
