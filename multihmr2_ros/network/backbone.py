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

"""Image encoder: DINOv3's vision transformer (arXiv:2508.10104), implemented from the publication.

Small networks may use a convolutional stem instead of the patch embedding, because convolutions need less training data
(Xiao et al. 2021, "Early convolutions help transformers see better").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.proposals import EncoderFeatures, KeypointEncoder, PatchEmbedding


class EncoderOutput(NamedTuple):
    """Output of the encoder for B images.

    class_token  (B, D) after the final LayerNorm
    patches      (B, h, w, D) after the final LayerNorm
    features     of the pretrained convolutions before the transformer; None without them
    """

    class_token: Tensor
    patches: Tensor
    features: EncoderFeatures | None = None


class Backbone(nn.Module):
    """Encoder: normalized images (B, 3, H, W) → a class token and an (h, w) grid of patch tokens, h = H / patch size.

    The patches are computed by a single convolution (vision transformers), a convolutional stem, or from MoveNet's
    features.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.pretrained = KeypointEncoder(config.queries) if config.encoder == "movenet" else None
        self.patch_embedding: nn.Module
        if self.pretrained is not None:
            self.patch_embedding = PatchEmbedding(width)
        elif config.stem_widths:
            self.patch_embedding = ConvStem(config)
        else:
            self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.register_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.encoder_depth))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head_width = width // config.encoder_heads

    @property
    def precision(self) -> torch.dtype:
        """Dtype of the matrices."""
        block = self.blocks[0]
        assert isinstance(block, Block)
        return block.attention.qkv.weight.dtype

    def forward(self, image: Tensor, features: EncoderFeatures | None = None) -> EncoderOutput:
        """Encode the images. features: precomputed features of these images; if given, the images are not used."""
        precision = self.precision
        if self.pretrained is not None and features is None:
            features = self.pretrained(image.to(precision))
        patches = self.patch_embedding(image.to(precision) if features is None else features).float()
        batch, width, rows, columns = patches.shape
        tokens = torch.cat(
            [
                self.class_token.expand(batch, -1, -1),
                self.register_tokens.expand(batch, -1, -1),
                patches.flatten(2).transpose(1, 2),
            ],
            dim=1,
        )
        first = 1 + self.register_tokens.shape[1]
        rotation = make_rotary_table(rows, columns, first, self.head_width, tokens.device, precision)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        tokens = self.norm(tokens)
        return EncoderOutput(tokens[:, 0], tokens[:, -rows * columns :].reshape(batch, rows, columns, width), features)


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale (`scale_1`, `scale_2`).

    The residual stream and the norms are float32 even if the matrices are not: in bf16, errors would be centimeters.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.norm_1 = nn.LayerNorm(width, eps=1e-5)
        self.attention = RotarySelfAttention(width, config.encoder_heads)
        self.scale_1 = nn.Parameter(torch.full((width,), 1e-5))
        self.norm_2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.encoder_mlp_ratio * width),
            nn.GELU(),
            nn.Linear(config.encoder_mlp_ratio * width, width),
        )
        self.scale_2 = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Return the tokens (B, N, D) after the block; rotation: from `make_rotary_table`."""
        precision = self.attention.qkv.weight.dtype
        tokens = tokens + self.scale_1 * self.attention(self.norm_1(tokens).to(precision), rotation)
        return tokens + self.scale_2 * self.mlp(self.norm_2(tokens).to(precision))


class RotarySelfAttention(nn.Module):
    """Self-attention with rotary positions of the tokens.

    The key bias is zero in DINOv3; the bias mask of a weights file is applied to `qkv.bias` once, when it is loaded.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Return the attended values (B, N, D) of tokens (B, N, D); rotation: from `make_rotary_table`."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        queries_and_keys, value = qkv.permute(2, 0, 3, 1, 4).split([2, 1])
        query, key = rotate_tokens(queries_and_keys, rotation)
        attended = functional.scaled_dot_product_attention(query, key, value[0])
        return self.project(attended.transpose(1, 2).reshape(batch, count, width))


def make_rotary_table(
    rows: int, columns: int, first: int, head_width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return factors (first + rows·columns, head_width) for `rotate_tokens`: cosines, and sines with each half's sign.

    The first tokens are not rotated. The patches follow in row-major order; their centers are between −1 and 1 along
    each axis. The angles are 2π·center / period, first for the row, then for the column, with periods
    100^(2i / (head_width / 2)); this list occurs twice. Computed in float32.
    """
    period = 100.0 ** (torch.arange(head_width // 4, device=device, dtype=torch.float32) * (4.0 / head_width))
    row = 2 * (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) / rows - 1
    column = 2 * (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) / columns - 1
    center = torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1).reshape(-1, 2)
    angle = functional.pad((2 * math.pi * center[:, :, None] / period).flatten(1), (0, 0, first, 0))
    cosine, sine = angle.cos().to(dtype), angle.sin().to(dtype)
    return cosine.tile(2), torch.cat([-sine, sine], dim=-1)


def rotate_tokens(features: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate tokens (…, N, head_width) by a rotary table: the left half x and the right half y of the features become
    x · cos − y · sin and y · cos + x · sin."""
    cosine, signed_sine = rotation
    swapped = features.unflatten(-1, (2, -1)).flip(-2).flatten(-2)  # fewer GPU kernels than chunks and a concatenation
    return features * cosine + swapped * signed_sine


class ConvStem(nn.Module):
    """Convolutional stem: images (B, 3, H, W) → features (B, encoder width, H / patch size, W / patch size).

    Stages of stride 2, each with residual convolutions, then a projection.
    """

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
    """3 × 3 convolution – batch normalization – ReLU.

    In inference, each call folds the normalization into the convolution's weights, in float32. So weights files have
    the same tensors as in training; folding is cheap, because the weights are few.
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
    """Residual convolution: x + ConvNorm(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = ConvNorm(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.branch(features)
