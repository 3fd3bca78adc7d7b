"""Building blocks shared by scorer and decoder: sine embeddings, attention, and the encoding of scene and ego."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.onednn import Linear
from ..config import PlanningConfig
from ..ego_history import FEATURE_NAMES, PAPER_DIMS
from ..obstacles.grid import CELL, CHANNELS, LOWER, SHAPE

FREQUENCIES = 16
"""Sine and cosine pairs per coordinate."""
_TARGET_SCALE = 0.1
"""1/m; scales target points to about -1..1."""
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
    return nn.Sequential(Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), Linear(hidden, outputs))


class Attention(nn.Module):
    """Pre-norm multi-head attention of tokens [B, N, W] to a memory [B, M, W], with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)

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


class SceneInputs(NamedTuple):
    """What scorer and decoder know of a batch of scenes.

    features [B, Q, C]; centres [B, Q, 3] m; ego [B, F]; token [B, D] and target_points [B, R, 2] m: or None, and NaN in
    rows where they are missing; obstacles: uint8 [B, CHANNELS, *SHAPE] (obstacles/grid.py), None: all free.
    """

    features: Tensor
    centres: Tensor
    ego: Tensor
    token: Tensor | None = None
    target_points: Tensor | None = None
    obstacles: Tensor | None = None


class SceneCondition(nn.Module):
    """Encodes queries, ego features, the reasoning token and target points as a memory and one condition vector.

    The memory holds Q query tokens with their 3D position, then one token each of ego, reasoning and, if the config has
    any, target points, then those of the obstacle grid, so trajectory tokens attend to all of them. Learned null tokens
    replace what is missing.
    """

    ego_scale: Tensor

    def __init__(self, config: PlanningConfig) -> None:
        super().__init__()
        width = config.hidden
        ego_dims = {"none": 0, "causal": len(FEATURE_NAMES), "paper": PAPER_DIMS}[config.ego]
        self.features = nn.Sequential(nn.LayerNorm(config.query_dims), Linear(config.query_dims, width))
        self.position = mlp(3 * 2 * FREQUENCIES, width, width)
        self.reasoning = nn.Sequential(nn.LayerNorm(config.reasoning_dims), mlp(config.reasoning_dims, width, width))
        self.no_reasoning = nn.Parameter(torch.randn(width) * 0.02)
        self.ego = mlp(ego_dims, width, width) if ego_dims else None
        self.no_ego = nn.Parameter(torch.randn(width) * 0.02)
        ahead = 2 * len(config.target_points)
        self.route = mlp(ahead, width, width) if ahead else None
        self.no_route = nn.Parameter(torch.randn(width) * 0.02) if ahead else None
        self.obstacles = ObstacleTokens(width) if config.obstacle_grid else None
        self.register_buffer("ego_scale", _ego_scale(config.ego), persistent=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: SceneInputs) -> tuple[Tensor, Tensor]:
        """Returns memory [B, M, W] and condition [B, W]."""
        features, centres, ego, token, target_points, obstacles = inputs
        batch = len(features)
        scene = self.features(features) + self.position(sine_embedding(centres))  # [B, Q, W]
        reason = _or_null(self.reasoning, token, self.no_reasoning, batch)  # [B, W]
        state = self.no_ego.expand(batch, -1) if self.ego is None else self.ego(ego * self.ego_scale)  # [B, W]
        memory, condition = [scene, state[:, None], reason[:, None]], state + reason
        if self.route is not None and self.no_route is not None:
            ahead = None if target_points is None else target_points.flatten(1) * _TARGET_SCALE
            route = _or_null(self.route, ahead, self.no_route, batch)  # [B, W]
            memory, condition = [*memory, route[:, None]], condition + route
        if self.obstacles is not None:
            grid = features.new_zeros(batch, CHANNELS, *SHAPE) if obstacles is None else obstacles.to(features.dtype)
            places, tokens = self.obstacles(grid)  # [N, 3] m, [B, N, W]
            memory.append(tokens + self.position(sine_embedding(places)))
        return self.norm(torch.cat(memory, dim=1)), condition


class ObstacleTokens(nn.Module):
    """Convolutions of the obstacle grid: a token for every STRIDE x STRIDE cells."""

    STRIDE = 4
    places: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(CHANNELS, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(),
            nn.Conv2d(64, 64, 3, 1, 1), nn.GELU(), nn.Conv2d(64, width, 3, 1, 1),
        )  # fmt: skip
        axes = [LOWER[i] + CELL * self.STRIDE * (torch.arange(SHAPE[i] // self.STRIDE) + 0.5) for i in (0, 1)]
        x, y = torch.meshgrid(*axes, indexing="ij")
        places = torch.stack([x, y, torch.zeros_like(x)], -1).flatten(0, 1)
        self.register_buffer("places", places, persistent=False)

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """grid [B, CHANNELS, *SHAPE]. Returns the tokens' places [N, 3] m in base_link, and tokens [B, N, W]."""
        return self.places, self.layers(grid).flatten(2).transpose(1, 2)


def _or_null(network: nn.Module, values: Tensor | None, null: Tensor, batch: int) -> Tensor:
    """Returns the network's output [B, W] for values [B, N], `null` [W] in rows that contain NaN or without values."""
    absent = null.expand(batch, -1)
    if values is None:
        return absent
    there = ~values.isnan().any(1, keepdim=True)
    return torch.where(there, network(torch.where(there, values, 0.0)), absent)


def _ego_scale(mode: str) -> Tensor:
    """Returns factors that scale the ego features to about -1..1."""
    if mode == "causal":
        return torch.tensor([_FEATURE_SCALE.get(name.split("(")[0], 1.0) for name in FEATURE_NAMES])
    if mode == "paper":
        past = [0.1, 0.1, 1.0] * 4
        can_bus = [0.1] * 3 + [1.0] * 4 + [0.1] * 3 + [1.0] * 3 + [0.1] * 3 + [1.0, 1.0 / 57.3]
        return torch.tensor([0.25] * 3 + [1.0] * 3 + past + [0.1] * 3 + can_bus)
    return torch.zeros(0)
