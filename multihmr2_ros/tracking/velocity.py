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

"""Velocity of a pelvis and its covariance, by Kalman filters.

`update_estimates`: one constant-velocity filter with white acceleration per person (Bar-Shalom, Li, Kirubarajan:
Estimation with Applications to Tracking and Navigation, 2001, section 6.2.2).

`update_modal_estimates`: three filters per person, one for each mode of motion (standing, walking steadily, changing),
combined as interacting multiple models (IMM; same book, section 11.6.6). The velocity in the mode "standing" is near
zero and independent of the next velocity, so the mode is the deadband: the likelihoods of the measurements determine
when the estimate enters and leaves it. After leaving, the velocity may take any value immediately.

With modes, a measurement that is implausible in each of them is a jump: the position follows it, the velocity does not.
People do not jump, but their measured positions do, when the network takes a child for an adult or a track continues
with another person.

All functions process the people of an image together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import VelocityConfig

Array = NDArray[np.float64]
STANDING, WALKING, CHANGING = range(3)
MODES = 3
_MIN_PROBABILITY = 1e-12  # allows returning to a mode after it was ruled out
_MIN_DISTANCE_M = 0.1  # keeps the noise positive for a pelvis at the camera's center
_MIN_SIGMA_M = 1e-3  # no pelvis is measured more precisely
_MAX_SQUARED_DISTANCE = 25.9  # Mahalanobis, of a measurement that is no jump: 99.999 % quantile of chi-squared(3)


@dataclass(frozen=True)
class MotionEstimate:
    """Position and velocity of one pelvis at its last measurement, in the frame of its measurements.

    mean            (6,) m and m/s
    covariance      (6, 6)
    stamp_s         s, of the last measurement
    has_velocity    whether there were measurements at two different stamps; before, the velocity is only assumed
    log_likelihood  of the last measurement given the earlier ones, without the constant term
    """

    mean: Array
    covariance: Array
    stamp_s: float
    has_velocity: bool = False
    log_likelihood: float = 0.0

    @property
    def position(self) -> Array:
        """Position (3,) in m."""
        return self.mean[:3]

    @property
    def velocity(self) -> Array:
        """Velocity (3,) in m/s, NaN until measured at two stamps."""
        return self.mean[3:] if self.has_velocity else np.full(3, np.nan)

    @property
    def velocity_covariance(self) -> Array:
        """Velocity covariance (3, 3) in (m/s)²; NaN if the velocity is NaN."""
        return self.covariance[3:, 3:] if self.has_velocity else np.full((3, 3), np.nan)


@dataclass(frozen=True)
class ProcessModel:
    """Process model of n people between two measurements; each array is (n,).

    keeps_velocity        whether the velocity persists, changed by white acceleration; else it is drawn anew each time
    acceleration_density  m²/s³, power spectral density of the acceleration, if the velocity persists
    speed_sigma_m_s       m/s, standard deviation of each velocity component, if it is drawn anew
    """

    keeps_velocity: NDArray[np.bool_]
    acceleration_density: Array
    speed_sigma_m_s: Array

    @classmethod
    def make_accelerating(cls, count: int, config: VelocityConfig) -> ProcessModel:
        """Return a model with white acceleration of the configured density for all."""
        return cls(np.ones(count, np.bool_), np.full(count, config.acceleration_density), np.zeros(count))


def compute_measurement_noise(pelvis: Array, config: VelocityConfig, distance_sigma_m: Array | None = None) -> Array:
    """Return the covariance (n, 3, 3) m² of pelvises (n, 3) m that one camera measured, camera frame.

    A wrong body size scales the whole position: the error is largest along the viewing ray and proportional to the
    distance. Across the ray the error is a fixed angle. distance_sigma_m (n,): standard deviation along the ray, in
    place of the configured ratio.
    """
    distance = np.maximum(np.linalg.norm(pelvis, axis=1), _MIN_DISTANCE_M)
    ray = pelvis / distance[:, None]
    along = ray[:, :, None] * ray[:, None, :]
    if distance_sigma_m is None:
        distance_sigma_m = config.depth_sigma_ratio * distance
    depth_variance = np.maximum(distance_sigma_m, _MIN_SIGMA_M) ** 2
    lateral_variance = (config.lateral_sigma_ratio * distance) ** 2
    return depth_variance[:, None, None] * along + lateral_variance[:, None, None] * (np.eye(3) - along)


def update_estimates(
    estimates: Sequence[MotionEstimate | None],
    position: Array,
    noise: Array,
    stamp_s: float,
    config: VelocityConfig,
    process: ProcessModel | None = None,
    modes: int = 1,
) -> list[MotionEstimate]:
    """Return n estimates after a Kalman update with positions (n, 3) m of covariances noise (n, 3, 3) m².

    estimates: None starts one, with velocity zero and the configured initial standard deviation
    stamp_s: of the measurements, no earlier than the stamps of the estimates
    process: None: the configured white acceleration for all
    modes: number of consecutive estimates that belong to one person, with one measurement
    """
    if not estimates:
        return []
    process = process or ProcessModel.make_accelerating(len(estimates), config)
    started = [
        estimate or start_estimate(measured, covariance, stamp_s, config)
        for estimate, measured, covariance in zip(estimates, position, noise, strict=True)
    ]
    elapsed_s = np.array([stamp_s - estimate.stamp_s for estimate in started])
    mean = np.stack([estimate.mean for estimate in started])
    covariance = np.stack([estimate.covariance for estimate in started])
    mean, covariance = _predict(mean, covariance, elapsed_s, process)
    if modes > 1:  # with one mode, the measured errors of velocities were slightly larger (docs/evaluation.md)
        covariance = _widen_at_jumps(position - mean[:, :3], covariance, noise, modes)
    likelihood = _compute_log_likelihood(position - mean[:, :3], covariance[:, :3, :3] + noise).tolist()
    mean, covariance = _correct(mean, covariance, position, noise)
    return [
        started[row]
        if estimates[row] is None
        else MotionEstimate(
            mean[row],
            covariance[row],
            stamp_s,
            started[row].has_velocity or bool(elapsed_s[row] > 0),
            likelihood[row],
        )
        for row in range(len(started))
    ]


def start_estimate(position: Array, noise: Array, stamp_s: float, config: VelocityConfig) -> MotionEstimate:
    """Return the first estimate, from one position (3,) m of covariance noise (3, 3) m²."""
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = noise
    covariance[3:, 3:] = config.initial_speed_sigma_m_s**2 * np.eye(3)
    return MotionEstimate(np.concatenate([position, np.zeros(3)]), covariance, stamp_s)


def widen_position(estimate: MotionEstimate, added: Array) -> MotionEstimate:
    """Return the estimate with a covariance (3, 3) m² added to that of its position."""
    covariance = estimate.covariance.copy()
    covariance[:3, :3] += added
    return dataclasses.replace(estimate, covariance=covariance)


def _predict(mean: Array, covariance: Array, elapsed_s: Array, process: ProcessModel) -> tuple[Array, Array]:
    """Predict means (n, 6) and covariances (n, 6, 6) after (n,) seconds.

    Constant velocity with white acceleration; or, if the process keeps no velocity, a velocity that is drawn anew: it
    does not depend on the last one, and changes the position at random only.
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


