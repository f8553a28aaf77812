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

"""Ground truth of a batch: B images with P person slots each, as torch tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from multihmr2_ros.people import BONE_COUNT

KEYPOINT_COUNT = 17
"""COCO's body keypoints, in COCO's order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; the left
one of each pair comes first."""


@dataclass(frozen=True)
class Targets:
    """The annotations of B images, padded to P slots each; pixels are those of the network's padded input.

    A slot is a person to detect (`present`), a person who is neither positive nor negative (`ignore`; only the box is
    valid), or empty. Missing annotations are masked, and zero (rotations: identity).

    present              (B, P) bool
    ignore               (B, P) bool; never together with present
    location             (B, P, 2) px, the projection of the body's center vertex
    centre               (B, P, 3) m, camera frame, the body's center vertex
    shape                (B, P, 6) phenotypes in Anny's order
    rotations            (B, P, 163, 3, 3) relative to the parent bone, the first in the camera frame
    has_place            (B, P) bool: centre is true
    has_relative_place   (B, P) bool: centre is true up to a factor shared by all such people of the image
    has_body             (B, P) bool: shape and rotations are true or pseudo-true
    keypoints            (B, P, 17, 2) px, COCO's order
    keypoint_visible     (B, P, 17) bool: the keypoint was annotated (all false for people with a true body)
    box                  (B, P, 4) px: x0 y0 x1 y1 of the visible part
    k                    (B, 3, 3) px, the true intrinsics where has_k
    has_k                (B,) bool
    score_supervised     (B,) bool: false if the image may show people without annotation
    track_feature        (B, P, F), F may be 0
    has_track_feature    (B, P) bool
    """

    present: Tensor
    ignore: Tensor
    location: Tensor
    centre: Tensor
    shape: Tensor
    rotations: Tensor
    has_place: Tensor
    has_relative_place: Tensor
    has_body: Tensor
    keypoints: Tensor
    keypoint_visible: Tensor
    box: Tensor
    k: Tensor
    has_k: Tensor
    score_supervised: Tensor
    track_feature: Tensor
    has_track_feature: Tensor

    @classmethod
    def empty(cls, images: int, slots: int, track_feature_width: int = 0) -> Targets:
        """Return targets of images without people and without known intrinsics, to be filled in place."""
        flag = torch.zeros(images, slots, dtype=torch.bool)
        return cls(
            present=flag.clone(),
            ignore=flag.clone(),
            location=torch.zeros(images, slots, 2),
            centre=torch.zeros(images, slots, 3),
            shape=torch.zeros(images, slots, 6),
            rotations=torch.eye(3).repeat(images, slots, BONE_COUNT, 1, 1),
            has_place=flag.clone(),
            has_relative_place=flag.clone(),
            has_body=flag.clone(),
            keypoints=torch.zeros(images, slots, KEYPOINT_COUNT, 2),
            keypoint_visible=torch.zeros(images, slots, KEYPOINT_COUNT, dtype=torch.bool),
            box=torch.zeros(images, slots, 4),
            k=torch.eye(3).repeat(images, 1, 1),
            has_k=torch.zeros(images, dtype=torch.bool),
            score_supervised=torch.zeros(images, dtype=torch.bool),
            track_feature=torch.zeros(images, slots, track_feature_width),
            has_track_feature=flag.clone(),
        )

    def __len__(self) -> int:
        """Return B."""
        return len(self.present)

    def to(self, device: torch.device | str) -> Targets:
        """Return the targets on another device."""
        moved = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return Targets(**moved)
