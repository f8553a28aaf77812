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

"""Boxes: the area inside polygons, against the counts of a fine grid of points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from multihmr2_ros.metrics.boxes import polygon_intersection

GRID = 0.25  # px


def measure(box: np.ndarray, polygon: np.ndarray) -> float:
    """Return the area of a box inside a polygon, from the points of a grid."""
    x, y = (np.arange(low + GRID / 2, high, GRID) for low, high in zip(box[:2], box[2:], strict=True))
    outline = polygon.astype(np.float32)
    inside = [cv2.pointPolygonTest(outline, (each_x, each_y), False) > 0 for each_x in x for each_y in y]
    return float(np.sum(inside) * GRID**2)


@pytest.mark.parametrize("seed", range(4))
def test_a_polygon_that_is_not_convex(seed: int) -> None:
    generator = np.random.default_rng(seed)
    angle = np.sort(generator.uniform(0, 2 * np.pi, 9))
    polygon = 20 + generator.uniform(4, 20, (9, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    boxes = np.array([[0, 0, 40, 40], [12, 5, 22, 35], [18, 18, 21, 21], [30, 1, 39, 12]], float)
    measured = [measure(box, polygon) for box in boxes]
    np.testing.assert_allclose(polygon_intersection(boxes, polygon), measured, atol=3.0)
    np.testing.assert_allclose(polygon_intersection(boxes, polygon[::-1]), measured, atol=3.0)


def test_boxes_without_area_inside() -> None:
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    boxes = np.array([[20.0, 20, 30, 30], [5, 5, 5, 9], [np.nan] * 4, [10, 0, 20, 10], [2, 2, 4, 5]])
    np.testing.assert_allclose(polygon_intersection(boxes, square), [0, 0, 0, 0, 6])
    np.testing.assert_allclose(polygon_intersection(boxes, square[:2]), np.zeros(5))
    assert polygon_intersection(np.zeros((0, 4)), square).shape == (0,)
