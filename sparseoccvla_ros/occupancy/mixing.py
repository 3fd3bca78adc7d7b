"""Adaptive mixing of sampled features (AdaMixer, Gao et al. 2022, as used by SparseBEV and OPUS)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.onednn import Linear


class AdaptiveMixing(nn.Module):
    """Mixes each query's samples over channels and over points with matrices generated from the query.

    Rows of `parameter_generator`: group-major; within a group first the channel matrix (input-major), then the point
    matrix (output-major). Columns of `out_proj`: (group, output point, channel).
    """

    def __init__(self, embed_dims: int, groups: int, input_points: int, output_points: int) -> None:
        super().__init__()
        self.groups = groups
        self.channels = embed_dims // groups
        self.input_points = input_points
        self.output_points = output_points
        size = self.channels**2 + output_points * input_points
        self.parameter_generator = Linear(embed_dims, groups * size)
        self.out_proj = Linear(groups * output_points * self.channels, embed_dims)
        nn.init.zeros_(self.parameter_generator.weight)

    def forward(self, samples: Tensor, query: Tensor) -> Tensor:
        """samples [B, Q, G, P, C / G] and query [B, Q, C] to [B, Q, C], including the residual."""
        b, q, g, p, c = samples.shape
        channel, point = (
            self.parameter_generator(query).view(b * q * g, -1).split((c * c, self.output_points * p), dim=-1)
        )
        x = samples.reshape(b * q * g, p, c) @ channel.view(-1, c, c)
        x = F.relu_(F.layer_norm(x, (p, c)))
        x = point.view(-1, self.output_points, p) @ x
        x = F.relu_(F.layer_norm(x, (self.output_points, c)))
        return query + self.out_proj(x.view(b, q, -1))
