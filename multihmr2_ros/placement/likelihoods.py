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

"""Terms of the posterior: prior of network and stature, likelihoods of depth and ground. See solver.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.depth import RelativeDepthMap, depth_to_meters
from multihmr2_ros.frame import GroundPlane
from multihmr2_ros.people import People

from .alignment import MapScale
from .config import PlacementConfig
from .surface import NEAREST_DEPTH_M, BodySurface, SurfacePoints, Visibility

Array = NDArray[np.float64]
MIN_POINTS = 4  # minimum number of points of a body that fit the depth image
GROUND_RANGE_M = 1.0  # range of the lowest points of people without ground contact

# Anny's age phenotype → mean and standard deviation of log stature in m. Sampled from Body.compute_stature over the
# other phenotypes of the simulator's population and an age with an uncertainty of 0.05; a test repeats the sampling.
AGE_ANCHORS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 1 / 3, 0.4, 0.45, 0.5, 0.55, 0.6, 2 / 3, 0.75, 0.85, 1.0)
LOG_STATURE = (
    -0.367, -0.278, -0.166, -0.062, 0.044, 0.145, 0.277, 0.348, 0.391, 0.429, 0.467, 0.508, 0.541, 0.550, 0.551, 0.549,
)  # fmt: skip
LOG_STATURE_SIGMA = (
    0.113, 0.136, 0.134, 0.132, 0.130, 0.126, 0.106, 0.094, 0.095, 0.088, 0.085, 0.081, 0.079, 0.078, 0.072, 0.073,
)  # fmt: skip


def stature_prior(age: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (n,) of log stature (m) at age phenotypes (n,) in [0, 1]."""
    return np.interp(age, AGE_ANCHORS, LOG_STATURE), np.interp(age, AGE_ANCHORS, LOG_STATURE_SIGMA)


class PlacementPrior:
    """Prior x ~ N(mean, sigma²) and y | x ~ N(ȳ(x), variance_y) of n people; all arrays are (n,)."""

    def __init__(self, people: People, config: PlacementConfig) -> None:
        shared = config.shared_sigma**2
        variance_x, variance_y = shared + config.own_depth_sigma**2, shared + config.own_stature_sigma**2
        mean, sigma = stature_prior(people.shape[:, 1])
        wanted = mean - np.log(people.stature.astype(np.float64))
        innovation_variance = variance_y + sigma**2
        gain_x, gain_y = shared / innovation_variance, variance_y / innovation_variance
        self.mean, self.mean_y = gain_x * wanted, gain_y * wanted
        self.variance = variance_x - gain_x * shared
        covariance = shared - gain_x * variance_y
        self.slope = covariance / self.variance
        self.variance_y = variance_y - gain_y * variance_y - self.slope * covariance
        self.sigma = np.sqrt(self.variance)

    def predict_scale(self, x: Array) -> Array:
        """Return ȳ (…, n) at x (…, n)."""
        return self.mean_y + self.slope * (x - self.mean)


