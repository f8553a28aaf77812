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

"""The places of all people of a picture together, by what is known beside the picture: maximum a posteriori.

After the idea of depth-conditioned translation optimisation (Wang et al., Towards Metric-Aware Multi-Person Mesh
Recovery by Jointly Optimizing Human Crowd in Camera Space, 2025), of which only the abstract was at hand: the
derivation is our own, for a depth camera in place of a monocular estimate, and for frames of a few milliseconds.

Variables. The network says where in the picture a person is far better than how far away, so a pelvis p stays on its
ray: it moves to exp(x) p, and the body about it is scaled by exp(y). A point of the surface at p + q comes to
exp(x) p + exp(y) q; where y = x, the picture does not change at all. Per person two unknowns, x and y, both 0 where
the network put them.

Prior. A picture cannot tell a small body from a large one that is farther: the network's errors of log depth and log
stature share a part c, beside own parts a and b, so (x, y) ~ N(0, [[a² + c², c²], [c², b² + c²]]). The stature H exp(y)
is, given the age, log-normal by the body model itself: y ~ N(μ(age) − log H, τ(age)²). Their product is Gaussian:
x ~ N(m, s²) and y | x ~ N(ȳ(x), v), with ȳ linear in x. This is how place and scale stay consistent: whatever
moves a body, its scale follows by the regression ȳ, from 1:1 (only c: the picture stays as it is) to none (c = 0).

Depth. Points j of the surface that face the camera are seen at pixels whose measured depth is d_j. The surface there
is the nearest of all people's: f_j(x) = min(exp(x) p_z + exp(ȳ(x)) q_z, o_j), with o_j the nearest surface of anybody
else. Then d_j ~ w N(f_j, σ_j²) + (1 − w) / R: the second part is for occluders, background and edges. σ_j grows with
the squared depth as a depth camera's noise does. Holes say nothing. Points count by what is seen of their area, and all
together no more than `independent_points`, because a wrong pose moves whole limbs; what moves the whole surface
against the pelvis is added to the result's variance. A body that too few of the points fit is behind a wall, or not
there: its depths do not count.

Ground. The lowest point is at height h(x, y) over the plane, for those who stand on it: h ~ w N(0, σ²) + (1 − w) / 1 m.
h is linear in exp(y); integrating y | x out leaves N(h(x, ȳ(x)); 0, σ² + (∂h/∂y)² v), and y then takes its share of
what remains of h (the Kalman gain). It counts only where the lowest point is in the picture and nobody is before it.

Minimum. The posterior over x alone has several modes (two people at one pixel), so it is evaluated on a grid, at
GRID_SIGMAS times s, with σ_j no finer than the grid; then expectation maximisation, whose steps are Gauss–Newton's with
the points weighted by their responsibility, from the best value. People depend on each other by o_j and by the pixels
that they are compared at, only: two sweeps over everybody, the second from the first's places, which puts people who
were predicted in the wrong order right.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.people import People

from .config import PlacementConfig
from .cues import Ground, check_depth
from .likelihoods import Depths, Prior, Soles
from .surface import NEAREST_DEPTH_M, BodySurface, View, facing_points

Array = NDArray[np.float64]
SWEEPS = 2
GRID_SIGMAS = np.linspace(-3.5, 3.5, 31)
REFINEMENTS = 3
LONGEST_STEP = 0.05
POINTS_AT_ONCE = 128
GROUND_TELLS = 0.1  # times what the prior knows: less is not said to inform a place


class Cue(enum.IntEnum):
    """What a person's place follows beside the network's prediction."""

    PRIOR = 0  # only what is known of statures
    GROUND = 1
    DEPTH = 2


@dataclass(frozen=True, eq=False)
class Placement:
    """n people at their refined places.

    people           as given, but pelvis, joints, joints_2d, vertices, bone_poses and stature; shape stays the
                     network's
    distance_sigma_m (n,) standard deviation of the pelvis's distance to the camera; NaN where nothing is known
    cue              (n,) int64, a Cue
    """

    people: People
    distance_sigma_m: Array
    cue: NDArray[np.int64]


def place_people(
    people: People,
    surface: BodySurface,
    depth: NDArray[np.generic] | None = None,
    ground: Ground | None = None,
    config: PlacementConfig | None = None,
) -> Placement:
    """The people of one picture where the posterior has its maximum.

    people: with the mesh of `surface`. depth (H, W): uint16 mm or float m, registered to the picture (its size, its K);
    0, NaN and infinite are holes. ground: in the camera's frame. People who are not before the camera stay as they are.

    Raises UserError for a depth image that is none or of another size, and for people without the mesh.
    """
    if depth is not None:
        check_depth(depth, people.image_size)
    n = len(people)
    if n and people.vertices.shape[1] != surface.vertex_count:
        raise UserError(
            f"placement needs people with the mesh of its surface, {surface.vertex_count} vertices, got "
            f"{people.vertices.shape[1]}; ask for that mesh"
        )
    distance_sigma_m, cue = np.full(n, np.nan), np.full(n, int(Cue.PRIOR))
    rows = np.flatnonzero((people.pelvis[:, 2] > NEAREST_DEPTH_M) & np.isfinite(people.pelvis).all(axis=1))
    if not len(rows):
        return Placement(people, distance_sigma_m, cue)
    everybody = len(rows) == n
    solver = _Solver(people if everybody else people.select(rows), surface, depth, ground, config or PlacementConfig())
    peaks = solver.solve()
    distance_sigma_m[rows] = peaks.sigma * np.exp(peaks.x) * np.linalg.norm(people.pelvis[rows], axis=1)
    cue[rows] = peaks.cue
    along, scale = np.ones(n, np.float32), np.ones(n, np.float32)
    along[rows], scale[rows] = np.exp(peaks.x), np.exp(peaks.y)
    return Placement(_moved(people, along, scale), distance_sigma_m, cue)


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
    """The maxima of n people: x, y, standard deviation of x, Cue; all (n,)."""

    x: Array
    y: Array
    sigma: Array
    cue: NDArray[np.int64]


class _Solver:
    """The posterior of n people, all before the camera.

    grid, grid_y (G, n): x and ȳ(x). by_prior (G, 1) and by_ground (G, n): logarithms of the prior and of the ground's
    likelihood there, for lowest points that are visible.
    """

    def __init__(
        self,
        people: People,
        surface: BodySurface,
        depth: NDArray[np.generic] | None,
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
        x = y = np.zeros(len(self.people))
        for _ in range(SWEEPS):
            depths, standing = self._see(x, y)
            x, fits = self._search(depths, standing)
            y = self.prior.scale(x)
        return self._climb(x, depths, fits, standing)

    def _see(self, x: Array, y: Array) -> tuple[Depths | None, NDArray[np.bool_]]:
        """What is to be seen with everybody at x, y (n,): depths, and whose lowest point is (n,)."""
        n, person = len(self.people), self.points.person
        near = (np.exp(x) * self.people.pelvis.T).astype(np.float32)
        points = near.take(person, axis=1) + np.exp(y).astype(np.float32)[person] * self.points.offset
        view = View(points, person, n, self.people.k, self.people.image_size, self.surface.spacing_m)
        depths, standing = None, np.zeros(n, bool)
        if self.depth is not None:
            depths = Depths(self.points, view.sight(view.pixels, person), self.pelvis_depth, self.depth, self.config)
        if self.soles is not None:
            soles = self.soles.where(x, y)
            sight = view.sight(view.project(soles), np.arange(n))
            standing = sight.inside & (soles[2] < sight.others_depth)
        return depths, standing

    def _search(self, depths: Depths | None, standing: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
        """Everybody's best value on the grid (n,), and whether (n,) the depth image counts."""
        everybody = np.arange(len(standing))
        posterior = self.by_prior + self.by_ground * standing
        x = self.grid[posterior.argmax(axis=0), everybody]
        if depths is None:
            return x, np.zeros(len(x), bool)
        posterior += depths.log_likelihood(self.grid, self.grid_y)
        by_depth = self.grid[posterior.argmax(axis=0), everybody]
        fits = depths.quadratic(by_depth, self.prior.scale(by_depth), self.prior.slope)[2]
        return np.where(fits, by_depth, x), fits

    def _climb(self, x: Array, depths: Depths | None, fits: NDArray[np.bool_], standing: NDArray[np.bool_]) -> _Peaks:
        """The maximum next to x (n,); fits (n,): for whom the depth image counts; standing (n,): whose lowest point
        does."""
        prior, n = self.prior, len(x)
        by_depth, by_ground, gain = np.zeros(n), np.zeros(n), np.zeros(n)
        for _ in range(REFINEMENTS):
            y = prior.scale(x)
            gradient, information = (prior.mean - x) / prior.variance, 1 / prior.variance
            if depths is not None:
                pull, by_depth, _ = depths.quadratic(x, y, prior.slope)
                by_depth = by_depth * fits
                gradient, information = gradient + fits * pull, information + by_depth
            if self.soles is not None:
                pull, by_ground, gain = self.soles.quadratic(x, y, prior, standing)
                gradient, information = gradient + pull, information + by_ground
            x = x + np.clip(gradient / information, -LONGEST_STEP, LONGEST_STEP)
        common = self.config.common_surface_sigma_m / (np.exp(x) * self.pelvis_depth) * by_depth / information
        grounded = by_ground > GROUND_TELLS / prior.variance
        return _Peaks(
            x=x,
            y=prior.scale(x) + gain,
            sigma=np.sqrt(1 / information + common**2),
            cue=np.where(fits, Cue.DEPTH, np.where(grounded, Cue.GROUND, Cue.PRIOR)).astype(np.int64),
        )
