"""Packed convolutions and linear layers compute what the usual ones do, with the weights of now."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparseoccvla_ros.core import onednn
from sparseoccvla_ros.core.onednn import Conv2d, Linear, fast_precision, usable

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("adds", [False, True])
def test_convolution_with_activation_and_residual(activation: str, groups: int, adds: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 12, 3, 2, 1, groups=groups).requires_grad_(False)
    x, residual = 8 * torch.randn(2, 6, 10, 14), 8 * torch.randn(2, 12, 5, 7) if adds else None
    with torch.no_grad():
        wanted = conv(x) + (0 if residual is None else residual)
        wanted = {"none": lambda y: y, "relu": F.relu, "relu6": F.relu6}[activation](wanted)
        assert usable(x)
        sources = conv.weight, conv.bias
        found = onednn.convolve(x, conv, sources, lambda: sources, activation, residual)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("layer", [Linear(24, 40), Linear(24, 40, bias=False), Conv2d(24, 8, 3, padding=2, dilation=2)])
def test_layers_follow_their_weights(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 24, 9, 9) if isinstance(layer, nn.Conv2d) else torch.randn(2, 5, 24)

    def agrees(one: nn.Module, inputs: torch.Tensor) -> None:
        with torch.no_grad():
            assert not usable(inputs, one.requires_grad_(True).parameters())
        wanted = one(inputs).detach()
        one.requires_grad_(False)
        with torch.no_grad():
            assert usable(inputs, one.parameters())
            torch.testing.assert_close(one(inputs), wanted, atol=1e-4, rtol=1e-4)

    agrees(layer, x)
    with torch.no_grad():
        layer.weight.mul_(2.0)  # as an optimiser does
    agrees(layer, x)
    layer.load_state_dict({k: v + 1.0 for k, v in layer.state_dict().items()})
    agrees(layer, x)
    agrees(copy.deepcopy(layer), x)
    agrees(layer, x[:1])  # packed for another batch size


def test_sum_with_a_residual() -> None:
    torch.manual_seed(0)
    layer, x, residual = Linear(24, 40), torch.randn(50, 24), torch.randn(50, 40)
    layer.requires_grad_(False)
    wanted = residual + x @ layer.weight.T
    with torch.no_grad():
        torch.testing.assert_close(layer.added_to(residual.clone(), x), wanted.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.added_to(residual, x), wanted)


def test_autocast_decides_the_dtype() -> None:
    layer, x = Linear(24, 40).requires_grad_(False), torch.randn(7, 24)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(found.float(), layer(x), atol=0.05, rtol=0.05)


def test_other_dtypes_are_left_to_torch() -> None:
    layer = Linear(4, 4).double()
    with torch.no_grad():
        assert layer(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_precision_follows_the_instruction_set_that_onednn_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_precision("cuda") == "bfloat16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert fast_precision("cpu") == "float32"


def test_a_switch_of_torch_turns_it_off() -> None:
    with torch.no_grad():
        assert usable(torch.zeros(2, 2))
        with torch.backends.mkldnn.flags(enabled=False):
            assert not usable(torch.zeros(2, 2))
