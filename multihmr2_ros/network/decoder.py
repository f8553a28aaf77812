"""DETR-style decoder: queries attend to each other and to the image tokens (paper section 3, "Decoder").

The queries are learned, as in the paper, or proposed by the encoder: the tokens that an auxiliary heatmap takes for
people's centres. Proposals converge about ten times faster in training from scratch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig


@dataclass(frozen=True)
class Decoded:
    """What the decoder makes of B images; the last two are None for learned queries.

    layers   per layer (B, Q, D) queries after it; the last layer's are the decoder's result
    anchor   (B, Q, 2) px, the centre of the token that each query was proposed by
    heatmap  (B, h, w) logit of "a person's centre lies in this patch"
    """

    layers: tuple[Tensor, ...]
    anchor: Tensor | None = None
    heatmap: Tensor | None = None

    @property
    def queries(self) -> Tensor:
        return self.layers[-1]


class Decoder(nn.Module):
    """Patch tokens (B, h, w, encoder width) → decoded queries."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.to_context = nn.Linear(config.encoder_width, width)
        self.queries = nn.Parameter(torch.randn(config.queries, width))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_depth))
        positions = position_table(config.max_grid, width)
        self.register_buffer("positions", positions, persistent=False)
        self.patch_size = config.patch_size
        self.heatmap = nn.Linear(config.encoder_width, 1) if config.proposed_queries else None

    positions: Tensor

    def forward(self, patches: Tensor) -> Decoded:
        _, rows, columns, _ = patches.shape
        precision = self.to_context.weight.dtype
        context = self.to_context(patches.to(precision)) + self.positions[:rows, :columns]
        context = context.flatten(1, 2)
        queries, anchor, heatmap = self.queries.expand(len(patches), -1, -1), None, None
        if self.heatmap is not None:
            heatmap = self.heatmap(patches.to(precision)).squeeze(-1).float()
            queries, anchor = self._proposed(context, heatmap)
        layers = []
        for layer in self.layers:
            queries = layer(queries, context.to(precision))
            layers.append(queries)
        return Decoded(tuple(layers), anchor, heatmap)

    def _proposed(self, context: Tensor, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """The best tokens (B, Q, D) plus the learned content of their rank, and their centres (B, Q, 2) px.

        An image of fewer tokens than queries has a query for every token."""
        columns = heatmap.shape[2]
        best = heatmap.flatten(1).topk(min(len(self.queries), heatmap[0].numel()), dim=1).indices
        tokens = context.gather(1, best[..., None].expand(-1, -1, context.shape[2]))
        centre = torch.stack([best % columns, best // columns], dim=-1) + 0.5
        return tokens + self.queries[: best.shape[1]], self.patch_size * centre


class DecoderLayer(nn.Module):
    """Pre-norm self-attention between queries, cross-attention to the context, MLP; each with a residual.

    The context is not normalised. The residual stream is float32, as in the encoder.
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
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.decoder_mlp_width), nn.GELU(), nn.Linear(config.decoder_mlp_width, width)
        )

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        precision = context.dtype
        query, key, value = self.self_qkv(self.self_norm(queries).to(precision)).chunk(3, dim=-1)
        queries = queries + self.self_out(self._attend(query, key, value))
        query = self.cross_q(self.cross_norm(queries).to(precision))
        key, value = self.cross_kv(context).chunk(2, dim=-1)
        queries = queries + self.cross_out(self._attend(query, key, value))
        return queries + self.mlp(self.mlp_norm(queries).to(precision))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Multi-head attention of (B, N, heads·width); heads are consecutive runs of channels."""
        split = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)]
        return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def position_table(grid: int, width: int) -> Tensor:
    """Fixed 2D sine-cosine positions (grid, grid, width): the first half of the channels encodes the column, the
    second the row; each half is [sin(p·ω), cos(p·ω)] with ω_k = 10000^(−k / (width / 4))."""
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    angle = torch.arange(grid, dtype=torch.float64, device="cpu")[:, None] * frequency
    encoded = torch.cat([angle.sin(), angle.cos()], dim=1).float()
    column = encoded[None, :, :].expand(grid, -1, -1)
    row = encoded[:, None, :].expand(-1, grid, -1)
    return torch.cat([column, row], dim=-1)
