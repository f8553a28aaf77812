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

"""The running average of the weights, which is what training hands out."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """An exponential moving average of a network's parameters and of its floating-point buffers (the running means
    and variances of BatchNorm among them); other buffers are copied.

    The decay grows from 0.1 to its full value, (1 + n) / (10 + n) after n updates, so that the first steps' random
    weights are soon forgotten.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one step towards the network."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        own, other = self.network.state_dict(), network.state_dict()
        averaged: list[Tensor] = []
        sources: list[Tensor] = []
        for name, value in own.items():
            if value.is_floating_point():
                averaged.append(value)
                sources.append(other[name])
            else:
                value.copy_(other[name])
        torch._foreach_lerp_(averaged, sources, 1.0 - decay)
        self.updates += 1
