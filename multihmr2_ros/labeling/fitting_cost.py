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

"""The cost that a fit minimizes: errors of keypoints and landmarks, and priors of pose, lean and shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from multihmr2_ros.labeling.landmarks import DIRECTIONS
from multihmr2_ros.labeling.observations import Observations, landmark_directions
from multihmr2_ros.labeling.pose_prior import MAX_BEND_RAD, PosePrior
from multihmr2_ros.labeling.posed_keypoints import FITTED_PHENOTYPES, HingedPose, KeypointModel, PosedKeypoints

FACE = slice(0, 5)

# Fractions of the box's longer side. The head of `KeypointModel` does not rotate; annotations of shoulders and hips are
# less precise than others.
KEYPOINT_SIGMA = 0.02
SIGMAS = ((FACE, 0.04), (slice(5, 7), 0.03), (slice(11, 13), 0.03))
KEYPOINT_TAIL = 3.0  # of the Cauchy loss, in sigmas: keypoints farther off count as wrong
LANDMARK_SIGMA = 0.35  # rad, beyond LANDMARK_FREE
LANDMARK_FREE = 0.06  # 1 − cos of 20°, free of cost: BlazePose bends the legs of standing people by that angle
LEAN_SIGMA = 0.6  # rad, of the trunk from the image's vertical
PRIOR_WEIGHT = 0.5
LIMIT_SIGMA = 0.03  # rad, beyond a straight or fully bent hinge

# Priors of FITTED_PHENOTYPES: mean and sigma. Age: a mixture of adults and children.
ADULT, CHILD, CHILD_SHARE = (0.7, 0.08), (0.33, 0.15), 0.1
HEIGHT, PROPORTIONS, GENDER = (0.42, 0.1), (0.5, 0.25), (0.5, 0.25)

# Annotated shoulders and ankles are higher than those of Anny's regressor: for 859 standing people facing the camera
# (keypoints of MoveNet Thunder) the medians of thigh, shin and shoulders-to-eyes were 0.75, 0.69 and 0.42 of the trunk,
# in Anny 0.79, 0.80 and 0.50. Raised by these fractions of trunk and shin they agree to 0.01; without this, standing
# people are fitted with bent knees.
SHOULDER_RISE, ANKLE_RISE = 0.045, 0.08


class FittingCost:
    """Cost of n bodies, given the observations of n people."""

    def __init__(self, model: KeypointModel, prior: PosePrior, people: Observations) -> None:
        self._model, self._prior = model, prior
        self._points = torch.from_numpy(people.keypoints)
        self._k = torch.from_numpy(people.k).float()
        sigma = torch.full((17,), KEYPOINT_SIGMA)
        for keypoints, value in SIGMAS:
            sigma[keypoints] = value
        self._precision = 1.0 / (torch.from_numpy(people.size)[:, None] * sigma)
        self._weights = torch.from_numpy(people.weights)
        directions, trust = landmark_directions(people)
        self._directions, self._trust = torch.from_numpy(directions).float(), torch.from_numpy(trust).float()
        ends = torch.zeros(len(DIRECTIONS), 17)
        for row, (first, last) in enumerate(DIRECTIONS):
            ends[row, list(first)] -= 1.0 / len(first)
            ends[row, list(last)] += 1.0 / len(last)
        self._ends = ends

    def __call__(self, phenotypes: Tensor, pose: HingedPose, place: Tensor) -> Tensor:
        """Return the cost (n,) in nats of n bodies.

        phenotypes (n, 4); place (n, 3) m, root bone heads in the camera frame.
        """
        posed = self._model(phenotypes, pose)
        return (
            self._keypoint_cost(posed, place)
            + self._landmark_cost(posed)
            + PRIOR_WEIGHT * self._prior.compute_cost(pose)
            + _compute_limit_cost(pose)
            + _compute_lean_cost(pose)
            + _compute_shape_cost(phenotypes)
        )

    def _keypoint_cost(self, posed: PosedKeypoints, place: Tensor) -> Tensor:
        seen = project(ANNOTATION_MATRIX @ posed.keypoints + place[:, None], self._k)
        off = ((seen - self._points) * self._precision[..., None]).square().sum(-1)
        tail = KEYPOINT_TAIL**2
        return (self._weights * 0.5 * tail * torch.log1p(off / tail)).sum(1)

    def _landmark_cost(self, posed: PosedKeypoints) -> Tensor:
        limbs = torch.nn.functional.normalize(torch.einsum("dk,nki->ndi", self._ends, posed.keypoints), dim=-1)
        off = torch.relu(1.0 - LANDMARK_FREE - (limbs * self._directions).sum(-1)) / LANDMARK_SIGMA**2
        return (self._trust * torch.log1p(off)).sum(1)


def _compute_limit_cost(pose: HingedPose) -> Tensor:
    hinges = torch.cat([pose.elbows, pose.knees], dim=1)
    beyond = torch.relu(-hinges) + torch.relu(hinges - MAX_BEND_RAD)
    return 0.5 * (beyond / LIMIT_SIGMA).square().sum(1)


def _compute_lean_cost(pose: HingedPose) -> Tensor:
    """Return (n,): trunks are mostly upright; lying costs little more than leaning."""
    off = (1.0 - pose.pelvis[:, 2, 2]) / LEAN_SIGMA**2
    return torch.log1p(off)


def _compute_shape_cost(phenotypes: Tensor) -> Tensor:
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


def project(points: Tensor, k: Tensor) -> Tensor:
    """Project points (n, p, 3) m to (n, p, 2) px with k (n, 3, 3); depth is clamped to at least 5 cm."""
    plane = points[..., :2] / points[..., 2:].clamp_min(0.05)
    return plane @ k[:, :2, :2].mT + k[:, None, :2, 2]


def _make_annotation_matrix() -> Tensor:
    """Return (17, 17): converts keypoints of Anny's regressor to the convention of annotations."""
    matrix = torch.eye(17)
    for shoulder in (5, 6):
        matrix[shoulder, [5, 6]] += 0.5 * SHOULDER_RISE
        matrix[shoulder, [11, 12]] -= 0.5 * SHOULDER_RISE
    for knee, ankle in ((13, 15), (14, 16)):
        matrix[ankle, knee] += ANKLE_RISE
        matrix[ankle, ankle] -= ANKLE_RISE
    return matrix


ANNOTATION_MATRIX = _make_annotation_matrix()
