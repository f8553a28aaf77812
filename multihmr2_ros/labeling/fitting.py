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

"""Bodies fitted to 2D keypoints, hundreds at once.

Each person's shape, pose and place minimise, in nats: the keypoints' distances from where the camera sees the body's;
the angles between its limbs and the 3D landmarks, where there are any; how unlikely pose, shape and lean are. Both
distances and angles are robust: one wrong keypoint does not turn a body. Several starts are tried, the best goes on.

A single picture tells neither distance nor stature: both come from the prior of statures and from the camera assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import rotations_from_vectors
from multihmr2_ros.labeling.landmarks import DIRECTIONS, LANDMARK_OF, body_landmarks, segments_of
from multihmr2_ros.labeling.pose_prior import GREATEST_BEND_RAD, PosePrior, pose_of_segments
from multihmr2_ros.labeling.posed_keypoints import (
    FITTED_PHENOTYPES,
    KeypointModel,
    Pose,
    PosedKeypoints,
)

FACE, BODY = slice(0, 5), slice(5, 17)

# Of the box's longer side. Anny's head does not turn here; shoulders and hips are annotated less exactly than others.
KEYPOINT_SIGMA = 0.02
SIGMAS = ((FACE, 0.04), (slice(5, 7), 0.03), (slice(11, 13), 0.03))
KEYPOINT_TAIL = 3.0  # Cauchy: from so many sigmas on a keypoint counts as wrong
LANDMARK_SIGMA = 0.35  # rad, beyond what costs nothing
LANDMARK_FREE = 0.06  # 1 − cos of 20°: standing people's legs are off by as much, their knees seem bent
LEAN_SIGMA = 0.6  # rad, of the trunk from the picture's vertical
PRIOR_WEIGHT = 0.5
LIMIT_SIGMA = 0.03  # rad, beyond a straight or fully bent hinge

# FITTED_PHENOTYPES: mean and sigma; of ages, adults and children with their shares.
ADULT, CHILD, CHILD_SHARE = (0.7, 0.08), (0.33, 0.15), 0.1
HEIGHT, PROPORTIONS, GENDER = (0.42, 0.1), (0.5, 0.25), (0.5, 0.25)
START_PHENOTYPES = (0.5, 0.7, 0.42, 0.5)

# Shoulders and ankles as they are annotated are higher than those of Anny's regressor: of 859 people who stand and face
# the camera (keypoints of MoveNet Thunder) the medians of thigh, shin and shoulders-to-eyes were 0.75, 0.69 and 0.42 of
# the trunk, in Anny 0.79, 0.80 and 0.50. Raised by these shares of trunk and shin they agree to 0.01; without it,
# standing people get bent knees.
SHOULDER_RISE, ANKLE_RISE = 0.045, 0.08

YAWS = 12
LIBRARY_STARTS = 3  # 1 beside the landmarks' own, where there are some
FIRST_STEPS, LAST_STEPS = 25, 70
FIRST_RATE, LAST_RATE = 0.1, 0.05


@dataclass(frozen=True)
class Observations:
    """What is known of n people. Pixels of their pictures.

    keypoints (n, 17, 2), COCO's order; weights (n, 17), 0 where unknown, 1 where sure; trusted (n, 17) bool
    box       (n, 4) x0 y0 x1 y1
    k         (n, 3, 3)
    landmarks (n, 33, 3) mm, camera axes, NaN where there are none; visibility (n, 33), 0 to 1
    """

    keypoints: NDArray[np.float32]
    weights: NDArray[np.float32]
    trusted: NDArray[np.bool_]
    box: NDArray[np.float32]
    k: NDArray[np.float64]
    landmarks: NDArray[np.float32]
    visibility: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.box)

    def select(self, rows: NDArray[np.int64] | slice) -> Observations:
        return Observations(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def size(self) -> NDArray[np.float32]:
        """(n,) px: the box's longer side."""
        return np.maximum(self.box[:, 2] - self.box[:, 0], self.box[:, 3] - self.box[:, 1])


@dataclass(frozen=True)
class Fits:
    """n fitted bodies.

    phenotypes (n, 4): FITTED_PHENOTYPES. pose: hinges within their limits. place (n, 3) m: the root bone's head in the
    camera frame. keypoints (n, 17, 2) px, as people annotate them. centre (n, 3) m: the body's centre vertex, camera
    frame. cost (n,) nats.
    """

    phenotypes: Tensor
    pose: Pose
    place: Tensor
    keypoints: NDArray[np.float32]
    centre: NDArray[np.float32]
    cost: NDArray[np.float32]


