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

"""What a batch should have been predicted as: the truth of B images with P person slots each, as torch tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from multihmr2_ros.people import BONE_COUNT

KEYPOINT_COUNT = 17
"""COCO's body keypoints, in COCO's order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; the left
one of each pair first."""


@dataclass(frozen=True)
class Targets:
    """The padded truth of B images, P slots each; pixels are those of the network's padded input.

    A slot is a person to be found (`present`), a person who is neither positive nor negative (`ignore`, only its box
    means something), or empty. What a person's annotation lacks is masked, and zero (rotations: identity).

    present              (B, P) bool
    ignore               (B, P) bool; never together with present
    location             (B, P, 2) px, the projection of the body's centre vertex
    centre               (B, P, 3) m, camera frame, the body's centre vertex
    shape                (B, P, 6) phenotypes in Anny's order
    rotations            (B, P, 163, 3, 3) relative to the parent bone, the first in the camera frame
    has_place            (B, P) bool: centre is true
    has_relative_place   (B, P) bool: centre is true up to a factor that all such people of the image share
    has_body             (B, P) bool: shape and rotations are true or pseudo-true
    keypoints            (B, P, 17, 2) px, COCO's order
    keypoint_visible     (B, P, 17) bool: the keypoint was annotated (all false where the body supervises already)
    box                  (B, P, 4) px: x0 y0 x1 y1 of what is visible
    visible_fraction     (B, P) of the person's pixels, 0 to 1
    k                    (B, 3, 3) px, the true intrinsics where has_k
    has_k                (B,) bool
    score_supervised     (B,) bool: false where people without annotation may be in the picture
    track_feature        (B, P, F), F may be 0
    has_track_feature    (B, P) bool
    person_id            (B, P) int64, −1 in empty slots
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
    visible_fraction: Tensor
    k: Tensor
    has_k: Tensor
    score_supervised: Tensor
    track_feature: Tensor
    has_track_feature: Tensor
    person_id: Tensor

    @classmethod
    def empty(cls, images: int, slots: int, track_feature_width: int = 0) -> Targets:
        """The targets of images without people and without known intrinsics, to be filled in place."""
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
            visible_fraction=torch.zeros(images, slots),
            k=torch.eye(3).repeat(images, 1, 1),
            has_k=torch.zeros(images, dtype=torch.bool),
            score_supervised=torch.zeros(images, dtype=torch.bool),
            track_feature=torch.zeros(images, slots, track_feature_width),
            has_track_feature=flag.clone(),
            person_id=torch.full((images, slots), -1, dtype=torch.int64),
        )

    def __len__(self) -> int:
        """B."""
        return len(self.present)

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device."""
        moved = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return Targets(**moved)
