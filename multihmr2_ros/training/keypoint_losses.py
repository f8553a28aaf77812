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

"""Losses that train an encoder on COCO's keypoints: keypoint maps, and MoveNet's keypoints of proposed people.

Keypoint maps: every patch is classified by the keypoints in it. This dense supervision trains an encoder without
pretraining on the appearance of bodies long before the few queries do (auxiliary heatmaps as in Shi et al. 2022,
"End-to-End Multi-Person Pose Estimation with Transformers"). Inference does not use the maps.

MoveNet: its own targets (dense maps of centers and keypoints) need every keypoint of every person. Here each head is
supervised for people with known keypoints only, at the cells that its own decoding reads: regression at the center of
the person's query, and, in the search window, the selection of a cell near the keypoint and the offsets of these cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from multihmr2_ros.body import Body
from multihmr2_ros.network.movenet import CELL_PX, MoveNetOutputs
from multihmr2_ros.network.proposals import SearchWindow, find_centers, make_search_window, regress_keypoints
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.loss_functions import masked_mean, project
from multihmr2_ros.training.matched_people import MatchedPeople, TrueBodies
from multihmr2_ros.training.matching import Matches
from multihmr2_ros.training.targets import Targets

SPREAD = 0.7  # patches over which the penalty is reduced around a keypoint

REGRESSION, CHOICE, OFFSET = 4.0, 0.25, 0.5  # parts of the loss
MIN_EXTENT = 4.0  # cells
MARGIN = 0.25  # of the extent
MAX_CELLS = 2.0  # from a keypoint to the cells near it. The pretrained offsets of these cells lead to the keypoint
IMPOSSIBLE = -1e4  # instead of minus infinity, whose gradient is not defined
MAX_SHARE = 2.0  # of the extent: larger regression errors have no gradient


def keypoint_map_loss(
    logit: Tensor, people: MatchedPeople, true: TrueBodies, targets: Targets, body: Body, patch_size: int
) -> Tensor:
    """Return the penalty-reduced focal loss of logits (B, h, w, 17), per keypoint; a scalar.

    Keypoints are the annotated ones, or those of the true bodies. No loss is computed for the patches in the box of a
    person whose keypoint is unknown, in boxes of ignored people, and in images without score supervision.
    """
    rows, columns = logit.shape[1:3]
    pixels, known = collect_known_keypoints(people, true, targets, body)
    y, x = torch.meshgrid(
        torch.arange(rows, device=logit.device), torch.arange(columns, device=logit.device), indexing="ij"
    )
    patches = torch.stack([x, y], dim=-1).flatten(0, 1).to(logit)
    distance = ((pixels / patch_size).floor()[:, :, :, None] - patches).square().sum(-1)
    nearby = (torch.exp(-0.5 * distance / SPREAD**2) * known[..., None]).amax(1)  # (B, 17, h·w)

    centers = (patches + 0.5) * patch_size
    box = targets.box[:, :, None]
    inside = ((centers >= box[..., :2]) & (centers <= box[..., 2:])).all(-1)  # (B, P, h·w)
    unknown = (inside[:, :, None] & ~known[..., None] & (targets.present | targets.ignore)[:, :, None, None]).any(1)

    supervised = targets.score_supervised[:, None, None]
    positive = (nearby == 1) & supervised
    negative = (nearby < 1) & ~unknown & supervised
    return penalty_reduced_focal_loss(logit.flatten(1, 2).transpose(1, 2), nearby, positive, negative)


def penalty_reduced_focal_loss(logit: Tensor, nearby: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the focal loss of patches (Law and Deng 2018), divided by the number of positive patches; a scalar.

    logit               (…) of "the point is in this patch"
    nearby              (…) in [0, 1], which reduces the loss of negative patches: 1 at a true point, 0 far from all
    positive, negative  (…) bool; other patches have no loss
    """
    score = torch.sigmoid(logit)
    high = (1 - score).square() * -functional.logsigmoid(logit)
    low = (1 - nearby).pow(4) * score.square() * -functional.logsigmoid(-logit)
    return (high * positive + low * negative).sum() / positive.sum().clamp(min=1)