class Fitter:
    """Fits bodies to people, in batches."""

    def __init__(self, model: KeypointModel, prior: PosePrior, batch: int = 512) -> None:
        """batch: most people at once; memory grows with it."""
        self._model, self._prior, self._batch = model, prior, batch
        self._library = _library(model, prior)

    def fit(self, people: Observations, progress: Callable[[int], object] = lambda count: None) -> Fits:
        """The bodies of people, in their order. progress: told how many more are done."""
        known = np.isfinite(people.landmarks).all(axis=(1, 2))
        parts, order = [], []
        for rows in (np.nonzero(known)[0], np.nonzero(~known)[0]):
            for first in range(0, len(rows), self._batch):
                some = rows[first : first + self._batch]
                parts.append(self._fit_some(people.select(some)))
                order.append(some)
                progress(len(some))
        return _join(parts, np.argsort(np.concatenate(order)))

    def _fit_some(self, people: Observations) -> Fits:
        tried = []
        for pose, place in self._starts(people):
            state = _State.at(pose, place, len(people))
            tried.append((state, self._descend(state, people, FIRST_STEPS, FIRST_RATE)))
        best = torch.stack([cost for _, cost in tried]).argmin(dim=0)
        state = _State.choose([state.rebased() for state, _ in tried], best)
        cost = self._descend(state, people, LAST_STEPS, LAST_RATE)
        with torch.no_grad():
            pose = state.pose()
            pose = pose._replace(
                elbows=pose.elbows.clamp(0.0, GREATEST_BEND_RAD), knees=pose.knees.clamp(0.0, GREATEST_BEND_RAD)
            )
            phenotypes, place = state.phenotypes.clamp(0.0, 1.0), state.place()
            posed = self._model(phenotypes, pose)
            points = _project(AS_ANNOTATED @ posed.keypoints + place[:, None], torch.from_numpy(people.k).float())
        centre = (posed.centre + place).numpy()
        return Fits(phenotypes, Pose(*(part.detach() for part in pose)), place, points.numpy(), centre, cost.numpy())

    def _starts(self, people: Observations) -> list[tuple[Pose, Tensor]]:
        """Poses and places to begin with: the landmarks' own, and those of the library that fit the keypoints best."""
        known = bool(np.isfinite(people.landmarks).all())
        directions, trust = _landmark_directions(people)
        ranks = _best_of_library(self._library, people, directions, trust, 1 if known else LIBRARY_STARTS)
        starts = [Pose(*(part[rank] for part in self._library.pose)) for rank in ranks]
        if known:
            own, _ = pose_of_segments(segments_of(body_landmarks(people.landmarks, _rays(people))))
            hinges = (own.elbows.clamp(0.05, GREATEST_BEND_RAD), own.knees.clamp(0.05, GREATEST_BEND_RAD))
            starts.append(own._replace(elbows=hinges[0], knees=hinges[1]))
        return [(pose, self._first_place(pose, people)) for pose in starts]

    def _first_place(self, pose: Pose, people: Observations) -> Tensor:
        """(n, 3): by least squares, as if all points of a body were as far away as its root."""
        with torch.no_grad():
            posed = self._model(torch.tensor(START_PHENOTYPES).expand(len(people), -1), pose).keypoints
        scale, shift, _ = _align(posed[..., :2], *_ideal_points(people))
        depth = 1.0 / scale
        return torch.cat([shift * depth[:, None], depth[:, None]], dim=1)

    def _descend(self, state: _State, people: Observations, steps: int, rate: float) -> Tensor:
        """Adam with a falling rate; the people's costs at the end."""
        objective = _Objective(self._model, self._prior, people)
        groups = [
            {"params": [state.turns], "lr": rate},
            {"params": [state.hinges], "lr": rate},
            {"params": [state.where], "lr": 0.3 * rate},
            {"params": [state.phenotypes], "lr": 0.3 * rate},
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        )
        for _ in range(steps):
            optimizer.zero_grad()
            objective(state).sum().backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            return objective(state)


