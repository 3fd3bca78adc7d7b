"""Depthwise convolution with a frozen kernel whose input gradient is computed as a convolution.

oneDNN, PyTorch's CPU backend for convolutions, has no fast gradient for depthwise kernels of 5x5 or a stride of 2: the
backward pass takes 10 to 50 times the forward pass. The gradient with respect to the input is itself a depthwise
convolution: the kernel rotated by 180 degrees, applied to the output gradient with stride - 1 zeros inserted between
rows and columns. Computed that way it uses the fast forward kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """Compute F.conv2d with one group per channel: x [M, C, H, W], weight [C, 1, K, K], bias [C].

    `weight` receives no gradient. As with F.conv2d, autocast may lower the precision of all three.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x, weight, bias = (v.to(torch.get_autocast_dtype(device)) for v in (x, weight, bias))
    return _FixedDepthwise.apply(x, weight, bias, stride, padding)


class _FixedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.stride, ctx.padding, ctx.size = stride, padding, x.shape[2:]
        return F.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        to_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[0]:
            return None, None, to_bias, None, None
        if ctx.stride > 1:
            m, c, h, w = grad.shape
            apart = torch.zeros(
                (m, c, *(ctx.stride * (n - 1) + 1 for n in (h, w))), dtype=grad.dtype, device=grad.device
            ).contiguous(memory_format=torch.channels_last)
            apart[:, :, :: ctx.stride, :: ctx.stride] = grad
            grad = apart
        around = weight.shape[-1] - 1 - ctx.padding
        # Trailing input rows and columns that the stride skips still need a (zero or partial) gradient.
        right, below = (
            size + weight.shape[-1] - 1 - 2 * around - n
            for size, n in zip(ctx.size[::-1], grad.shape[:1:-1], strict=True)
        )
        if right or below:
            grad = F.pad(grad, (0, right, 0, below))
        to_x = F.conv2d(grad, weight.flip(2, 3), None, 1, around, 1, len(weight))
        return to_x, None, to_bias, None, None
