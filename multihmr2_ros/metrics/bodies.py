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

"""Errors of shape and pose, with and without alignment. Input in meters, output in millimeters.

Rows are matched people: row i of the predictions belongs to row i of the truth. Every function returns one error per
person (or per pair, or per frame), so means can be computed over any subset. The errors of people with a point that is
not finite are NaN, and do not change the errors of others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.metrics.boxes import FloatArray

MM_PER_M = 1000.0
Errors = NDArray[np.float64]


def point_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """Return the mean distance (n,) mm of points (n, P, 3) without alignment: Abs-PVE for vertices in the camera
    frame."""
    return MM_PER_M * _compute_distance(predicted, true).mean(axis=1)


def centered_point_error(
    predicted: FloatArray, true: FloatArray, predicted_pelvis: FloatArray, true_pelvis: FloatArray
) -> Errors:
    """Return the mean distance (n,) mm of points (n, P, 3) after both pelvises (n, 3) are moved to the origin.

    This is PVE for vertices and MPJPE for joints.
    """
    return point_error(
        np.asarray(predicted, np.float64) - np.asarray(predicted_pelvis, np.float64)[:, None],
        np.asarray(true, np.float64) - np.asarray(true_pelvis, np.float64)[:, None],
    )


def procrustes_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """Return the mean distance (n,) mm of points (n, P, 3) after Procrustes alignment: PA-MPJPE for joints.

    The similarity transform (rotation, translation, scale) of each predicted set minimizes the squared distances to the
    true set.
    """
    return point_error(align_procrustes(predicted, true), true)


def pair_procrustes_error(predicted: FloatArray, true: FloatArray, pairs: NDArray[np.int64]) -> Errors:
    """Return Pair-PA-MPJPE (q,) mm: for each pair of rows (q, 2), one similarity transform for the joints (n, J, 3) of
    both people."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if len(pairs) == 0:
        return np.zeros(0)
    together = (len(pairs), -1, 3)
    return procrustes_error(predicted[pairs].reshape(together), true[pairs].reshape(together))


def translation_aligned_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """Return TA-PVE (n,) mm: the mean vertex distance after one translation for the whole frame.

    The translation is the mean offset of all vertices (n, V, 3) of the frame's matched people with finite vertices.
    Empty for fewer than two people; NaN if fewer than two of them have finite vertices.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if len(predicted) < 2:
        return np.zeros(0)
    known = _find_finite(predicted, true)
    errors = np.full(len(predicted), np.nan)
    if known.sum() >= 2:
        predicted, true = predicted[known], true[known]
        errors[known] = point_error(predicted + (true - predicted).mean(axis=(0, 1)), true)
    return errors


def align_procrustes(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    """Return predicted points (n, P, 3) after the similarity transform that minimizes each set's squared distances to
    the true set.

    Source: Umeyama 1991, equations 40-43. If all true points are equal, all predicted points are moved to them; if all
    predicted points are equal, they are only translated. Sets with a point that is not finite become NaN.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    known = _find_finite(predicted, true)
    aligned = np.full(predicted.shape, np.nan)
    aligned[known] = _align_finite(predicted[known], true[known])
    return aligned


def _align_finite(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    if len(predicted) == 0:
        return np.zeros(predicted.shape)
    middle, true_middle = predicted.mean(axis=1, keepdims=True), true.mean(axis=1, keepdims=True)
    centered, true_centered = predicted - middle, true - true_middle
    u, spread, vt = np.linalg.svd(true_centered.transpose(0, 2, 1) @ centered)
    sign = np.ones_like(spread)
    sign[:, 2] = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)  # a rotation, not a reflection
    rotation = (u * sign[:, None]) @ vt
    variance = (centered**2).sum(axis=(1, 2))
    gain = (spread * sign).sum(axis=1)
    scale = np.divide(gain, variance, out=np.ones_like(gain), where=variance > 0)
    return scale[:, None, None] * centered @ rotation.transpose(0, 2, 1) + true_middle


def _find_finite(predicted: FloatArray, true: FloatArray) -> NDArray[np.bool_]:
    """Return (n,) whether all points (n, P, 3) of both sets are finite."""
    return np.asarray(np.isfinite(predicted).all(axis=(1, 2)) & np.isfinite(true).all(axis=(1, 2)), bool)


def _compute_distance(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 3 or predicted.shape[1] == 0 or predicted.shape[2] != 3:
        raise ValueError(f"expected the same points (n, P, 3) twice, got {predicted.shape} and {true.shape}")
    return np.linalg.norm(predicted - true, axis=-1)
