"""The gradient of fixed depthwise kernels equals PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sparseoccvla_ros.occupancy.depthwise_grad import depthwise_conv


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2), (4, 1), (4, 2)])
def test_gradient(size: tuple[int, int], stride: int, kernel: int, padding: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(x, weight, bias, stride, padding, 1, 6)
    ours = depthwise_conv(x, weight, bias, stride, padding)
    torch.testing.assert_close(ours, plain, rtol=0, atol=0)
    above = torch.randn_like(plain)
    want = torch.autograd.grad(plain, (x, bias), above)
    got = torch.autograd.grad(ours, (x, bias), above)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast() -> None:
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    weight, bias = torch.randn(4, 1, 3, 3), torch.zeros(4)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight, bias, 1, 1)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
