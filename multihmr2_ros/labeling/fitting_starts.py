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

"""Starting poses of a fit: recorded poses rotated about the vertical, ranked by distance to the observations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import rotations_from_vectors
from multihmr2_ros.labeling.fitting_cost import KEYPOINT_SIGMA, LANDMARK_SIGMA
from multihmr2_ros.labeling.landmarks import DIRECTIONS
from multihmr2_ros.labeling.observations import Observations, ideal_points
from multihmr2_ros.labeling.pose_prior import PosePrior
from multihmr2_ros.labeling.posed_keypoints import HingedPose, KeypointModel

START_PHENOTYPES = (0.5, 0.7, 0.42, 0.5)
YAWS = 12


@dataclass(frozen=True)
class PoseLibrary:
    """L starting poses in all headings.

    pose        (L, …)
    keypoints   (L, 17, 3) m, camera axes, from the root bone's head
    directions  (L, 11, 3) unit vectors of DIRECTIONS, camera axes
    yaw         (L,) rad
    """

    pose: HingedPose
    keypoints: Tensor
    directions: Tensor
    yaw: Tensor


def make_library(model: KeypointModel, prior: PosePrior) -> PoseLibrary:
    count = len(prior.starts.chest)
    yaw = torch.arange(YAWS) * (2 * torch.pi / YAWS)
    facing = rotations_from_vectors(torch.stack([0 * yaw, 0 * yaw, yaw], dim=1))
    # The recorded pelvis, rotated about the vertical so that the first heading is along x.
    recorded = prior.starts.pelvis
    heading = torch.atan2(recorded[:, 1, 0], recorded[:, 0, 0])
    level = rotations_from_vectors(torch.stack([0 * heading, 0 * heading, -heading], dim=1)) @ recorded
    pelvis = (facing[:, None] @ level).flatten(0, 1)
    repeated = [part.repeat(YAWS, *[1] * (part.ndim - 1)) for part in prior.starts[1:]]
    pose = HingedPose(pelvis, *repeated)
    with torch.no_grad():
        keypoints = model(torch.tensor(START_PHENOTYPES).expand(len(pelvis), -1), pose).keypoints
    vectors = [keypoints[:, list(b)].mean(1) - keypoints[:, list(a)].mean(1) for a, b in DIRECTIONS]
    directions = torch.nn.functional.normalize(torch.stack(vectors, dim=1), dim=-1)
    return PoseLibrary(pose, keypoints, directions, yaw.repeat_interleave(count))


def best_of_library(
    library: PoseLibrary,
    people: Observations,
    directions: NDArray[np.float64],
    trust: NDArray[np.float64],
    count: int,
) -> list[Tensor]:
    """Return `count` tensors (n,) of library rows: the best one, then the best ones with other headings."""
    ideal, weights = ideal_points(people)
    focal = torch.from_numpy(people.k[:, 1, 1]).float()
    size = torch.from_numpy(people.size) / focal
    mine, trusted = torch.from_numpy(directions).float(), torch.from_numpy(trust).float()
    cost = torch.zeros(len(people), len(library.keypoints))
    for rows in torch.arange(len(people)).split(64):
        _, _, left = align(library.keypoints[None, :, :, :2], ideal[rows, None], weights[rows, None])
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


def align(points: Tensor, ideal: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Align points (…, 17, 2) with ideal points (…, 17, 2) by weighted least squares, weights (…, 17).

    Returns the scale (…) above 0, the shift (…, 2) and the remaining weighted squared error (…).
    """
    w = weights[..., None]
    total = w.sum(-2).clamp_min(1e-6)
    middle, target = (w * points).sum(-2) / total, (w * ideal).sum(-2) / total
    a, b = points - middle[..., None, :], ideal - target[..., None, :]
    spread = (w * a.square()).sum((-2, -1)).clamp_min(1e-9)
    scale = ((w * a * b).sum((-2, -1)) / spread).clamp_min(1e-2)
    left = (w * (scale[..., None, None] * a - b).square()).sum((-2, -1))
    return scale, target - scale[..., None] * middle, left
