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

"""Depth images in meters, and depth maps that are known up to a scale and a shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import UserError

MapKind = Literal["inverse", "depth"]
SUBSAMPLED = 4  # the range of a map is computed from every fourth pixel in each direction
RANGE_PERCENT = (1.0, 99.0)
MIN_RANGE_SHARE = 1e-6  # of the largest magnitude; a map with a smaller range is treated as constant


@dataclass(frozen=True, eq=False)
class RelativeDepthMap:
    """A relative depth map, registered to the image, as predicted by single-image depth networks.

    values  (H, W) float32; NaN and infinite are holes
    kind    "inverse": 1 / z = scale · value + shift, or "depth": z = scale · value + shift, with the depth z in m. The
            scale > 0 and the shift are unknown, and constant over the image

    Raises UserError for other values.
    """

    values: NDArray[np.floating]
    kind: MapKind = "inverse"

    def __post_init__(self) -> None:
        if self.kind not in get_args(MapKind):
            raise UserError(f"a relative depth map's kind must be {' or '.join(get_args(MapKind))}, got {self.kind!r}")
        if not isinstance(self.values, np.ndarray) or self.values.ndim != 2 or self.values.dtype.kind != "f":
            came = getattr(self.values, "dtype", type(self.values).__name__), np.shape(self.values)
            raise UserError(f"a relative depth map must be (height, width) floats, got {came[0]} {came[1]}; convert it")

    def check(self, image_size: tuple[int, int]) -> None:
        """Raise UserError unless the map has the image's (height, width)."""
        if self.values.shape != tuple(image_size):
            (height, width), (wanted_height, wanted_width) = self.values.shape, image_size
            raise UserError(
                f"a depth map must have the size of the image, {wanted_width} x {wanted_height} px, got {width} x "
                f"{height} px; resize it first"
            )

    def compute_range(self) -> tuple[float, float] | None:
        """Return the 1st and 99th percentiles of the values; None if the map is constant or has only holes."""
        some = self.values[::SUBSAMPLED, ::SUBSAMPLED]
        some = some[np.isfinite(some)]
        if not len(some):
            return None
        low, high = (float(value) for value in np.percentile(some, RANGE_PERCENT))
        return (low, high) if high - low > MIN_RANGE_SHARE * max(abs(low), abs(high)) else None


MAX_DEPTH_M = 1e4  # no camera measures more; drivers mark pixels without depth by huge values


def depth_to_meters(depth: NDArray[np.generic]) -> NDArray[np.float32]:
    """Convert a depth image (REP-118) to float32 m, with NaN for pixels without depth.

    depth: uint16 mm (16UC1; 0 means no depth), or floats in m (32FC1; NaN, infinite, zero, negative and huge values
    (above MAX_DEPTH_M) mean no depth).
    """
    depth = np.asarray(depth)
    with np.errstate(over="ignore"):  # huge values become infinite
        values = depth.astype(np.float32)
    if depth.dtype == np.uint16:
        values *= np.float32(1e-3)
    return np.where((values > 0) & (values < MAX_DEPTH_M), values, np.float32(np.nan))


def check_depth(depth: NDArray[np.generic] | RelativeDepthMap | None, image_size: tuple[int, int]) -> None:
    """Raise UserError unless depth is None, a depth image (H, W) of a REP-118 type, or a relative depth map.

    image_size: the required (height, width) px.
    """
    if depth is None:
        return
    if isinstance(depth, RelativeDepthMap):
        depth.check(image_size)
        return
    is_image = isinstance(depth, np.ndarray) and depth.ndim == 2
    if not is_image or depth.dtype not in (np.uint16, np.float32, np.float64):
        came = f"{depth.dtype} {depth.shape}" if isinstance(depth, np.ndarray) else type(depth).__name__
        raise UserError(f"a depth image must be (height, width) uint16 mm or float32 m, got {came}; convert it first")
    if depth.shape != tuple(image_size):
        (height, width), (wanted_height, wanted_width) = depth.shape, image_size
        raise UserError(
            f"a depth image must be registered to the color image of {wanted_width} x {wanted_height} px, got {width} "
            f"x {height} px; publish registered depth images"
        )
