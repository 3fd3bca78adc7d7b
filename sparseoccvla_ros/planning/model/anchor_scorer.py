"""Anchor scoring from reasoning token, ego status and scene (SparseOccVLA, arXiv 2601.06474)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.types import STEPS
from ..config import PlanningConfig
from .layers import FREQUENCIES, Attention, SceneCondition, SceneInputs, mlp, sine_embedding


class AnchorScorer(nn.Module):
    """Predicts one logit per anchor. Each anchor is a token that pools the scene by attention, as relevant obstacles
    differ between anchors. Trained with BCE; the positive is the command's anchor nearest to the ground truth."""

    def __init__(self, config: PlanningConfig) -> None:
        super().__init__()
        width = config.hidden
        self.condition = SceneCondition(config)
        self.anchor = mlp(STEPS * 2 * 2 * FREQUENCIES, width, width)
        self.pool = Attention(width, config.heads)
        self.head = nn.Sequential(nn.LayerNorm(width), mlp(width, width, 1))

    def forward(self, anchors: Tensor, scene: SceneInputs) -> Tensor:
        """anchors [A, 6, 2] m, cumulative. Returns logits [B, A]."""
        memory, condition = self.condition(scene)  # [B, M, W], [B, W]
        tokens = self.anchor(sine_embedding(anchors.flatten(-2))).expand(len(scene.features), -1, -1)  # [B, A, W]
        tokens = self.pool(tokens + condition[:, None], memory)
        return self.head(tokens)[..., 0]


def mask_other_commands(logits: Tensor, group: Tensor) -> Tensor:
    """Set the logits of anchors outside the command's group (bool [A]) to minus infinity."""
    return torch.where(group, logits, torch.full_like(logits, -torch.inf))
