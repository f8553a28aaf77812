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

"""Fits bodies to 2D keypoints, hundreds at once.

The shape, pose and position of each person minimize a cost in nats (`fitting_cost`): reprojection errors of the
keypoints, angles between limbs and 3D landmarks if there are any, and negative log-priors of pose, shape and lean.
The errors are robust: one wrong keypoint does not rotate a body. Adam runs from several starting poses
(`fitting_starts`), and continues from the best result.

A single image determines neither distance nor stature: both follow from the prior of statures and the assumed camera.
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
from multihmr2_ros.labeling.fitting_cost import ANNOTATION_MATRIX, FACE, FittingCost, project
from multihmr2_ros.labeling.fitting_starts import START_PHENOTYPES, align, best_of_library, make_library
from multihmr2_ros.labeling.landmarks import compute_segments, convert_landmarks
from multihmr2_ros.labeling.observations import Observations, box_rays, ideal_points, landmark_directions
from multihmr2_ros.labeling.pose_prior import MAX_BEND_RAD, PosePrior, pose_from_segments
from multihmr2_ros.labeling.posed_keypoints import HingedPose, KeypointModel

BODY = slice(5, 17)
LIBRARY_STARTS = 3  # 1 in addition to the pose of the landmarks, for people with landmarks
BATCH_PEOPLE = 512  # fitted at once; memory grows with it
FIRST_STEPS, LAST_STEPS = 25, 70
FIRST_RATE, LAST_RATE = 0.1, 0.05


@dataclass(frozen=True)
class Fits:
    """n fitted bodies.

    phenotypes  (n, 4): FITTED_PHENOTYPES
    pose        with hinges within their limits
    keypoints   (n, 17, 2) px, converted to the convention of annotations (`ANNOTATION_MATRIX`)
    center      (n, 3) m, camera frame: the body's center vertex
    """

    phenotypes: Tensor
    pose: HingedPose
    keypoints: NDArray[np.float32]
    center: NDArray[np.float32]


class Fitter:
    """Fitter of bodies to people, in batches."""

    def __init__(self, model: KeypointModel, prior: PosePrior) -> None:
        self._model, self._prior = model, prior
        self._library = make_library(model, prior)

    def fit(self, people: Observations, progress: Callable[[int], object] = lambda count: None) -> Fits:
        """Fit bodies to people; rows keep their order. progress(count): called with the size of each finished batch."""
        known = np.isfinite(people.landmarks).all(axis=(1, 2))
        parts, order = [], []
        for rows in (np.nonzero(known)[0], np.nonzero(~known)[0]):
            for first in range(0, len(rows), BATCH_PEOPLE):
                some = rows[first : first + BATCH_PEOPLE]
                parts.append(self._fit_some(people.select(some)))
                order.append(some)
                progress(len(some))
        return _join(parts, np.argsort(np.concatenate(order)))

    def _fit_some(self, people: Observations) -> Fits:
        tried = []
        for pose, place in self._find_starts(people):
            state = _FitState.from_pose(pose, place, len(people))
            tried.append((state, self._minimize(state, people, FIRST_STEPS, FIRST_RATE)))
        best = torch.stack([cost for _, cost in tried]).argmin(dim=0)
        state = _FitState.choose([state.rebase() for state, _ in tried], best)
        self._minimize(state, people, LAST_STEPS, LAST_RATE)
        with torch.no_grad():
            pose = state.pose()
            pose = pose._replace(elbows=pose.elbows.clamp(0.0, MAX_BEND_RAD), knees=pose.knees.clamp(0.0, MAX_BEND_RAD))
            phenotypes, place = state.phenotypes.clamp(0.0, 1.0), state.place()
            posed = self._model(phenotypes, pose)
            points = project(ANNOTATION_MATRIX @ posed.keypoints + place[:, None], torch.from_numpy(people.k).float())
        center = (posed.center + place).numpy()
        return Fits(phenotypes, HingedPose(*(part.detach() for part in pose)), points.numpy(), center)

    def _find_starts(self, people: Observations) -> list[tuple[HingedPose, Tensor]]:
        """Return starting poses with positions: the pose of the landmarks, and the best poses of the library."""
        known = bool(np.isfinite(people.landmarks).all())
        directions, trust = landmark_directions(people)
        ranks = best_of_library(self._library, people, directions, trust, 1 if known else LIBRARY_STARTS)
        starts = [HingedPose(*(part[rank] for part in self._library.pose)) for rank in ranks]
        if known:
            own, _ = pose_from_segments(compute_segments(convert_landmarks(people.landmarks, box_rays(people))))
            hinges = (own.elbows.clamp(0.05, MAX_BEND_RAD), own.knees.clamp(0.05, MAX_BEND_RAD))
            starts.append(own._replace(elbows=hinges[0], knees=hinges[1]))
        return [(pose, self._estimate_first_place(pose, people)) for pose in starts]

    def _estimate_first_place(self, pose: HingedPose, people: Observations) -> Tensor:
        """Return (n, 3) m, by least squares, with all points of a body at the depth of its root."""
        with torch.no_grad():
            posed = self._model(torch.tensor(START_PHENOTYPES).expand(len(people), -1), pose).keypoints
        scale, shift, _ = align(posed[..., :2], *ideal_points(people))
        depth = 1.0 / scale
        return torch.cat([shift * depth[:, None], depth[:, None]], dim=1)

    def _minimize(self, state: _FitState, people: Observations, steps: int, rate: float) -> Tensor:
        """Run Adam with a cosine learning rate schedule; return the final costs (n,)."""
        cost = FittingCost(self._model, self._prior, people)
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
            cost(state.phenotypes, state.pose(), state.place()).sum().backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            return cost(state.phenotypes, state.pose(), state.place())


@dataclass
class _FitState:
    """The optimized variables of n bodies.

    first       the pose that `turns` are relative to
    turns       (n, 6, 3) rotation vectors of pelvis, chest, upper arms and thighs; the chest's is absolute
    hinges      (n, 4) rad: elbows, knees
    where       (n, 3): x/z, y/z, log z of the root bone's head, camera frame
    phenotypes  (n, 4): FITTED_PHENOTYPES
    """

    first: HingedPose
    turns: Tensor
    hinges: Tensor
    where: Tensor
    phenotypes: Tensor

    @classmethod
    def from_pose(cls, pose: HingedPose, place: Tensor, n: int) -> _FitState:
        turns = torch.zeros(n, 6, 3)
        turns[:, 1] = pose.chest
        where = torch.cat([place[:, :2] / place[:, 2:], place[:, 2:].log()], dim=1)
        phenotypes = torch.tensor(START_PHENOTYPES).repeat(n, 1)
        return cls(pose, turns, torch.cat([pose.elbows, pose.knees], dim=1), where, phenotypes)._enable_gradients()

    def _enable_gradients(self) -> _FitState:
        for name in ("turns", "hinges", "where", "phenotypes"):
            setattr(self, name, getattr(self, name).detach().clone().requires_grad_())
        return self

    def pose(self) -> HingedPose:
        turns = rotations_from_vectors(self.turns)
        return HingedPose(
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

    def rebase(self) -> _FitState:
        """Return the same state, with turns relative to its current pose."""
        with torch.no_grad():
            pose = HingedPose(*(part.clone() for part in self.pose()))
            turns = torch.zeros_like(self.turns)
            turns[:, 1] = pose.chest
        return _FitState(pose, turns, self.hinges, self.where, self.phenotypes)._enable_gradients()

    @classmethod
    def choose(cls, states: list[_FitState], which: Tensor) -> _FitState:
        """Return the state whose row i is row i of states[which[i]]; which (n,) int64."""
        rows = torch.arange(len(which))

        def pick(parts: list[Tensor]) -> Tensor:
            return torch.stack(parts)[which, rows].detach()

        first = HingedPose(*(pick(list(parts)) for parts in zip(*(state.first for state in states), strict=True)))
        names = ("turns", "hinges", "where", "phenotypes")
        return cls(first, *(pick([getattr(state, name) for state in states]) for name in names))._enable_gradients()


def _join(parts: list[Fits], order: NDArray[np.int64]) -> Fits:
    """Concatenate the parts, and reorder the rows by `order`."""
    pose = HingedPose(*(torch.cat(values)[order] for values in zip(*(part.pose for part in parts), strict=True)))
    return Fits(
        torch.cat([part.phenotypes for part in parts])[order],
        pose,
        np.concatenate([part.keypoints for part in parts])[order],
        np.concatenate([part.center for part in parts])[order],
    )


def compute_fit_error(people: Observations, fits: Fits) -> NDArray[np.float32]:
    """Return (n,): mean distance of trusted keypoints from the body's, divided by the box's longer side.

    The face counts as one point, the mean of its trusted keypoints, because the model's head does not rotate.
    """
    off = np.linalg.norm(fits.keypoints - people.keypoints, axis=-1)
    face = people.trusted[:, FACE].astype(np.float32)
    count = np.maximum(face.sum(axis=1), 1.0)
    middle = ((fits.keypoints - people.keypoints)[:, FACE] * face[..., None]).sum(axis=1) / count[:, None]
    off = np.concatenate([off[:, BODY], np.linalg.norm(middle, axis=-1)[:, None]], axis=1)
    counted = np.concatenate([people.trusted[:, BODY], face.any(axis=1, keepdims=True)], axis=1)
    mean = (off * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return np.asarray(mean / people.size, np.float32)
