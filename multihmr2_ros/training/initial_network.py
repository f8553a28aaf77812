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

"""The network at the start of training: weights of a file, or random ones with a pretrained encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.movenet import load_encoder
from multihmr2_ros.training.data import select_readable
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.session import Session

MEAN_POSE_IMAGES = 300


def make_network(session: Session) -> MultiHMR2:
    """Return the network of the weights file, or one with random weights that starts at the renders' mean pose."""
    if session.start_from is not None:
        network = checkpoint.load_network(session.start_from)
    else:
        torch.manual_seed(session.training.seed)
        mean = None if session.render_cache is None else compute_mean_rotations(session.render_cache.folder)
        network = initialize(MultiHMR2(session.network), mean)
    pretrained = network.backbone.pretrained
    if pretrained is not None and session.encoder_weights is not None:
        load_encoder(pretrained.movenet, session.encoder_weights)
    elif pretrained is not None and session.start_from is None:
        raise UserError("the network's encoder needs pretrained weights; give their file with --encoder-weights")
    return network


def compute_mean_rotations(folder: Path) -> Tensor | None:
    """Return (163, 3, 3): the mean rotation matrices of the people in a cache's first images; None without people."""
    cache = RenderCache(folder)
    rotations = [sample.rotations for sample in select_readable(cache, range(min(len(cache), MEAN_POSE_IMAGES)))]
    total = sum(len(rows) for rows in rotations)
    return torch.from_numpy(np.concatenate(rotations).mean(axis=0)) if total else None
