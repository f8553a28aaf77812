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

"""Initial weights for training from scratch: few detections, at plausible positions and in a plausible pose."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from multihmr2_ros.network.backbone import Block
from multihmr2_ros.network.decoder import Decoder, QueryLayer
from multihmr2_ros.network.heads import DetectionHeads
from multihmr2_ros.network.human_perception import HumanPerceptionHead
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.proposals import ResidualPerceptron
from multihmr2_ros.people import BONE_COUNT

PRIOR_SCORE = 0.02  # initial score of a query, and of a patch of the heatmap (Lin et al. 2017, focal loss)
PRIOR_DEPTH_M = 4.0
PRIOR_VERTICAL_FOV = math.radians(60)
NEAREST, FARTHEST = 1.0, 16.0  # patches, initial scale of the decoder's first and last head with local attention
LAYER_SCALE = 0.5  # with the usual 1e-5, small vision transformers do not improve for thousands of steps


def initialize(network: MultiHMR2, mean_rotations: Tensor | None = None) -> MultiHMR2:
    """Draw all weights from torch's generator, in place, for training from scratch. Returns the network.

    mean_rotations: (163, 3, 3) initial pose, as in `People.rotations`; None: the rest pose, upright, facing the camera.
    """
    network.apply(_initialize_module)
    size = network.config.image_size
    focal = 0.5 * (0.75 * size) / math.tan(0.5 * PRIOR_VERTICAL_FOV)  # of a 4:3 image
    horizontal_fov = 2 * math.atan(0.5 * size / focal)
    mean_pose = _to_rotation_6d(mean_rotations)
    with torch.no_grad():
        nn.init.trunc_normal_(network.backbone.class_token, std=0.02)
        nn.init.trunc_normal_(network.backbone.register_tokens, std=0.02)
        _set_initial_output(network.detection.nearness, math.log(focal / PRIOR_DEPTH_M))
        _set_initial_output(network.camera.field_of_view, _compute_logit(horizontal_fov / math.pi))
        if isinstance(network.decoder, HumanPerceptionHead):
            _initialize_perception(network, mean_pose)
        else:
            _initialize_queries(network, network.decoder)
        for layer in network.decoder.layers:
            assert isinstance(layer, QueryLayer)
            if layer.neighbourhood is not None:
                initialize_spatial_prior(layer.neighbourhood)
        if network.keypoint_maps is not None:
            nn.init.trunc_normal_(network.keypoint_maps.weight, std=0.01)
            network.keypoint_maps.bias.fill_(_compute_logit(PRIOR_SCORE))
        _set_initial_output(network.person.pose, mean_pose - network.person.initial_pose.cpu())
    return network


def _initialize_perception(network: MultiHMR2, mean_pose: Tensor) -> None:
    """Initialize the parts of Multi-HMR; mean_pose (978,)."""
    assert network.patch_detector is not None
    assert isinstance(network.decoder, HumanPerceptionHead)
    _set_initial_output(network.patch_detector.score, _compute_logit(PRIOR_SCORE))
    _set_initial_output(network.patch_detector.offset, 0.0)
    network.decoder.mean_body[-len(mean_pose) :] = mean_pose


def _initialize_queries(network: MultiHMR2, decoder: Decoder) -> None:
    """Initialize the queries and the detection heads of Multi-HMR 2."""
    rarely, proposals, detection = _compute_logit(PRIOR_SCORE), network.proposals, network.detection
    assert isinstance(detection, DetectionHeads)
    nn.init.trunc_normal_(decoder.queries, std=0.02 if network.config.proposed_queries else 1.0)
    _set_initial_output(detection.score, rarely if proposals is None else 0.0)
    if decoder.heatmap is not None or proposals is not None:
        _set_initial_output(detection.location, 0.0, spread=0.0)
    if decoder.heatmap is not None:
        nn.init.trunc_normal_(decoder.heatmap.weight, std=0.01)
        decoder.heatmap.bias.fill_(rarely)
    if proposals is None:
        return
    for layer in decoder.layers:
        assert isinstance(layer, QueryLayer)
        for branch in (layer.self_out, layer.cross_out, layer.mlp[2]):  # at first, proposed queries are not changed
            assert isinstance(branch, nn.Linear)
            nn.init.zeros_(branch.weight)
    described = proposals.embed[0]
    assert isinstance(described, nn.Linear)
    described.weight[:, -proposals.sampled_width :].mul_(0.1)
    for block in proposals.refine:
        assert isinstance(block, ResidualPerceptron)
        initialize_as_identity(block)


def initialize_as_identity(block: ResidualPerceptron) -> None:
    """Initialize a residual block as the identity."""
    last = block.mlp[2]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)


def initialize_spatial_prior(spatial_prior: nn.Linear) -> None:
    """Center the attention of every head at the query, with a scale that increases from the first to the last head."""
    heads = spatial_prior.out_features // 3
    nn.init.zeros_(spatial_prior.weight)
    nn.init.zeros_(spatial_prior.bias)
    log_scale = torch.linspace(math.log(NEAREST), math.log(FARTHEST), heads)
    spatial_prior.bias.view(heads, 3)[:, 0] = log_scale


def _initialize_module(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
        module.reset_parameters()
    elif isinstance(module, Block):
        nn.init.constant_(module.scale_1, LAYER_SCALE)
        nn.init.constant_(module.scale_2, LAYER_SCALE)


def _set_initial_output(perceptron: nn.Sequential, output: float | Tensor, spread: float = 0.01) -> None:
    """Set the initial outputs to the given values. spread: factor of the random weights, for small differences."""
    last = perceptron[2]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(spread)
    last.bias.copy_(torch.as_tensor(output))


def _to_rotation_6d(rotations: Tensor | None) -> Tensor:
    """Return the first two columns of each bone's rotation, (978,)."""
    if rotations is None:
        rotations = torch.eye(3).repeat(BONE_COUNT, 1, 1)
        # The root bone's rest frame faces +y, with the head at −z: upright is a rotation by −90° about x.
        rotations[0] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    return rotations[:, :, :2].flatten()


def _compute_logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
