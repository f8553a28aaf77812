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

"""Losses of scores, positions and cameras: of all queries or patches, of matched people, and of pairs of people."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from multihmr2_ros.network.model import LayerOutputs
from multihmr2_ros.training.keypoint_losses import penalty_reduced_focal_loss
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.loss_functions import find_pairs, masked_mean
from multihmr2_ros.training.matched_people import MatchedPeople
from multihmr2_ros.training.matching import Matches, is_inside_ignored
from multihmr2_ros.training.patches import find_patch
from multihmr2_ros.training.targets import Targets

# Standard deviation of the heatmap's target around the person's patch, as a fraction of the person's height.
HEATMAP_SPREAD = 0.1
MIN_PAIR_DISTANCE_M = 0.3
MIN_TRUE_DEPTH_M = 1e-3


def compute_detection_terms(
    layer: LayerOutputs, people: MatchedPeople, matches: Matches, targets: Targets, config: LossConfig
) -> dict[str, Tensor]:
    """Return the terms of one decoder layer: score, location and nearness."""
    terms = {}
    if config.score:
        terms["score"] = score_loss(layer.score_logit, matches, targets, focal=config.focal_score)
    terms |= compute_place_terms(people, config)
    if config.relative_depth:
        true_depth = people.targets.center[:, 2].clamp(min=MIN_TRUE_DEPTH_M)
        known = people.targets.has_place | people.targets.has_relative_place
        terms["relative_depth"] = relative_depth_loss(people.log_nearness, true_depth, matches.image, known)
    if config.relative_metric:
        terms["relative_metric"] = relative_metric_loss(people)
    return terms


def compute_place_terms(people: MatchedPeople, config: LossConfig) -> dict[str, Tensor]:
    """Return the terms of the matched people's location in the image, nearness and depth."""
    terms = {}
    if config.location:
        terms["location"] = masked_mean((people.location - people.targets.location).abs().sum(-1)) / people.side
    known = people.targets.has_place & people.targets.has_k
    true_depth = people.targets.center[:, 2].clamp(min=MIN_TRUE_DEPTH_M)
    if config.nearness:
        true_nearness = (people.targets.k[:, 0, 0] / true_depth).log()
        terms["nearness"] = masked_mean((people.log_nearness - true_nearness).abs(), known)
    if config.depth:
        terms["depth"] = masked_mean((people.center[:, 2] - true_depth).abs(), people.targets.has_place)
    return terms


def score_loss(score_logit: Tensor, matches: Matches, targets: Targets, *, focal: bool) -> Tensor:
    """Return the cross-entropy of score logits (B, Q) over matched and negative queries, per matched person.

    Images without score supervision are left out: from annotated people alone the network would learn too high scores.
    """
    positive = torch.zeros_like(matches.negative)
    positive[matches.image, matches.query] = True
    positive &= targets.score_supervised[:, None]
    high, low = -functional.logsigmoid(score_logit), -functional.logsigmoid(-score_logit)
    if focal:
        score = torch.sigmoid(score_logit)
        high, low = 0.25 * (1 - score).square() * high, 0.75 * score.square() * low
    return (high * positive + low * matches.negative).sum() / positive.sum().clamp(min=1)


def heatmap_loss(logit: Tensor, targets: Targets, patch_size: int) -> Tensor:
    """Return the penalty-reduced focal loss of patch logits (B, h, w), per person.

    The positive patch contains the person's center, or is the nearest one; around it the penalty is reduced. Patches in
    the box of an ignored person, and images without score supervision, are left out.
    """
    batch, rows, columns = logit.shape
    cell = find_patch(targets.location, (rows, columns), patch_size)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    center = torch.stack([x, y], dim=-1).to(logit).flatten(0, 1)
    spread = (HEATMAP_SPREAD / patch_size * (targets.box[..., 3] - targets.box[..., 1])).clamp(min=0.5)
    distance = (center - cell[:, :, None]).square().sum(-1)
    nearby = torch.exp(-0.5 * distance / spread[..., None].square()) * targets.present[..., None]
    supervised = targets.score_supervised[:, None]
    positive = ((distance < 0.5) & targets.present[..., None]).any(1) & supervised
    places = ((center + 0.5) * patch_size).expand(batch, -1, -1)
    negative = ~positive & supervised & ~is_inside_ignored(places, targets)
    return penalty_reduced_focal_loss(logit.flatten(1), nearby.amax(1), positive, negative)


def field_of_view_loss(horizontal_fov: Tensor, targets: Targets, width: int) -> Tensor:
    """Return the mean squared error (rad²) of (B,) rad, times three for fields of view that are too wide.

    As in CameraHMR: a field of view that is too wide moves all people too near.
    """
    true = 2 * torch.atan(0.5 * width / targets.k[:, 0, 0])
    error = horizontal_fov - true
    return masked_mean(error.square() * torch.where(error > 0, 3.0, 1.0), targets.has_k)


def relative_depth_loss(log_nearness: Tensor, true_depth: Tensor, image: Tensor, known: Tensor) -> Tensor:
    """Return the L1 error of log(zᵢ / zⱼ) over all pairs of people of one image; M rows. The focal length cancels."""
    error = log_nearness + true_depth.log()
    return masked_mean((error[:, None] - error).abs(), find_pairs(image, known))


def relative_metric_loss(people: MatchedPeople) -> Tensor:
    """Return the L1 of log(dᵢⱼ / d*ᵢⱼ) over all pairs of people of one image; d: distance of their centers, m.

    Our interpretation of the relative metric loss of Wang et al. (2025), of which only the abstract was available.
    If the true positions are known up to a factor (`Targets.has_relative_place`), the mean over the image's pairs is
    subtracted first: such an image needs three people.
    """
    metric = people.targets.has_place & people.targets.has_k
    pairs = find_pairs(people.image, people.targets.has_place | people.targets.has_relative_place)
    first, second = pairs.nonzero(as_tuple=True)
    error = _compute_log_distance(people.center, first, second) - _compute_log_distance(
        people.targets.center, first, second
    )
    image, count = people.image[first], int(people.image.max()) + 1 if len(people.image) else 0
    ones = error.new_zeros(count).index_add(0, image, torch.ones_like(error))
    common = error.new_zeros(count).index_add(0, image, error) / ones.clamp(min=1)
    both = metric[first] & metric[second]
    return masked_mean(torch.where(both, error, error - common[image]).abs())


def _compute_log_distance(center: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the logarithm (p,) of distances between rows of centers (M, 3) m, clamped to MIN_PAIR_DISTANCE_M."""
    square = (center[first] - center[second]).square().sum(-1)
    return 0.5 * square.clamp(min=MIN_PAIR_DISTANCE_M**2).log()
