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

"""Hungarian matching of queries to true people by location (paper section 3, equation 1).

Matching needs scores and locations only, so that only matched people's bodies are posed. The paper's alternatives,
3D locations and 3D joints, are available for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.heads import depth_from_nearness
from multihmr2_ros.network.model import PHENOTYPES, LayerOutputs, MultiHMR2, TrainingOutputs, back_project
from multihmr2_ros.training.targets import Targets

MatchingCost = Literal["location", "location_3d", "joints"]


@dataclass(frozen=True)
class MatchingConfig:
    """Settings of matching.

    cost             the distance: of 2D locations (divided by the image's longer side), of 3D locations (m), or of 3D
                     joints (m, mean over joints; poses a body for every query)
    distance_weight  weight of the distance, relative to the focal cost of the score
    """

    cost: MatchingCost = "location"
    distance_weight: float = 10.0

    def __post_init__(self) -> None:
        if self.cost not in get_args(MatchingCost):
            raise UserError(f"matching cost must be one of {', '.join(get_args(MatchingCost))}, got {self.cost!r}")
        if not 0 <= self.distance_weight < float("inf"):
            raise UserError(f"matching distance_weight must be a number of at least 0, got {self.distance_weight}")


@dataclass(frozen=True)
class Matches:
    """M pairs of a query and a person over a batch, and the negative queries.

    image     (M,) int64, row of the batch
    query     (M,) int64
    person    (M,) int64, slot in the targets
    negative  (B, Q) bool: the query should have a low score; false for matched and for ignored queries
    """

    image: Tensor
    query: Tensor
    person: Tensor
    negative: Tensor

    def __len__(self) -> int:
        return len(self.image)


def match_people(layer: LayerOutputs, targets: Targets, config: MatchingConfig, distance: Tensor) -> Matches:
    """Return the one-to-one assignment of minimum cost between queries and present people of each image.

    distance (B, Q, P): from `compute_distances`. Every present person gets a query as long as there are enough queries.
    """
    total = config.distance_weight * distance + compute_focal_cost(layer.score_logit)[..., None]
    cost = total.detach().float().nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    present = targets.present.cpu().numpy()
    image, query, person = [], [], []
    for row, there in enumerate(present):
        people = there.nonzero()[0]
        queries, columns = linear_sum_assignment(cost[row][:, people])
        image += [row] * len(queries)
        query += queries.tolist()
        person += people[columns].tolist()
    device = layer.location.device
    images, rows, slots = (torch.tensor(v, dtype=torch.int64, device=device) for v in (image, query, person))
    negative = targets.score_supervised[:, None] & ~is_inside_ignored(layer.location, targets)
    negative[images, rows] = False
    return Matches(images, rows, slots, negative)


def match_one_to_many(location: Tensor, targets: Targets, matches: Matches, max_queries: int) -> Matches:
    """Match further queries near each person, the nearest first (one-to-many supervision, Zhao et al. 2024, "MS-DETR").

    location (B, Q, 2) px; max_queries: per person. A query is matched to the nearest person within half of the longer
    side of the person's box. Queries that are matched already are left out. `negative` is false for all queries.
    """
    distance = torch.cdist(location.detach(), targets.location, p=1).masked_fill(~targets.present[:, None], torch.inf)
    distance[matches.image, matches.query] = torch.inf
    box = targets.box
    reach = 0.5 * torch.maximum(box[..., 2] - box[..., 0], box[..., 3] - box[..., 1])
    elsewhere = (distance > distance.amin(dim=2, keepdim=True)) | (distance > reach[:, None])
    nearest, query = distance.masked_fill(elsewhere, torch.inf).topk(
        min(max_queries, distance.shape[1]), dim=1, largest=False
    )
    image, rank, person = nearest.isfinite().nonzero(as_tuple=True)
    return Matches(image, query[image, rank, person], person, torch.zeros_like(matches.negative))


def compute_focal_cost(score_logit: Tensor) -> Tensor:
    """Return −0.25 · (1 − c)² · log c for the score c = sigmoid(score_logit)."""
    return -0.25 * torch.sigmoid(-score_logit).square() * functional.logsigmoid(score_logit)


def is_inside_ignored(location: Tensor, targets: Targets) -> Tensor:
    """Return (B, Q) bool: whether a location (B, Q, 2) px lies in the box of an ignored person."""
    box = targets.box[:, None]
    point = location[:, :, None]
    inside = (point >= box[..., :2]).all(-1) & (point <= box[..., 2:]).all(-1)
    return (inside & targets.ignore[:, None]).any(-1)


def compute_distances(
    network: MultiHMR2,
    outputs: TrainingOutputs,
    layer: LayerOutputs,
    targets: Targets,
    body: Body,
    cost: MatchingCost,
) -> Tensor:
    """Return the L1 distance (B, Q, P) of each query to each person; cost: see `MatchingConfig`."""
    if cost == "location":
        return torch.cdist(layer.location, targets.location, p=1) / max(outputs.image_size)
    depth = depth_from_nearness(layer.log_nearness, outputs.k[:, :1, 0])
    center = back_project(layer.location, depth, outputs.k)
    if cost == "location_3d":
        return torch.cdist(center, targets.centre, p=1)
    shape, rotations = network.person(outputs.queries)
    found = place_joints(body, shape[..., :PHENOTYPES], rotations, center)
    truth = place_joints(body, targets.shape, targets.rotations, targets.centre)
    return torch.cdist(found.flatten(2), truth.flatten(2), p=1) / found.shape[2]


def place_joints(body: Body, shape: Tensor, rotations: Tensor, center: Tensor) -> Tensor:
    """Return joints (B, N, 163, 3) m, camera frame, of bodies with shape (B, N, 6), rotations (B, N, 163, 3, 3) and
    center vertex at center (B, N, 3) m."""
    posed = body(shape.flatten(0, 1), rotations.flatten(0, 1))
    shift = center.flatten(0, 1) - posed.vertices[:, body.center_vertex]
    return (posed.joints + shift[:, None]).unflatten(0, center.shape[:2])
