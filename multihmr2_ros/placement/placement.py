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

"""The places of all people of an image together, by what is known beside the image: maximum a posteriori.

After the idea of depth-conditioned translation optimization (Wang et al., Towards Metric-Aware Multi-Person Mesh
Recovery by Jointly Optimizing Human Crowd in Camera Space, 2025), of which only the abstract was at hand: the
derivation is our own. One model serves a depth camera, whose scale and shift are known, at frames of a few
milliseconds, and a depth map of a single-image network, whose scale and shift are found with the people.

Variables. The network says where in the image a person is far better than how far away, so a pelvis p stays on its
ray: it moves to exp(x) p, and the body about it is scaled by exp(y). A point of the surface at p + q comes to
exp(x) p + exp(y) q; where y = x, the image does not change at all. Per person two unknowns, x and y, both 0 where
the network put them. Per image two more, the depth's scale and shift θ: z(r; θ) is the depth (m) at a value r of the
map, with 1 / z or z linear in r and growing with it. Of a depth camera z(r) = r, and θ is no unknown.

Prior. An image cannot tell a small body from a large one that is farther: the network's errors of log depth and log
stature share a part c, beside own parts a and b, so (x, y) ~ N(0, [[a² + c², c²], [c², b² + c²]]). The stature H exp(y)
is, given the age, log-normal by the body model itself: y ~ N(μ(age) − log H, τ(age)²). Their product is Gaussian:
x ~ N(m, s²) and y | x ~ N(ȳ(x), v), with ȳ linear in x. This is how place and scale stay consistent: whatever
moves a body, its scale follows by the regression ȳ, from 1:1 (only c: the image stays as it is) to none (c = 0).
θ is given by the log depths at two values of the map, each N(log 4 m, 1), so that it is nearly free.

Depth. Points j of the surface that face the camera are seen at pixels with values r_j, of depth d_j = z(r_j; θ). The
surface there is the nearest of all people's: f_j(x) = min(exp(x) p_z + exp(ȳ(x)) q_z, o_j), with o_j the nearest
surface of anybody else. Then d_j ~ w N(f_j, σ_j²) + (1 − w) / R: the second part is for occluders, background and
edges. σ_j grows with the squared depth as a depth camera's noise does, or with the depth, as a relative map's. Holes
say nothing. Points count by what is seen of their area, and all together no more than `independent_points`, because a
wrong pose moves whole limbs; what moves the whole surface against the pelvis is added to the result's variance. A
relative map is bent, besides: at a whole person it is off by e ~ N(0, κ²) in log depth, and e is integrated out. A
body that too few of the points fit is behind a wall, or not there: its depths do not count.

Ground. The lowest point is at height h(x, y) over the plane, for those who stand on it: h ~ w N(0, σ²) + (1 − w) / 1 m.
h is linear in exp(y); integrating y | x out leaves N(h(x, ȳ(x)); 0, σ² + (∂h/∂y)² v), and y then takes its share of
what remains of h (the Kalman gain). It counts only where the lowest point is in the image and nobody is before it.

Scale and shift. Person i's level ℓ_i is the map's value at the depth of the pelvis: the weighted median of the points'
values, the relief of the body taken out. With x_i integrated out, and a share of people whose level is wrong anyway,
p(ℓ | θ) = Π_i [π N(log z(ℓ_i; θ); log p_z + m_i, s_i² + κ²) ∂log z/∂r + (1 − π) / span of the map]. All people's
statures give the scale in this product (`alignment.py`). θ starts from its maximum on a grid. The sum over the grid is
the evidence that the map shows these people, Π_i 1 / span is that of a map of chance; beside the bodies, a map that
shows them is mostly farther, which is evidence, too. Places are averaged over the two hypotheses, so that a useless map
changes next to nothing.

Minimum. The posterior over x alone has several modes (two people at one pixel), so it is evaluated on a grid, at
GRID_SIGMAS times s, with σ_j no finer than the grid; then expectation maximization, whose steps are Gauss–Newton's with
the points weighted by their responsibility, from the best value. People depend on each other by θ, by o_j and by the
pixels that they are compared at, only. For θ, the steps eliminate all x (the Schur complement is 2 × 2); its covariance
there adds to everybody's, J Σ_θ Jᵀ: an uncertain scale moves all together. For the rest, two sweeps over everybody, the
second from the first's places, which puts people who were predicted in the wrong order right.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.depth import RelativeDepth, check_depth
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Ground
from multihmr2_ros.people import People, PlacementCue

from .alignment import LOG_DEPTH, LOG_DEPTH_SIGMA, Fit, Levels, Scale, fit_scale, outline_evidence
from .config import PlacementConfig
from .likelihoods import Depths, Prior, Soles
from .surface import NEAREST_DEPTH_M, BodySurface, View, facing_points

Array = NDArray[np.float64]
SWEEPS = 2
GRID_SIGMAS = np.linspace(-3.5, 3.5, 31)
REFINEMENTS = 3
LONGEST_STEP = 0.05
POINTS_AT_ONCE = 128
SCALE_ROUNDS = 2  # the first with the levels of whole bodies, the second with those of pelvises
MIN_PEOPLE = 2  # with a relative map: one person's distance says its scale, but nothing says the distance
TINY = 1e-9
GROUND_TELLS = 0.1  # times what the prior knows: less is not said to inform a place


@dataclass(frozen=True, eq=False)
class Placement:
    """n people at their refined places.

    people           as given, but pelvis, joints, joints_2d, vertices, bone_poses and stature; shape stays the
                     network's
    distance_sigma_m (n,) standard deviation of the pelvis's distance to the camera; NaN where nothing is known
    cue              (n,) int64, a PlacementCue
    distance_covariance (n, n) m², of the distances: an uncertain scale of the map moves all people together
    map_probability  of a relative map: how sure it is that the map shows these people; NaN without one
    """

    people: People
    distance_sigma_m: Array
    cue: NDArray[np.int64]
    distance_covariance: Array
    map_probability: float = math.nan


def place_people(
    people: People,
    surface: BodySurface,
    depth: NDArray[np.generic] | RelativeDepth | None = None,
    ground: Ground | None = None,
    config: PlacementConfig | None = None,
) -> Placement:
    """The people of one picture where the posterior has its maximum.

    people: with the mesh of `surface`. depth (H, W): uint16 mm or float m, registered to the image (its size, its K);
    0, NaN and infinite are holes; or a relative map. ground: in the camera's frame. People who are not before the
    camera stay as they are.

    Raises UserError for a depth image that is none or of another size, and for people without the mesh.
    """
    check_depth(depth, people.image_size)
    n = len(people)
    if n and people.vertices.shape[1] != surface.vertex_count:
        raise UserError(
            f"placement needs people with the mesh of its surface, {surface.vertex_count} vertices, got "
            f"{people.vertices.shape[1]}; ask for that mesh"
        )
    covariance, cue = np.full((n, n), np.nan), np.full(n, int(PlacementCue.PRIOR))
    rows = np.flatnonzero((people.pelvis[:, 2] > NEAREST_DEPTH_M) & np.isfinite(people.pelvis).all(axis=1))
    if not len(rows):
        return Placement(people, np.full(n, np.nan), cue, covariance)
    everybody = len(rows) == n
    solver = _Solver(people if everybody else people.select(rows), surface, depth, ground, config or PlacementConfig())
    peaks = solver.solve()
    distance = np.exp(peaks.x) * np.linalg.norm(people.pelvis[rows], axis=1)
    covariance[np.ix_(rows, rows)] = peaks.covariance * np.outer(distance, distance)
    cue[rows] = peaks.cue
    along, scale = np.ones(n, np.float32), np.ones(n, np.float32)
    along[rows], scale[rows] = np.exp(peaks.x), np.exp(peaks.y)
    sigma_m = np.sqrt(np.diag(covariance))
    return Placement(_moved(people, along, scale), sigma_m, cue, covariance, peaks.map_probability)


def _moved(people: People, along: NDArray[np.float32], scale: NDArray[np.float32]) -> People:
    """The people with every pelvis `along` (n,) times as far on its ray, and every body `scale` (n,) times as large."""
    # along · p + scale · (v − p) = scale · (v + (along / scale − 1) · p)
    shifts = np.tile(people.pelvis * (along / scale - 1)[:, None], POINTS_AT_ONCE)
    joints, vertices = (_shifted_and_scaled(points, shifts, scale) for points in (people.joints, people.vertices))
    bone_poses = people.bone_poses.copy()
    for axis in range(3):
        bone_poses[:, :, axis, 3] *= scale[:, None]
    return dataclasses.replace(
        people,
        joints=joints,
        joints_2d=project(joints.astype(np.float64), people.k).astype(np.float32),
        pelvis=joints[:, 0],
        vertices=vertices,
        bone_poses=bone_poses,
        stature=people.stature * scale,
    )


def _shifted_and_scaled(
    points: NDArray[np.float32], shifts: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """scale (n,) · (points (n, P, 3) + shift (n, 3)); shifts: repeated for many points, as NumPy is slow along 3."""
    rows = points.reshape(len(points), -1)
    n, length = shifts.shape
    whole = rows.shape[1] - rows.shape[1] % length
    result = np.empty(rows.shape, np.float32)
    np.add(rows[:, :whole].reshape(n, -1, length), shifts[:, None], out=result[:, :whole].reshape(n, -1, length))
    np.add(rows[:, whole:], shifts[:, : rows.shape[1] - whole], out=result[:, whole:])
    result *= scale[:, None]
    return result.reshape(points.shape)


class _Peaks(NamedTuple):
    """The maxima of n people: x, y, covariance of x (n, n), PlacementCue (n,), and the probability that the map shows
    them."""

    x: Array
    y: Array
    covariance: Array
    cue: NDArray[np.int64]
    map_probability: float = math.nan


class _Pull(NamedTuple):
    """Per person (n,): the gradient of a likelihood's logarithm by x, and its information."""

    gradient: Array
    information: Array


