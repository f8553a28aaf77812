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

"""Training losses (paper section 3, "Training losses"), of all queries and of the matched ones.

Every term is a mean over the people or images that supervise it, so that its weight does not depend on the batch. The
masks in `Targets` select the data that supervise a term: missing annotations never contribute to a loss.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.model import LayerOutputs, MultiHMR2, TrainingOutputs
from multihmr2_ros.training.body_losses import MESH_TERMS, compute_body_terms, compute_consistency_terms
from multihmr2_ros.training.keypoint_losses import (
    collect_known_keypoints,
    encoder_keypoint_loss,
    keypoint_map_loss,
    penalty_reduced_focal_loss,
)
from multihmr2_ros.training.loss_functions import find_pairs, masked_mean
from multihmr2_ros.training.matched_people import MatchedPeople, TrueBodies, gather_matched_people, pose_true_people
from multihmr2_ros.training.matching import (
    Matches,
    MatchingConfig,
    compute_distances,
    is_inside_ignored,
    match_one_to_many,
    match_people,
)
from multihmr2_ros.training.patches import assign_patches, find_patch, match_patches, patch_score_loss
from multihmr2_ros.training.targets import Targets

# Standard deviation of the heatmap's target around the person's patch, as a fraction of the person's height.
HEATMAP_SPREAD = 0.1
MIN_PAIR_DISTANCE_M = 0.3


@dataclass(frozen=True)
class LossConfig:
    """The weight of every term; a term of weight 0 is not computed. With the defaults, for small networks trained from
    scratch, the gradients of the terms in the encoder have norms of the same order.

    score               focal cross-entropy of queries (plain cross-entropy, as in the paper, if focal_score is false)
    heatmap             focal loss of patches, for networks that propose queries; binary cross-entropy for Multi-HMR
    keypoint_map        focal loss of patches for each keypoint, for networks with keypoint maps
    encoder_keypoint    errors of the keypoints from which a pretrained encoder proposes people
    location            L1, divided by the image's longer side
    nearness            L1 of log(f / z): the same for all cameras
    depth               L1 of z, m
    relative_depth      L1 of the difference of log z between people of one image
    relative_metric     L1 of log distances between people of one image; minus the mean error of the image's pairs if
                        only relative positions are known
    relative_stature    L1 of the difference of log stature between people of one image
    field_of_view       squared error of the horizontal field of view, rad; times three if it is too wide
    root                L1 of the root's rotation matrix
    pose                L1 of the other posed bones' rotation matrices
    root_columns, pose_columns   squared error of the two predicted columns of a rotation, before orthonormalization.
                        Without them, columns of small networks grow (to a length of 8) until Gram-Schmidt passes no
                        gradient, and the network cannot express uncertainty between front and back
    shape               L1 of the phenotypes
    vertices, joints    L1 from the pelvis, m (low mesh)
    reprojection        L1 of projected joints or keypoints, divided by the image's longer side
    keypoint_similarity 1 − COCO's object keypoint similarity of annotated keypoints, with twice its sigmas
    angle               angle between joints and their true rays, divided by the diagonal field of view
    track_feature       L1
    consistency_pose, consistency_joints   squared error of rotation matrices, and squared distance of joints from the
                        pelvis, m², to a frozen model's predictions (stage b)
    auxiliary           factor of the detection terms of all decoder layers except the last
    surplus             factor of location, root, pose and shape of further queries near a person (one-to-many
                        supervision), up to surplus_queries per person; their scores are not supervised
    """

    score: float = 2.0
    heatmap: float = 2.0
    keypoint_map: float = 2.0
    encoder_keypoint: float = 0.0
    location: float = 6.0
    nearness: float = 1.5
    depth: float = 0.0
    relative_depth: float = 0.25
    relative_metric: float = 0.0
    relative_stature: float = 0.0
    field_of_view: float = 2.0
    root: float = 0.0
    pose: float = 10.0
    root_columns: float = 3.0
    pose_columns: float = 120.0
    shape: float = 10.0
    vertices: float = 4.0
    joints: float = 12.0
    reprojection: float = 1.0
    keypoint_similarity: float = 0.0
    angle: float = 10.0
    track_feature: float = 1.0
    consistency_pose: float = 0.0
    consistency_joints: float = 0.0
    auxiliary: float = 1.0
    surplus: float = 1.0
    surplus_queries: int = 4
    focal_score: bool = True
    matching: MatchingConfig = field(default_factory=MatchingConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type == "float" and not 0 <= value < math.inf:
                raise UserError(f"loss weight {item.name} must be a number of at least 0, got {value}")
        if self.surplus_queries < 1:
            raise UserError(
                f"surplus_queries must be at least 1, got {self.surplus_queries}; --loss surplus=0 disables them"
            )


def compute_losses(
    network: MultiHMR2,
    outputs: TrainingOutputs,
    targets: Targets,
    body: Body,
    config: LossConfig,
    reference: tuple[MultiHMR2, TrainingOutputs] | None = None,
) -> dict[str, Tensor]:
    """Return the weighted terms by name; their sum is the loss.

    For Multi-HMR, the people of the patches supervise the queries instead of matching, and the heat map is the score.

    body       the low mesh, on the outputs' device
    reference  the frozen model of the consistency terms, and its outputs for the same images
    """
    if outputs.patch is not None:
        config = dataclasses.replace(config, score=0.0, surplus=0.0)
    weights = {item.name for item in dataclasses.fields(config) if getattr(config, item.name)}
    last = outputs.layers[-1]
    matches = _match_queries(network, outputs, last, targets, body, config)
    people = gather_matched_people(outputs, targets, matches)
    true = pose_true_people(people, body) if weights & (MESH_TERMS | {"keypoint_map", "encoder_keypoint"}) else None
    terms: dict[str, Tensor] = {}
    _add_terms(terms, config, compute_detection_terms(last, people, matches, targets, config))
    if config.auxiliary:
        for layer in outputs.layers[:-1]:
            auxiliary = _compute_auxiliary_terms(network, outputs, layer, targets, body, config)
            _add_terms(terms, config, auxiliary, config.auxiliary)
    if config.surplus:
        surplus_matches = match_one_to_many(last.location, targets, matches, config.surplus_queries)
        surplus_people = gather_matched_people(outputs, targets, surplus_matches)
        _add_terms(terms, config, compute_one_to_many_terms(network, surplus_people, body, config), config.surplus)
    _add_terms(terms, config, _compute_image_terms(network, outputs, targets, config))
    _add_terms(terms, config, compute_body_terms(network, people, true, body, weights))
    if true is not None:
        _add_terms(
            terms, config, _compute_keypoint_terms(network, outputs, matches, people, true, targets, body, config)
        )
    if reference is not None and weights & {"consistency_pose", "consistency_joints"}:
        frozen, frozen_outputs = reference
        frozen_matches = _match_queries(frozen, frozen_outputs, frozen_outputs.layers[-1], targets, body, config)
        frozen_people = gather_matched_people(frozen_outputs, targets, frozen_matches)
        _add_terms(terms, config, compute_consistency_terms(network, people, frozen, frozen_people, body))
    return terms


def _compute_auxiliary_terms(
    network: MultiHMR2, outputs: TrainingOutputs, layer: LayerOutputs, targets: Targets, body: Body, config: LossConfig
) -> dict[str, Tensor]:
    """Return the detection terms of a decoder layer that is not the last one; its queries are matched separately."""
    matches = _match_queries(network, outputs, layer, targets, body, config)
    people = gather_matched_people(dataclasses.replace(outputs, layers=(layer,)), targets, matches)
    return compute_detection_terms(layer, people, matches, targets, config)


def _compute_image_terms(
    network: MultiHMR2, outputs: TrainingOutputs, targets: Targets, config: LossConfig
) -> dict[str, Tensor]:
    """Return the terms of whole images: heat map and field of view."""
    terms = {}
    if config.heatmap and outputs.heatmap is not None:
        terms["heatmap"] = _compute_heatmap_loss(network, outputs, outputs.heatmap, targets)
    if config.field_of_view:
        terms["field_of_view"] = field_of_view_loss(outputs.horizontal_fov, targets, outputs.image_size[1])
    return terms


def _compute_keypoint_terms(
    network: MultiHMR2,
    outputs: TrainingOutputs,
    matches: Matches,
    people: MatchedPeople,
    true: TrueBodies,
    targets: Targets,
    body: Body,
    config: LossConfig,
) -> dict[str, Tensor]:
    """Return the terms that train the encoder on keypoints."""
    terms = {}
    if outputs.keypoint_maps is not None and config.keypoint_map:
        patch_size = network.config.patch_size
        terms["keypoint_map"] = keypoint_map_loss(outputs.keypoint_maps, people, true, targets, body, patch_size)
    if outputs.movenet is not None and config.encoder_keypoint:
        pixels, known = collect_known_keypoints(people, true, targets, body)
        queries = network.config.queries
        terms["encoder_keypoint"] = encoder_keypoint_loss(outputs.movenet, queries, matches, pixels, known)
    return terms


def compute_detection_terms(
    layer: LayerOutputs, people: MatchedPeople, matches: Matches, targets: Targets, config: LossConfig
) -> dict[str, Tensor]:
    """Return the terms of one decoder layer: score, location and nearness."""
    terms = {}
    if config.score:
        terms["score"] = score_loss(layer.score_logit, matches, targets, focal=config.focal_score)
    terms |= compute_place_terms(people, config)
    if config.relative_depth:
        true_depth = people.targets.center[:, 2].clamp(min=1e-3)
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
    true_depth = people.targets.center[:, 2].clamp(min=1e-3)
    if config.nearness:
        true_nearness = (people.targets.k[:, 0, 0] / true_depth).log()
        terms["nearness"] = masked_mean((people.log_nearness - true_nearness).abs(), known)
    if config.depth:
        terms["depth"] = masked_mean((people.center[:, 2] - true_depth).abs(), people.targets.has_place)
    return terms


def compute_one_to_many_terms(
    network: MultiHMR2, people: MatchedPeople, body: Body, config: LossConfig
) -> dict[str, Tensor]:
    """Return the terms of further queries near people: all person terms that need no mesh."""
    weights = {name for name in ("root", "pose", "root_columns", "pose_columns", "shape") if getattr(config, name)}
    return compute_place_terms(people, config) | compute_body_terms(network, people, None, body, weights)


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


def _compute_heatmap_loss(network: MultiHMR2, outputs: TrainingOutputs, heatmap: Tensor, targets: Targets) -> Tensor:
    patch_size = network.config.patch_size
    if outputs.patch is None:
        return heatmap_loss(heatmap, targets, patch_size)
    return patch_score_loss(heatmap, assign_patches(targets, outputs.image_size, patch_size))


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


def _match_queries(
    network: MultiHMR2,
    outputs: TrainingOutputs,
    layer: LayerOutputs,
    targets: Targets,
    body: Body,
    config: LossConfig,
) -> Matches:
    if outputs.patch is not None:
        return match_patches(outputs.patch, assign_patches(targets, outputs.image_size, network.config.patch_size))
    with torch.no_grad():
        distance = compute_distances(network, outputs, layer, targets, body, config.matching.cost)
        return match_people(layer, targets, config.matching, distance)


def _add_terms(terms: dict[str, Tensor], config: LossConfig, new: dict[str, Tensor], factor: float = 1.0) -> None:
    """Add new terms, multiplied by their weights and a factor, to the weighted terms, in place."""
    for name, value in new.items():
        weight = factor * getattr(config, name)
        terms[name] = terms[name] + weight * value if name in terms else weight * value
