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

"""Errors of places in front of the camera, and of the camera itself. Metres in, millimetres out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.metrics.bodies import MM_PER_M, Errors
from multihmr2_ros.metrics.boxes import FloatArray

ORDER_TOLERANCE_M = 0.2


def root_position_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """(n,) mm, distance of the pelvises (n, 3) in the camera frame; its mean is the MRPE."""
    return MM_PER_M * np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(true, np.float64), axis=-1)


def root_position_error_per_axis(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    """(n, 3) mm, absolute error along x, y and z of the camera's optical frame."""
    return MM_PER_M * np.abs(np.asarray(predicted, np.float64) - np.asarray(true, np.float64))


def relative_distance_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """(n,) without unit: the error of the pelvis's distance from the camera, as a share of the true distance."""
    true_distance = np.linalg.norm(np.asarray(true, np.float64), axis=-1)
    return np.abs(np.linalg.norm(np.asarray(predicted, np.float64), axis=-1) - true_distance) / true_distance


def depth_order(predicted: FloatArray, true: FloatArray, tolerance_m: float = ORDER_TOLERANCE_M) -> NDArray[np.bool_]:
    """(n·(n−1)/2,) for every pair of a frame's matched people, by pelvises (n, 3): whether the depth order is right.

    The true order is "nearer", "farther", or "the same" where the depths differ by less than tolerance_m; a predicted
    order is read the same way. Its mean is PCDR@0.2 m (percentage of correct depth relations).
    """
    first, second = np.triu_indices(len(true), k=1)

    def order(pelvis: FloatArray) -> NDArray[np.float64]:
        difference = np.asarray(pelvis, np.float64)[first, 2] - np.asarray(pelvis, np.float64)[second, 2]
        return np.where(np.abs(difference) < tolerance_m, 0.0, np.sign(difference))

    return order(predicted) == order(true)


def ordinal_order(depth: FloatArray, true: NDArray[np.floating] | NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n·(n−1)/2,) for every pair of a frame's people: whether who is nearer by depth (n,) m is nearer by true depths
    or layers (n,), too. Meant for pairs whose true values differ."""
    first, second = np.triu_indices(len(true), k=1)
    return np.sign(depth[first] - depth[second]) == np.sign(np.subtract(true[first], true[second], dtype=np.float64))


def layer_order(
    depth: FloatArray, layer: NDArray[np.int64], tolerance_m: float = ORDER_TOLERANCE_M
) -> NDArray[np.bool_]:
    """As depth_order, with true layers (n,) in place of depths: people of one layer are "the same"."""
    first, second = np.triu_indices(len(layer), k=1)
    difference = np.asarray(depth, np.float64)[first] - np.asarray(depth, np.float64)[second]
    found = np.where(np.abs(difference) < tolerance_m, 0.0, np.sign(difference))
    return found == np.sign(layer[first] - layer[second])


def pairs_with(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n·(n−1)/2,) whether a pair has one of the people that rows (n,) names, or both."""
    first, second = np.triu_indices(len(rows), k=1)
    return rows[first] | rows[second]


def field_of_view_error(predicted_rad: FloatArray, true_rad: FloatArray) -> Errors:
    """(n,) degrees, absolute error of the vertical field of view of the source image, rad."""
    return np.degrees(np.abs(np.asarray(predicted_rad, np.float64) - np.asarray(true_rad, np.float64)))