class _Solver:
    """The posterior of n people, all before the camera.

    grid, grid_y (G, n): x and ȳ(x). by_prior (G, 1) and by_ground (G, n): logarithms of the prior and of the ground's
    likelihood there, for lowest points that are visible.
    """

    def __init__(
        self,
        people: People,
        surface: BodySurface,
        depth: NDArray[np.generic] | RelativeDepth | None,
        ground: Ground | None,
        config: PlacementConfig,
    ) -> None:
        self.people, self.surface, self.depth, self.config = people, surface, depth, config
        self.pelvis_depth = people.pelvis[:, 2].astype(np.float64)
        self.prior = Prior(people, config)
        self.points = facing_points(people.vertices, people.pelvis, surface)
        self.soles = None if ground is None else Soles(people, surface, ground, config)
        self.grid = self.prior.mean + self.prior.sigma * GRID_SIGMAS[:, None]
        self.grid_y = self.prior.scale(self.grid)
        self.by_prior, self.by_ground = -0.5 * GRID_SIGMAS[:, None] ** 2, np.zeros_like(self.grid)
        if self.soles is not None:
            self.by_ground = self.soles.log_likelihood(self.grid, self.grid_y, self.prior.variance_y)

    def solve(self) -> _Peaks:
        if isinstance(self.depth, RelativeDepth):
            return self._solve_relative(self.depth)
        x = y = np.zeros(len(self.people))
        for _ in range(SWEEPS):
            depths, standing = self._see(x, y)
            x, fits = self._search(depths, standing)
            y = self.prior.scale(x)
        return self._climb(x, depths, None, fits, standing)

    def _solve_relative(self, depth: RelativeDepth) -> _Peaks:
        span, fit, x = depth.range(), None, self.prior.mean
        for _ in range(SWEEPS):
            depths, standing = self._see(x, self.prior.scale(x))
            if span is not None and depths is not None:
                fit = self._scale(depths, depth, span, None if fit is None else fit.scale)
            if fit is None:
                break
            x, fits = self._search(depths, standing, self.config.map_bend_sigma)
        alone, nobody = self._search(None, standing)
        without = self._climb(alone, None, None, nobody, standing)
        if fit is None:
            return without._replace(map_probability=0.0)
        return _averaged(self._climb(x, depths, fit.scale, fits, standing), without, fit.probability)

    def _see(self, x: Array, y: Array) -> tuple[Depths | None, NDArray[np.bool_]]:
        """What is to be seen with everybody at x, y (n,): depths, and whose lowest point is (n,)."""
        n, person = len(self.people), self.points.person
        near = (np.exp(x) * self.people.pelvis.T).astype(np.float32)
        points = near.take(person, axis=1) + np.exp(y).astype(np.float32)[person] * self.points.offset
        self.view = view = View(points, person, n, self.people.k, self.people.image_size, self.surface.spacing_m)
        depths, standing = None, np.zeros(n, bool)
        if self.depth is not None:
            depths = Depths(self.points, view.sight(view.pixels, person), self.pelvis_depth, self.depth, self.config)
        if self.soles is not None:
            soles = self.soles.where(x, y)
            sight = view.sight(view.project(soles), np.arange(n))
            standing = sight.inside & (soles[2] < sight.others_depth)
        return depths, standing

    def _scale(
        self, depths: Depths, depth: RelativeDepth, span: tuple[float, float], scale: Scale | None
    ) -> Fit | None:
        """The most likely scale and shift of a relative map, which depths take on; scale: of the sweep before. None
        where too few people have a level."""
        prior, fit = self.prior, None
        y = prior.scale(prior.mean)
        pixels, person = self.view.beside()
        beside = depth.values.reshape(-1)[pixels]
        outlined = outline_evidence(depths.quartiles(None, y), beside, person, depth.kind)
        log_depth = np.log(self.pelvis_depth) + prior.mean
        if scale is not None:
            depths.rescale(scale)
        for _ in range(SCALE_ROUNDS if scale is None else 1):
            levels = Levels.of(depths.quartiles(scale, y), log_depth, prior.variance)
            if len(levels.value) < MIN_PEOPLE:
                break
            fit = fit_scale(levels, span, depth.kind, outlined, self.config)
            scale = fit.scale
            depths.rescale(scale)
        return fit

    def _search(
        self, depths: Depths | None, standing: NDArray[np.bool_], bend_sigma: float = 0.0
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Everybody's best value on the grid (n,), and whether (n,) the depth image counts. bend_sigma: of x, by what
        the depth image is off at whole people."""
        everybody = np.arange(len(standing))
        posterior = self.by_prior + self.by_ground * standing
        x = self.grid[posterior.argmax(axis=0), everybody]
        if depths is None:
            return x, np.zeros(len(x), bool)
        likelihood = depths.log_likelihood(self.grid, self.grid_y)
        posterior += self._bent(likelihood, bend_sigma) if bend_sigma else likelihood
        by_depth = self.grid[posterior.argmax(axis=0), everybody]
        fits = depths.quadratic(by_depth, self.prior.scale(by_depth), self.prior.slope)[2]
        return np.where(fits, by_depth, x), fits

    def _bent(self, log_likelihood: Array, sigma: float) -> Array:
        """The logarithm (G, n) of a likelihood on the grid whose x may be off by sigma."""
        best = log_likelihood.max(axis=0)
        apart = (GRID_SIGMAS[:, None] - GRID_SIGMAS) * self.prior.sigma[:, None, None] / sigma
        kernel = np.exp(-0.5 * apart**2)
        spread = (kernel / kernel.sum(axis=1, keepdims=True)) @ np.exp(log_likelihood - best).T[..., None]
        return np.log(spread[..., 0].T) + best

    def _climb(
        self,
        x: Array,
        depths: Depths | None,
        scale: Scale | None,
        fits: NDArray[np.bool_],
        standing: NDArray[np.bool_],
    ) -> _Peaks:
        """The maximum next to x (n,); fits (n,): for whom the depth image counts; standing (n,): whose lowest point
        does."""
        prior, n = self.prior, len(x)
        nothing = _Pull(np.zeros(n), np.zeros(n))
        by_depth, by_ground, gain, shared = nothing, nothing, np.zeros(n), np.zeros((n, n))
        for _ in range(REFINEMENTS):
            y = prior.scale(x)
            own = _Pull((prior.mean - x) / prior.variance, 1 / prior.variance)
            if self.soles is not None:
                *ground, gain = self.soles.quadratic(x, y, prior, standing)
                by_ground = _Pull(*ground)
                own = _Pull(own.gradient + by_ground.gradient, own.information + by_ground.information)
            if depths is not None:
                gradient, information, _ = depths.quadratic(x, y, prior.slope)
                by_depth = _Pull(gradient * fits, information * fits)
            if scale is not None and depths is not None:
                by_depth = _softened(by_depth, self.config.map_bend_sigma)
                scale, by_depth, shared = self._rescale(scale, x, own, by_depth)
                depths.rescale(scale)
            gradient, information = own.gradient + by_depth.gradient, own.information + by_depth.information
            x = x + np.clip(gradient / information, -LONGEST_STEP, LONGEST_STEP)
        common = self.config.common_surface_sigma_m / (np.exp(x) * self.pelvis_depth)
        common *= by_depth.information / information
        grounded = by_ground.information > GROUND_TELLS / prior.variance
        return _Peaks(
            x=x,
            y=prior.scale(x) + gain,
            covariance=np.diag(1 / information + common**2) + shared,
            cue=np.where(fits, PlacementCue.DEPTH, np.where(grounded, PlacementCue.GROUND, PlacementCue.PRIOR)).astype(
                np.int64
            ),
        )

    def _rescale(self, scale: Scale, x: Array, own: _Pull, by_depth: _Pull) -> tuple[Scale, _Pull, Array]:
        """One step of the scale with all people's x eliminated, the map's pull (n,) after it, and the covariance (n, n)
        that the uncertain scale adds to x (n,)."""
        jacobian = scale.derivative(np.exp(x) * self.pelvis_depth)
        off = by_depth.gradient / np.maximum(by_depth.information, TINY)
        weight = by_depth.information * own.information / (by_depth.information + own.information)
        information = (jacobian.T * weight) @ jacobian + np.eye(2) / LOG_DEPTH_SIGMA**2
        gradient = (jacobian.T * weight) @ (own.gradient / own.information - off)
        gradient += (LOG_DEPTH - scale.log_depth) / LOG_DEPTH_SIGMA**2
        step = np.clip(np.linalg.solve(information, gradient), -LONGEST_STEP, LONGEST_STEP)
        moved = _Pull(by_depth.information * (off + jacobian @ step), by_depth.information)
        follow = (by_depth.information / (by_depth.information + own.information))[:, None] * jacobian
        return scale.moved(step), moved, follow @ np.linalg.inv(information) @ follow.T


def _averaged(peaks: _Peaks, alone: _Peaks, sure: float) -> _Peaks:
    """Bayesian model average: of the maxima with a map, which shows these people with probability sure, and without."""
    apart = peaks.x - alone.x
    covariance = sure * peaks.covariance + (1 - sure) * alone.covariance + sure * (1 - sure) * np.outer(apart, apart)
    return _Peaks(
        x=alone.x + sure * apart,
        y=alone.y + sure * (peaks.y - alone.y),
        covariance=covariance,
        cue=peaks.cue if sure > 0.5 else alone.cue,
        map_probability=sure,
    )


def _softened(pull: _Pull, sigma: float) -> _Pull:
    """A likelihood's pull where its x may be off by sigma, besides."""
    factor = 1 / (1 + pull.information * sigma**2)
    return _Pull(pull.gradient * factor, pull.information * factor)
