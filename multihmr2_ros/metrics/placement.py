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

"""Errors of positions relative to the camera, and of the camera's field of view. Meters in, millimeters out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.metrics.bodies import MM_PER_M, Errors
from multihmr2_ros.metrics.boxes import FloatArray

ORDER_TOLERANCE_M = 0.2


def root_position_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """Return the distance (n,) mm of the pelvises (n, 3) in the camera frame. Its mean is the MRPE."""
    return MM_PER_M * np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(true, np.float64), axis=-1)


def root_position_error_per_axis(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    """Return the absolute error (n, 3) mm along x, y and z of the camera's optical frame."""
    return MM_PER_M * np.abs(np.asarray(predicted, np.float64) - np.asarray(true, np.float64))


def relative_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """Return |predicted − true| / true (n,) of distances or depths (n,), both in one unit."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    return np.abs(predicted - true) / true


def relative_distance_error(predicted: FloatArray, true: FloatArray) -> Errors:
    """Return the error (n,) of the pelvis's distance from the camera, as a share of the true distance."""
    return relative_error(_compute_distance(predicted), _compute_distance(true))


@dataclass(frozen=True)
class DistanceErrors:
    """Errors of the distances of n matched people from the camera.

    error_m    (n,) predicted minus true distance, m
    relative   (n,) |error| / true distance
    z_score    (n,) error / stated standard deviation; NaN if that is unknown or not positive
    predicted  (n,) |error| / true distance of the prediction before refinement; NaN if it was not refined
    """

    error_m: Errors
    relative: Errors
    z_score: Errors
    predicted: Errors


def distance_errors(
    refined: FloatArray,
    true: FloatArray,
    sigma_m: FloatArray | None = None,
    predicted_m: FloatArray | None = None,
) -> DistanceErrors:
    """Return the errors of the distances of pelvises from the camera.

    refined      (n, 3) m, predicted pelvises in the camera frame
    true         (n, 3) m, true pelvises in the camera frame
    sigma_m      (n,) stated standard deviations of the refined distances, None if there are none
    predicted_m  (n,) distances before refinement, None if there was no refinement
    """
    error = _compute_distance(refined) - _compute_distance(true)
    z_score = np.full(error.shape, np.nan)
    if sigma_m is not None:
        sigma = np.asarray(sigma_m, np.float64)
        np.divide(error, sigma, out=z_score, where=sigma > 0)
    before = np.full(error.shape, np.nan) if predicted_m is None else np.asarray(predicted_m, np.float64)
    return DistanceErrors(
        error, relative_distance_error(refined, true), z_score, relative_error(before, _compute_distance(true))
    )


def summarize_distance_errors(errors: DistanceErrors) -> Mapping[str, float]:
    """Return counts, means and medians of distance errors. NaN values are left out; results without values are NaN.

    count                             of errors
    median_mm, mean_mm                of the absolute errors
    median_percent, mean_percent      of the relative errors
    z_count, z_mean, z_rms            of the z-scores; z_rms is 1 if the standard deviations fit
    median_predicted_percent          of the relative errors before refinement
    mean_predicted_percent            of the relative errors before refinement
    """
    millimeters = _select_finite(MM_PER_M * np.abs(errors.error_m))
    percent, z_score = _select_finite(100 * errors.relative), _select_finite(errors.z_score)
    predicted = _select_finite(100 * errors.predicted)
    return {
        "count": len(millimeters),
        "median_mm": _compute_median(millimeters),
        "mean_mm": _compute_mean(millimeters),
        "median_percent": _compute_median(percent),
        "mean_percent": _compute_mean(percent),
        "z_count": len(z_score),
        "z_mean": _compute_mean(z_score),
        "z_rms": float(np.sqrt(_compute_mean(z_score**2))),
        "median_predicted_percent": _compute_median(predicted),
        "mean_predicted_percent": _compute_mean(predicted),
    }


def _compute_distance(points: FloatArray) -> Errors:
    return np.linalg.norm(np.asarray(points, np.float64), axis=-1)


def _select_finite(values: Errors) -> Errors:
    return values[np.isfinite(values)]


def _compute_mean(values: Errors) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _compute_median(values: Errors) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def depth_order(predicted: FloatArray, true: FloatArray, tolerance_m: float = ORDER_TOLERANCE_M) -> NDArray[np.bool_]:
    """Return whether the depth order is right, (n·(n−1)/2,) for every pair of a frame's matched people with pelvises
    (n, 3).

    The true order is "nearer", "farther", or "the same" if the depths differ by less than tolerance_m; the predicted
    order is defined in the same way. The mean is PCDR@0.2 m (percentage of correct depth relations).
    """
    first, second = np.triu_indices(len(true), k=1)

    def order(pelvis: FloatArray) -> NDArray[np.float64]:
        difference = np.asarray(pelvis, np.float64)[first, 2] - np.asarray(pelvis, np.float64)[second, 2]
        return np.where(np.abs(difference) < tolerance_m, 0.0, np.sign(difference))

    return order(predicted) == order(true)


def ordinal_order(depth: FloatArray, true: NDArray[np.floating] | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the person nearer by depth (n,) m is also nearer by true depths or layers (n,).

    The result is (n·(n−1)/2,), for every pair of a frame's people. It is meant for pairs whose true values differ.
    """
    first, second = np.triu_indices(len(true), k=1)
    return np.sign(depth[first] - depth[second]) == np.sign(np.subtract(true[first], true[second], dtype=np.float64))


def layer_order(
    depth: FloatArray, layer: NDArray[np.int64], tolerance_m: float = ORDER_TOLERANCE_M
) -> NDArray[np.bool_]:
    """Return whether the depth order is right, as depth_order, with true layers (n,) instead of depths.

    People of one layer are "the same".
    """
    first, second = np.triu_indices(len(layer), k=1)
    difference = np.asarray(depth, np.float64)[first] - np.asarray(depth, np.float64)[second]
    found = np.where(np.abs(difference) < tolerance_m, 0.0, np.sign(difference))
    return found == np.sign(layer[first] - layer[second])


def select_pairs_with(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether at least one person of a pair is in rows (n,), for every pair: (n·(n−1)/2,)."""
    first, second = np.triu_indices(len(rows), k=1)
    return rows[first] | rows[second]


def field_of_view_error(predicted_rad: FloatArray, true_rad: FloatArray) -> Errors:
    """Return the absolute error (n,) in degrees of fields of view (n,) rad of the same image, all vertical or all
    horizontal."""
    return np.degrees(np.abs(np.asarray(predicted_rad, np.float64) - np.asarray(true_rad, np.float64)))
