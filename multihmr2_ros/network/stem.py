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

"""Convolutional stem of small networks: convolutions learn from few pictures what patches need many for
(Xiao et al. 2021, "Early convolutions help transformers see better")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig


class ConvStem(nn.Module):
    """(B, 3, H, W) picture → (B, encoder width, H / patch size, W / patch size): stages that halve the picture, each
    with residual convolutions, then a projection."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = 3
        for width, depth in zip(config.stem_widths, config.stem_depths, strict=True):
            stages.append(ConvNorm(channels, width, stride=2))
            stages.extend(ResidualConv(width) for _ in range(depth))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.project = nn.Conv2d(channels, config.encoder_width, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.project(self.stages(image.contiguous(memory_format=torch.channels_last)))


class ConvNorm(nn.Module):
    """3 × 3 convolution – batch normalisation – ReLU.

    For inference the normalisation is folded into the convolution's weights, in float32, on the fly: the tensors of a
    file stay those of training, and the weights are few.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            return functional.relu(self.norm(self.conv(features)))
        weight, norm = self.conv.weight, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        folded = (weight.float() * scale[:, None, None, None]).to(weight.dtype)
        bias = (norm.bias - norm.running_mean * scale).to(weight.dtype)
        return functional.relu(functional.conv2d(features, folded, bias, self.conv.stride, self.conv.padding))


class ResidualConv(nn.Module):
    """x + ConvNorm(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = ConvNorm(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.branch(features)
