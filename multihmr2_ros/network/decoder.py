"""DETR-style decoder: learned queries attend to each other and to the image tokens (paper section 3, "Decoder")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig


class Decoder(nn.Module):
    """Patch tokens (B, h, w, encoder width) → decoded queries (B, queries, decoder width)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.to_context = nn.Linear(config.encoder_width, width)
        self.queries = nn.Parameter(torch.randn(config.queries, width))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_depth))
        positions = position_table(config.max_grid, width)
        self.register_buffer("positions", positions, persistent=False)

    positions: Tensor

    def forward(self, patches: Tensor) -> Tensor:
        batch, rows, columns, _ = patches.shape
        precision = self.to_context.weight.dtype
        context = self.to_context(patches.to(precision)) + self.positions[:rows, :columns]
        context = context.flatten(1, 2).to(precision)
        queries = self.queries.expand(batch, -1, -1)
        for layer in self.layers:
            queries = layer(queries, context)
        return queries


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
