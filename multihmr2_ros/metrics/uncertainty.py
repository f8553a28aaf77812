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

"""Calibration metrics: agreement of stated covariances with the errors.

If the covariances fit, the mean of the normalized errors squared is 1. Definitions: Bar-Shalom, Li and Kirubarajan,
Estimation with Applications to Tracking and Navigation (2001), 5.4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from multihmr2_ros.metrics.boxes import FloatArray

DIMENSIONS = 3
CONFIDENCE = 0.95


def squared_mahalanobis(predicted: FloatArray, true: FloatArray, covariance: FloatArray) -> NDArray[np.float64]:
    """Return eᵀ Σ⁻¹ e (n,) of errors e = predicted − true (n, 3) under covariances Σ (n, 3, 3).

    If Σ is the covariance of a Gaussian error, the result has a chi-squared distribution with three degrees of freedom.
    NaN if the covariance or the error is unknown, or if the covariance is not positive definite.
    """
    error = np.asarray(predicted, np.float64) - np.asarray(true, np.float64)
    result = np.full(len(error), np.nan)
    sigma = np.asarray(covariance, np.float64)
    known = np.asarray(np.isfinite(sigma).all(axis=(1, 2)) & np.isfinite(error).all(axis=1))
    known[known] &= (np.linalg.eigvalsh(sigma[known]) > 0).all(axis=1)
    solved = np.linalg.solve(sigma[known], error[known][..., None])[..., 0]
    result[known] = (error[known] * solved).sum(axis=1)
    return result


def compute_coverage(squared: FloatArray, confidence: FloatArray) -> NDArray[np.float64]:
    """Return the share (c,) of errors inside each confidence region, from squared Mahalanobis distances (n,).

    confidence: (c,) nominal shares of the regions; the result equals them if the covariances fit. NaN without errors.
    """
    if len(squared) == 0:
        return np.full(len(np.atleast_1d(confidence)), np.nan)
    limits = chi2.ppf(np.atleast_1d(confidence), df=DIMENSIONS)
    return np.asarray((np.asarray(squared)[None] <= limits[:, None]).mean(axis=1), np.float64)


def normalized_error_squared(squared: FloatArray) -> NDArray[np.float64]:
    """Return eᵀ Σ⁻¹ e / 3 (n,) from squared Mahalanobis distances (n,); NaN stays NaN.

    The mean (the normalized estimation error squared, NEES) is 1 if the covariances fit, above 1 if they are too small.
    """
    return np.asarray(squared, np.float64) / DIMENSIONS


def normalized_error_bounds(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return two-sided bounds of the mean of `count` normalized errors squared, if the covariances fit; NaN for count
    0.

    The sum of count independent eᵀ Σ⁻¹ e has a chi-squared distribution with 3 · count degrees of freedom. Errors of
    successive frames are not independent: the bounds are then too narrow.
    """
    if count <= 0:
        return float("nan"), float("nan")
    degrees, tail = DIMENSIONS * count, 0.5 * (1 - confidence)
    low, high = chi2.ppf([tail, 1 - tail], df=degrees) / degrees
    return float(low), float(high)


def is_inside_ellipsoid(squared: FloatArray, confidence: float = CONFIDENCE) -> NDArray[np.float64]:
    """Return 1 for each error (n,) inside the confidence ellipsoid, else 0, from squared Mahalanobis distances (n,).

    confidence: nominal share of errors inside the ellipsoid if the covariances fit. NaN stays NaN.
    """
    squared = np.asarray(squared, np.float64)
    return np.where(np.isnan(squared), np.nan, squared <= chi2.ppf(confidence, df=DIMENSIONS))