@dataclass
class _State:
    """What is searched for.

    turns (n, 6, 3): rotation vectors of pelvis, chest, arms and thighs from a first pose. hinges (n, 4). where (n, 3):
    x/z, y/z, log z. phenotypes (n, 4).
    """

    first: Pose
    turns: Tensor
    hinges: Tensor
    where: Tensor
    phenotypes: Tensor

    @classmethod
    def at(cls, pose: Pose, place: Tensor, n: int) -> _State:
        turns = torch.zeros(n, 6, 3)
        turns[:, 1] = pose.chest
        where = torch.cat([place[:, :2] / place[:, 2:], place[:, 2:].log()], dim=1)
        phenotypes = torch.tensor(START_PHENOTYPES).repeat(n, 1)
        return cls(pose, turns, torch.cat([pose.elbows, pose.knees], dim=1), where, phenotypes)._searched()

    def _searched(self) -> _State:
        for name in ("turns", "hinges", "where", "phenotypes"):
            setattr(self, name, getattr(self, name).detach().clone().requires_grad_())
        return self

    def pose(self) -> Pose:
        turns = rotations_from_vectors(self.turns)
        return Pose(
            self.first.pelvis @ turns[:, 0],
            self.turns[:, 1],
            self.first.upper_arms @ turns[:, 2:4],
            self.first.thighs @ turns[:, 4:6],
            self.hinges[:, :2],
            self.hinges[:, 2:],
        )

    def place(self) -> Tensor:
        depth = self.where[:, 2:].exp()
        return torch.cat([self.where[:, :2] * depth, depth], dim=1)

    def rebased(self) -> _State:
        """The same, its turns from here on."""
        with torch.no_grad():
            pose = Pose(*(part.clone() for part in self.pose()))
            turns = torch.zeros_like(self.turns)
            turns[:, 1] = pose.chest
        return _State(pose, turns, self.hinges, self.where, self.phenotypes)._searched()

    @classmethod
    def choose(cls, states: list[_State], which: Tensor) -> _State:
        """Row by row, the state that `which` (n,) says."""
        rows = torch.arange(len(which))

        def pick(parts: list[Tensor]) -> Tensor:
            return torch.stack(parts)[which, rows].detach()

        first = Pose(*(pick(list(parts)) for parts in zip(*(state.first for state in states), strict=True)))
        names = ("turns", "hinges", "where", "phenotypes")
        return cls(first, *(pick([getattr(state, name) for state in states]) for name in names))._searched()


class _Objective:
    """The cost of bodies for given people, (n,) nats."""

    def __init__(self, model: KeypointModel, prior: PosePrior, people: Observations) -> None:
        self._model, self._prior = model, prior
        self._points = torch.from_numpy(people.keypoints)
        self._k = torch.from_numpy(people.k).float()
        sigma = torch.full((17,), KEYPOINT_SIGMA)
        for keypoints, value in SIGMAS:
            sigma[keypoints] = value
        self._precision = 1.0 / (torch.from_numpy(people.size)[:, None] * sigma)
        self._weights = torch.from_numpy(people.weights)
        directions, trust = _landmark_directions(people)
        self._directions, self._trust = torch.from_numpy(directions).float(), torch.from_numpy(trust).float()
        ends = torch.zeros(len(DIRECTIONS), 17)
        for row, (first, last) in enumerate(DIRECTIONS):
            ends[row, list(first)] -= 1.0 / len(first)
            ends[row, list(last)] += 1.0 / len(last)
        self._ends = ends

    def __call__(self, state: _State) -> Tensor:
        pose = state.pose()
        posed = self._model(state.phenotypes, pose)
        return (
            self._keypoint_cost(posed, state.place())
            + self._landmark_cost(posed)
            + PRIOR_WEIGHT * self._prior.cost(pose)
            + _limit_cost(pose)
            + _lean_cost(pose)
            + _shape_cost(state.phenotypes)
        )

    def _keypoint_cost(self, posed: PosedKeypoints, place: Tensor) -> Tensor:
        seen = _project(AS_ANNOTATED @ posed.keypoints + place[:, None], self._k)
        off = ((seen - self._points) * self._precision[..., None]).square().sum(-1)
        tail = KEYPOINT_TAIL**2
        return (self._weights * 0.5 * tail * torch.log1p(off / tail)).sum(1)

    def _landmark_cost(self, posed: PosedKeypoints) -> Tensor:
        limbs = torch.nn.functional.normalize(torch.einsum("dk,nki->ndi", self._ends, posed.keypoints), dim=-1)
        off = torch.relu(1.0 - LANDMARK_FREE - (limbs * self._directions).sum(-1)) / LANDMARK_SIGMA**2
        return (self._trust * torch.log1p(off)).sum(1)


def _limit_cost(pose: Pose) -> Tensor:
    hinges = torch.cat([pose.elbows, pose.knees], dim=1)
    beyond = torch.relu(-hinges) + torch.relu(hinges - GREATEST_BEND_RAD)
    return 0.5 * (beyond / LIMIT_SIGMA).square().sum(1)


