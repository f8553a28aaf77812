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

"""Positions of all people of an image, refined with depth and ground: the maximum of a joint posterior.

After the idea of depth-conditioned translation optimization (Wang et al., Towards Metric-Aware Multi-Person Mesh
Recovery by Jointly Optimizing Human Crowd in Camera Space, 2025), of which only the abstract was used: the
derivation is our own. One model covers a depth camera, whose scale and shift are known, in a few milliseconds per
image, and the depth map of a single-image network, whose scale and shift are estimated together with the people.

Variables. The network predicts the direction of a person much better than the distance, so a pelvis p stays on its
viewing ray: it moves to exp(x) p, and the body around it is scaled by exp(y). A surface point p + q moves to
exp(x) p + exp(y) q; for y = x, the image does not change. Each person has two unknowns, x and y; the network's
prediction is x = y = 0. A relative map adds two unknowns per image, its scale and shift θ: z(r; θ) is the depth (m) at
a value r of the map, with 1 / z or z linear in r and increasing. For a depth camera z(r) = r, without unknowns.

Prior. A small body and a large one farther away look the same. So the network's errors of log depth and log stature
have a common part c beside their own parts a and b: (x, y) ~ N(0, [[a² + c², c²], [c², b² + c²]]). Given the age, the
body model itself gives a log-normal stature H exp(y): y ~ N(μ(age) − log H, τ(age)²). The product is Gaussian:
x ~ N(m, s²) and y | x ~ N(ȳ(x), v), with ȳ linear in x. This keeps position and scale consistent: when any cue moves a
body, its scale follows by the regression ȳ, from 1:1 (only c; the image does not change) to not at all (c = 0).
θ is represented by the log depths at two values of the map, the quartiles of the people's levels (below), each
N(log 4 m, 1), a weak prior.

Depth. Surface points j that face the camera project to pixels with values r_j, that is, depths d_j = z(r_j; θ). The
visible surface there is the nearest of all people: f_j(x) = min(exp(x) p_z + exp(ȳ(x)) q_z, o_j), with o_j the nearest
surface of all other people. Then d_j ~ w N(f_j, σ_j²) + (1 − w) / R; the second term covers occluders, background and
edges. σ_j grows with the squared depth for a depth camera, and with the depth for a relative map. Holes are ignored.
Points are weighted by their visible area, and a body's weights sum to at most `independent_points`, because a wrong
pose moves whole limbs; the error of the whole surface relative to the pelvis is added to the variance of the result. A
relative map is also bent: at a whole person, its log depth is off by e ~ N(0, κ²), and e is integrated out. If too few
of the points that no other person hides fit, the body is hidden or does not exist, and its depths are not used.

Ground. For people standing on the plane, the lowest point has height h(x, y) ≈ 0: h ~ w N(0, σ²) + (1 − w) / 1 m.
h is linear in exp(y); integrating y | x out leaves N(h(x, ȳ(x)); 0, σ² + (∂h/∂y)² v), and y is then corrected by the
remaining h (with the Kalman gain). The ground is used only if the lowest point is in the image and no person hides it.

Scale and shift. The level ℓ_i of person i is the map's value at the depth of the pelvis: the weighted median of the
values where no other person hides the body, without the relief of the body. With x_i integrated out and a fraction
1 − π of wrong levels,
p(ℓ | θ) = Π_i [π N(log z(ℓ_i; θ); log p_z + m_i, s_i² + κ²) ∂log z/∂r + (1 − π) / span of the map]. In this product the
statures of all people determine the scale (`alignment.py`). θ starts at its maximum on a grid. The sum over the grid is
the evidence that the map shows these people; a random map has the evidence Π_i 1 / span. Beside the bodies, a map that
shows them is mostly farther away, which adds evidence. Positions are averaged over the two hypotheses, so that a
useless map changes almost nothing.

Optimization. The posterior of x alone has several modes (two people at one pixel), so it is evaluated on a grid, at
GRID_SIGMAS times s, with σ_j no finer than the grid. Expectation maximization follows from the best value: Gauss–Newton
steps with the points weighted by their responsibilities. People depend on each other only through θ, o_j and the pixels
that they are compared at. For θ, the steps eliminate all x (the Schur complement is 2 × 2); its covariance adds
J Σ_θ Jᵀ to the covariance of all people: an uncertain scale moves all of them together. For the rest, there are two
sweeps over all people. The second starts at the positions of the first, which corrects people predicted in the
wrong order of depth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.depth import RelativeDepthMap
from multihmr2_ros.frame import GroundPlane
from multihmr2_ros.people import People, PlacementCue

from .alignment import LOG_DEPTH, LOG_DEPTH_SIGMA, DepthLevels, MapScale, ScaleFit, compute_outline_evidence, fit_scale
from .config import PlacementConfig
from .likelihoods import DepthLikelihood, GroundLikelihood, PlacementPrior
from .surface import BodySurface, PersonDepthBuffers, find_facing_points

Array = NDArray[np.float64]
SWEEPS = 2
GRID_SIGMAS = np.linspace(-3.5, 3.5, 31)
REFINEMENTS = 3
MAX_STEP = 0.05
SCALE_ROUNDS = 2  # the first with the levels of whole bodies, the second with the levels of pelvises
MIN_PEOPLE = 2  # for a relative map: with one person, scale and distance cannot be separated
EPSILON = 1e-9
MIN_GROUND_INFORMATION = 0.1  # minimum information of the ground, relative to the prior, for the cue GROUND


class Maxima(NamedTuple):
    """Maximum of the posterior of n people.

    x, y (n,), covariance of x (n, n), cue (n,) a PlacementCue, and the probability that the relative map shows these
    people.
    """

    x: Array
    y: Array
    covariance: Array
    cue: NDArray[np.int64]
    map_probability: float = math.nan


class _Gradient(NamedTuple):
    """Gradient (n,) of a log likelihood with respect to each person's x, and its information (n,)."""

    gradient: Array
    information: Array


