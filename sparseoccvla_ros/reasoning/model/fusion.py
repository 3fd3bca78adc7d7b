"""Residual fusion of the language model's occupancy tokens with the encoder's queries (paper, figure)."""

from __future__ import annotations

import torch
from torch import nn

from ...core.onednn import Linear


class ResidualFusion(nn.Module):
    """F = Q + tanh(gate) * MLP(LayerNorm(T_o')), with a zero-initialised gate per channel.

    At the start of training the fused features therefore equal the encoder's, bit for bit.
    """

    def __init__(self, query_dims: int, dims: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(dims), Linear(dims, query_dims), nn.GELU(), Linear(query_dims, query_dims)
        )
        self.gate = nn.Parameter(torch.zeros(query_dims))

    def forward(self, features: torch.Tensor, tokens: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Returns fused features [B, Q, C].

        features: [B, Q, C]; tokens: [B, K, D], hidden states at the occupancy tokens; chosen: int64 [B, K], the query
        of each token. Queries without a token keep their features.
        """
        update = torch.tanh(self.gate) * self.mlp(tokens.float())
        return features.scatter_add(1, chosen[..., None].expand(-1, -1, features.shape[-1]), update)
