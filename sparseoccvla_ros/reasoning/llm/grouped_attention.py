"""Grouped-query attention for CPUs: plain matrix products, with the query heads of a group stacked on their keys.

Used in training, through transformers, and for prefills (onednn_llama.py). torch's fused kernel is slow here, mostly in
its backward pass: 38 ms per layer for 32 questions of 32 tokens after a scene, against 16 ms with this code
(SmolLM2-135M in bfloat16, two cores). Attention weights of the whole batch are kept in memory: short sequences only.
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
    """Attention function in transformers' interface: query [B, H, T, d], key and value [B, G, S, d].

    Returns ([B, T, H, d], None). H is a multiple of G; attention_mask: [B or 1, 1, T, S], added to the logits, or None.
    """
    drop = dropout if module.training else 0.0
    return attend(query, key, value, attention_mask, scaling, drop).transpose(1, 2), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0,
    softmax_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Returns attention [B, H, T, d]; shapes as in `grouped_attention`. softmax_dtype: the query's dtype if None."""
    batch, heads, length, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    rows = (query * scaling).reshape(batch, groups, -1, width)
    weights = (rows @ key.transpose(-1, -2)).view(batch, heads, length, keys)
    if mask is not None:
        weights = weights + mask
    weights = nn.functional.dropout(weights.softmax(-1, dtype=softmax_dtype).to(query.dtype), dropout)
    return (weights.view(batch, groups, -1, keys) @ value).view(query.shape)


def use_grouped_attention(model: Any) -> None:
    """Switch a transformers model on a CPU to `grouped_attention`; on other devices its own kernels are faster."""
    if next(model.parameters()).device.type != "cpu":
        return
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, grouped_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)


def use_own_attention(model: Any) -> None:
    """Switch the model back to transformers' "sdpa" attention."""
    if getattr(model.config, "_attn_implementation", None) == NAME:
        model.set_attn_implementation("sdpa")
