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

"""A tiny network of the small architecture (stem, proposals), with random targets and outputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import SCRATCH
from multihmr2_ros.network.heads import rotations_from_6d
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import (
    LayerOutputs,
    MultiHMR2,
    TrainingOutputs,
    back_project,
    intrinsics_from_horizontal_fov,
)
from multihmr2_ros.training.targets import Targets

NARROW: dict[str, int] = {
    "image_size": 256,
    "encoder_width": 32,
    "encoder_heads": 2,
    "decoder_width": 32,
    "decoder_heads": 2,
    "decoder_head_width": 16,
    "decoder_mlp_width": 64,
    "queries": 10,
    "head_width": 32,
    "track_feature_width": 16,
}
TINY = dataclasses.replace(
    SCRATCH, max_grid=16, encoder_depth=1, stem_widths=(8, 8, 16, 16), stem_depths=(0, 0, 1, 1), **NARROW
)
TINY_MULTI_HMR = dataclasses.replace(TINY, architecture="multi-hmr", proposed_queries=False)


def make_multi_hmr(seed: int = 0, **changes: Any) -> MultiHMR2:
    torch.manual_seed(seed)
    return initialize(MultiHMR2(dataclasses.replace(TINY_MULTI_HMR, **changes)))


def save_multi_hmr(path: Path) -> Path:
    """Write a network with camera embedding and random weights that detects people in every image."""
    network = make_multi_hmr(camera_embedding=True)
    assert network.patch_detector is not None
    network.patch_detector.score[2].bias.data.fill_(2.0)
    checkpoint.save_network(network, path)
    return path


def make_nano_network(seed: int = 0) -> MultiHMR2:
    torch.manual_seed(seed)
    return initialize(MultiHMR2(TINY))


def make_random_targets(
    images: int, people: int, image_size: tuple[int, int], track_feature_width: int = 16
) -> Targets:
    """Return people at 2 to 6 m, all slots occupied and everything supervised, drawn with torch's generator."""
    height, width = image_size
    targets = Targets.empty(images, people, track_feature_width)
    for mask in (targets.present, targets.has_place, targets.has_body, targets.has_k, targets.score_supervised):
        mask[:] = True
    targets.has_track_feature[:] = True
    targets.k[:] = intrinsics_from_horizontal_fov(0.8 + 0.6 * torch.rand(images), height, width)
    targets.location[:] = torch.rand(images, people, 2) * torch.tensor([width, height])
    targets.centre[:] = back_project(targets.location, 2 + 4 * torch.rand(images, people), targets.k)
    targets.shape.uniform_(0.2, 0.8)
    targets.rotations[:] = rotations_from_6d(
        torch.eye(3)[:, :2] + 0.2 * torch.randn(images, people, targets.rotations.shape[2], 3, 2)
    )
    targets.rotations[:, :, 0] = rotations_from_6d(torch.randn(images, people, 3, 2))
    targets.box[..., :2] = targets.location - 20
    targets.box[..., 2:] = targets.location + 20
    targets.track_feature.normal_()
    return targets


def make_random_outputs(
    network: MultiHMR2, targets: Targets, image_size: tuple[int, int]
) -> tuple[TrainingOutputs, torch.Tensor]:
    """Return outputs with the first image's true places in random order, and that order (P,): person → query."""
    people = targets.present.shape[1]
    order = torch.randperm(people)
    location, nearness = torch.zeros(1, people, 2), torch.zeros(1, people)
    location[0, order] = targets.location[0]
    nearness[0, order] = (targets.k[0, 0, 0] / targets.centre[0, :, 2]).log()
    layer = LayerOutputs(torch.zeros(1, people), location, nearness)
    queries = torch.randn(1, people, network.config.decoder_width)
    return TrainingOutputs((layer,), queries, None, torch.ones(1), targets.k[:1], image_size), order