class PlacementSolver:
    """Posterior of n people, all in front of the camera.

    grid, grid_y  (G, n) x and ȳ(x)
    by_prior      (G, 1) log prior on the grid
    by_ground     (G, n) log likelihood of the ground on the grid, valid for visible lowest points
    """

    def __init__(
        self,
        people: People,
        surface: BodySurface,
        depth: NDArray[np.generic] | RelativeDepthMap | None,
        ground: GroundPlane | None,
        config: PlacementConfig,
    ) -> None:
        self.people, self.surface, self.depth, self.config = people, surface, depth, config
        self.pelvis_depth = people.pelvis[:, 2].astype(np.float64)
        self.prior = PlacementPrior(people, config)
        self.points = find_facing_points(people.vertices, people.pelvis, surface)
        self.ground_likelihood = None if ground is None else GroundLikelihood(people, surface, ground, config)
        self.grid = self.prior.mean + self.prior.sigma * GRID_SIGMAS[:, None]
        self.grid_y = self.prior.predict_scale(self.grid)
        self.by_prior, self.by_ground = -0.5 * GRID_SIGMAS[:, None] ** 2, np.zeros_like(self.grid)
        if self.ground_likelihood is not None:
            self.by_ground = self.ground_likelihood.log_likelihood(self.grid, self.grid_y, self.prior.variance_y)

    def solve(self) -> Maxima:
        if isinstance(self.depth, RelativeDepthMap):
            return self._solve_relative(self.depth)
        x = y = np.zeros(len(self.people))
        for _ in range(SWEEPS):
            depths, lowest_visible = self._compute_visibility(x, y)
            x, fits = self._search(depths, lowest_visible)
            y = self.prior.predict_scale(x)
        return self._maximize(x, depths, None, fits, lowest_visible)

    def _solve_relative(self, depth: RelativeDepthMap) -> Maxima:
        span, fit, x = depth.compute_range(), None, self.prior.mean
        for _ in range(SWEEPS):
            depths, lowest_visible = self._compute_visibility(x, self.prior.predict_scale(x))
            if span is not None and depths is not None:
                fit = self._fit_scale(depths, depth, span, None if fit is None else fit.scale)
            if fit is None:
                break
            x, fits = self._search(depths, lowest_visible, self.config.map_bend_sigma)
        x_without_map, no_fits = self._search(None, lowest_visible)
        without_map = self._maximize(x_without_map, None, None, no_fits, lowest_visible)
        if fit is None:
            return without_map._replace(map_probability=0.0)
        with_map = self._maximize(x, depths, fit.scale, fits, lowest_visible)
        return _average_maxima(with_map, without_map, fit.probability)

    def _compute_visibility(self, x: Array, y: Array) -> tuple[DepthLikelihood | None, NDArray[np.bool_]]:
        """Return the depth likelihood with people at x, y (n,), and a mask (n,) of visible lowest points."""
        n, person = len(self.people), self.points.person
        near = (np.exp(x) * self.people.pelvis.T).astype(np.float32)
        points = near.take(person, axis=1) + np.exp(y).astype(np.float32)[person] * self.points.offset
        self.buffers = buffers = PersonDepthBuffers(
            points, person, n, self.people.k, self.people.image_size, self.surface.spacing_m
        )
        depths, lowest_visible = None, np.zeros(n, bool)
        if self.depth is not None:
            depths = DepthLikelihood(
                self.points,
                buffers.compute_visibility(buffers.pixels, person),
                self.pelvis_depth,
                self.depth,
                self.config,
            )
        if self.ground_likelihood is not None:
            lowest = self.ground_likelihood.locate_lowest(x, y)
            visibility = buffers.compute_visibility(buffers.project(lowest), np.arange(n))
            lowest_visible = visibility.inside & visibility.before_others
        return depths, lowest_visible

    def _fit_scale(
        self, depths: DepthLikelihood, depth: RelativeDepthMap, span: tuple[float, float], scale: MapScale | None
    ) -> ScaleFit | None:
        """Fit the scale and shift of a relative map and set them in `depths`; None with fewer than MIN_PEOPLE levels.

        scale: of the last sweep.
        """
        prior, fit = self.prior, None
        y = prior.predict_scale(prior.mean)
        pixels, person = self.buffers.find_cells_beside()
        beside = depth.values.reshape(-1)[pixels]
        outlined = compute_outline_evidence(depths.compute_quartiles(None, y), beside, person, depth.kind)
        log_depth = np.log(self.pelvis_depth) + prior.mean
        if scale is not None:
            depths.rescale(scale)
        for _ in range(SCALE_ROUNDS if scale is None else 1):
            levels = DepthLevels.from_quartiles(depths.compute_quartiles(scale, y), log_depth, prior.variance)
            if len(levels.value) < MIN_PEOPLE:
                break
            fit = fit_scale(levels, span, depth.kind, outlined, self.config)
            scale = fit.scale
            depths.rescale(scale)
        return fit

    def _search(
        self, depths: DepthLikelihood | None, lowest_visible: NDArray[np.bool_], bend_sigma: float = 0.0
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Return the best x (n,) on the grid, and whether (n,) the depth image is used.

        bend_sigma: standard deviation of the error of the log depth at a whole person.
        """
        columns = np.arange(len(lowest_visible))
        posterior = self.by_prior + self.by_ground * lowest_visible
        x = self.grid[posterior.argmax(axis=0), columns]
        if depths is None:
            return x, np.zeros(len(x), bool)
        likelihood = depths.log_likelihood(self.grid, self.grid_y)
        posterior += self._convolve_bend(likelihood, bend_sigma) if bend_sigma else likelihood
        by_depth = self.grid[posterior.argmax(axis=0), columns]
        fits = depths.expand_quadratic(by_depth, self.prior.predict_scale(by_depth), self.prior.slope)[2]
        return np.where(fits, by_depth, x), fits

    def _convolve_bend(self, log_likelihood: Array, sigma: float) -> Array:
        """Return the log likelihood (G, n) on the grid, convolved with an error of x with standard deviation sigma."""
        best = log_likelihood.max(axis=0)
        distance = (GRID_SIGMAS[:, None] - GRID_SIGMAS) * self.prior.sigma[:, None, None] / sigma
        kernel = np.exp(-0.5 * distance**2)
        spread = (kernel / kernel.sum(axis=1, keepdims=True)) @ np.exp(log_likelihood - best).T[..., None]
        return np.log(spread[..., 0].T) + best

    def _maximize(
        self,
        x: Array,
        depths: DepthLikelihood | None,
        scale: MapScale | None,
        fits: NDArray[np.bool_],
        lowest_visible: NDArray[np.bool_],
    ) -> Maxima:
        """Climb from x (n,) to the next maximum.

        fits, lowest_visible: masks (n,) of the people whose depths and whose lowest points are used.
        """
        prior, n = self.prior, len(x)
        nothing = _Gradient(np.zeros(n), np.zeros(n))
        by_depth, by_ground, gain, shared = nothing, nothing, np.zeros(n), np.zeros((n, n))
        for _ in range(REFINEMENTS):
            y = prior.predict_scale(x)
            own = _Gradient((prior.mean - x) / prior.variance, 1 / prior.variance)
            if self.ground_likelihood is not None:
                *ground, gain = self.ground_likelihood.expand_quadratic(x, y, prior, lowest_visible)
                by_ground = _Gradient(*ground)
                own = _Gradient(own.gradient + by_ground.gradient, own.information + by_ground.information)
            if depths is not None:
                gradient, information, _ = depths.expand_quadratic(x, y, prior.slope)
                by_depth = _Gradient(gradient * fits, information * fits)
            if scale is not None and depths is not None:
                by_depth = _soften_gradient(by_depth, self.config.map_bend_sigma)
                scale, by_depth, shared = self._rescale(scale, x, own, by_depth)
                depths.rescale(scale)
            gradient, information = own.gradient + by_depth.gradient, own.information + by_depth.information
            x = x + np.clip(gradient / information, -MAX_STEP, MAX_STEP)
        common = self.config.common_surface_sigma_m / (np.exp(x) * self.pelvis_depth)
        common *= by_depth.information / information
        grounded = by_ground.information > MIN_GROUND_INFORMATION / prior.variance
        return Maxima(
            x=x,
            y=prior.predict_scale(x) + gain,
            covariance=np.diag(1 / information + common**2) + shared,
            cue=np.where(fits, PlacementCue.DEPTH, np.where(grounded, PlacementCue.GROUND, PlacementCue.PRIOR)).astype(
                np.int64
            ),
        )

    def _rescale(
        self, scale: MapScale, x: Array, own: _Gradient, by_depth: _Gradient
    ) -> tuple[MapScale, _Gradient, Array]:
        """Take one step of the scale with the x of all people eliminated.

        Returns the new scale, the map's gradient at it, and the covariance (n, n) that the uncertain scale adds to x.
        """
        jacobian = scale.compute_derivative(np.exp(x) * self.pelvis_depth)
        off = by_depth.gradient / np.maximum(by_depth.information, EPSILON)
        weight = by_depth.information * own.information / (by_depth.information + own.information)
        information = (jacobian.T * weight) @ jacobian + np.eye(2) / LOG_DEPTH_SIGMA**2
        gradient = (jacobian.T * weight) @ (own.gradient / own.information - off)
        gradient += (LOG_DEPTH - scale.log_depth) / LOG_DEPTH_SIGMA**2
        step = np.clip(np.linalg.solve(information, gradient), -MAX_STEP, MAX_STEP)
        moved = _Gradient(by_depth.information * (off + jacobian @ step), by_depth.information)
        follow = (by_depth.information / (by_depth.information + own.information))[:, None] * jacobian
        return scale.add_step(step), moved, follow @ np.linalg.inv(information) @ follow.T


def _average_maxima(with_map: Maxima, without_map: Maxima, probability: float) -> Maxima:
    """Average the maxima with and without a map (Bayesian model average); probability: of the map."""
    shift = with_map.x - without_map.x
    covariance = probability * with_map.covariance + (1 - probability) * without_map.covariance
    covariance = covariance + probability * (1 - probability) * np.outer(shift, shift)
    return Maxima(
        x=without_map.x + probability * shift,
        y=without_map.y + probability * (with_map.y - without_map.y),
        covariance=covariance,
        cue=with_map.cue if probability > 0.5 else without_map.cue,
        map_probability=probability,
    )


def _soften_gradient(gradient: _Gradient, sigma: float) -> _Gradient:
    """Return the gradient of a likelihood with an additional error of x with standard deviation sigma."""
    factor = 1 / (1 + gradient.information * sigma**2)
    return _Gradient(gradient.gradient * factor, gradient.information * factor)
