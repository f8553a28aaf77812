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

"""Targets of Multi-HMR: a person for each patch, instead of matching."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from multihmr2_ros.training.matching import Matches, is_inside_ignored
from multihmr2_ros.training.targets import Targets


@dataclass(frozen=True)
class PatchTargets:
    """Targets of h × w patches of B images.

    person      (B, h, w) int64, slot of the person whose center is in the patch; −1: none
    supervised  (B, h, w) bool: false in boxes of ignored people, and in images without score supervision
    """

    person: Tensor
    supervised: Tensor

    @property
    def is_center(self) -> Tensor:
        """Return (B, h, w) bool: whether a person's center is in the patch."""
        return self.person >= 0


def assign_patches(targets: Targets, image_size: tuple[int, int], patch_size: int) -> PatchTargets:
    """Assign people to the patches of their centers; image_size: (height, width) px.

    A center outside the image belongs to the nearest patch. Of several people in one patch, the one with the highest
    box is its target; the others are not learned.
    """
    rows, columns = grid = (image_size[0] // patch_size, image_size[1] // patch_size)
    index = torch.arange(rows * columns, device=targets.location.device)
    x, y = find_patch(targets.location, grid, patch_size).long().unbind(-1)
    is_there = ((columns * y + x)[:, :, None] == index) & targets.present[:, :, None]  # (B, P, h·w)
    height = (targets.box[..., 3] - targets.box[..., 1]).clamp(min=0)
    max_height, person = torch.where(is_there, height[:, :, None], -1.0).max(dim=1)
    person = torch.where(max_height >= 0, person, -1)

    middle = torch.stack([index % columns, index // columns], dim=-1) + 0.5
    is_ignored = is_inside_ignored((patch_size * middle).expand(len(targets), -1, -1), targets)
    supervised = targets.score_supervised[:, None] & ((person >= 0) | ~is_ignored)
    return PatchTargets(person.unflatten(1, grid), supervised.unflatten(1, grid))


def find_patch(location: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Return the patch (…, 2), column and row as floats, of locations (…, 2) px, or the nearest one."""
    size = location.new_tensor([grid[1], grid[0]])
    return (location / patch_size).floor().clamp(min=0).minimum(size - 1)


def match_patches(patch: Tensor, targets: PatchTargets) -> Matches:
    """Return the queries, of patches (B, Q), whose patch has a person. `negative` is false: queries have no score."""
    person = targets.person.flatten(1).gather(1, patch)
    image, query = (person >= 0).nonzero(as_tuple=True)
    return Matches(image, query, person[image, query], torch.zeros_like(person, dtype=torch.bool))


def patch_score_loss(logit: Tensor, targets: PatchTargets) -> Tensor:
    """Return the binary cross-entropy of patch logits (B, h, w), summed over patches, per person."""
    wanted = targets.is_center.to(logit.dtype)
    loss = functional.binary_cross_entropy_with_logits(logit, wanted, reduction="none")
    return (loss * targets.supervised).sum() / (wanted * targets.supervised).sum().clamp(min=1)
