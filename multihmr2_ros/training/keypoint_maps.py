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

"""Maps of COCO's keypoints, which a small encoder learns beside the rest: every patch says which keypoints lie in it.

Dense supervision teaches an encoder without pretraining what bodies look like long before the few queries do (auxiliary
heatmaps as in Shi et al. 2022, "End-to-End Multi-Person Pose Estimation with Transformers"). Nothing reads them at
inference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from multihmr2_ros.body import Body
from multihmr2_ros.training.body_losses import Matched, TruePeople, project
from multihmr2_ros.training.keypoints import coco_keypoints
from multihmr2_ros.training.targets import Targets

SPREAD = 0.7  # patches over which the penalty is reduced around a keypoint


def keypoint_map_loss(
    logit: Tensor, people: Matched, true: TruePeople, targets: Targets, body: Body, patch_size: int
) -> Tensor:
    """Penalty-reduced focal loss (as of the centres' heatmap) of (B, h, w, 17) patches, per keypoint.

    Keypoints are annotated, or those of the true bodies. Where a person's is not known, the patches of their box count
    neither way for it, nor do the boxes of ignored people, nor pictures without score supervision.
    """
    rows, columns = logit.shape[1:3]
    pixels, known = known_keypoints(people, true, targets, body)
    y, x = torch.meshgrid(
        torch.arange(rows, device=logit.device), torch.arange(columns, device=logit.device), indexing="ij"
    )
    patches = torch.stack([x, y], dim=-1).flatten(0, 1).to(logit)
    distance = ((pixels / patch_size).floor()[:, :, :, None] - patches).square().sum(-1)
    nearby = (torch.exp(-0.5 * distance / SPREAD**2) * known[..., None]).amax(1)  # (B, 17, h·w)

    centres = (patches + 0.5) * patch_size
    box = targets.box[:, :, None]
    inside = ((centres >= box[..., :2]) & (centres <= box[..., 2:])).all(-1)  # (B, P, h·w)
    unknown = (inside[:, :, None] & ~known[..., None] & (targets.present | targets.ignore)[:, :, None, None]).any(1)

    supervised = targets.score_supervised[:, None, None]
    positive = (nearby == 1) & supervised
    negative = (nearby < 1) & ~unknown & supervised
    logit = logit.flatten(1, 2).transpose(1, 2)
    score = torch.sigmoid(logit)
    high = (1 - score).square() * -functional.logsigmoid(logit)
    low = (1 - nearby).pow(4) * score.square() * -functional.logsigmoid(-logit)
    return (high * positive + low * negative).sum() / positive.sum().clamp(min=1)


@torch.no_grad()
def known_keypoints(people: Matched, true: TruePeople, targets: Targets, body: Body) -> tuple[Tensor, Tensor]:
    """(B, P, 17, 2) px and (B, P, 17) whether they are known."""
    pixels, known = targets.keypoints.clone(), targets.keypoint_visible.clone()
    rows = true.rows
    points = coco_keypoints(body, true.person.vertices) + true.places[:, None]
    projected, ahead = project(points, people.true_k[rows, None])
    usable = ahead & (people.has_place & people.has_k)[rows, None]
    slots = people.image[rows], people.slot[rows]
    pixels[slots] = torch.where(usable[..., None], projected, pixels[slots])
    known[slots] |= usable
    return pixels, known & targets.present[..., None]
