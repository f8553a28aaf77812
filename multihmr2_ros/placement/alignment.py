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

"""Scale and shift of a relative depth map, estimated from all people of the image together. See solver.py."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.depth import MapKind

from .config import PlacementConfig

Array = NDArray[np.float64]
MAX_DEPTH_M = 200.0
STEPS = 40  # of the grid, along each of the two depths
GRID_SIGMAS = 3.5  # extent of the grid beyond the predicted depths of the people
REFERENCE_QUANTILES = (0.25, 0.75)  # of the people's levels: a wrong level at an end must not become a reference value
NEAREST_GAP = 0.02  # minimum gap of the two levels divided by the map's range; below it, the scale is undetermined
MIN_BESIDE = 4  # minimum number of values beside a person
# Beta distributions of the fraction of the map beside a body that is farther than the body. SHOWN: maps with errors of
# single-image networks; OF_CHANCE: smooth noise or the map of another scene. From 250 people of simulated crowds.
SHOWN, OF_CHANCE = (4.0, 1.6), (1.6, 3.0)
LOG_DEPTH, LOG_DEPTH_SIGMA = np.log(4.0), 1.0  # prior of the depth of people in images
FAR_SIGMA = 0.02  # 1/m: tolerance below 0, from a bent map, of the smallest inverse depth


class MapScale(NamedTuple):
    """Scale and shift of a map, as the log depths at two of its values.

    levels     (2,) the two values, ascending
    log_depth  (2,) log of the depth (m) at these values
    kind       "depth" or "inverse": the quantity that is linear in the map's values
    """

    levels: Array
    log_depth: Array
    kind: MapKind

    def to_depth(self, values: NDArray[np.floating]) -> Array:
        """Convert values (…) of the map to depths (…) m."""
        low, high = depth_to_value(np.exp(self.log_depth), self.kind)
        slope = (high - low) / (self.levels[1] - self.levels[0])
        return value_to_depth(low + slope * (values - self.levels[0]), self.kind)

    def to_value(self, depth: Array) -> Array:
        """Convert depths (…) m to values (…) of the map."""
        low, high = depth_to_value(np.exp(self.log_depth), self.kind)
        return self.levels[0] + (depth_to_value(depth, self.kind) - low) * (self.levels[1] - self.levels[0]) / (
            high - low
        )

    def compute_derivative(self, depth: Array) -> Array:
        """Return the derivatives (…, 2) of log depth with respect to `log_depth`, at depths (…) m."""
        low, high = ends = depth_to_value(np.exp(self.log_depth), self.kind)
        share = (depth_to_value(depth, self.kind) - low) / (high - low)
        return np.stack([(1 - share) * ends[0], share * ends[1]], axis=-1) / depth_to_value(depth, self.kind)[..., None]

    def add_step(self, step: Array) -> MapScale:
        """Return the scale with step (2,) added to `log_depth`."""
        return self._replace(log_depth=self.log_depth + step)


class ScaleFit(NamedTuple):
    """The most likely scale, and the probability that the map shows these people, against a random map."""

    scale: MapScale
    probability: float


class DepthLevels(NamedTuple):
    """Values of a map at n people; all arrays are (n,).

    value      value of the map at the depth of the pelvis
    log_depth  predicted log depth (m) of the pelvis
    variance   of log_depth
    """

    value: Array
    log_depth: Array
    variance: Array

    @classmethod
    def from_quartiles(cls, quartiles: Array, log_depth: Array, variance: Array) -> DepthLevels:
        """Take the medians of quartiles (n, 3) of the values; people with NaN are left out."""
        known = np.isfinite(quartiles[:, 1])
        return cls(quartiles[known, 1], log_depth[known], variance[known])


def fit_scale(
    levels: DepthLevels, span: tuple[float, float], kind: MapKind, outlined: float, config: PlacementConfig
) -> ScaleFit:
    """Find, on a grid, the scale and shift at which the levels of n people agree best with their predicted depths.

    span      (minimum, maximum) of the whole map
    outlined  log evidence of the outlines for the map, from `compute_outline_evidence`
    """
    ends = _choose_reference_values(levels.value, span)
    first, second = _make_grid(levels.log_depth, levels.variance)
    low, high = depth_to_value(np.exp(first), kind), depth_to_value(np.exp(second), kind)
    is_ordered = high - low > 1e-6
    slope = np.where(is_ordered, high - low, 1.0) / (ends[1] - ends[0])
    depth = value_to_depth(low[..., None] + slope[..., None] * (levels.value - ends[0]), kind)  # (S, S, n)
    error = np.log(depth) - levels.log_depth
    derivative = slope[..., None] * (depth if kind == "inverse" else 1.0 / depth)  # of log depth, by value
    variance = levels.variance + config.map_bend_sigma**2
    outlier_density = (1 - config.map_person_share) / (span[1] - span[0])
    density = config.map_person_share * np.exp(-0.5 * error**2 / variance) / np.sqrt(2 * np.pi * variance)
    density = density * derivative + outlier_density
    likelihood = np.log(density * (span[1] - span[0])).sum(axis=-1)
    prior = -0.5 * (((first - LOG_DEPTH) / LOG_DEPTH_SIGMA) ** 2 + ((second - LOG_DEPTH) / LOG_DEPTH_SIGMA) ** 2)
    posterior = np.where(is_ordered, likelihood + prior + _penalize_far(low, slope, ends, span, kind), -np.inf)
    best = np.unravel_index(posterior.argmax(), posterior.shape)
    scale = MapScale(ends, np.array([first[best], second[best]]), kind)
    cell_area = (first[1, 0] - first[0, 0]) * (second[0, 1] - second[0, 0])
    norm = np.pi * LOG_DEPTH_SIGMA**2  # half of a Gaussian's: the two depths are ordered
    evidence = np.log(np.exp(posterior - posterior[best]).sum() * cell_area / norm) + posterior[best]
    odds = np.log(config.map_share / (1 - config.map_share)) + evidence + outlined
    return ScaleFit(scale, float(1 / (1 + np.exp(-np.clip(odds, -500, 500)))))


def compute_outline_evidence(
    quartiles: Array, beside: NDArray[np.floating], person: NDArray[np.int64], kind: MapKind
) -> float:
    """Return the log likelihood ratio of the outlines: a map that shows the people against a random map.

    Beside a body, most of a map that shows it is farther than the body; in a random map less than half is.

    quartiles (n, 3)  of the values on the bodies
    beside (c,)       values next to the bodies of the rows person (c,)
    """
    first = quartiles[:, 0 if kind == "inverse" else 2][person]
    known = np.isfinite(beside) & np.isfinite(first)
    farther = (beside < first) if kind == "inverse" else (beside > first)
    count, total = (np.bincount(person[rows], minlength=len(quartiles)) for rows in (known & farther, known))
    is_enough = total >= MIN_BESIDE
    share = np.clip(count[is_enough] / total[is_enough], 0.05, 0.95)
    return float(np.log(_compute_beta_density(share, *SHOWN) / _compute_beta_density(share, *OF_CHANCE)).sum())


def _compute_beta_density(share: Array, a: float, b: float) -> Array:
    """Return the density of the beta distribution at fractions (n,)."""
    norm = math.gamma(a + b) / (math.gamma(a) * math.gamma(b))
    return norm * share ** (a - 1) * (1 - share) ** (b - 1)


def _choose_reference_values(levels: Array, span: tuple[float, float]) -> Array:
    """Return the two values (2,) of a MapScale: quantiles of the levels of people, at least NEAREST_GAP apart."""
    low, high = np.quantile(levels, REFERENCE_QUANTILES)
    lacking = 0.5 * max(NEAREST_GAP * (span[1] - span[0]) - (high - low), 0.0)
    return np.array([low - lacking, high + lacking])


def _make_grid(log_depth: Array, variance: Array) -> tuple[Array, Array]:
    """Return two grids (S, S): log depths at the two levels, from nearer than all people to farther than all people."""
    reach = GRID_SIGMAS * np.sqrt(variance.max())
    axis = np.linspace(log_depth.min() - reach, log_depth.max() + reach, STEPS)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    return first, second


def _penalize_far(low: Array, slope: Array, ends: Array, span: tuple[float, float], kind: MapKind) -> Array:
    """Return the log prior (S, S) that keeps the farthest (or nearest) values of the map in front of the camera."""
    if kind == "depth":
        nearest = low + slope * (span[0] - ends[0])
        return -0.5 * (np.minimum(nearest, 0.0) / 0.2) ** 2
    farthest = low + slope * (span[0] - ends[0])
    return -0.5 * (np.minimum(farthest - 1 / MAX_DEPTH_M, 0.0) / FAR_SIGMA) ** 2


def depth_to_value(depth: Array, kind: MapKind) -> Array:
    """Convert depths z (…) in m to the quantity in which the map is linear, 1 / z or z."""
    return 1.0 / depth if kind == "inverse" else depth


def value_to_depth(reading: Array, kind: MapKind) -> Array:
    """Convert 1 / z or z (…) to depths (…) in m, at most MAX_DEPTH_M."""
    if kind == "inverse":
        return 1.0 / np.maximum(reading, 1.0 / MAX_DEPTH_M)
    return np.clip(reading, 1.0 / MAX_DEPTH_M, MAX_DEPTH_M)
