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

"""Image encoder: DINOv3's vision transformer (arXiv:2508.10104), written from its published arithmetic."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.proposals import EncoderFeatures, KeypointEncoder, PatchEmbedding
from multihmr2_ros.network.stem import ConvStem


class Encoded(NamedTuple):
    """One class token (B, D) and patch tokens (B, h, w, D) of B images, both after the final LayerNorm; features: of
    the pretrained convolutions below them, None without."""

    class_token: Tensor
    patches: Tensor
    features: EncoderFeatures | None = None


class Backbone(nn.Module):
    """(B, 3, H, W) normalised image → one class token and an (h, w) grid of patch tokens, h = H / patch size.

    The patches come from a convolution (vision transformers), from a convolutional stem, or from MoveNet's features.
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
        block = self.blocks[0]
        assert isinstance(block, Block)
        return block.attention.qkv.weight.dtype

    def forward(self, image: Tensor, features: EncoderFeatures | None = None) -> Encoded:
        """features: of the images, where they are known already; the image is not looked at then."""
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
        rotation = rotary_table(rows, columns, self.head_width, tokens.device, precision)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        tokens = self.norm(tokens)
        return Encoded(tokens[:, 0], tokens[:, -rows * columns :].reshape(batch, rows, columns, width), features)


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale (`scale_1`, `scale_2`).

    The residual stream and the norms are float32 even when the matrices are not: bf16 would lose centimetres in it.
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
        precision = self.attention.qkv.weight.dtype
        tokens = tokens + self.scale_1 * self.attention(self.norm_1(tokens).to(precision), rotation)
        return tokens + self.scale_2 * self.mlp(self.norm_2(tokens).to(precision))


class RotarySelfAttention(nn.Module):
    """Self-attention with rotary positions on the patch tokens, which stand at the end of the sequence.

    The key bias is zero in DINOv3: a file's bias mask is applied to `qkv.bias` once, when it is loaded.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            rotate_patches(query, rotation), rotate_patches(key, rotation), value
        )
        return self.project(attended.transpose(1, 2).reshape(batch, count, width))


def rotary_table(
    rows: int, columns: int, head_width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine (rows·columns, head_width) of each patch's angles, patches row by row.

    Patch centres run from −1 to 1 along each axis; the angles are 2π·centre / period for the row and then for the
    column, periods 100^(2i / (head_width / 2)), the list repeated twice. Computed in float32.
    """
    period = 100.0 ** (torch.arange(head_width // 4, device=device, dtype=torch.float32) * (4.0 / head_width))
    row = 2 * (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) / rows - 1
    column = 2 * (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) / columns - 1
    centre = torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1).reshape(-1, 2)
    angle = (2 * math.pi * centre[:, :, None] / period).flatten(1).tile(2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate_patches(features: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the last tokens of (B, heads, N, head_width) by a rotary table; the first ones pass as they are."""
    cosine, sine = rotation
    count = cosine.shape[0]  # `len` would make it a constant in an exported network
    first, patches = features.split([features.shape[2] - count, count], dim=2)
    left, right = patches.chunk(2, dim=-1)
    rotated = patches * cosine + torch.cat([-right, left], dim=-1) * sine
    return torch.cat([first, rotated], dim=2)
