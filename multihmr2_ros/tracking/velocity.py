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

"""Velocity of a pelvis, with its uncertainty: a constant-velocity Kalman filter with white acceleration.

Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and Navigation, 2001, section 6.2.2. The filters
of all people of an image are worked on at once. `modes` runs several of them for each person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import VelocityConfig

Array = NDArray[np.float64]
_LEAST_DISTANCE_M = 0.1  # keeps the noise positive for a pelvis in the camera's centre
_LEAST_SIGMA_M = 1e-3  # no pelvis is known better


@dataclass(frozen=True)
class MotionEstimate:
    """Position and velocity of one pelvis as of its last measurement, in the frame of reference of its measurements.

    mean (6,) m and m/s; covariance (6, 6); stamp_s of the measurement; has_moved_on: whether there were measurements at
    two different stamps, before which the velocity is only assumed; log_likelihood of the measurement, given those
    before.
    """

    mean: Array
    covariance: Array
    stamp_s: float
    has_moved_on: bool = False
    log_likelihood: float = 0.0

    @property
    def velocity(self) -> Array:
        """(3,) m/s; NaN until measured at two stamps."""
        return self.mean[3:] if self.has_moved_on else np.full(3, np.nan)

    @property
    def velocity_covariance(self) -> Array:
        """(3, 3) (m/s)²; NaN where the velocity is."""
        return self.covariance[3:, 3:] if self.has_moved_on else np.full((3, 3), np.nan)


@dataclass(frozen=True)
class Process:
    """How n people move between two measurements, each array (n,).

    keeps_velocity        whether the velocity lives on, changed by white acceleration; else it is drawn anew each time
    acceleration_density  m²/s³, of the first kind
    speed_sigma_m_s       m/s, of each component of the second kind's velocity
    """

    keeps_velocity: NDArray[np.bool_]
    acceleration_density: Array
    speed_sigma_m_s: Array

    @classmethod
    def accelerating(cls, count: int, config: VelocityConfig) -> Process:
        """White acceleration of the configured density for all."""
        return cls(np.ones(count, np.bool_), np.full(count, config.acceleration_density), np.zeros(count))


def measurement_noise(pelvis: Array, config: VelocityConfig, distance_sigma_m: Array | None = None) -> Array:
    """(n, 3, 3) m², covariance of pelvises (n, 3) m that one camera measured, camera frame.

    A wrong body size scales the whole position, so that the error is largest along the viewing ray and grows with
    the distance; across the ray it is a fixed angle. distance_sigma_m (n,): the standard deviation along the ray, in
    place of the configured one.
    """
    distance = np.maximum(np.linalg.norm(pelvis, axis=1), _LEAST_DISTANCE_M)
    ray = pelvis / distance[:, None]
    along = ray[:, :, None] * ray[:, None, :]
    if distance_sigma_m is None:
        distance_sigma_m = config.depth_sigma_ratio * distance
    depth_variance = np.maximum(distance_sigma_m, _LEAST_SIGMA_M) ** 2
    lateral_variance = (config.lateral_sigma_ratio * distance) ** 2
    return depth_variance[:, None, None] * along + lateral_variance[:, None, None] * (np.eye(3) - along)


def measure(
    estimates: Sequence[MotionEstimate | None],
    position: Array,
    noise: Array,
    stamp_s: float,
    config: VelocityConfig,
    process: Process | None = None,
) -> list[MotionEstimate]:
    """The n estimates after measuring positions (n, 3) m with covariances (n, 3, 3) m² at a stamp.

    None starts an estimate, at rest within the assumed speed. The stamp is no earlier than those of the estimates.
    process: how each of them moves; None: all with the configured white acceleration.
    """
    if not estimates:
        return []
    process = process or Process.accelerating(len(estimates), config)
    started = [
        estimate or start(measured, covariance, stamp_s, config)
        for estimate, measured, covariance in zip(estimates, position, noise, strict=True)
    ]
    elapsed_s = np.array([stamp_s - estimate.stamp_s for estimate in started])
    mean = np.stack([estimate.mean for estimate in started])
    covariance = np.stack([estimate.covariance for estimate in started])
    mean, covariance = _predict(mean, covariance, elapsed_s, process)
    likelihood = _log_likelihood(position - mean[:, :3], covariance[:, :3, :3] + noise).tolist()
    mean, covariance = _correct(mean, covariance, position, noise)
    return [
        started[row]
        if estimates[row] is None
        else MotionEstimate(
            mean[row],
            covariance[row],
            stamp_s,
            started[row].has_moved_on or bool(elapsed_s[row] > 0),
            likelihood[row],
        )
        for row in range(len(started))
    ]


def start(position: Array, noise: Array, stamp_s: float, config: VelocityConfig) -> MotionEstimate:
    """What one position (3,) tells."""
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = noise
    covariance[3:, 3:] = config.initial_speed_sigma_m_s**2 * np.eye(3)
    return MotionEstimate(np.concatenate([position, np.zeros(3)]), covariance, stamp_s)


def _predict(mean: Array, covariance: Array, elapsed_s: Array, process: Process) -> tuple[Array, Array]:
    """Means (n, 6) and covariances (n, 6, 6) after (n,) seconds.

    Of constant velocity with white acceleration; or, where the process keeps no velocity, of a velocity that is drawn
    anew: it says nothing about the next one, and moves the position by chance only.
    """
    position, velocity = slice(0, 3), slice(3, 6)
    time = elapsed_s[:, None, None]
    keeps = process.keeps_velocity[:, None, None] | (time == 0)
    density, spread = process.acceleration_density[:, None, None], process.speed_sigma_m_s[:, None, None]
    transition = np.tile(np.eye(6), (len(mean), 1, 1))
    transition[:, position, velocity] = np.where(keeps, time, 0) * np.eye(3)
    transition[:, velocity, velocity] *= keeps
    added = np.empty_like(covariance)
    added[:, position, position] = np.where(keeps, density * time**3 / 3, spread**2 * time**2) * np.eye(3)
    added[:, position, velocity] = np.where(keeps, density * time**2 / 2, 0) * np.eye(3)
    added[:, velocity, position] = added[:, position, velocity]
    added[:, velocity, velocity] = np.where(keeps, density * time, spread**2) * np.eye(3)
    return (transition @ mean[:, :, None])[:, :, 0], transition @ covariance @ transition.swapaxes(1, 2) + added


def _log_likelihood(innovation: Array, covariance: Array) -> Array:
    """(n,) logarithm of the normal density of innovations (n, 3), but for a constant."""
    squared = np.einsum("ni,ni->n", innovation, np.linalg.solve(covariance, innovation[:, :, None])[:, :, 0])
    return -0.5 * (squared + np.linalg.slogdet(covariance)[1])


def _correct(mean: Array, covariance: Array, position: Array, noise: Array) -> tuple[Array, Array]:
    """Means and covariances after the Kalman update with positions (n, 3) of covariances (n, 3, 3)."""
    gain = np.linalg.solve(covariance[:, :3, :3] + noise, covariance[:, :3, :]).swapaxes(1, 2)
    innovation = position - mean[:, :3]
    # Joseph form: stays symmetric and positive for any number of updates.
    kept = np.tile(np.eye(6), (len(mean), 1, 1))
    kept[:, :, :3] -= gain
    corrected = kept @ covariance @ kept.swapaxes(1, 2) + gain @ noise @ gain.swapaxes(1, 2)
    return mean + (gain @ innovation[:, :, None])[:, :, 0], corrected
