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

"""Triangle rasterizer with a depth buffer in NumPy, for many triangles of a few pixels each.

Triangles are split into the pixel rows that they cover and rows into pixels; each pixel keeps its nearest triangle. All
steps are whole-array operations: a loop over tens of thousands of triangles would take longer than a video frame.
Coordinates are separate arrays, which NumPy processes several times faster than (T, 3, 2) arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class DepthBuffer:
    """Depth buffer of an image of height x width px; it keeps a value of the nearest surface at each pixel."""

    def __init__(self, height: int, width: int) -> None:
        self._height = height
        self._width = width
        self._keys = np.full(height * width, -1, np.int64)

    def draw(self, x: Floats, y: Floats, nearness: Floats, triangles: Indices, values: Indices) -> None:
        """Draw triangles: store each triangle's value at the pixels where it is nearest so far.

        x, y       (V,) px, (0, 0) is the outer corner of the first pixel; may be far outside the image, but must be
                   finite for the corners in use
        nearness   (V,) 1 / depth, positive; linear over the image plane
        triangles  (3, T) indices of the corners
        values     (T,) 0 to 2**32 - 1

        A triangle covers the pixels whose centers it contains; triangles that share an edge neither overlap nor leave a
        gap along it.
        """
        pixel, triangle, pixel_nearness = _make_fragments(
            x[triangles], y[triangles], nearness[triangles], self._height, self._width
        )
        # Bits of positive floats sort like the floats, so one integer has the nearness (high bits) and the value.
        bits = np.maximum(pixel_nearness, 0.0).astype(np.float32).view(np.int32).astype(np.int64)
        np.maximum.at(self._keys, pixel, bits << 32 | values[triangle])

    def read_nearest(self) -> tuple[Indices, Indices]:
        """Return the covered pixels (P,), row * width + column, ascending, and their values (P,)."""
        pixel = np.flatnonzero(self._keys >= 0)
        return pixel, self._keys[pixel] & 0xFFFFFFFF


def _make_fragments(x: Floats, y: Floats, nearness: Floats, height: int, width: int) -> tuple[Indices, Indices, Floats]:
    """Return pixel, triangle and nearness (P,) of each pixel of each triangle with corners x, y, nearness (3, T)."""
    halves = _split_triangles(x, y, height)
    half, position = _expand(halves.row_count)
    row = halves.first_row[half] + position
    column, column_count = _find_columns(halves, half, row, width)

    slope_x, slope_y, offset = _fit_nearness_planes(x, y, nearness)
    triangle = halves.triangle[half]
    span_nearness = offset[triangle] + slope_y[triangle] * (row + 0.5) + slope_x[triangle] * (column + 0.5)

    span, position = _expand(column_count)
    triangle = triangle[span]
    pixel = (row * width + column)[span] + position
    return pixel, triangle, span_nearness[span] + slope_x[triangle] * position


class _TriangleHalves(NamedTuple):
    """Triangles cut at the height of their middle corner: N parts with one apex and a horizontal side; arrays (N,).

    slope_one and slope_other are the slopes of the two other sides, in px of x per px of y.
    """

    triangle: Indices
    apex_x: Floats
    apex_y: Floats
    slope_one: Floats
    slope_other: Floats
    first_row: Indices
    row_count: Indices


def _split_triangles(x: Floats, y: Floats, height: int) -> _TriangleHalves:
    """Cut triangles with corners x, y (3, T) px into halves; halves that cover no row of pixel centers are dropped."""
    (x0, x1, x2), (y0, y1, y2) = _sort_by_y(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):  # a horizontal side bounds no row, so its slope is never used
        whole, upper, lower = (x2 - x0) / (y2 - y0), (x1 - x0) / (y1 - y0), (x2 - x1) / (y2 - y1)
    rows = [_find_first_center(corner, height) for corner in (y0, y1, y2)]
    everyone = np.arange(len(x0))
    halves = [
        np.concatenate(pair)
        for pair in (
            (everyone, everyone),
            (x0, x2),
            (y0, y2),
            (whole, whole),
            (upper, lower),
            rows[:2],
            (rows[1] - rows[0], rows[2] - rows[1]),
        )
    ]
    kept = np.flatnonzero(halves[-1])
    return _TriangleHalves(*(values[kept] for values in halves))


def _sort_by_y(x: Floats, y: Floats) -> tuple[list[Floats], list[Floats]]:
    """Sort corners x, y (3, T) of each triangle from top to bottom."""
    xs, ys = list(x), list(y)
    for one, other in ((0, 1), (1, 2), (0, 1)):
        swap = ys[one] > ys[other]
        xs[one], xs[other] = np.where(swap, xs[other], xs[one]), np.where(swap, xs[one], xs[other])
        ys[one], ys[other] = np.minimum(ys[one], ys[other]), np.maximum(ys[one], ys[other])
    return xs, ys


def _find_columns(halves: _TriangleHalves, half: Indices, row: Indices, width: int) -> tuple[Indices, Indices]:
    """Return the first column and the number of columns (R,) that a half (R,) covers in a row (R,) of pixel centers."""
    below_apex = (row + 0.5) - halves.apex_y[half]
    apex_x = halves.apex_x[half]
    one = apex_x + below_apex * halves.slope_one[half]
    other = apex_x + below_apex * halves.slope_other[half]
    start = _find_first_center(np.minimum(one, other), width)
    return start, _find_first_center(np.maximum(one, other), width) - start


def _find_first_center(coordinate: Floats, size: int) -> Indices:
    """Return the first of `size` pixels whose center is not before the coordinate (px)."""
    return np.ceil(np.clip(coordinate - 0.5, 0.0, size)).astype(np.intp)


def _expand(counts: Indices) -> tuple[Indices, Indices]:
    """Return counts[i] entries (i, 0), (i, 1), … for every i, as two arrays."""
    ends = np.cumsum(counts)
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(ends - counts, counts)


def _fit_nearness_planes(x: Floats, y: Floats, nearness: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit nearness = slope_x x + slope_y y + offset to corners (3, T); returns slope_x, slope_y, offset (T,)."""
    side_x, side_y, side_nearness = x[1] - x[0], y[1] - y[0], nearness[1] - nearness[0]
    other_x, other_y, other_nearness = x[2] - x[0], y[2] - y[0], nearness[2] - nearness[0]
    twice_area = side_x * other_y - side_y * other_x
    # A triangle seen edge-on covers no pixel center; dividing by one keeps its plane finite.
    twice_area[twice_area == 0.0] = 1.0
    slope_x = (side_nearness * other_y - other_nearness * side_y) / twice_area
    slope_y = (other_nearness * side_x - side_nearness * other_x) / twice_area
    return slope_x, slope_y, nearness[0] - slope_x * x[0] - slope_y * y[0]