def _widen_at_jumps(innovation: Array, covariance: Array, noise: Array, modes: int) -> Array:
    """Return predicted covariances (n, 6, 6), wider along innovations (n, 3) that are implausible in all modes."""
    squared = _compute_squared_mahalanobis(innovation, covariance[:, :3, :3] + noise)
    jumps = np.repeat(squared.reshape(-1, modes).min(axis=1) > _MAX_SQUARED_DISTANCE, modes)
    covariance = covariance.copy()
    covariance[jumps, :3, :3] += innovation[jumps, :, None] * innovation[jumps, None, :]
    return covariance


def _compute_log_likelihood(innovation: Array, covariance: Array) -> Array:
    """Return the log of the normal density (n,) of innovations (n, 3), without the constant term."""
    return -0.5 * (_compute_squared_mahalanobis(innovation, covariance) + np.linalg.slogdet(covariance)[1])


def _compute_squared_mahalanobis(innovation: Array, covariance: Array) -> Array:
    return np.einsum("ni,ni->n", innovation, np.linalg.solve(covariance, innovation[:, :, None])[:, :, 0])


def _correct(mean: Array, covariance: Array, position: Array, noise: Array) -> tuple[Array, Array]:
    """Return means and covariances after the Kalman update with positions (n, 3) of covariances noise (n, 3, 3)."""
    gain = np.linalg.solve(covariance[:, :3, :3] + noise, covariance[:, :3, :]).swapaxes(1, 2)
    innovation = position - mean[:, :3]
    # Joseph form: stays symmetric and positive definite for any number of updates.
    kept = np.tile(np.eye(6), (len(mean), 1, 1))
    kept[:, :, :3] -= gain
    corrected = kept @ covariance @ kept.swapaxes(1, 2) + gain @ noise @ gain.swapaxes(1, 2)
    return mean + (gain @ innovation[:, :, None])[:, :, 0], corrected


@dataclass(frozen=True)
class ModalEstimate:
    """Position and velocity of one pelvis, with one estimate for each mode of motion.

    modes                one estimate for each of STANDING, WALKING, CHANGING
    probability          (3,) of the modes
    velocity             (3,) m/s, mean over the modes; NaN until measured at two stamps
    velocity_covariance  (3, 3) (m/s)², within the modes and between them; NaN where the velocity is NaN
    """

    modes: tuple[MotionEstimate, ...]
    probability: Array
    velocity: Array
    velocity_covariance: Array

    @property
    def position(self) -> Array:
        """Position (3,) in m, mean over the modes."""
        return self.probability @ np.stack([mode.position for mode in self.modes])


