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

"""DETR-style decoder: queries attend to each other and to the image tokens (paper section 3, "Decoder").

The queries are learned, as in the paper, or proposed by the encoder: the tokens with the highest scores in an auxiliary
heatmap of people's centers. Training from scratch converges about ten times faster with proposals. Proposals have a
position, so cross-attention can prefer tokens near it, as in SMCA (Gao et al., "Fast Convergence of DETR with Spatially
Modulated Co-Attention", ICCV 2021): each head adds −½ |Δ / s − o|² to its logits, where Δ is the token's position
relative to the query's reference point, in patches; the scale s and the offset o are computed from the query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig

MIN_SCALE, MAX_SCALE = 0.7, 30.0  # patches


@dataclass(frozen=True)
class DecoderOutput:
    """Output of the decoder for B images. Fields that do not exist for the kind of queries are None.

    layers           per layer (B, Q, D), the queries after it; the last layer's queries are the result
    reference_point  (B, Q, 2) px of the padded input, initial position of each query
    heatmap          (B, h, w) logit of "a person's center is in this patch"
    score            (B, Q) logit of "this is a person", before the decoder
    patch            (B, Q) int64, row · w + column of the patch of each query, for Multi-HMR
    """

    layers: tuple[Tensor, ...]
    reference_point: Tensor | None = None
    heatmap: Tensor | None = None
    score: Tensor | None = None
    patch: Tensor | None = None

    @property
    def queries(self) -> Tensor:
        """(B, Q, D), the decoded queries: those after the last layer."""
        return self.layers[-1]


@dataclass(frozen=True)
class InitialQueries:
    """Initial state of Q queries of B images.

    content          (B, Q, D)
    reference_point  (B, Q, 2) px of the padded input
    score            (B, Q) logit of "this is a person"
    """

    content: Tensor
    reference_point: Tensor
    score: Tensor


class Decoder(nn.Module):
    """Decoder: patch tokens (B, h, w, encoder width) → decoded queries."""

    positions: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.to_context = nn.Linear(config.encoder_width, width)
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        if not self.queries.is_meta:  # drawing them on the device "meta" would load PyTorch's compiler
            nn.init.normal_(self.queries)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_depth))
        positions = make_position_table(config.max_grid, width)
        self.register_buffer("positions", positions, persistent=False)
        self.patch_size = config.patch_size
        self.local_attention = config.local_attention
        self.heatmap = nn.Linear(config.encoder_width, 1) if config.proposed_queries else None

    def forward(self, patches: Tensor, start: InitialQueries | None = None) -> DecoderOutput:
        """Decode patch tokens (B, h, w, encoder width). start: initial queries; None: learned or from the heatmap."""
        _, rows, columns, _ = patches.shape
        precision = self.to_context.weight.dtype
        context = self.to_context(patches.to(precision)) + self.positions[:rows, :columns]
        context = context.flatten(1, 2)
        queries, reference_point, heatmap = self.queries.expand(len(patches), -1, -1), None, None
        if start is not None:
            queries, reference_point = start.content + self.queries[: start.content.shape[1]], start.reference_point
        elif self.heatmap is not None:
            heatmap = self.heatmap(patches.to(precision)).squeeze(-1).float()
            queries, reference_point = self._propose(context, heatmap)
        relative_positions = (
            compute_relative_positions(reference_point / self.patch_size, rows, columns)
            if self.local_attention and reference_point is not None
            else None
        )
        layers = []
        for layer in self.layers:
            queries = layer(queries, context.to(precision), relative_positions)
            layers.append(queries)
        return DecoderOutput(tuple(layers), reference_point, heatmap, None if start is None else start.score)

    def _propose(self, context: Tensor, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of highest score plus the learned content of their rank, (B, Q, D), and their centers
        (B, Q, 2) px.

        An image with fewer tokens than queries gets one query per token.
        """
        columns = heatmap.shape[2]
        best = heatmap.flatten(1).topk(min(len(self.queries), heatmap[0].numel()), dim=1).indices
        tokens = context.gather(1, best[..., None].expand(-1, -1, context.shape[2]))
        center = torch.stack([best % columns, best // columns], dim=-1) + 0.5
        return tokens + self.queries[: best.shape[1]], self.patch_size * center


class QueryLayer(nn.Module):
    """The three parts of a decoder layer: pre-norm self-attention, cross-attention, and MLP, each with a residual.

    The context is not normalized. The residual stream is float32, as in the encoder.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, inner = config.decoder_width, config.decoder_heads * config.decoder_head_width
        self.heads = config.decoder_heads
        self.self_norm = nn.LayerNorm(width)
        self.self_qkv = nn.Linear(width, 3 * inner, bias=False)
        self.self_out = nn.Linear(inner, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_q = nn.Linear(width, inner, bias=False)
        self.cross_kv = nn.Linear(width, 2 * inner, bias=False)
        self.cross_out = nn.Linear(inner, width)
        self.neighbourhood = nn.Linear(width, 3 * self.heads) if config.local_attention else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.decoder_mlp_width), nn.GELU(), nn.Linear(config.decoder_mlp_width, width)
        )

    def attend_to_queries(self, queries: Tensor, precision: torch.dtype, bias: Tensor | None = None) -> Tensor:
        """Return the queries (B, Q, D) after self-attention; bias: (B, 1, 1, Q), added to the logits."""
        query, key, value = self.self_qkv(self.self_norm(queries).to(precision)).chunk(3, dim=-1)
        return queries + self.self_out(self.attend(query, key, value, bias))

    def attend_to_context(self, queries: Tensor, context: Tensor, relative_positions: Tensor | None) -> Tensor:
        """Return the queries (B, Q, D) after cross-attention.

        context: (B, N, D). relative_positions: (B, Q, N, 2) patches, positions of its tokens relative to each query.
        """
        normed = self.cross_norm(queries).to(context.dtype)
        key, value = self.cross_kv(context).chunk(2, dim=-1)
        spatial_prior = (
            None
            if self.neighbourhood is None or relative_positions is None
            else self.compute_spatial_prior(normed, relative_positions)
        )
        return queries + self.cross_out(self.attend(self.cross_q(normed), key, value, spatial_prior))

    def apply_mlp(self, queries: Tensor, precision: torch.dtype) -> Tensor:
        """Return the queries (B, Q, D) after the MLP."""
        return queries + self.mlp(self.mlp_norm(queries).to(precision))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute multi-head attention of (B, N, heads·width); heads are consecutive ranges of channels.

        bias: (B, heads, N, M), added to the logits; also with heads or N of 1.
        """
        bias = None if bias is None else bias.to(query.dtype)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        return functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)

    def compute_spatial_prior(self, queries: Tensor, relative_positions: Tensor) -> Tensor:
        """Return the attention bias (B, heads, Q, N) for tokens at relative positions (B, Q, N, 2) patches."""
        assert self.neighbourhood is not None
        chosen = self.neighbourhood(queries).float().unflatten(-1, (self.heads, 3)).transpose(1, 2)
        scale = chosen[..., :1].clamp(math.log(MIN_SCALE), math.log(MAX_SCALE)).exp()
        scaled = relative_positions[:, None] / scale[..., None] - chosen[..., None, 1:]
        return -0.5 * scaled.square().sum(-1)


class DecoderLayer(QueryLayer):
    """Self-attention between queries, cross-attention to the context, MLP."""

    def forward(self, queries: Tensor, context: Tensor, relative_positions: Tensor | None = None) -> Tensor:
        """Return the queries (B, Q, D) after the layer; arguments as in `QueryLayer`."""
        queries = self.attend_to_queries(queries, context.dtype)
        queries = self.attend_to_context(queries, context, relative_positions)
        return self.apply_mlp(queries, context.dtype)


def compute_relative_positions(reference_point: Tensor, rows: int, columns: int) -> Tensor:
    """Return vectors (B, Q, rows·columns, 2) from reference points (B, Q, 2) to token centers, all in patches."""
    x = torch.arange(columns, device=reference_point.device) + 0.5
    y = torch.arange(rows, device=reference_point.device) + 0.5
    centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
    return centers - reference_point[:, :, None]


def make_position_table(grid: int, width: int) -> Tensor:
    """Return fixed 2D sine-cosine positions (grid, grid, width).

    The first half of the channels encodes the column, the second half the row. Each half is [sin(p·ω), cos(p·ω)] with
    ω_k = 10000^(−k / (width / 4)).
    """
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    angle = torch.arange(grid, dtype=torch.float64, device="cpu")[:, None] * frequency
    encoded = torch.cat([angle.sin(), angle.cos()], dim=1).float()
    column = encoded[None, :, :].expand(grid, -1, -1)
    row = encoded[:, None, :].expand(-1, grid, -1)
    return torch.cat([column, row], dim=-1)
