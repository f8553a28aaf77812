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

"""Velocities over the ground while the robot drives and turns: people who stand, who walk, and who start or stop.

The noise model is described in test/helpers/moving_camera.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from multihmr2_ros.tracking import Tracker, VelocityConfig
from multihmr2_ros.tracking.velocity import STANDING, ModalEstimate, compute_measurement_noise, update_modal_estimates
from test.helpers.moving_camera import drive, noisy, walking

COUNT, GROUP = 40, 5
RATES_HZ = [10.0, 15.0]
DURATION_S = 5.0


@dataclass(frozen=True)
class Drive:
    """Results of drives past n people in groups, F frames each.

    stamp_s (F,), true velocity and its estimate (F, n, 3) m/s, covariance (F, n, 3, 3).
    """

    stamp_s: NDArray[np.float64]
    true: NDArray[np.float64]
    estimate: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def after(self, time_s: float) -> Drive:
        late = self.stamp_s >= time_s
        return Drive(self.stamp_s[late], self.true[late], self.estimate[late], self.covariance[late])

    def speeds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimated and true speeds (F, n) m/s."""
        return np.linalg.norm(self.estimate, axis=2), np.linalg.norm(self.true, axis=2)

    def normalized_errors(self) -> NDArray[np.float64]:
        """Squared Mahalanobis lengths (F, n) of the errors: chi-squared with 3 degrees of freedom if calibrated."""
        error = self.estimate - self.true
        return np.einsum("fni,fnij,fnj->fn", error, np.linalg.inv(self.covariance), error)


def tracked(people: NDArray[np.float64], rate_hz: float, seed: int = 0, memory_s: float = 0.0) -> Drive:
    """Return the tracker's results for drives past people (n, 3) m/s, one group per drive."""
    groups = []
    for number, first in enumerate(range(0, len(people), GROUP)):
        tracker, frames = Tracker(), []
        for seen in drive(people[first : first + GROUP], rate_hz, DURATION_S, 1000 * seed + number, memory_s):
            answer = tracker.update(seen.detections, seen.stamp_s, seen.fixed_from_camera)
            assert answer.track_id.tolist() == list(range(len(seen.velocity)))
            assert answer.velocity_frame == "fixed"
            frames.append((seen.velocity, answer.velocity, answer.velocity_covariance))
        groups.append([np.stack(each) for each in zip(*frames, strict=True)])
    stamp_s = np.arange(len(groups[0][0])) / rate_hz
    return Drive(stamp_s, *(np.concatenate(each, axis=1) for each in zip(*groups, strict=True)))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_standing_people_stand(rate_hz: float) -> None:
    estimated, _ = tracked(np.zeros((COUNT, 3)), rate_hz).after(1.0).speeds()
    assert np.mean(estimated < 0.1) >= 0.95


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_speed_of_walking_people_is_within_15_percent(rate_hz: float) -> None:
    estimated, true = tracked(walking(COUNT, 1.2, seed=1), rate_hz, seed=2).after(1.0).speeds()
    error = np.abs(estimated / true - 1)
    assert np.median(error) < 0.06
    assert np.mean(error < 0.15) >= 0.85
    settled, true = estimated[round(rate_hz) :], true[round(rate_hz) :]
    assert np.mean(np.abs(settled / true - 1) < 0.15) >= 0.9
    each = np.abs(settled.mean(axis=0) / true.mean(axis=0) - 1)
    assert np.mean(each < 0.15) >= 0.95, "of nearly everybody the mean speed"


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("people", [np.zeros((COUNT, 3)), walking(COUNT, 1.2, seed=3)], ids=["standing", "walking"])
def test_covariances_are_calibrated(rate_hz: float, people: NDArray[np.float64]) -> None:
    """95 % of the single normalized errors are within their two-sided 95 % bounds.

    Their mean is within the bounds of as many independent errors as people: the errors of one person are correlated
    between images.
    """
    squared = tracked(people, rate_hz, seed=4).after(2.0).normalized_errors()
    low, high = chi2.ppf([0.025, 0.975], 3)
    assert np.mean((squared > low) & (squared < high)) == pytest.approx(0.95, abs=0.03)
    low, high = chi2.ppf([0.025, 0.975], 3 * COUNT) / COUNT
    assert low < squared.mean() < high


def test_errors_that_are_alike_for_a_while_are_not_taken_for_motion() -> None:
    """Errors of a network are correlated: with 0.3 s, errors along the ray resemble motion the most."""
    estimated, _ = tracked(np.zeros((COUNT, 3)), 12.0, seed=14, memory_s=0.3).after(1.0).speeds()
    assert np.mean(estimated < 0.1) >= 0.95
    estimated, true = tracked(walking(COUNT, 1.2, seed=15), 12.0, seed=16, memory_s=0.3).after(1.0).speeds()
    assert np.mean(np.abs(estimated / true - 1) < 0.15) >= 0.75