def _lean_cost(pose: Pose) -> Tensor:
    """Trunks are rather upright; lying costs little more than leaning."""
    off = (1.0 - pose.pelvis[:, 2, 2]) / LEAN_SIGMA**2
    return torch.log1p(off)


def _shape_cost(phenotypes: Tensor) -> Tensor:
    gender, age, height, proportions = phenotypes.unbind(1)
    assert FITTED_PHENOTYPES == ("gender", "age", "height", "proportions")
    groups = [
        math.log(share / sigma) - 0.5 * ((age - mean) / sigma).square()
        for (mean, sigma), share in ((ADULT, 1.0 - CHILD_SHARE), (CHILD, CHILD_SHARE))
    ]
    cost = -torch.logsumexp(torch.stack(groups), dim=0) + math.log((1.0 - CHILD_SHARE) / ADULT[1])
    for value, (mean, sigma) in ((height, HEIGHT), (proportions, PROPORTIONS), (gender, GENDER)):
        cost = cost + 0.5 * ((value - mean) / sigma).square()
    outside = torch.relu(-phenotypes) + torch.relu(phenotypes - 1.0)
    return cost + 0.5 * (outside / 0.02).square().sum(1)


def _project(points: Tensor, k: Tensor) -> Tensor:
    """(n, p, 2) px of points (n, p, 3); what is behind the camera is taken to be just in front."""
    plane = points[..., :2] / points[..., 2:].clamp_min(0.05)
    return plane @ k[:, :2, :2].mT + k[:, None, :2, 2]


def _ideal_points(people: Observations) -> tuple[Tensor, Tensor]:
    """Keypoints (n, 17, 2) on the plane z = 1, and their weights (n, 17)."""
    k = people.k
    plane = (people.keypoints - k[:, None, :2, 2]) / np.stack([k[:, 0, 0], k[:, 1, 1]], axis=-1)[:, None]
    return torch.from_numpy(plane).float(), torch.from_numpy(people.weights)