@torch.no_grad()
def collect_known_keypoints(
    people: MatchedPeople, true: TrueBodies, targets: Targets, body: Body
) -> tuple[Tensor, Tensor]:
    """Return the true keypoints (B, P, 17, 2) px, and whether they are known (B, P, 17) bool."""
    pixels, known = targets.keypoints.clone(), targets.keypoint_visible.clone()
    rows = true.rows
    points = regress_low_mesh_keypoints(body, true.posed.vertices) + true.pelvis[:, None]
    projected, ahead = project(points, people.targets.k[rows, None])
    usable = ahead & (people.targets.has_place & people.targets.has_k)[rows, None]
    slots = people.image[rows], people.slot[rows]
    pixels[slots] = torch.where(usable[..., None], projected, pixels[slots])
    known[slots] |= usable
    return pixels, known & targets.present[..., None]


def encoder_keypoint_loss(
    outputs: MoveNetOutputs, queries: int, matches: Matches, pixels: Tensor, known: Tensor
) -> Tensor:
    """Return the mean loss over known keypoints of matched people; a scalar.

    queries  number of proposed people
    pixels   (B, P, 17, 2) px, true keypoints
    known    (B, P, 17) bool

    Queries whose center lies outside the person's keypoints are left out: MoveNet did not detect that person.
    """
    _, cells = find_centers(outputs, queries)
    rows = matches.image, matches.query
    regressed = regress_keypoints(outputs, cells)
    truth = pixels[matches.image, matches.person].flip(-1) / CELL_PX  # (M, 17, 2), y before x
    size = truth.new_tensor(outputs.center.shape[1:])
    known = known[matches.image, matches.person] & ((truth >= 0) & (truth < size)).all(-1)
    extent, is_inside = _measure_extent(truth, known, cells[rows])
    known = known & is_inside[:, None]

    error = ((regressed[rows] - truth).abs().sum(-1) / extent[:, None]).clamp(max=MAX_SHARE)
    loss = REGRESSION * masked_mean(error, known)
    choice, offset, in_window = _compute_window_losses(
        outputs, make_search_window(outputs, regressed.detach()), matches, truth.nan_to_num(), size
    )
    known = known & in_window
    return loss + CHOICE * masked_mean(choice, known) + OFFSET * masked_mean(offset, known)


def _compute_window_losses(
    outputs: MoveNetOutputs, window: SearchWindow, matches: Matches, truth: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return two losses (M, 17) of the cells near the truth (M, 17, 2), and whether the window has such cells.

    The first one is the negative log-likelihood that one of these cells is selected, the second one the mean error of
    their offsets: whichever of them is selected, its offset leads to the keypoint.
    """
    rows = matches.image, slice(None), matches.query
    index, preference = window.index[rows], window.compute_preference()[rows]  # (M, 17, N)
    columns = size[1].long()
    place = torch.stack([index // columns, index % columns], dim=-1)
    wanted = truth[:, :, None] - place  # (M, 17, N, 2)
    near = wanted.norm(dim=-1) < MAX_CELLS
    likelihood = preference.masked_fill(~near, IMPOSSIBLE).logsumexp(-1) - preference.logsumexp(-1)
    keypoint = torch.arange(truth.shape[1], device=truth.device)[:, None]
    offset = outputs.offset.flatten(3)[matches.image[:, None, None], keypoint, :, index]
    error = ((offset - wanted).abs().sum(-1) * near).sum(-1) / near.sum(-1).clamp(min=1)
    return -likelihood, error, near.any(-1)


def _measure_extent(truth: Tensor, known: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the longer side (M,) of the box of the known keypoints (M, 17, 2), in cells, and whether the center (M, 2)
    lies in the box, enlarged by a margin of a quarter of that side."""
    low = torch.where(known[..., None], truth, torch.inf).amin(1)
    high = torch.where(known[..., None], truth, -torch.inf).amax(1)
    extent = (high - low).amax(-1).clamp(min=MIN_EXTENT)
    margin = MARGIN * extent[:, None]
    return extent, ((center > low - margin) & (center < high + margin)).all(-1)
