"""Attention on a CPU: plain matrix products, with the query heads of a group stacked on their shared keys.

It serves training, through transformers, and prefills (onednn_llama.py). torch's fused kernel spends most of its time
in its backward pass here: for 32 questions of 32 tokens behind a scene, 38 ms a layer, of which this takes 16
(SmolLM2-135M in bfloat16, two cores). The weights of a whole batch are held in memory, which short sequences allow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "grouped_cpu"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """([B, T, H, d], None), as transformers wants it of query [B, H, T, d], key and value [B, G, S, d].

    H is a multiple of G; attention_mask: [B or 1, 1, T, S], added to the weights, or None.
    """
    drop = dropout if module.training else 0.0
    return attend(query, key, value, attention_mask, scaling, drop).transpose(1, 2), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0,
    softmax_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Attention [B, H, T, d]; shapes as in `grouped_attention`. softmax_dtype: the query's where None."""
    batch, heads, length, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    rows = (query * scaling).reshape(batch, groups, -1, width)
    weights = (rows @ key.transpose(-1, -2)).view(batch, heads, length, keys)
    if mask is not None:
        weights = weights + mask
    weights = nn.functional.dropout(weights.softmax(-1, dtype=softmax_dtype).to(query.dtype), dropout)
    return (weights.view(batch, groups, -1, keys) @ value).view(query.shape)


def use_grouped_attention(model: Any) -> None:
    """Let a transformers model on a CPU compute its attention here; elsewhere its own kernels are better."""
    if next(model.parameters()).device.type != "cpu":
        return
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, grouped_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)


def use_own_attention(model: Any) -> None:
    """Back to the kernels that transformers chooses."""
    if getattr(model.config, "_attn_implementation", None) == NAME:
        model.set_attn_implementation("sdpa")
