"""Building blocks shared by scorer and decoder: sine embeddings, attention, and the encoding of scene and ego."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import PlanningConfig
from ..ego_history import FEATURE_NAMES, PAPER_DIMS

FREQUENCIES = 16
"""Sine and cosine pairs per coordinate."""
_FEATURE_SCALE = {"x": 0.1, "y": 0.1, "vx": 0.1, "vy": 0.1, "ax": 0.25, "ay": 0.25}


def sine_embedding(values: Tensor, shortest: float = 1.0, longest: float = 200.0) -> Tensor:
    """Returns sines and cosines [..., N * 32] of metric values [..., N]; wavelengths `shortest` to `longest` metres."""
    exponent = torch.linspace(0.0, 1.0, FREQUENCIES, dtype=values.dtype, device=values.device)
    frequency = 2 * math.pi / shortest * (shortest / longest) ** exponent
    phase = values[..., None] * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Returns the usual sinusoidal diffusion time embedding: integer times [B] to float [B, width]."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=time.device) / half)
    phase = time[:, None].float() * frequency
    return F.pad(torch.cat([phase.sin(), phase.cos()], dim=-1), (0, width - 2 * half))


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Build Linear, LayerNorm, GELU, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs))


class Attention(nn.Module):
    """Pre-norm multi-head attention of tokens [B, N, W] to a memory [B, M, W], with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, memory: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
        """memory: None for self-attention; offset: [B, N, W], added before the query projection."""
        normed = self.norm(tokens)
        source = normed if memory is None else memory
        if offset is not None:
            normed = normed + offset
        query = self._split(self.query(normed))
        key, value = (self._split(part) for part in self.key_value(source).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return tokens + self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SceneCondition(nn.Module):
    """Encodes queries, ego features and the reasoning token as an attention memory and one condition vector.

    The memory holds Q query tokens with their 3D position, then one ego and one reasoning token, so trajectory tokens
    attend to all three. A learned null token replaces missing reasoning.
    """

    ego_scale: Tensor

    def __init__(self, config: PlanningConfig) -> None:
        super().__init__()
        width = config.hidden
        ego_dims = {"none": 0, "causal": len(FEATURE_NAMES), "paper": PAPER_DIMS}[config.ego]
        self.features = nn.Sequential(nn.LayerNorm(config.query_dims), nn.Linear(config.query_dims, width))
        self.position = mlp(3 * 2 * FREQUENCIES, width, width)
        self.reasoning = nn.Sequential(nn.LayerNorm(config.reasoning_dims), mlp(config.reasoning_dims, width, width))
        self.no_reasoning = nn.Parameter(torch.randn(width) * 0.02)
        self.ego = mlp(ego_dims, width, width) if ego_dims else None
        self.no_ego = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("ego_scale", _ego_scale(config.ego), persistent=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, centres: Tensor, ego: Tensor, token: Tensor | None) -> tuple[Tensor, Tensor]:
        """features [B, Q, C]; centres [B, Q, 3] m; ego [B, F]; token [B, D] or None, with NaN rows where missing.

        Returns memory [B, Q + 2, W] and condition [B, W].
        """
        batch = len(features)
        scene = self.features(features) + self.position(sine_embedding(centres))
        absent = self.no_reasoning.expand(batch, -1)
        reason = absent
        if token is not None:
            there = ~token.isnan().any(1, keepdim=True)
            reason = torch.where(there, self.reasoning(torch.where(there, token, 0.0)), absent)
        state = self.no_ego.expand(batch, -1) if self.ego is None else self.ego(ego * self.ego_scale)
        memory = self.norm(torch.cat([scene, state[:, None], reason[:, None]], dim=1))
        return memory, state + reason


def _ego_scale(mode: str) -> Tensor:
    """Returns factors that scale the ego features to about -1..1."""
    if mode == "causal":
        return torch.tensor([_FEATURE_SCALE.get(name.split("(")[0], 1.0) for name in FEATURE_NAMES])
    if mode == "paper":
        past = [0.1, 0.1, 1.0] * 4
        can_bus = [0.1] * 3 + [1.0] * 4 + [0.1] * 3 + [1.0] * 3 + [0.1] * 3 + [1.0, 1.0 / 57.3]
        return torch.tensor([0.25] * 3 + [1.0] * 3 + past + [0.1] * 3 + can_bus)
    return torch.zeros(0)
