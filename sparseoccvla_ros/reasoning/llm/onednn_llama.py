"""Decoder of Llama and Qwen2 models for CPU inference, with weights prepacked for oneDNN.

The arithmetic is that of transformers' classes, which remain the reference and are used for training, adapters, GPUs
and other architectures. Two things differ: projections with the same input are fused into one matrix, and each matrix
is stored in oneDNN's blocked layout instead of being reordered at every call.
With SmolLM2-135M in bfloat16 on one thread a token takes about half the time; `./run bench end_to_end` has the rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .grouped_attention import attend

ARCHITECTURES = ("llama", "qwen2")
"""Supported values of `model_type`."""
_ROWS = 128
"""Input rows that the layout is optimised for: a prefill. A single row is as fast as with a layout for one row."""


@dataclass(frozen=True, eq=False)
class _Matrix:
    """One or more fused projections of the same input. packed: weight in oneDNN's layout; bias: [out] or None."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], *names: str) -> _Matrix:
        parts = [weights[f"{name}.weight"].detach() for name in names]
        biases = [weights.get(f"{name}.bias") for name in names]
        bias = None
        if any(b is not None for b in biases):
            zeros = [part.new_zeros(len(part)) for part in parts]
            bias = torch.cat([z if b is None else b.detach() for b, z in zip(biases, zeros, strict=True)])
        return cls(torch.ops.mkldnn._reorder_linear_weight(torch.cat(parts), _ROWS), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


@dataclass(frozen=True, eq=False)
class _Layer:
    qkv: _Matrix
    out: _Matrix
    gate_up: _Matrix
    down: _Matrix
    before_attention: torch.Tensor
    before_mlp: torch.Tensor


class PackedLlama:
    """Computes the hidden states of a causal model in inference mode; stateless between calls.

    model: one that `why_not` accepts. The packed matrices are a second copy of its weights (212 MB for SmolLM2-135M in
    bfloat16) and do not follow later changes of the model (training).
    """

    def __init__(self, model: Any) -> None:
        config, weights = model.config, model.state_dict()
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._width = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps = config.rms_norm_eps
        self._norm = weights["model.norm.weight"].detach()
        self._layers = [_layer(weights, f"model.layers.{i}") for i in range(config.num_hidden_layers)]
        channels = torch.arange(0, self._width, 2, dtype=torch.int64).float()
        inverse = 1.0 / _rotary(config).get("rope_theta", 10000.0) ** (channels / self._width)
        angles = torch.arange(config.max_position_embeddings)[:, None] * torch.cat([inverse, inverse])
        # Rounded to the model's dtype here; transformers does so at every call.
        self._cos, self._sin = angles.cos().to(self._norm.dtype), angles.sin().to(self._norm.dtype)
        self._sin[:, : self._width // 2] *= -1

    @staticmethod
    def why_not(model: Any) -> str | None:
        """Returns the reason why a model is not supported, or None if it is."""
        config = getattr(model, "config", None)
        kind = getattr(config, "model_type", type(model).__name__)
        if hasattr(model, "peft_config"):
            return "it carries adapters"
        if kind not in ARCHITECTURES:
            return f"its architecture is {kind}"
        weight = model.get_input_embeddings().weight
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return "it does not run on a CPU with oneDNN"
        if weight.dtype == torch.bfloat16:
            if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return "this CPU has no bfloat16 arithmetic"
        elif weight.dtype != torch.float32:
            return f"its number format is {weight.dtype}"
        rope = _rotary(config)
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            return f"its rotary scaling is {rope.get('rope_type', rope.get('type'))}"
        if rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None)) not in (None, 1.0):
            return "only a part of its channels is rotated"
        if config.hidden_act != "silu" or getattr(config, "use_sliding_window", False):
            return "its layers differ from Llama's"
        return None

    def forward(
        self,
        embeddings: torch.Tensor,
        past: tuple[tuple[torch.Tensor, torch.Tensor], ...] | None,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, tuple[tuple[torch.Tensor, torch.Tensor], ...]]:
        """Returns hidden states [B, T, D] after the final norm, and keys and values [B, heads, past + T, d] per layer.

        embeddings: [B, T, D]; past: not modified; mask, positions: as in LanguageModel.forward.
        """
        batch, length, _ = embeddings.shape
        start = 0 if past is None else past[0][0].shape[-2]
        places: Any = slice(start, start + length) if positions is None else positions
        cos, sin = self._cos[places].unsqueeze(-2), self._sin[places].unsqueeze(-2)
        kind = embeddings.dtype
        added = _added(length, start, mask, kind)
        turned = self._heads + self._kv_heads
        # The residual stream stays in float32: its normalisation is cheaper and nothing is rounded away.
        x, layers = embeddings.to(torch.float32, copy=True), []
        for i, layer in enumerate(self._layers):
            y = layer.qkv(self._normalised(x, layer.before_attention).to(kind))
            y = y.view(batch, length, turned + self._kv_heads, self._width)
            qk, v = y[:, :, :turned], y[:, :, turned:].transpose(1, 2)
            # Rotary position embedding; the sign of the swapped halves is in `sin`.
            qk = qk * cos + qk.roll(self._width // 2, dims=-1) * sin
            q, k = qk[:, :, : self._heads].transpose(1, 2), qk[:, :, self._heads :].transpose(1, 2)
            if past is not None:
                k, v = torch.cat([past[i][0], k], dim=-2), torch.cat([past[i][1], v], dim=-2)
            layers.append((k, v))
            if length == 1 and mask is None:
                y = self._attend_from_one(q, k, v)
            else:
                y = attend(q, k, v, added, self._width**-0.5, softmax_dtype=torch.float32)
            x += layer.out(y.transpose(1, 2).reshape(batch, length, -1))
            y = layer.gate_up(self._normalised(x, layer.before_mlp).to(kind))
            gate, up = y.chunk(2, dim=-1)
            x += layer.down(F.silu(gate) * up)
        return self._normalised(x, self._norm).to(kind), tuple(layers)

    def _normalised(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._eps) * weight

    def _attend_from_one(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Returns attention [B, heads, 1, d] of one token; in float32, four times as fast here as torch's kernel."""
        rows = q.float().reshape(len(q), self._kv_heads, -1, self._width) * self._width**-0.5
        weights = (rows @ k.float().transpose(-1, -2)).softmax(-1)
        return (weights @ v.float()).reshape(q.shape).to(q.dtype)


def _layer(weights: Mapping[str, torch.Tensor], at: str) -> _Layer:
    attention, mlp = f"{at}.self_attn", f"{at}.mlp"
    return _Layer(
        _Matrix.of(weights, f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
        _Matrix.of(weights, f"{attention}.o_proj"),
        _Matrix.of(weights, f"{mlp}.gate_proj", f"{mlp}.up_proj"),
        _Matrix.of(weights, f"{mlp}.down_proj"),
        weights[f"{at}.input_layernorm.weight"].detach(),
        weights[f"{at}.post_attention_layernorm.weight"].detach(),
    )


def _rotary(config: Any) -> dict[str, Any]:
    """Returns the settings of the rotary embedding; older configurations store `rope_theta` at the top level."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    base = getattr(config, "rope_theta", None)
    return dict(found) if base is None else {"rope_theta": base, **found}


def _added(length: int, start: int, mask: torch.Tensor | None, kind: torch.dtype) -> torch.Tensor | None:
    """Returns the additive attention mask: zero for visible tokens, the dtype's lowest number for masked ones.

    [T, past + T], or [B, 1, T, past + T] with a mask. Rows of padding are fully masked; with -inf they would be NaN.
    """
    if mask is None and length == 1:
        return None
    shape = (length, start + length)
    hidden = torch.ones(shape, dtype=torch.bool).triu(start + 1)
    if mask is not None:
        hidden = hidden | ~mask[:, None, None]
    return torch.zeros(hidden.shape, dtype=kind).masked_fill_(hidden, torch.finfo(kind).min)
