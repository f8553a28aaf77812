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

"""The people of a batch that are matched to queries, predicted and true, and their posed bodies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.network.heads import depth_from_nearness
from multihmr2_ros.network.model import TrainingOutputs, back_project
from multihmr2_ros.training.matching import Matches
from multihmr2_ros.training.targets import Targets


@dataclass(frozen=True)
class MatchedTargets:
    """The annotations of M matched people: their rows of `Targets`, where every field is described.

    k and has_k belong to the person's image.
    """

    location: Tensor
    center: Tensor
    shape: Tensor
    rotations: Tensor
    k: Tensor
    track_feature: Tensor
    box: Tensor
    keypoints: Tensor
    keypoint_visible: Tensor
    has_place: Tensor
    has_relative_place: Tensor
    has_body: Tensor
    has_k: Tensor
    has_track_feature: Tensor


@dataclass(frozen=True)
class MatchedPeople:
    """M matched people, predicted and true; px of the padded input, m in the camera frame.

    image, slot  (M,) indices of the true person in `Targets`
    queries      (M, D)
    location     (M, 2) px, predicted
    log_nearness (M,), predicted
    k            (M, 3, 3) px, the intrinsics in use
    center       (M, 3) m, predicted center vertex
    image_size   (height, width) px
    targets      annotations
    """

    image: Tensor
    slot: Tensor
    queries: Tensor
    location: Tensor
    log_nearness: Tensor
    k: Tensor
    center: Tensor
    image_size: tuple[int, int]
    targets: MatchedTargets

    @property
    def side(self) -> int:
        """The image's longer side, px."""
        return max(self.image_size)

    def select(self, rows: slice | Tensor) -> MatchedPeople:
        """Return some of the people, given as a slice or a mask (M,)."""
        return dataclasses.replace(
            self, **_select_rows(self, rows), targets=MatchedTargets(**_select_rows(self.targets, rows))
        )


def _select_rows(values: MatchedPeople | MatchedTargets, rows: slice | Tensor) -> dict[str, Any]:
    return {name: value[rows] for name, value in vars(values).items() if isinstance(value, Tensor)}


def gather_matched_people(outputs: TrainingOutputs, targets: Targets, matches: Matches) -> MatchedPeople:
    """Gather predictions of the outputs' last layer and targets of the matched people."""
    layer, (image, query, slot) = outputs.layers[-1], (matches.image, matches.query, matches.person)
    location, log_nearness, k = layer.location[image, query], layer.log_nearness[image, query], outputs.k[image]
    depth = depth_from_nearness(log_nearness, k[:, 0, 0])
    return MatchedPeople(
        image=image,
        slot=slot,
        queries=outputs.queries[image, query],
        location=location,
        log_nearness=log_nearness,
        k=k,
        center=back_project(location[:, None], depth[:, None], k)[:, 0],
        image_size=outputs.image_size,
        targets=_gather_targets(targets, image, slot),
    )


def _gather_targets(targets: Targets, image: Tensor, slot: Tensor) -> MatchedTargets:
    """Gather the annotations of the people in the given slots (M,) of images (M,)."""
    return MatchedTargets(
        location=targets.location[image, slot],
        center=targets.centre[image, slot],
        shape=targets.shape[image, slot],
        rotations=targets.rotations[image, slot],
        k=targets.k[image],
        track_feature=targets.track_feature[image, slot],
        box=targets.box[image, slot],
        keypoints=targets.keypoints[image, slot],
        keypoint_visible=targets.keypoint_visible[image, slot],
        has_place=targets.has_place[image, slot],
        has_relative_place=targets.has_relative_place[image, slot],
        has_body=targets.has_body[image, slot],
        has_k=targets.has_k[image],
        has_track_feature=targets.has_track_feature[image, slot],
    )


@dataclass(frozen=True)
class PosedPeople:
    """n posed people; m from the pelvis, camera axes.

    vertices       (n, V, 3)
    joints         (n, 163, 3)
    center_offset  (n, 3), the body's center vertex
    """

    vertices: Tensor
    joints: Tensor
    center_offset: Tensor


@dataclass(frozen=True)
class TrueBodies:
    """The true bodies of n matched people.

    rows    (n,) rows of `MatchedPeople` with known bodies
    posed   the bodies
    pelvis  (n, 3) m, camera frame; valid where has_place
    """

    rows: Tensor
    posed: PosedPeople
    pelvis: Tensor


def pose_people(body: Body, shape: Tensor, rotations: Tensor) -> PosedPeople:
    """Pose bodies of shape (n, 6) and rotations (n, 163, 3, 3), with the pelvis as the origin."""
    posed = body(shape, rotations)
    pelvis = posed.joints[:, :1]
    vertices = posed.vertices - pelvis
    return PosedPeople(vertices, posed.joints - pelvis, vertices[:, body.center_vertex])


@torch.no_grad()
def pose_true_people(people: MatchedPeople, body: Body) -> TrueBodies:
    """Pose the true bodies of the matched people."""
    targets = people.targets
    rows = targets.has_body.nonzero()[:, 0]
    posed = pose_people(body, targets.shape[rows], targets.rotations[rows])
    return TrueBodies(rows, posed, targets.center[rows] - posed.center_offset)
