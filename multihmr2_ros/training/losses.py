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

import torch
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.network.model import LayerOutputs, MultiHMR2, TrainingOutputs
from multihmr2_ros.training.body_losses import MESH_TERMS, compute_body_terms, compute_consistency_terms
from multihmr2_ros.training.detection_losses import (
    compute_detection_terms,
    compute_place_terms,
    field_of_view_loss,
    heatmap_loss,
)
from multihmr2_ros.training.keypoint_losses import (
    collect_known_keypoints,
    encoder_keypoint_loss,
    keypoint_map_loss,
)
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.matched_people import MatchedPeople, TrueBodies, gather_matched_people, pose_true_people
from multihmr2_ros.training.matching import (
    Matches,
    compute_distances,
    match_one_to_many,
    match_people,
)
from multihmr2_ros.training.patches import assign_patches, match_patches, patch_score_loss
from multihmr2_ros.training.targets import Targets

KEYPOINT_TERMS = frozenset({"keypoint_map", "encoder_keypoint"})
CONSISTENCY_TERMS = frozenset({"consistency_pose", "consistency_joints"})


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
    active, last = config.active, outputs.layers[-1]
    matches = _match_queries(network, outputs, last, targets, body, config)
    people = gather_matched_people(outputs, targets, matches)
    true = pose_true_people(people, body) if active & (MESH_TERMS | KEYPOINT_TERMS) else None
    terms = _WeightedTerms(config)
    terms.add(compute_detection_terms(last, people, matches, targets, config))
    if config.auxiliary:
        for layer in outputs.layers[:-1]:
            terms.add(_compute_auxiliary_terms(network, outputs, layer, targets, body, config), config.auxiliary)
    if config.surplus:
        terms.add(_compute_surplus_terms(network, outputs, targets, matches, body, config), config.surplus)
    terms.add(_compute_image_terms(network, outputs, targets, config))
    terms.add(compute_body_terms(network, people, true, body, active))
    if true is not None:
        terms.add(_compute_keypoint_terms(network, outputs, matches, people, true, targets, body, config))
    if reference is not None and active & CONSISTENCY_TERMS:
        terms.add(_compute_reference_terms(network, people, *reference, targets, body, config))
    return terms.values


class _WeightedTerms:
    """A sum of loss terms by name: `values` are multiplied by their weights."""

    def __init__(self, config: LossConfig) -> None:
        self._config = config
        self.values: dict[str, Tensor] = {}

    def add(self, terms: dict[str, Tensor], factor: float = 1.0) -> None:
        """Add unweighted terms, multiplied by their weights and a factor. Terms of the same name are summed."""
        for name, value in terms.items():
            weighted = factor * getattr(self._config, name) * value
            self.values[name] = self.values[name] + weighted if name in self.values else weighted


def _compute_auxiliary_terms(
    network: MultiHMR2, outputs: TrainingOutputs, layer: LayerOutputs, targets: Targets, body: Body, config: LossConfig
) -> dict[str, Tensor]:
    """Return the detection terms of a decoder layer that is not the last one; its queries are matched separately."""
    matches = _match_queries(network, outputs, layer, targets, body, config)
    people = gather_matched_people(dataclasses.replace(outputs, layers=(layer,)), targets, matches)
    return compute_detection_terms(layer, people, matches, targets, config)


def _compute_surplus_terms(
    network: MultiHMR2, outputs: TrainingOutputs, targets: Targets, matches: Matches, body: Body, config: LossConfig
) -> dict[str, Tensor]:
    """Return the terms of further queries near the matched people: all terms of people that need no mesh."""
    location = outputs.layers[-1].location
    people = gather_matched_people(
        outputs, targets, match_one_to_many(location, targets, matches, config.surplus_queries)
    )
    active = config.active & {"root", "pose", "root_columns", "pose_columns", "shape"}
    return compute_place_terms(people, config) | compute_body_terms(network, people, None, body, active)


def _compute_reference_terms(
    network: MultiHMR2,
    people: MatchedPeople,
    reference: MultiHMR2,
    outputs: TrainingOutputs,
    targets: Targets,
    body: Body,
    config: LossConfig,
) -> dict[str, Tensor]:
    """Return the consistency terms with a frozen model; outputs: of the frozen model."""
    matches = _match_queries(reference, outputs, outputs.layers[-1], targets, body, config)
    reference_people = gather_matched_people(outputs, targets, matches)
    return compute_consistency_terms(network, people, reference, reference_people, body)


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


def _compute_heatmap_loss(network: MultiHMR2, outputs: TrainingOutputs, heatmap: Tensor, targets: Targets) -> Tensor:
    """Return the loss of the heat map: focal, or the cross-entropy of patches for Multi-HMR."""
    patch_size = network.config.patch_size
    if outputs.patch is None:
        return heatmap_loss(heatmap, targets, patch_size)
    return patch_score_loss(heatmap, assign_patches(targets, outputs.image_size, patch_size))


def _match_queries(
    network: MultiHMR2,
    outputs: TrainingOutputs,
    layer: LayerOutputs,
    targets: Targets,
    body: Body,
    config: LossConfig,
) -> Matches:
    """Match the queries of a decoder layer to people; for Multi-HMR, by their patches."""
    if outputs.patch is not None:
        return match_patches(outputs.patch, assign_patches(targets, outputs.image_size, network.config.patch_size))
    with torch.no_grad():
        distance = compute_distances(network, outputs, layer, targets, body, config.matching.cost)
        return match_people(layer, targets, config.matching, distance)
