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

"""Matching of predicted and true people of one frame (spec/evaluation.md, "matching")."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from multihmr2_ros.metrics.boxes import FloatArray, box_iou, points_to_boxes

MIN_IOU = 0.05
Method = Literal["hungarian", "greedy"]


def match_people(
    predicted: FloatArray, true: FloatArray, *, min_iou: float = MIN_IOU, method: Method = "hungarian"
) -> NDArray[np.int64]:
    """Return the pairs (m, 2) of predicted row and true row, in the order of the predicted rows.

    predicted  (n, J, 2) px
    true       (t, J, 2) px, the same joints in the same image
    min_iou    a pair is allowed if the boxes around its joints overlap by min_iou
    method     "hungarian": of all assignments with the most allowed pairs, the one with the smallest sum of mean joint
               distances. "greedy": each prediction in the given order (descending score) to the nearest free true
               person that is allowed, as in published evaluation code
    """
    if method not in ("hungarian", "greedy"):
        raise ValueError(f"method must be hungarian or greedy, got {method!r}")
    if len(predicted) == 0 or len(true) == 0:
        return np.zeros((0, 2), np.int64)
    distance = joint_distance(predicted, true)
    allowed = box_iou(points_to_boxes(predicted), points_to_boxes(true)) >= min_iou
    allowed &= np.isfinite(distance)
    return assign(distance, allowed) if method == "hungarian" else _match_greedily(distance, allowed)


def joint_distance(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    """Return the mean distance (n, t) in px over the joints that both have (NaN: missing); inf if they share none."""
    distance = np.linalg.norm(np.asarray(predicted, np.float64)[:, None] - np.asarray(true, np.float64)[None], axis=-1)
    known = np.isfinite(distance)
    total = np.where(known, distance, 0).sum(axis=-1)
    count = known.sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.inf), where=count > 0)


def assign(cost: NDArray[np.float64], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the pairs (m, 2) of row and column with the most allowed pairs, and among those with the smallest total
    cost."""
    if not allowed.any():
        return np.zeros((0, 2), np.int64)
    min_cost = cost[allowed].min()
    span = cost[allowed].max() - min_cost
    # A forbidden pair costs more than any exchange of allowed pairs can save.
    forbidden = (span + 1.0) * (min(cost.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(allowed, cost - min_cost, forbidden))
    kept = allowed[rows, columns]
    return np.stack([rows[kept], columns[kept]], axis=1).astype(np.int64)


def _match_greedily(distance: NDArray[np.float64], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    free, pairs = allowed.copy(), []
    for row in range(len(distance)):
        if free[row].any():
            column = int(np.where(free[row], distance[row], np.inf).argmin())
            pairs.append((row, column))
            free[:, column] = False
    return np.array(pairs, np.int64).reshape(-1, 2)