def test_people_who_start_and_stop_are_followed() -> None:
    """Within half a second of the start most are estimated to walk; within a second of the stop nine of ten stand."""
    rate_hz, generator, config = 12.0, np.random.default_rng(6), VelocityConfig()
    velocity, place = walking(COUNT, 1.2, seed=7), 5 * walking(COUNT, 1.0, seed=8)
    estimates: list[ModalEstimate | None] = [None] * COUNT
    speed = []
    for frame in range(round(8 * rate_hz)):
        measured = noisy(place, generator)
        noise = compute_measurement_noise(measured, config)
        estimates = list(update_modal_estimates(estimates, measured, noise, frame / rate_hz, config))
        speed.append([np.linalg.norm(estimate.velocity) for estimate in estimates if estimate])
        place = place + velocity / rate_hz * (3 <= frame / rate_hz < 6)
    at = np.array(speed)[(np.array([2.9, 3.5, 5.9, 7.0]) * rate_hz).astype(int)]
    assert (np.quantile(at[0], 0.9), np.quantile(at[3], 0.9)) < (0.1, 0.1)
    assert np.median(at[1]) > 0.9 * 1.2
    assert np.quantile(at[2], 0.1) > 0.8 * 1.2


def test_a_person_who_walks_in_a_curve_is_followed() -> None:
    """1.2 m/s on a circle of 3 m: no mode models this acceleration; the covariance nevertheless covers the error."""
    rate_hz, generator, config = 12.0, np.random.default_rng(10), VelocityConfig()
    middle, phase = 6 * walking(COUNT, 1.0, seed=11), generator.uniform(0, 2 * np.pi, COUNT)
    estimates: list[ModalEstimate | None] = [None] * COUNT
    errors, squared = [], []
    for frame in range(round(6 * rate_hz)):
        angle = phase + 0.4 * frame / rate_hz
        spoke = np.column_stack([np.cos(angle), np.zeros(COUNT), np.sin(angle)])
        measured = noisy(middle + 3 * spoke, generator)
        noise = compute_measurement_noise(measured, config)
        estimates = list(update_modal_estimates(estimates, measured, noise, frame / rate_hz, config))
        if frame >= 2 * rate_hz:
            error = np.array([each.velocity for each in estimates if each]) - 1.2 * np.cross(spoke, [0, 1, 0])
            covariance = np.array([each.velocity_covariance for each in estimates if each])
            errors.append(np.linalg.norm(error, axis=1))
            squared.append(np.einsum("ni,nij,nj->n", error, np.linalg.inv(covariance), error))
    assert np.median(errors) < 0.3
    assert np.mean(np.array(squared) < chi2.ppf(0.999, 3)) > 0.9


def test_the_deadband_holds_less_the_longer_nobody_looks() -> None:
    """A person who stood and is seen again 5 m away has walked if there was enough time."""
    config, place = VelocityConfig(), np.array([[0.0, 0.3, 5.0]])
    noise = compute_measurement_noise(place, config)
    estimates: list[ModalEstimate | None] = [None]
    for frame in range(30):
        estimates = list(update_modal_estimates(estimates, place, noise, frame / 10, config))
    assert estimates[0] is not None
    assert estimates[0].probability[STANDING] > 0.95
    (same,) = update_modal_estimates(estimates, place, noise, 2.9 + 5, config)
    (moved,) = update_modal_estimates(estimates, place + np.array([5.0, 0, 0]), noise, 2.9 + 5, config)
    assert same.probability[STANDING] > 0.9
    assert np.linalg.norm(same.velocity) < 0.1
    assert moved.probability[STANDING] < 0.01
    assert moved.velocity[0] == pytest.approx(1.0, abs=0.4)


def test_modes_far_from_every_measurement_do_not_break_the_estimate() -> None:
    """With jumps that no mode explains, the probabilities remain a distribution and the covariance positive."""
    config, generator = VelocityConfig(), np.random.default_rng(9)
    estimates: list[ModalEstimate | None] = [None, None]
    for frame in range(200):
        place = generator.uniform(-1000, 1000, (2, 3)) if frame % 10 == 0 else np.full((2, 3), 3.0)
        noise = compute_measurement_noise(place, config)
        estimates = list(update_modal_estimates(estimates, place, noise, frame * 0.1, config))
        for estimate in estimates:
            assert estimate is not None
            assert estimate.probability.sum() == pytest.approx(1)
            assert np.isfinite(estimate.velocity).all() or frame == 0
            assert frame == 0 or np.linalg.eigvalsh(estimate.velocity_covariance).min() > 0
    assert update_modal_estimates([], np.zeros((0, 3)), np.zeros((0, 3, 3)), 0.0, config) == []
