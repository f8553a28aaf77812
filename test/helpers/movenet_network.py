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

"""A tiny network with MoveNet's encoder, and a training batch for it."""

from __future__ import annotations

import dataclasses

import torch

from multihmr2_ros.network.config import NANO
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.data import Batch
from test.helpers.nano_network import NARROW, make_random_targets

TINY = dataclasses.replace(NANO, max_grid=8, **NARROW)
SIZE = (192, 256)


def make_movenet_network(seed: int = 0) -> MultiHMR2:
    torch.manual_seed(seed)
    return initialize(MultiHMR2(TINY))


def make_batch(images: int = 2, people: int = 3) -> Batch:
    torch.manual_seed(1)
    image = torch.randint(0, 256, (images, 3, *SIZE), dtype=torch.uint8)
    targets = make_random_targets(images, people, SIZE)
    return Batch(image, targets, torch.zeros(images, dtype=torch.bool), ("a",) * images)
