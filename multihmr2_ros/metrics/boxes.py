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


def box_iou(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """Return the intersection over union (n, m) of boxes a (n, 4) and b (m, 4); 0 if both are empty."""
    shared = box_intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
