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

"""A Multi-HMR 2 of 200,000 parameters with random weights, for tests that do not depend on the values."""

from __future__ import annotations

from pathlib import Path

import torch

from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2

SMALL = NetworkConfig(
    image_size=192,
    max_grid=12,
    encoder_width=64,
    encoder_depth=2,
    encoder_heads=4,
    register_tokens=2,
    decoder_width=48,
    decoder_depth=2,
    decoder_heads=2,
    decoder_head_width=16,
    decoder_mlp_width=96,
    queries=12,
    head_width=64,
    track_feature_width=32,
)


def small_network(seed: int = 0) -> MultiHMR2:
    """Return random weights with plausible outputs: scores of about 0.5, people about 4 m away for a 60° camera."""
    torch.manual_seed(seed)
    network = MultiHMR2(SMALL)
    torch.nn.init.normal_(network.backbone.class_token)
    with torch.no_grad():
        network.detection.nearness[2].bias.fill_(3.6)
        network.detection.location[2].bias.fill_(-0.3)
        network.camera.field_of_view[2].bias.fill_(-0.7)
    return network.eval().requires_grad_(False)


def save_small_network(path: Path, seed: int = 0) -> Path:
    checkpoint.save_network(small_network(seed), path)
    return path