class DepthLikelihood:
    """Likelihood of a depth image or map at the m surface points that it covers, with all other people kept fixed.

    Arrays are (m,), ordered by person, unless a shape is given:

    person    row of the person
    offset    m, z of the point relative to the pelvis
    values    of the depth image (m) or of the relative map; `rescale` converts the latter to depths
    measured  m, depth
    variance  m², of the depth
    others    m, depth of the nearest surface of any other person
    shown     whether no other person hides the point, at the positions of which the visibility was computed
    weight    sums to the number of independent points over a person
    pelvis    (n,) m, z of the pelvis as predicted by the network
    """

    def __init__(
        self,
        points: SurfacePoints,
        visibility: Visibility,
        pelvis_depth: Array,
        depth: NDArray[np.generic] | RelativeDepthMap,
        config: PlacementConfig,
    ) -> None:
        values: NDArray[np.floating]
        if isinstance(depth, RelativeDepthMap):
            values = depth.values.reshape(-1)[visibility.pixel]
        else:
            values = depth_to_meters(depth.reshape(-1)[visibility.pixel])
        kept = np.flatnonzero(visibility.inside & visibility.before_self & np.isfinite(values))
        self.n = len(pelvis_depth)
        self.values = values[kept]
        self.person = points.person[kept]
        self.offset = points.offset[2, kept]
        self.others = visibility.others_depth[kept]
        self.shown = visibility.before_others[kept]
        self.pelvis = pelvis_depth.astype(np.float32)
        self.config = config
        count = np.bincount(self.person, minlength=self.n)
        area = np.bincount(self.person, points.facing[kept], self.n)
        whole = np.minimum(count, config.independent_points) / np.maximum(area, 1e-9)
        self.weight = (points.facing[kept] * whole[self.person]).astype(np.float32)
        self.count = count
        self.inlier = config.inlier_share / np.sqrt(2 * np.pi)
        self.outlier = (1 - config.inlier_share) / config.outlier_range_m
        self._measure(self.values, config.camera_sigma_per_m * self.values**2)

    def rescale(self, scale: MapScale) -> None:
        """Compute the depths from the values of a relative map with this scale and shift."""
        measured = scale.to_depth(self.values).astype(np.float32)
        self._measure(measured, self.config.map_sigma * measured)

    def _measure(self, measured: NDArray[np.floating], noise: NDArray[np.floating]) -> None:
        self.measured = measured
        self.variance = self.config.surface_sigma_m**2 + noise**2
        self.peak = self.inlier / np.sqrt(self.variance)

    def compute_quartiles(self, scale: MapScale | None, y: Array) -> Array:
        """Return weighted quartiles (n, 3) of a relative map's values at the depth of each pelvis.

        Only points that no other person hides are used; NaN for people with fewer than MIN_POINTS of them. scale: used
        to remove the relief of the bodies, scaled by exp(y), y (n,); None: the relief is not removed.
        """
        values = self.values.astype(np.float64)
        if scale is not None:
            pelvis = self.measured - np.exp(y)[self.person] * self.offset
            values = scale.to_value(np.maximum(pelvis, NEAREST_DEPTH_M))
        quartiles = np.full((self.n, 3), np.nan)
        shown = np.flatnonzero(self.shown)
        count = np.bincount(self.person[shown], minlength=self.n)
        for person, last in enumerate(np.cumsum(count)):
            own = shown[last - count[person] : last]
            if len(own) >= MIN_POINTS:
                quartiles[person] = _compute_quartiles(values[own], self.weight[own])
        return quartiles

    def log_likelihood(self, x: Array, y: Array) -> Array:
        """Return the log likelihood (G, n) on grids x, y (G, n)."""
        x, y = x.astype(np.float32), y.astype(np.float32)
        step_m = (x[1] - x[0]) * self.pelvis
        variance = self.variance + step_m[self.person] ** 2
        predicted = np.repeat(np.exp(y), self.count, axis=1)
        predicted *= self.offset
        predicted += np.repeat(np.exp(x) * self.pelvis, self.count, axis=1)
        np.minimum(predicted, self.others, out=predicted)
        predicted -= self.measured
        predicted *= predicted
        predicted *= -0.5 / variance
        density = np.exp(predicted, out=predicted)
        density *= np.float32(self.inlier) / np.sqrt(variance)
        density += np.float32(self.outlier)
        logarithm = np.log(density, out=density)
        logarithm *= self.weight
        result = np.zeros(x.shape)
        present = np.flatnonzero(self.count)
        if len(present):
            starts = np.cumsum(self.count)[present] - self.count[present]
            result[:, present] = np.add.reduceat(logarithm, starts, axis=1)
        return result

    def expand_quadratic(self, x: Array, y: Array, slope: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return gradient and information (n,) of the log likelihood for x, at x, y (n,) with dy/dx = slope.

        Points are weighted by their responsibilities. The third result is a mask (n,): whether enough of the surface
        that no other person hides fits the depth image.
        """
        of_people = (np.exp(x) * self.pelvis, np.exp(y), slope)
        near, size, size_by_x = (values.astype(np.float32)[self.person] for values in of_people)
        size *= self.offset
        predicted = near + size
        residual = self.measured - predicted
        density = self.peak * np.exp(-0.5 * residual**2 / self.variance)
        shown = predicted < self.others
        fits = self.weight * density / (density + self.outlier) * shown
        derivative = near + size_by_x * size
        pull = fits * derivative / self.variance
        gradient = self._sum(pull * residual)
        information = self._sum(pull * derivative)
        share = self._sum(fits) / np.maximum(self._sum(self.weight * shown), 1e-9)
        enough = (share > self.config.least_inlier_share) & (share * self._sum(shown) >= MIN_POINTS)
        return gradient, information, enough

    def _sum(self, values: NDArray[np.floating] | NDArray[np.bool_]) -> Array:
        """Sum values (m,) over each person's points: (n,)."""
        return np.bincount(self.person, values, self.n).astype(np.float64)


class GroundLikelihood:
    """Likelihood of the ground plane at the lowest points of n people.

    pelvis_position  (n, 3) m, pelvises as predicted by the network, camera frame
    lowest_offset    (n, 3) m, lowest points relative to the pelvises
    pelvis, below    (n,) m, components of pelvis_position and lowest_offset along the ground's normal
    """

    def __init__(self, people: People, surface: BodySurface, ground: GroundPlane, config: PlacementConfig) -> None:
        lowest = surface.find_lowest(people.vertices, ground.normal)
        self.pelvis_position = people.pelvis.astype(np.float64)
        self.lowest_offset = people.vertices[np.arange(len(people)), lowest] - self.pelvis_position
        self.below = self.lowest_offset @ ground.normal
        self.pelvis = self.pelvis_position @ ground.normal
        self.offset = ground.offset_m
        self.variance = config.ground_sigma_m**2
        self.share = config.standing_share

    def locate_lowest(self, x: Array, y: Array) -> NDArray[np.float32]:
        """Return the lowest points (3, n) m, camera frame, at x, y (n,)."""
        return (np.exp(x) * self.pelvis_position.T + np.exp(y) * self.lowest_offset.T).astype(np.float32)

    def compute_height(self, x: Array, y: Array) -> Array:
        """Return the heights (…, n) m of the lowest points above the ground."""
        return np.exp(x) * self.pelvis + np.exp(y) * self.below - self.offset

    def compute_inlier_density(self, x: Array, y: Array, variance_y: Array) -> tuple[Array, Array]:
        """Return the density (…, n) for people touching the ground, and the variance (…, n) m² of the height."""
        variance = self.variance + (np.exp(y) * self.below) ** 2 * variance_y
        return self.share * np.exp(-0.5 * self.compute_height(x, y) ** 2 / variance) / np.sqrt(
            2 * np.pi * variance
        ), variance

    def log_likelihood(self, x: Array, y: Array, variance_y: Array) -> Array:
        """Return the log likelihood (G, n) on grids x, y (G, n), for visible lowest points."""
        density, _ = self.compute_inlier_density(x, y, variance_y)
        return np.log(density + (1 - self.share) / GROUND_RANGE_M)

    def expand_quadratic(
        self, x: Array, y: Array, prior: PlacementPrior, visible: NDArray[np.bool_]
    ) -> tuple[Array, Array, Array]:
        """Return gradient and information (n,) for x, at x, y (n,), and the correction (n,) of y by the height."""
        density, variance = self.compute_inlier_density(x, y, prior.variance_y)
        touches = visible * density / (density + (1 - self.share) / GROUND_RANGE_M)
        height, by_y = self.compute_height(x, y), np.exp(y) * self.below
        derivative = np.exp(x) * self.pelvis + prior.slope * by_y
        pull = touches * derivative / variance
        return -pull * height, pull * derivative, -touches * prior.variance_y * by_y * height / variance


def _compute_quartiles(values: Array, weights: NDArray[np.floating]) -> Array:
    """Return the weighted quartiles (3,) of values (m,), m at least 1."""
    order = values.argsort()
    total = np.cumsum(weights[order])
    return values[order[np.searchsorted(total, np.array([0.25, 0.5, 0.75]) * total[-1])]]
