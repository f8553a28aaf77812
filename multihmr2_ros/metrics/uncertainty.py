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

"""How well stated covariances fit the errors that were made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from multihmr2_ros.metrics.boxes import FloatArray


def squared_mahalanobis(predicted: FloatArray, true: FloatArray, covariance: FloatArray) -> NDArray[np.float64]:
    """(n,) without unit: eᵀ Σ⁻¹ e of errors e = predicted − true (n, 3) under covariances Σ (n, 3, 3).

    Where the covariance is the error's own, it is distributed as chi-squared of three degrees of freedom. NaN where a
    covariance is unknown or not positive definite.
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
    """(c,) share of errors, by their squared Mahalanobis distances (n,), inside the region that should hold a share
    confidence (c,) of them; equal to confidence where the covariances fit. NaN without any error."""
    if len(squared) == 0:
        return np.full(len(np.atleast_1d(confidence)), np.nan)
    limits = chi2.ppf(np.atleast_1d(confidence), df=3)
    return np.asarray((np.asarray(squared)[None] <= limits[:, None]).mean(axis=1), np.float64)