def update_modal_estimates(
    estimates: Sequence[ModalEstimate | None], position: Array, noise: Array, stamp_s: float, config: VelocityConfig
) -> list[ModalEstimate]:
    """Update n estimates, each over all modes of motion, and return them; arguments as of `update_estimates`."""
    if not estimates:
        return []
    previous = [
        estimate or _start_modes(measured, covariance, stamp_s, config)
        for estimate, measured, covariance in zip(estimates, position, noise, strict=True)
    ]
    mixed, expected = _mix(previous, stamp_s, config)
    rows = np.repeat(np.arange(len(previous)), MODES)
    process = _make_process_models(len(previous), config)
    filtered = update_estimates(mixed, position[rows], noise[rows], stamp_s, config, process, MODES)
    likelihood = np.array([each.log_likelihood for each in filtered]).reshape(-1, MODES)
    weight = expected * np.exp(likelihood - likelihood.max(axis=1, keepdims=True)) + _MIN_PROBABILITY
    probability = weight / weight.sum(axis=1, keepdims=True)
    velocity, covariance = _combine(filtered, probability)
    return [
        previous[row]
        if estimates[row] is None
        else ModalEstimate(
            tuple(filtered[MODES * row : MODES * (row + 1)]), probability[row], velocity[row], covariance[row]
        )
        for row in range(len(previous))
    ]


def widen_modes(estimate: ModalEstimate, added: Array) -> ModalEstimate:
    """Return the estimate with a covariance (3, 3) m² added to that of the position in each mode."""
    return dataclasses.replace(estimate, modes=tuple(widen_position(mode, added) for mode in estimate.modes))


def _start_modes(position: Array, noise: Array, stamp_s: float, config: VelocityConfig) -> ModalEstimate:
    first = start_estimate(position, noise, stamp_s, config)
    probability = np.full(MODES, 1 / MODES)
    return ModalEstimate((first,) * MODES, probability, first.velocity, first.velocity_covariance)


def _combine(filtered: Sequence[MotionEstimate], probability: Array) -> tuple[Array, Array]:
    """Return velocities (n, 3) and covariances (n, 3, 3) of n × 3 estimates whose modes have probabilities (n, 3)."""
    velocity = np.stack([each.velocity for each in filtered]).reshape(-1, MODES, 3)
    inner = np.stack([each.velocity_covariance for each in filtered]).reshape(-1, MODES, 3, 3)
    mean = np.einsum("nm,nmi->ni", probability, velocity)
    apart = velocity - mean[:, None]
    return mean, np.einsum("nm,nmij->nij", probability, inner + apart[..., :, None] * apart[..., None, :])


def _make_process_models(count: int, config: VelocityConfig) -> ProcessModel:
    """Return the process model of count people × 3 modes, in this order."""
    density = [0.0, config.walking_acceleration_density, config.acceleration_density]
    spread = [config.standing_speed_sigma_m_s, 0.0, 0.0]
    return ProcessModel(np.tile([False, True, True], count), np.tile(density, count), np.tile(spread, count))


def _mix(
    estimates: Sequence[ModalEstimate], stamp_s: float, config: VelocityConfig
) -> tuple[list[MotionEstimate], Array]:
    """Mix the modes' estimates, because a person may have changed the mode since the last measurement.

    Returns the n × 3 estimates from which each mode's filter continues, all modes of the first person first, and the
    expected probabilities (n, 3) of the modes.
    """
    elapsed_s = np.array([stamp_s - estimate.modes[0].stamp_s for estimate in estimates])
    stays = np.exp(-elapsed_s / config.mode_duration_s)[:, None, None]
    change = stays * np.eye(MODES) + (1 - stays) / (MODES - 1) * (1 - np.eye(MODES))  # from mode, to mode
    joint = np.stack([estimate.probability for estimate in estimates])[:, :, None] * change
    expected = joint.sum(axis=1)
    share = joint / expected[:, None, :]
    mean = np.stack([[mode.mean for mode in estimate.modes] for estimate in estimates])
    covariance = np.stack([[mode.covariance for mode in estimate.modes] for estimate in estimates])
    # One copy for each mode that is entered: (n, from, to, ...).
    covariance = np.repeat(covariance[:, :, None], MODES, axis=2)
    covariance[:, STANDING, STANDING + 1 :, 3:, 3:] += config.initial_speed_sigma_m_s**2 * np.eye(3)
    mixed = np.einsum("nij,nik->njk", share, mean)
    apart = mean[:, :, None] - mixed[:, None]
    spread = np.einsum("nij,nijkl->njkl", share, covariance + apart[..., :, None] * apart[..., None, :])
    return [
        MotionEstimate(mixed[row, mode], spread[row, mode], each.stamp_s, each.has_velocity)
        for row, estimate in enumerate(estimates)
        for mode, each in enumerate(estimate.modes)
    ], expected
