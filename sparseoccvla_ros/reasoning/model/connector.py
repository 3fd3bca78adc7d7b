"""Selection of occupancy queries and their projection to language-model tokens (paper, figure: "Connector")."""

from __future__ import annotations

import torch
from torch import nn

from ...core.classes import FLAT
from ...core.onednn import Linear
from ..config import ReasoningConfig
from .positional_encoding import encode_positions


def query_scores(scores: torch.Tensor, how: str) -> torch.Tensor:
    """Returns each query's occupancy score [B, Q] from its points' scores [B, Q, R]; how: "mean" or "max"."""
    return scores.mean(-1) if how == "mean" else scores.amax(-1)


def ranking_scores(scores: torch.Tensor, labels: torch.Tensor, ground: float) -> torch.Tensor:
    """Returns point scores [B, Q, R] for ranking queries; where labels, uint8 [B, Q, R], are ground, times `ground`."""
    if ground == 1.0:
        return scores
    return torch.where(torch.isin(labels, torch.tensor(FLAT, device=labels.device)), scores * ground, scores)


def choose_queries(centres: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
    """Returns indices int64 [B, K] of the K = min(count, Q) highest-scoring queries, nearest first.

    A causal language model depends on token order, so the order must follow from the scene and not from the order in
    which the encoder lists its queries (HERMES leaves it arbitrary). Queries at equal distance (to 1 mm) are sorted by
    angle, then height, then score. centres: [B, Q, 3] m; scores: [B, Q].
    """
    centres = centres.double()
    distance = torch.round(torch.linalg.vector_norm(centres[..., :2], dim=-1) * 1000)
    angle = torch.round(torch.atan2(centres[..., 1], centres[..., 0]) * 1e6)
    order = torch.arange(centres.shape[1], device=centres.device).expand(centres.shape[:2])
    # Stable sorts: the last key is the primary one.
    for key in (-scores.double(), centres[..., 2], angle, distance):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    ranked = scores.gather(1, order)
    best = ranked.argsort(dim=1, descending=True, stable=True)[:, :count]
    return order.gather(1, best.sort(dim=1).values)


class Connector(nn.Module):
    """LayerNorm of the query plus 3D position encoding, then two linear layers (HERMES's in_mlp pattern).

    The output is normalised to `scale`, the root mean square of the language model's token embeddings: at another
    magnitude the tokens would dominate the text or be negligible beside it at the start of training.
    """

    def __init__(self, config: ReasoningConfig, dims: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.query_dims)
        self.position = Linear(config.query_dims, config.query_dims)
        self.mlp = nn.Sequential(Linear(config.query_dims, dims), nn.GELU(), Linear(dims, dims))
        self.out_norm = nn.RMSNorm(dims, eps=1e-6)
        nn.init.constant_(self.out_norm.weight, scale)

    def forward(self, features: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Returns tokens [B, K, D] for query features [B, K, C] at centres [B, K, 3] m."""
        x = self.norm(features) + self.position(encode_positions(centres, features.shape[-1]))
        return self.out_norm(self.mlp(x))
