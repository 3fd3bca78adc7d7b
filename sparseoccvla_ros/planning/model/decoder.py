"""Diffusion decoder: noisy anchors to clean trajectories (DiffusionDrive, arXiv 2411.15139)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.onednn import Linear
from ...core.types import STEPS
from ..config import PlanningConfig
from .diffusion import DeltaNormaliser
from .layers import FREQUENCIES, Attention, SceneCondition, mlp, sine_embedding, time_embedding


class DecoderLayer(nn.Module):
    """Decoder layer: self-attention over the K trajectories, cross-attention to the scene memory, FFN, FiLM on time
    and condition, and a zero-initialised head that predicts a residual of the trajectory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.among = Attention(width, heads)
        self.scene = Attention(width, heads)
        self.ffn = nn.Sequential(nn.LayerNorm(width), Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))
        self.film = Linear(width, 2 * width)
        residual = mlp(width, width, 2 * STEPS)
        self.head = nn.Sequential(nn.LayerNorm(width), residual)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        for parameter in residual[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, memory: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, K, W]; memory [B, M, W]; condition [B, W]. Returns tokens and a residual [B, K, 6, 2]."""
        tokens = self.among(tokens)  # self-attention [B, K, W]
        tokens = self.scene(tokens, memory)  # cross-attention [B, K, W]
        tokens = tokens + self.ffn(tokens)
        scale, shift = self.film(condition)[:, None].chunk(2, dim=-1)
        tokens = tokens * (1.0 + scale) + shift
        return tokens, self.head(tokens).unflatten(-1, (STEPS, 2))


class TrajectoryDecoder(nn.Module):
    """Predicts the clean per-step deltas x0 of noisy anchors.

    x0 is the clean anchor plus residuals of zero-initialised heads, so an untrained decoder returns the anchors for any
    noise (DiffusionDrive's nuScenes branch predicts the deltas directly).
    """

    def __init__(self, config: PlanningConfig, normaliser: DeltaNormaliser) -> None:
        super().__init__()
        width = config.hidden
        self.normaliser = normaliser
        self.width = width
        self.condition = SceneCondition(config)
        self.points = mlp(STEPS * 2 * 2 * FREQUENCIES, width, width)
        self.anchor = mlp(2 * STEPS, width, width)
        self.score = Linear(1, width)
        self.time = mlp(width, width, width)
        self.layers = nn.ModuleList(DecoderLayer(width, config.heads) for _ in range(config.layers))

    def forward(
        self, noisy: Tensor, time: Tensor, anchors: Tensor, scores: Tensor, memory: Tensor, condition: Tensor
    ) -> Tensor:
        """noisy, anchors: normalised deltas [B, K, 6, 2]; time: integers [B]; scores: anchor probabilities [B, K];
        memory, condition: from `self.condition`, shared by all denoising steps. Returns x0 after each layer, normalised
        deltas [L, B, K, 6, 2]."""
        waypoints = self.normaliser.metres(noisy).cumsum(-2)  # [B, K, 6, 2] m
        tokens = self.points(sine_embedding(waypoints.flatten(-2)))  # [B, K, W]
        tokens = tokens + self.anchor(anchors.flatten(-2)) + self.score(scores[..., None])
        condition = condition + self.time(time_embedding(time, self.width))
        estimates = []
        x0 = anchors
        for layer in self.layers:
            tokens, residual = layer(tokens, memory, condition)
            x0 = x0 + residual
            estimates.append(x0)
        return torch.stack(estimates)
