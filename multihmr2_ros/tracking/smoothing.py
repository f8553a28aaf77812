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

"""Optional smoothing of log-depth and rotation: the One-Euro filter (Casiez, Roussel, Vogel, CHI 2012).

A low-pass filter whose cutoff rises with the speed: little jitter at rest, little lag in motion. The filters of all
people of an image are worked on at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .config import OneEuroConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Smoothed:
    """State of one filter: the smoothed value, its smoothed rate (D,) per second, and the stamp of both."""

    value: Array
    rate: Array
    stamp_s: float


def smooth_vectors(
    states: Sequence[Smoothed | None], values: Array, stamp_s: float, config: OneEuroConfig
) -> list[Smoothed]:
    """The n filters after vectors (n, D) at a stamp; None starts a filter at its vector."""
    return _smooth(states, values, stamp_s, config, lambda start, end: end - start, lambda value, step: value + step)


def smooth_rotations(
    states: Sequence[Smoothed | None], values: Array, stamp_s: float, config: OneEuroConfig
) -> list[Smoothed]:
    """The n filters after rotations (n, 3, 3) at a stamp; each moves along the shortest arc to its new rotation."""

    def difference(start: Array, end: Array) -> Array:
        return Rotation.from_matrix(start.swapaxes(1, 2) @ end).as_rotvec()

    def moved(value: Array, step: Array) -> Array:
        # Through quaternions, so that rounding never adds up to something that is not a rotation.
        return (Rotation.from_matrix(value) * Rotation.from_rotvec(step)).as_matrix()

    return _smooth(states, values, stamp_s, config, difference, moved)


def _smooth(
    states: Sequence[Smoothed | None],
    values: Array,
    stamp_s: float,
    config: OneEuroConfig,
    difference: Callable[[Array, Array], Array],
    moved: Callable[[Array, Array], Array],
) -> list[Smoothed]:
    """One step of n filters on a space in which two values differ by a vector and a value can be moved by one.

    A second value at the stamp of a filter's last one changes nothing.
    """
    if not states:
        return []
    previous = np.stack([value if state is None else state.value for state, value in zip(states, values, strict=True)])
    elapsed_s = np.array([0.0 if state is None else stamp_s - state.stamp_s for state in states])[:, None]
    step = difference(previous, values)
    old_rate = np.stack([np.zeros(step.shape[1]) if state is None else state.rate for state in states])
    new_rate = step / np.where(elapsed_s > 0, elapsed_s, np.inf)
    rate = old_rate + _smoothing_factor(config.derivative_cutoff_hz, elapsed_s) * (new_rate - old_rate)
    cutoff_hz = config.min_cutoff_hz + config.speed_coefficient * np.linalg.norm(rate, axis=1, keepdims=True)
    value = moved(previous, _smoothing_factor(cutoff_hz, elapsed_s) * step)
    return [Smoothed(*row, stamp_s) for row in zip(value, rate, strict=True)]


def _smoothing_factor(cutoff_hz: Array | float, elapsed_s: Array) -> Array:
    """Share of the new value in an exponential low-pass filter, 1 / (1 + τ/Δt) with τ = 1 / (2π cutoff)."""
    turns = 2 * np.pi * cutoff_hz * elapsed_s
    return turns / (turns + 1)
