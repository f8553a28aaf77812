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

"""A depth map of a picture that is known up to a scale and a shift, as single-image depth networks give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError

Array = NDArray[np.float64]
MapKind = Literal["inverse", "depth"]
MAX_DEPTH_M = 200.0
SUBSAMPLED = 4  # every so many pixels are enough for the range of a map
RANGE_PERCENT = (1.0, 99.0)
MIN_RANGE_SHARE = 1e-6  # of a map's largest magnitude: less is a constant map


@dataclass(frozen=True, eq=False)
class RelativeDepth:
    """A relative depth map, registered to the image.

    values (H, W): float32; NaN and infinite are holes. kind: "inverse": 1 / z = scale · value + shift, "depth":
    z = scale · value + shift, with z the depth in m and unknown scale > 0 and shift, both of the whole image.
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
        """Raises UserError unless the map is of the image's (height, width)."""
        if self.values.shape != tuple(image_size):
            (height, width), (wanted_height, wanted_width) = self.values.shape, image_size
            raise UserError(
                f"a depth map must be of the image's size, {wanted_width} x {wanted_height} px, got {width} x {height} "
                "px; resize it first"
            )

    def range(self) -> tuple[float, float] | None:
        """The values that nearly all of the map lies between; None where it says nothing: only holes, or constant."""
        some = self.values[::SUBSAMPLED, ::SUBSAMPLED]
        some = some[np.isfinite(some)]
        if not len(some):
            return None
        least, most = (float(value) for value in np.percentile(some, RANGE_PERCENT))
        return (least, most) if most - least > MIN_RANGE_SHARE * max(abs(least), abs(most)) else None


def reading(depth: Array, kind: MapKind) -> Array:
    """Of depths z (…) in m, what the map is linear in: 1 / z or z."""
    return 1.0 / depth if kind == "inverse" else depth


def depth_of(reading: Array, kind: MapKind) -> Array:
    """Depths (…) in m of 1 / z or z (…), at most MAX_DEPTH_M."""
    if kind == "inverse":
        return 1.0 / np.maximum(reading, 1.0 / MAX_DEPTH_M)
    return np.clip(reading, 1.0 / MAX_DEPTH_M, MAX_DEPTH_M)
