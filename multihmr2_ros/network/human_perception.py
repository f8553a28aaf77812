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

"""Detection and Human Perception Head of Multi-HMR (Baradel et al. 2024, arXiv:2402.14654), the predecessor of
Multi-HMR 2.

Written from a summary of the paper. Every patch gets a score, "a person's center is in this patch", and the offset of
that center from the middle of the patch (CenterNet). The local maxima of the score are detections. The query of a
detection is its token, joined with the mean body parameters, plus a learned position. L = 2 blocks follow:
Qˡ = MLP(SA(CA(Qˡ⁻¹, E))), with cross-attention (CA) to the tokens E and self-attention (SA) between people. The heads
for nearness, shape and pose are those of Multi-HMR 2.

- The center is the body's center vertex, which is next to the nose, as everywhere in this package. The paper's center
  is the head, too.
- All shapes are fixed: the Q patches of highest score are decoded, even if they are not people. In self-attention, the
  weight of a key is multiplied by its score, so that queries that are not people do not affect the others.
- In training, the patches of true people are decoded in any case, and count as detected.
- The learned positions are also added to the tokens, because the tokens of DINOv3 and of MoveNet contain no position.
- A patch detects one person at most. Of two people whose centers share a patch, only one can be found; of two in
  neighboring patches, non-maximum suppression keeps one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.decoder import (
    DecoderOutput,
    QueryLayer,
    compute_relative_positions,
    make_position_table,
)
from multihmr2_ros.network.heads import make_initial_pose, make_mlp
from multihmr2_ros.people import PHENOTYPE_LABELS

NMS_PATCHES = 3  # a detection has the highest score among 3 × 3 patches
SUPPRESSED = 30.0  # subtracted from the score logit of other patches: their scores become 0
DETECTED = 30.0  # score logit of true people's patches in training
FOURIER_BANDS = 8
CAMERA_FEATURES = 2 + 4 * FOURIER_BANDS


@dataclass(frozen=True)
class PatchDetections:
    """Detections of B images of h × w patches; Q patches each, in descending order of score.

    heatmap   (B, h, w) logit of "a person's center is in this patch", before non-maximum suppression
    patch     (B, Q) int64, row · w + column
    score     (B, Q) logit, after non-maximum suppression
    location  (B, Q, 2) px of the padded input, the person's center
    """

    heatmap: Tensor
    patch: Tensor
    score: Tensor
    location: Tensor


class PatchDetector(nn.Module):
    """Person detector: tokens (B, h, w, encoder width) → PatchDetections. Always in float32, as all heads."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.queries = config.queries
        self.patch_size = config.patch_size
        self.score = make_mlp(config.encoder_width, config.head_width, 1)
        self.offset = make_mlp(config.encoder_width, config.head_width, 2)

    def forward(self, tokens: Tensor, true_patches: Tensor | None = None) -> PatchDetections:
        """Detect people. true_patches: (B, h, w) bool, selected first, in training."""
        with torch.autocast(tokens.device.type, enabled=False):
            heatmap = self.score(tokens).squeeze(-1)
            score = suppress_neighbors(heatmap)
            if true_patches is not None:
                score = torch.where(true_patches, DETECTED, score)
            score, patch = score.flatten(1).topk(min(self.queries, heatmap[0].numel()), dim=1)
            offset = self.offset(gather_patches(tokens, patch))
        columns = heatmap.shape[2]
        middle = torch.stack([patch % columns, patch // columns], dim=-1) + 0.5
        return PatchDetections(heatmap, patch, score, self.patch_size * (middle + offset))


def suppress_neighbors(heatmap: Tensor) -> Tensor:
    """Return logits (B, h, w) in which all patches but the local maxima have a score of 0."""
    local_max = functional.max_pool2d(heatmap[:, None], NMS_PATCHES, stride=1, padding=NMS_PATCHES // 2)[:, 0]
    return torch.where(heatmap == local_max, heatmap, heatmap - SUPPRESSED)


def gather_patches(tokens: Tensor, patch: Tensor) -> Tensor:
    """Select tokens (B, Q, D) of (B, h, w, D) by patch (B, Q), row · w + column."""
    return tokens.flatten(1, 2).gather(1, patch[..., None].expand(-1, -1, tokens.shape[3]))


class HumanPerceptionHead(nn.Module):
    """Decoder of Multi-HMR: tokens (B, h, w, encoder width) and detections → decoded queries."""

    mean_body: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.patch_size = config.patch_size
        self.camera_embedding = config.camera_embedding
        self.local_attention = config.local_attention
        tokens = config.encoder_width + (CAMERA_FEATURES if config.camera_embedding else 0)
        self.to_context = nn.Linear(tokens, width)
        mean_body = torch.cat([torch.full((len(PHENOTYPE_LABELS),), 0.5, device="cpu"), make_initial_pose()])
        self.register_buffer("mean_body", mean_body)  # set from the training data, so a part of the weights
        # Positions are added after this layer instead of before, which is the same up to a linear map.
        self.to_query = nn.Linear(tokens + len(mean_body), width)
        self.positions = nn.Parameter(make_position_table(config.max_grid, width))
        self.layers = nn.ModuleList(PerceptionBlock(config) for _ in range(config.decoder_depth))

    def forward(self, tokens: Tensor, detections: PatchDetections, k: Tensor) -> DecoderOutput:
        """Decode the detections. k: (B, 3, 3) px of the padded input, used by the camera embedding only."""
        _, rows, columns, _ = tokens.shape
        precision = self.to_context.weight.dtype
        if self.camera_embedding:
            tokens = torch.cat([tokens, embed_rays(k, rows, columns, self.patch_size)], dim=-1)
        positions = self.positions[:rows, :columns]
        context = (self.to_context(tokens.to(precision)) + positions).flatten(1, 2).to(precision)
        queries = self._make_queries(tokens, detections.patch, precision)
        queries = queries + gather_patches(positions.expand(len(tokens), -1, -1, -1), detections.patch)
        key_bias = functional.logsigmoid(detections.score.detach())[:, None, None]
        relative = (
            compute_relative_positions(detections.location.detach() / self.patch_size, rows, columns)
            if self.local_attention
            else None
        )
        for layer in self.layers:
            queries = layer(queries, context, key_bias, relative)
        return DecoderOutput((queries,), detections.location, detections.heatmap, detections.score, detections.patch)

    def _make_queries(self, tokens: Tensor, patch: Tensor, precision: torch.dtype) -> Tensor:
        """Join the tokens of the patches (B, Q) with the mean body: (B, Q, D)."""
        selected = gather_patches(tokens, patch)
        mean_body = self.mean_body.expand(*patch.shape, -1)
        queries: Tensor = self.to_query(torch.cat([selected, mean_body], dim=-1).to(precision))
        return queries


class PerceptionBlock(QueryLayer):
    """Cross-attention to the context, self-attention between people, MLP."""

    def forward(self, queries: Tensor, context: Tensor, key_bias: Tensor, relative_positions: Tensor | None) -> Tensor:
        """Return the queries (B, Q, D) after the block; arguments as in `QueryLayer`."""
        queries = self.attend_to_context(queries, context, relative_positions)
        queries = self.attend_to_queries(queries, context.dtype, key_bias)
        return self.apply_mlp(queries, context.dtype)


def embed_rays(k: Tensor, rows: int, columns: int, patch_size: int) -> Tensor:
    """Return Fourier features (B, rows, columns, CAMERA_FEATURES) of the ray directions of the patches' middles.

    k: (B, 3, 3) px, upper triangular. A ray is K⁻¹ [u, v, 1]ᵀ; its first two components r are encoded as r, sin(2ⁱ π r)
    and cos(2ⁱ π r).
    """
    x = patch_size * (torch.arange(columns, device=k.device) + 0.5)
    y = patch_size * (torch.arange(rows, device=k.device) + 0.5)
    ray_y = (y - k[:, 1, 2, None]) / k[:, 1, 1, None]  # (B, rows)
    ray_y = ray_y[:, :, None].expand(-1, -1, columns)
    ray_x = (x - k[:, 0, 2, None, None] - k[:, 0, 1, None, None] * ray_y) / k[:, 0, 0, None, None]
    ray = torch.stack([ray_x, ray_y], dim=-1)
    frequency = math.pi * 2.0 ** torch.arange(FOURIER_BANDS, device=k.device)
    angle = (ray[..., None] * frequency).flatten(-2)
    return torch.cat([ray, angle.sin(), angle.cos()], dim=-1)
