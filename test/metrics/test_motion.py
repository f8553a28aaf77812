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

"""Velocity errors, calibration and distance errors, against values computed by hand and with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from multihmr2_ros.metrics.placement import distance_errors, relative_error, summarize_distance_errors
from multihmr2_ros.metrics.uncertainty import (
    is_inside_ellipsoid,
    normalized_error_bounds,
    normalized_error_squared,
    squared_mahalanobis,
)
from multihmr2_ros.metrics.velocity import central_difference, velocity_error


def test_velocity_errors_by_hand() -> None:
    predicted = np.array([[1.0, 2.0, 2.0], [0.5, 0.0, 0.0], [np.nan, 0.0, 0.0]])
    true = np.array([[0.0, 0.0, 0.0], [0.5, 0.3, -0.4], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(velocity_error(predicted, true), [3.0, 0.5, np.nan])
    assert velocity_error(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)


def test_central_differences() -> None:
    """Exact for constant acceleration at the middle frame; undefined if time does not advance."""
    start, speed, acceleration = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -1.0]), np.array([0.2, -0.4, 1.0])

    def place(time: float) -> np.ndarray:
        return (start + speed * time + 0.5 * acceleration * time**2)[None]

    found = central_difference(place(0.9), place(1.1), 0.9, 1.1)
    np.testing.assert_allclose(found, [speed + acceleration * 1.0], atol=1e-12)
    assert np.isnan(central_difference(place(1.0), place(1.0), 1.0, 1.0)).all()
    assert np.isnan(central_difference(place(1.0), place(0.9), 1.0, 0.9)).all()


def test_normalized_errors_by_hand() -> None:
    """With standard deviations 1, 2 and 4, an error of one of each has a squared Mahalanobis distance of 3."""
    covariance = np.diag([1.0, 4.0, 16.0])[None]
    squared = squared_mahalanobis(np.array([[1.0, -2.0, 4.0]]), np.zeros((1, 3)), covariance)
    np.testing.assert_allclose(normalized_error_squared(squared), [1.0])
    np.testing.assert_allclose(normalized_error_squared(4 * squared), [4.0])
    assert np.isnan(normalized_error_squared(np.array([np.nan]))).all()


def test_the_ellipsoid_holds_errors_up_to_its_border() -> None:
    limit = 7.814727903251179  # 95 % of chi-squared with 3 degrees of freedom; 7.815 in printed tables
    np.testing.assert_array_equal(is_inside_ellipsoid(np.array([0.0, limit - 1e-6, limit + 1e-6])), [1, 1, 0])
    assert np.isnan(is_inside_ellipsoid(np.array([np.nan]))).all()


@pytest.mark.parametrize("count", [1, 10, 400])
def test_bounds_are_those_of_the_mean_of_chi_squares(count: int) -> None:
    """95 % of simulated means are within the bounds, and half of the others on each side."""
    low, high = normalized_error_bounds(count)
    assert chi2.cdf(3 * count * low, 3 * count) == pytest.approx(0.025)
    assert chi2.sf(3 * count * high, 3 * count) == pytest.approx(0.025)
    means = np.random.default_rng(count).chisquare(3, (4000, count)).mean(axis=1) / 3
    assert (means < low).mean() == pytest.approx(0.025, abs=0.0075)  # three standard deviations
    assert (means > high).mean() == pytest.approx(0.025, abs=0.0075)


def test_bounds_equal_printed_tables_and_are_nan_without_samples() -> None:
    assert normalized_error_bounds(1) == pytest.approx((0.2158 / 3, 9.3484 / 3), abs=1e-4)
    assert np.isnan(normalized_error_bounds(0)).all()


def test_known_noise_is_calibrated() -> None:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(3000, 3, 3))
    covariance = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3)
    error = (np.linalg.cholesky(covariance) @ rng.normal(size=(3000, 3, 1)))[..., 0]
    squared = squared_mahalanobis(error, np.zeros((3000, 3)), covariance)
    assert kstest(squared, chi2(3).cdf).pvalue > 0.01
    low, high = normalized_error_bounds(3000)
    assert low < normalized_error_squared(squared).mean() < high
    assert not low < normalized_error_squared(1.3 * squared).mean() < high, "standard deviations 12 % too small"
    assert is_inside_ellipsoid(squared).mean() == pytest.approx(0.95, abs=0.012)


def test_distance_errors_by_hand() -> None:
    """At 5 m along (3, 0, 4) and 13 m along (5, 0, 12): 0.5 m too far and 1.3 m too near."""
    true = np.array([[3.0, 0.0, 4.0], [5.0, 0.0, 12.0], [0.0, 0.0, 2.0]])
    predicted = np.array([[3.3, 0.0, 4.4], [4.5, 0.0, 10.8], [0.0, 0.0, 2.0]])
    errors = distance_errors(predicted, true, np.array([0.25, 0.65, np.nan]), np.array([6.0, 13.0, np.nan]))
    np.testing.assert_allclose(errors.error_m, [0.5, -1.3, 0.0], atol=1e-12)
    np.testing.assert_allclose(errors.relative, [0.1, 0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(errors.z_score, [2.0, -2.0, np.nan])
    np.testing.assert_allclose(errors.predicted, [0.2, 0.0, np.nan], atol=1e-12)
    summary = summarize_distance_errors(errors)
    assert summary == pytest.approx(
        {"count": 3, "median_mm": 500, "mean_mm": 600, "median_percent": 10, "mean_percent": 20 / 3,
         "z_count": 2, "z_mean": 0, "z_rms": 2, "median_predicted_percent": 10, "mean_predicted_percent": 10}
    )  # fmt: skip


def test_distance_errors_without_people_or_standard_deviations() -> None:
    nobody = summarize_distance_errors(distance_errors(np.zeros((0, 3)), np.zeros((0, 3))))
    assert (nobody["count"], nobody["z_count"]) == (0, 0)
    assert np.isnan([value for key, value in nobody.items() if "count" not in key]).all()
    errors = distance_errors(np.array([[0, 0, 2.0]]), np.array([[0, 0, 1.0]]), np.zeros(1))
    assert np.isnan(errors.z_score).all()
    np.testing.assert_allclose(relative_error(np.array([2.0, 3.0]), np.array([4.0, 3.0])), [0.5, 0.0])
