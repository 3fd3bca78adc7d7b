"""Global tokens T_g: what occupancy cannot carry, such as weather, light and signs (paper, figure)."""

from __future__ import annotations

import torch
from torch import nn

from ...core.onednn import Linear
from ..config import ReasoningConfig
from .positional_encoding import encode_places, encode_positions


class GlobalTokens(nn.Module):
    """Learned queries that attend once to pooled image features and to the occupancy queries."""

    def __init__(self, config: ReasoningConfig, dims: int, scale: float) -> None:
        super().__init__()
        width = config.query_dims
        self.queries = nn.Parameter(torch.randn(config.global_tokens, width))
        # Always among the keys: attention stays defined without views and queries.
        self.nothing = nn.Parameter(torch.randn(1, width) * 0.02)
        self.view_norm = nn.LayerNorm(width)
        self.query_norm = nn.LayerNorm(width)
        self.place = Linear(width, width)
        self.position = Linear(width, width)
        self.attention = nn.MultiheadAttention(width, config.global_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), Linear(width, dims), nn.GELU(), Linear(dims, dims))
        self.out_norm = nn.RMSNorm(dims, eps=1e-6)
        nn.init.constant_(self.out_norm.weight, scale)

    def forward(self, view_features: torch.Tensor, features: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Returns tokens [B, G, D] from view features [B, V, C], query features [B, Q, C] and centres [B, Q, 3] m.

        The order of the queries has no effect; views are distinguished by their index.
        """
        batch, views, width = view_features.shape
        keys = torch.cat(
            [
                self.nothing.expand(batch, -1, -1),
                self.view_norm(view_features) + self.place(encode_places(views, width, view_features.device)),
                self.query_norm(features) + self.position(encode_positions(centres, width)),
            ],
            dim=1,
        )
        queries = self.queries.expand(batch, -1, -1)
        seen, _ = self.attention(queries, keys, keys, need_weights=False)
        return self.out_norm(self.mlp(queries + seen))
