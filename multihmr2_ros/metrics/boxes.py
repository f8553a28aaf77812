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

"""Boxes (x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


def points_to_boxes(points: FloatArray) -> NDArray[np.float64]:
    """Return the smallest boxes (n, 4) around n sets of points (n, J, 2) px.

    Points that are not finite are ignored. A person without other points has a box of NaN, which overlaps with no box.
    """
    points = np.asarray(points, np.float64)
    if points.shape[0] == 0:
        return np.zeros((0, 4))
    known = np.isfinite(points)
    low = np.where(known, points, np.inf).min(axis=1)
    high = np.where(known, points, -np.inf).max(axis=1)
    boxes = np.hstack([low, high])
    boxes[~np.isfinite(boxes).all(axis=1)] = np.nan
    return boxes


def box_area(boxes: FloatArray) -> NDArray[np.float64]:
    """Return the area (n,) px² of boxes (n, 4); 0 for empty boxes and for NaN."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.nan_to_num(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


def box_intersection(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """Return the intersection area (n, m) px² of boxes a (n, 4) and b (m, 4)."""
    a, b = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return np.nan_to_num(np.clip(high - low, 0, None).prod(axis=-1))


def polygon_intersection(boxes: FloatArray, polygon: FloatArray) -> NDArray[np.float64]:
    """Return the area (n,) px² of the part of each box (n, 4) that is inside a polygon (k, 2) px; 0 for NaN.

    The polygon need not be convex. Its outline must not cross itself.
    """
    return np.array([_polygon_area(_clip_polygon(polygon, box)) for box in np.asarray(boxes, np.float64)], np.float64)


def _clip_polygon(polygon: FloatArray, box: FloatArray) -> NDArray[np.float64]:
    """Clip a polygon (k, 2) to a box (4,), side by side (Sutherland & Hodgman 1974); returns (m, 2).

    Parts of a polygon that is not convex are joined by lines without area.
    """
    points = np.asarray(polygon, np.float64)
    for axis, limit, sign in ((0, box[0], 1), (1, box[1], 1), (0, box[2], -1), (1, box[3], -1)):
        inside = sign * (points[:, axis] - limit)
        kept: list[NDArray[np.float64]] = []
        for point, depth, last, last_depth in zip(
            points, inside, np.roll(points, 1, axis=0), np.roll(inside, 1), strict=True
        ):
            if (depth >= 0) != (last_depth >= 0):
                kept.append(last + last_depth / (last_depth - depth) * (point - last))
            if depth >= 0:
                kept.append(point)
        points = np.array(kept).reshape(-1, 2)
    return points


def _polygon_area(points: FloatArray) -> float:
    """Return the area of a polygon (k, 2), by the shoelace formula."""
    x, y = np.asarray(points, np.float64).T
    return float(0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


def box_iou(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """Return the intersection over union (n, m) of boxes a (n, 4) and b (m, 4); 0 if both are empty."""
    shared = box_intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
