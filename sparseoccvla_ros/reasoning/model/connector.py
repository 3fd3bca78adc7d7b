"""From occupancy queries to language-model tokens: one token per chosen query (paper, figure: "Connector")."""

from __future__ import annotations

import torch
from torch import nn

from ...core.classes import FLAT
from ..config import ReasoningConfig
from .positional_encoding import encode_positions


def query_scores(scores: torch.Tensor, how: str) -> torch.Tensor:
    """Occupancy score [B, Q] of each query from its points' scores [B, Q, R]; how: "mean" or "max"."""
    return scores.mean(-1) if how == "mean" else scores.amax(-1)


def ranking_scores(scores: torch.Tensor, labels: torch.Tensor, ground: float) -> torch.Tensor:
    """Scores [B, Q, R] of points for ranking queries; where labels, uint8 [B, Q, R], say ground, times `ground`."""
    if ground == 1.0:
        return scores
    return torch.where(torch.isin(labels, torch.tensor(FLAT, device=labels.device)), scores * ground, scores)


def choose_queries(centres: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices int64 [B, K] of the K = min(count, Q) best queries, nearest first, then by angle.

    A causal language model sees tokens in order, so the order must depend on the scene alone and not on how the
    encoder lists its queries (HERMES leaves it arbitrary). Equal distances (to 1 mm) go by angle, then by height, then
    by score. centres: [B, Q, 3] m; scores: [B, Q].
    """
    centres = centres.double()
    distance = torch.round(torch.linalg.vector_norm(centres[..., :2], dim=-1) * 1000)
    angle = torch.round(torch.atan2(centres[..., 1], centres[..., 0]) * 1e6)
    order = torch.arange(centres.shape[1], device=centres.device).expand(centres.shape[:2])
    # The last stable sort has the first say.
    for key in (-scores.double(), centres[..., 2], angle, distance):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    ranked = scores.gather(1, order)
    best = ranked.argsort(dim=1, descending=True, stable=True)[:, :count]
    return order.gather(1, best.sort(dim=1).values)


class Connector(nn.Module):
    """LayerNorm, query + 3D position encoding, two linear layers (HERMES's in_mlp pattern).

    The result is normalised to `scale`, the root mean square of the language model's own token embeddings: tokens of
    another size would drown the text or vanish in it before training has begun.
    """

    def __init__(self, config: ReasoningConfig, dims: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.query_dims)
        self.position = nn.Linear(config.query_dims, config.query_dims)
        self.mlp = nn.Sequential(nn.Linear(config.query_dims, dims), nn.GELU(), nn.Linear(dims, dims))
        self.out_norm = nn.RMSNorm(dims, eps=1e-6)
        nn.init.constant_(self.out_norm.weight, scale)

    def forward(self, features: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Tokens [B, K, D] of query features [B, K, C] at centres [B, K, 3] m."""
        x = self.norm(features) + self.position(encode_positions(centres, features.shape[-1]))
        return self.out_norm(self.mlp(x))
