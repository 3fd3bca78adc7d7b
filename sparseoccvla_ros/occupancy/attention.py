"""Self-attention between queries with a distance penalty (SparseBEV's scale-adaptive attention)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.onednn import Linear


class DistanceAttention(nn.Module):
    """Multi-head self-attention whose logits are lowered by tau(query) times the distance of the centres in metres.

    tau is a linear function of the attending query, one value per head, not constrained to be positive.
    """

    def __init__(self, embed_dims: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = Linear(embed_dims, 3 * embed_dims)
        self.out_proj = Linear(embed_dims, embed_dims)
        self.gen_tau = Linear(embed_dims, heads)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)
        nn.init.zeros_(self.gen_tau.weight)
        nn.init.uniform_(self.gen_tau.bias, 0.0, 2.0)

    def forward(self, query: Tensor, centres: Tensor) -> Tensor:
        """query [B, Q, C], centres [B, Q, 3] m (no gradient) to [B, Q, C], including the residual."""
        b, n, c = query.shape
        # Not torch.cdist: its matrix form is off by centimetres for neighbouring points far from the origin.
        distance = torch.zeros((b, n, n), dtype=centres.dtype, device=centres.device)
        for axis in centres.unbind(-1):
            distance = distance + (axis[:, :, None] - axis[:, None, :]).square()
        distance = distance.sqrt()
        q, k, v = self.in_proj(query).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        tau = self.gen_tau(query).transpose(1, 2)
        logits = (q * (c // self.heads) ** -0.5) @ k.transpose(-1, -2) - tau[..., None] * distance[:, None]
        mixed = self.dropout(logits.softmax(-1)) @ v
        return query + self.out_proj(mixed.transpose(1, 2).reshape(b, n, c))
