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

"""The mapping between source images and the network's input: resize, then pad."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from multihmr2_ros.camera.pinhole import Float64Array, FloatArray, as_points, check_size, validate_k


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
        """Width of the resized image, divided by that of the source."""
        return self.resized_width / self.source_width

    @property
    def scale_y(self) -> float:
        """Height of the resized image, divided by that of the source."""
        return self.resized_height / self.source_height

    @property
    def pad_left(self) -> int:
        """Black columns at the left, px."""
        return (self.padded_width - self.resized_width) // 2

    @property
    def pad_top(self) -> int:
        """Black rows at the top, px."""
        return (self.padded_height - self.resized_height) // 2

    def points_to_input(self, points: ArrayLike) -> FloatArray:
        """Map (..., 2) px of the source to (..., 2) px of the input, in the points' floating dtype."""
        source = as_points(points, 2)
        matrix = self._matrix().astype(source.dtype)
        return source * matrix.diagonal()[:2] + matrix[:2, 2]

    def points_to_source(self, points: ArrayLike) -> FloatArray:
        """Map (..., 2) px of the input to (..., 2) px of the source, in the points' floating dtype."""
        padded = as_points(points, 2)
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
    check_size("the image", width, height)
    check_size("the network's input", box_width, box_height)
    if width * box_height >= height * box_width:
        return box_width, max(1, (2 * height * box_width + width) // (2 * width))
    return max(1, (2 * width * box_height + height) // (2 * height)), box_height
