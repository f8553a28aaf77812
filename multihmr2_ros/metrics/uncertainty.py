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

"""Calibration: how well stated covariances fit the errors. Normalized errors squared have mean 1 if they do.

Definitions: Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation (2001), 5.4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from multihmr2_ros.metrics.boxes import FloatArray

DIMENSIONS = 3
CONFIDENCE = 0.95


def squared_mahalanobis(predicted: FloatArray, true: FloatArray, covariance: FloatArray) -> NDArray[np.float64]:
    """(n,) without unit: eᵀ Σ⁻¹ e of errors e = predicted − true (n, 3) under covariances Σ (n, 3, 3).

    If the covariance is that of the error, it is distributed as chi-squared with three degrees of freedom. NaN where
    the covariance or the error is unknown, and where the covariance is not positive definite.
    """
    error = np.asarray(predicted, np.float64) - np.asarray(true, np.float64)
    result = np.full(len(error), np.nan)
    sigma = np.asarray(covariance, np.float64)
    known = np.asarray(np.isfinite(sigma).all(axis=(1, 2)) & np.isfinite(error).all(axis=1))
    known[known] &= (np.linalg.eigvalsh(sigma[known]) > 0).all(axis=1)
    solved = np.linalg.solve(sigma[known], error[known][..., None])[..., 0]
    result[known] = (error[known] * solved).sum(axis=1)
    return result


def coverage(squared: FloatArray, confidence: FloatArray) -> NDArray[np.float64]:
    """(c,) share of errors, with squared Mahalanobis distances (n,), inside the region that should hold a share
    confidence (c,) of them; equal to confidence if the covariances fit. NaN without any error."""
    if len(squared) == 0:
        return np.full(len(np.atleast_1d(confidence)), np.nan)
    limits = chi2.ppf(np.atleast_1d(confidence), df=DIMENSIONS)
    return np.asarray((np.asarray(squared)[None] <= limits[:, None]).mean(axis=1), np.float64)


def normalized_error_squared(squared: FloatArray) -> NDArray[np.float64]:
    """(n,) without unit: eᵀ Σ⁻¹ e / 3 from squared Mahalanobis distances (n,), NaN stays NaN.

    Its mean (the normalized estimation error squared, NEES) is 1 if the covariances fit, above 1 if they are too small.
    """
    return np.asarray(squared, np.float64) / DIMENSIONS


def normalized_error_bounds(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided bounds of the mean of `count` normalized errors squared, if the covariances fit; NaN without any.

    The sum of count independent eᵀ Σ⁻¹ e is distributed as chi-squared with 3 · count degrees of freedom. Errors of
    successive frames are not independent: the bounds are then too narrow.
    """
    if count <= 0:
        return float("nan"), float("nan")
    degrees, tail = DIMENSIONS * count, 0.5 * (1 - confidence)
    low, high = chi2.ppf([tail, 1 - tail], df=degrees) / degrees
    return float(low), float(high)


def inside_ellipsoid(squared: FloatArray, confidence: float = CONFIDENCE) -> NDArray[np.float64]:
    """(n,) 1 where an error is inside the ellipsoid that holds a share `confidence` of all errors if the covariances
    fit, else 0; NaN where its squared Mahalanobis distance (n,) is NaN."""
    squared = np.asarray(squared, np.float64)
    return np.where(np.isnan(squared), np.nan, squared <= chi2.ppf(confidence, df=DIMENSIONS))