def _rays(people: Observations) -> NDArray[np.float64]:
    """(n, 3) unit, to the boxes' middles."""
    middle = 0.5 * (people.box[:, :2] + people.box[:, 2:])
    plane = (middle - people.k[:, :2, 2]) / np.stack([people.k[:, 0, 0], people.k[:, 1, 1]], axis=-1)
    rays = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _align(points: Tensor, ideal: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (…) above 0 and shift (…, 2) that bring points (…, 17, 2) nearest to ideal ones; weighted squares left."""
    w = weights[..., None]
    total = w.sum(-2).clamp_min(1e-6)
    middle, target = (w * points).sum(-2) / total, (w * ideal).sum(-2) / total
    a, b = points - middle[..., None, :], ideal - target[..., None, :]
    spread = (w * a.square()).sum((-2, -1)).clamp_min(1e-9)
    scale = ((w * a * b).sum((-2, -1)) / spread).clamp_min(1e-2)
    left = (w * (scale[..., None, None] * a - b).square()).sum((-2, -1))
    return scale, target - scale[..., None] * middle, left


def _landmark_directions(people: Observations) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 11, 3) unit DIRECTIONS of the landmarks in the camera's axes, and how far they are trusted, (n, 11)."""
    known = np.atleast_1d(np.isfinite(people.landmarks).all(axis=(1, 2)))
    joints = body_landmarks(np.nan_to_num(people.landmarks), _rays(people))
    visible = np.zeros((len(people), 17))
    for keypoint, landmark in LANDMARK_OF.items():
        visible[:, keypoint] = people.visibility[:, landmark]
    vectors, trust = [], []
    for first, last in DIRECTIONS:
        vectors.append(joints[:, list(last)].mean(axis=1) - joints[:, list(first)].mean(axis=1))
        trust.append(visible[:, list(first + last)].min(axis=1))
    directions = np.stack(vectors, axis=1)
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    trusted = np.stack(trust, axis=1) * np.asarray(known)[:, None] * (length[..., 0] > 20.0)
    return directions / np.maximum(length, 1e-6), trusted


@dataclass(frozen=True)
class _Library:
    """Starting poses, all facings: pose (L, …); keypoints (L, 17, 3) m, camera axes; directions (L, 11, 3)."""

    pose: Pose
    keypoints: Tensor
    directions: Tensor
    yaw: Tensor


def _library(model: KeypointModel, prior: PosePrior) -> _Library:
    count = len(prior.starts.chest)
    yaw = torch.arange(YAWS) * (2 * torch.pi / YAWS)
    facing = rotations_from_vectors(torch.stack([0 * yaw, 0 * yaw, yaw], dim=1))
    # The pelvis as it was recorded, turned about the vertical so that the first facing is along x.
    recorded = prior.starts.pelvis
    heading = torch.atan2(recorded[:, 1, 0], recorded[:, 0, 0])
    level = rotations_from_vectors(torch.stack([0 * heading, 0 * heading, -heading], dim=1)) @ recorded
    pelvis = (facing[:, None] @ level).flatten(0, 1)
    repeated = [part.repeat(YAWS, *[1] * (part.ndim - 1)) for part in prior.starts[1:]]
    pose = Pose(pelvis, *repeated)
    with torch.no_grad():
        keypoints = model(torch.tensor(START_PHENOTYPES).expand(len(pelvis), -1), pose).keypoints
    vectors = [keypoints[:, list(b)].mean(1) - keypoints[:, list(a)].mean(1) for a, b in DIRECTIONS]
    directions = torch.nn.functional.normalize(torch.stack(vectors, dim=1), dim=-1)
    return _Library(pose, keypoints, directions, yaw.repeat_interleave(count))


def _best_of_library(
    library: _Library,
    people: Observations,
    directions: NDArray[np.float64],
    trust: NDArray[np.float64],
    count: int,
) -> list[Tensor]:
    """`count` rows (n,) of the library: the cheapest, and then the cheapest that face elsewhere."""
    ideal, weights = _ideal_points(people)
    focal = torch.from_numpy(people.k[:, 1, 1]).float()
    size = torch.from_numpy(people.size) / focal
    mine, trusted = torch.from_numpy(directions).float(), torch.from_numpy(trust).float()
    cost = torch.zeros(len(people), len(library.keypoints))
    for rows in torch.arange(len(people)).split(64):
        _, _, left = _align(library.keypoints[None, :, :, :2], ideal[rows, None], weights[rows, None])
        off = 1.0 - torch.einsum("ndi,ldi->nld", mine[rows], library.directions)
        cost[rows] = left / (3 * KEYPOINT_SIGMA * size[rows, None]).square()
        cost[rows] += (trusted[rows, None] * torch.log1p(off / LANDMARK_SIGMA**2)).sum(-1)
    chosen: list[Tensor] = []
    for _ in range(count):
        best = cost.argmin(dim=1)
        chosen.append(best)
        near = torch.cos(library.yaw[None] - library.yaw[best][:, None]) > 0.6
        cost = torch.where(near, cost + 1e6, cost)
    return chosen


def _join(parts: list[Fits], order: NDArray[np.int64]) -> Fits:
    """All parts' rows, in that order."""
    pose = Pose(*(torch.cat(values)[order] for values in zip(*(part.pose for part in parts), strict=True)))
    return Fits(
        torch.cat([part.phenotypes for part in parts])[order],
        pose,
        torch.cat([part.place for part in parts])[order],
        np.concatenate([part.keypoints for part in parts])[order],
        np.concatenate([part.centre for part in parts])[order],
        np.concatenate([part.cost for part in parts])[order],
    )


def fit_error(people: Observations, fits: Fits) -> NDArray[np.float32]:
    """(n,) mean distance of trusted keypoints from the body's, as a share of the box's longer side.

    The face counts as one point, the middle of its trusted keypoints, because heads do not turn here.
    """
    off = np.linalg.norm(fits.keypoints - people.keypoints, axis=-1)
    face = people.trusted[:, FACE].astype(np.float32)
    count = np.maximum(face.sum(axis=1), 1.0)
    middle = ((fits.keypoints - people.keypoints)[:, FACE] * face[..., None]).sum(axis=1) / count[:, None]
    off = np.concatenate([off[:, BODY], np.linalg.norm(middle, axis=-1)[:, None]], axis=1)
    counted = np.concatenate([people.trusted[:, BODY], face.any(axis=1, keepdims=True)], axis=1)
    mean = (off * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return np.asarray(mean / people.size, np.float32)


def _annotation_matrix() -> Tensor:
    """(17, 17): keypoints as Anny's regressor has them → as people annotate them."""
    matrix = torch.eye(17)
    for shoulder in (5, 6):
        matrix[shoulder, [5, 6]] += 0.5 * SHOULDER_RISE
        matrix[shoulder, [11, 12]] -= 0.5 * SHOULDER_RISE
    for knee, ankle in ((13, 15), (14, 16)):
        matrix[ankle, knee] += ANKLE_RISE
        matrix[ankle, ankle] -= ANKLE_RISE
    return matrix


AS_ANNOTATED = _annotation_matrix()
