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

"""A person's velocity when it is not known whether they stand, walk on or change their motion: interacting multiple
models, one Kalman filter for each mode of motion.

Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and Navigation, 2001, section 11.6.6. Who stands
has a velocity near zero that says nothing about the next one: this mode is the deadband, into and out of which the
estimate goes by the likelihoods of what was measured. Who leaves it may take up any velocity at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import VelocityConfig
from .velocity import MotionEstimate, Process, measure, start

Array = NDArray[np.float64]
STANDING, WALKING, CHANGING = range(3)
MODES = 3
_LEAST_PROBABILITY = 1e-12  # a mode that was ruled out can be entered again


@dataclass(frozen=True)
class ModalEstimate:
    """Position and velocity of one pelvis: one estimate for each mode, and (3,) how probable each mode is.

    velocity (3,) m/s: the mean over the modes; velocity_covariance (3, 3) (m/s)²: what the modes leave open and what
    they differ by. NaN until measured at two stamps.
    """

    modes: tuple[MotionEstimate, ...]
    probability: Array
    velocity: Array
    velocity_covariance: Array


def measure_modes(
    estimates: Sequence[ModalEstimate | None], position: Array, noise: Array, stamp_s: float, config: VelocityConfig
) -> list[ModalEstimate]:
    """The n estimates after measuring positions (n, 3) m with covariances (n, 3, 3) m² at a stamp; see `measure`."""
    if not estimates:
        return []
    previous = [
        estimate or _start(measured, covariance, stamp_s, config)
        for estimate, measured, covariance in zip(estimates, position, noise, strict=True)
    ]
    mixed, expected = _mix(previous, stamp_s, config)
    rows = np.repeat(np.arange(len(previous)), MODES)
    filtered = measure(mixed, position[rows], noise[rows], stamp_s, config, _process(len(previous), config))
    likelihood = np.array([each.log_likelihood for each in filtered]).reshape(-1, MODES)
    weight = expected * np.exp(likelihood - likelihood.max(axis=1, keepdims=True)) + _LEAST_PROBABILITY
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


def _start(position: Array, noise: Array, stamp_s: float, config: VelocityConfig) -> ModalEstimate:
    first = start(position, noise, stamp_s, config)
    probability = np.full(MODES, 1 / MODES)
    return ModalEstimate((first,) * MODES, probability, first.velocity, first.velocity_covariance)


def _combine(filtered: Sequence[MotionEstimate], probability: Array) -> tuple[Array, Array]:
    """Velocities (n, 3) and covariances (n, 3, 3) of n × 3 estimates whose modes have probabilities (n, 3)."""
    velocity = np.stack([each.velocity for each in filtered]).reshape(-1, MODES, 3)
    inner = np.stack([each.velocity_covariance for each in filtered]).reshape(-1, MODES, 3, 3)
    mean = np.einsum("nm,nmi->ni", probability, velocity)
    apart = velocity - mean[:, None]
    return mean, np.einsum("nm,nmij->nij", probability, inner + apart[..., :, None] * apart[..., None, :])


def _process(count: int, config: VelocityConfig) -> Process:
    """Of count people, all modes of the first one first."""
    density = [0.0, config.walking_acceleration_density, config.acceleration_density]
    spread = [config.standing_speed_sigma_m_s, 0.0, 0.0]
    return Process(np.tile([False, True, True], count), np.tile(density, count), np.tile(spread, count))


def _mix(
    estimates: Sequence[ModalEstimate], stamp_s: float, config: VelocityConfig
) -> tuple[list[MotionEstimate], Array]:
    """What each mode's filter goes on from, if the person may have changed into it since the last measurement: n × 3
    estimates, all modes of the first person first; and how probable the modes (n, 3) then are."""
    elapsed_s = np.array([stamp_s - estimate.modes[0].stamp_s for estimate in estimates])
    stays = np.exp(-elapsed_s / config.mode_duration_s)[:, None, None]
    change = stays * np.eye(MODES) + (1 - stays) / (MODES - 1) * (1 - np.eye(MODES))  # from mode, to mode
    joint = np.stack([estimate.probability for estimate in estimates])[:, :, None] * change
    expected = joint.sum(axis=1)
    share = joint / expected[:, None, :]
    mean = np.stack([[mode.mean for mode in estimate.modes] for estimate in estimates])
    covariance = np.stack([[mode.covariance for mode in estimate.modes] for estimate in estimates])
    # A copy for each mode that is entered: (n, from, to, ...).
    covariance = np.repeat(covariance[:, :, None], MODES, axis=2)
    covariance[:, STANDING, STANDING + 1 :, 3:, 3:] += config.initial_speed_sigma_m_s**2 * np.eye(3)
    mixed = np.einsum("nij,nik->njk", share, mean)
    apart = mean[:, :, None] - mixed[:, None]
    spread = np.einsum("nij,nijkl->njkl", share, covariance + apart[..., :, None] * apart[..., None, :])
    return [
        MotionEstimate(mixed[row, mode], spread[row, mode], each.stamp_s, each.has_moved_on)
        for row, estimate in enumerate(estimates)
        for mode, each in enumerate(estimate.modes)
    ], expected
