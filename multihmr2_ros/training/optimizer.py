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

"""The optimizer's parameter groups, the learning rate schedule, and the moving average of the weights (EMA)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from multihmr2_ros.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

PRETRAINED = "backbone.pretrained."  # prefix of the names of pretrained parameters
TOKENS = ("class_token", "register_tokens", "decoder.queries", "decoder.positions")


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of AdamW and of the learning rate schedule.

    The rate rises linearly over warmup_steps, stays constant, and falls linearly to 0 over the last decay_fraction of
    the run. Only the decay depends on the run's length: a run that was interrupted in the constant part can be resumed
    with more steps, with the same result as a run of that length.

    learning_rate   peak rate
    encoder_factor  the encoder's rate divided by the others' rate; below 1 if it is pretrained, 0 freezes it. The rates
                    of pretrained convolutions are also relative to the size of their weights, which differ by factors
                    of thousands because batch norm was folded into them
    weight_decay    of matrices and convolutions; 0 for norms, biases and learned tokens
    betas           of AdamW
    gradient_norm   gradients are clipped to this norm, those of pretrained convolutions separately; 0: no clipping
    """

    learning_rate: float = 5e-4
    encoder_factor: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 500
    decay_fraction: float = 0.2
    gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        for name, max_value in (
            ("learning_rate", 1.0),
            ("encoder_factor", 100.0),
            ("weight_decay", 1.0),
            ("decay_fraction", 1.0),
            ("gradient_norm", 1e6),
            ("warmup_steps", 10**9),
        ):
            value = getattr(self, name)
            if not 0 <= value <= max_value:
                raise UserError(f"optimization: {name} must be from 0 to {max_value}, got {value}")


def compute_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate at a step (from 0) of a run of `steps`, divided by its peak."""
    rise = (step + 1) / max(config.warmup_steps, 1)
    fall = (steps - step) / max(config.decay_fraction * steps, 1.0)
    return max(0.0, min(1.0, rise, fall))


def find_pretrained_prefix(network: nn.Module) -> str:
    """Return the prefix of the names of the encoder's pretrained parameters."""
    names = (name for name, _ in network.named_parameters())
    return PRETRAINED if any(name.startswith(PRETRAINED) for name in names) else "backbone."


def freeze_encoder(network: nn.Module, config: OptimizerConfig) -> None:
    """Disable gradients of the encoder's pretrained parameters if their learning rate is 0."""
    if config.encoder_factor == 0:
        prefix = find_pretrained_prefix(network)
        for name, value in network.named_parameters():
            if name.startswith(prefix):
                value.requires_grad_(False)


def make_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW with parameter groups by learning rate and weight decay (see `OptimizerConfig`).

    Each pretrained convolution has its own rate. The order of the groups is part of the state files' format.
    """
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    prefix = find_pretrained_prefix(network)
    for name, value in network.named_parameters():
        if value.requires_grad:
            is_encoder = name.startswith(prefix)
            rate = config.learning_rate * (config.encoder_factor if is_encoder else 1.0)
            if name.startswith(PRETRAINED):
                rate *= measure_typical_size(value)
            key = is_encoder, rate, value.ndim > 1 and not name.endswith(TOKENS)
            groups.setdefault(key, []).append(value)
    return torch.optim.AdamW(
        [
            {"params": values, "peak": rate, "weight_decay": config.weight_decay if decays else 0.0}
            for (_, rate, decays), values in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


@torch.no_grad()
def measure_typical_size(value: Tensor) -> float:
    """Return the median absolute value of biases, or the 10th percentile over output channels of weights' rms."""
    if value.ndim == 1:
        return float(value.abs().median())
    return float(value.flatten(1).square().mean(1).sqrt().quantile(0.1))


def limit_gradients(network: nn.Module, config: OptimizerConfig) -> float:
    """Clip gradients to the configured norm. Returns the norm before, without pretrained parameters.

    Returns NaN if a gradient of a pretrained parameter is not finite.
    """
    limit = config.gradient_norm or math.inf
    pretrained = [value for name, value in network.named_parameters() if name.startswith(PRETRAINED)]
    others = [value for name, value in network.named_parameters() if not name.startswith(PRETRAINED)]
    inner = nn.utils.clip_grad_norm_(pretrained, limit)
    norm = float(nn.utils.clip_grad_norm_(others, limit))
    return norm if bool(inner.isfinite()) else math.nan


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to factor times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


class Ema(Generic[Network]):
    """An exponential moving average of a network's parameters and floating-point buffers (among them the running means
    and variances of BatchNorm). Other buffers are copied.

    The decay after n updates is (1 + n) / (10 + n), at most its full value, so that the initial random weights soon
    lose their influence.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the network's current weights."""
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
