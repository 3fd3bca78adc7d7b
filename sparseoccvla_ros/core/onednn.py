"""Convolutions and linear layers for inference on a CPU: oneDNN with packed weights and fused activations.

These are the operators that torch.compile emits for a frozen network (torch/_inductor/fx_passes/mkldnn_fusion.py),
called without a compiler, in float32 and in the dtype of autocast. They differ from the usual operators by rounding
only; on an AVX-512 EPYC core EfficientNet-Lite0 takes 28 ms instead of 51 and a linear layer less than half. Where they
cannot compute (`usable`), the usual operators do.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ACTIVATIONS: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0]),
}  # fmt: skip
_KNOWN = (
    platform.machine() == "x86_64"
    and torch.backends.mkldnn.is_available()
    # Private operators of torch: another version may lack them.
    and all(hasattr(torch.ops.mkldnn, f"_{n}_pointwise") for n in ("convolution", "linear"))
)
_packed: WeakKeyDictionary[nn.Module, tuple[Any, Tensor, Tensor]] = WeakKeyDictionary()
"""Per layer: what its packed weight was made of, the packed weight, the bias."""


def usable(x: Tensor, sources: Iterable[Tensor | None] = ()) -> bool:
    """Returns whether these operators can compute with an input here and now: on an x86 CPU, without gradients, outside
    export and compilation.

    sources: what packed weights are made of; none may be trainable, because a fused optimiser changes them unnoticed.
    """
    if not _KNOWN or torch.is_grad_enabled() or not x.is_cpu or not torch.backends.mkldnn.enabled:
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if any(t is not None and t.requires_grad for t in sources):
        return False
    dtype = _dtype(x)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_precision(device: str) -> str:
    """Returns the dtype of convolutions: bfloat16 if the device multiplies it faster than float32, else float32."""
    if device != "cpu":
        return "bfloat16"
    # oneDNN can be held to an older instruction set, in which it only emulates bfloat16.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    allowed = limit in ("ALL", "DEFAULT") or "BF16" in limit or "AMX" in limit
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    known = "avx512_bf16" in flags or "amx_bf16" in flags
    return "bfloat16" if allowed and known and torch.backends.mkldnn.is_available() else "float32"


def convolve(
    x: Tensor,
    conv: nn.Conv2d,
    sources: tuple[Tensor | None, ...],
    folded: Callable[[], tuple[Tensor, Tensor | None]],
    activation: str,
    residual: Tensor | None,
) -> Tensor:
    """Returns activation(convolution + bias + residual): [M, C', H', W'] in the autocast dtype, else that of x.

    Args:
        x: [M, C, H, W].
        conv: its stride, padding, dilation and groups are used.
        sources: tensors that weight and bias are computed from. The weight is packed again when one of them was
            changed or replaced.
        folded: computes weight and bias.
        activation: none, relu or relu6.
        residual: added before the activation.
    """
    dtype = _dtype(x)
    geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups

    def pack() -> tuple[Tensor, Tensor | None]:
        weight, bias = folded()
        weight = weight.to(dtype, memory_format=torch.channels_last)
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(x.shape))
        return packed, None if bias is None else bias.to(dtype)

    weight, bias = _weights(conv, dtype, sources, pack)
    name, scalars = _ACTIVATIONS[activation]
    if residual is None:
        return torch.ops.mkldnn._convolution_pointwise(x.to(dtype), weight, bias, *geometry, name, scalars, "")
    after = "relu" if activation == "relu" else None
    y = torch.ops.mkldnn._convolution_pointwise.binary(
        x.to(dtype), residual.to(dtype), weight, bias, *geometry, "add", 1.0, after, [], ""
    )
    return F.relu6(y, inplace=True) if activation == "relu6" else y


class Conv2d(nn.Conv2d):
    """Convolution that uses oneDNN's packed weights where it can."""

    def forward(self, x: Tensor) -> Tensor:
        own = self.weight, self.bias
        if not usable(x, own):
            return super().forward(x)
        return convolve(x, self, own, lambda: own, "none", None)


class Linear(nn.Linear):
    """Linear layer that uses oneDNN's packed product where it can."""

    def forward(self, x: Tensor) -> Tensor:
        if not usable(x, (self.weight, self.bias)):
            return super().forward(x)
        dtype = _dtype(x)
        weight, bias = self._packed(dtype, x.numel() // x.shape[-1])
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Returns residual + the layer's output without bias; both [M, C], may overwrite the residual."""
        if not usable(x, (self.weight,)):
            return residual + x @ self.weight.T
        dtype = _dtype(x)
        weight, _ = self._packed(dtype, len(x))
        return torch.ops.mkldnn._linear_pointwise.binary(x.to(dtype), residual.to(dtype), weight, None, "add")

    def _packed(self, dtype: torch.dtype, rows: int) -> tuple[Tensor, Tensor | None]:
        def pack() -> tuple[Tensor, Tensor | None]:
            packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.to(dtype), rows)
            return packed, None if self.bias is None else self.bias.to(dtype)

        return _weights(self, dtype, (self.weight, self.bias), pack)


def _weights(
    layer: nn.Module, dtype: torch.dtype, sources: tuple[Tensor | None, ...], pack: Callable[[], tuple[Tensor, Any]]
) -> tuple[Tensor, Any]:
    made_of = dtype, *((t.data_ptr(), -1 if t.is_inference() else t._version) for t in sources if t is not None)
    known = _packed.get(layer)
    if known is None or known[0] != made_of:
        known = _packed[layer] = made_of, *pack()
    return known[1], known[2]


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
