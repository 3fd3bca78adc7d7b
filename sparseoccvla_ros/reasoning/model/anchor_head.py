"""Anchor scores from the reasoning token (paper, figure: "Scorer(T_r, anchors)")."""

from __future__ import annotations

import torch
from torch import nn

from ...core.onednn import Linear
from ..config import ReasoningConfig

METRES = 10.0
"""m; anchors are divided by this to bring the MLP's inputs to the order of one."""


class AnchorHead(nn.Module):
    """One logit per trajectory anchor: MLP(anchor), scaled and shifted by a projection of T_r, then a scalar MLP."""

    def __init__(self, config: ReasoningConfig, dims: int) -> None:
        super().__init__()
        width = config.anchor_dims
        self.token = nn.Sequential(nn.LayerNorm(dims), Linear(dims, 2 * width))
        self.anchor = nn.Sequential(Linear(12, width), nn.GELU(), Linear(width, width), nn.LayerNorm(width))
        self.score = nn.Sequential(Linear(width, width), nn.GELU(), Linear(width, 1))

    def forward(self, token: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Returns logits float32 [B, A] of anchors [A, 6, 2] m for reasoning tokens [B, D]."""
        scale, shift = self.token(token.float()).unsqueeze(1).chunk(2, dim=-1)
        shape = self.anchor(anchors.float().flatten(1) / METRES)
        return self.score(shape * (1 + scale) + shift).squeeze(-1)
