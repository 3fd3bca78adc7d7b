"""Attention of training equals transformers' own, forward and backward, with and without a past."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparseoccvla_ros.reasoning.llm.dummy_llm import NAME as TINY
from sparseoccvla_ros.reasoning.llm.dummy_llm import REDUCED
from sparseoccvla_ros.reasoning.llm.grouped_attention import NAME, attend, use_grouped_attention, use_own_attention
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model


@pytest.mark.parametrize("name", [TINY, REDUCED])
def test_same_states_and_gradients(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = load_language_model(name, tmp_path, "float32")
    assert model.config.num_attention_heads >= model.config.num_key_value_heads
    found = []
    before, behind = torch.randn(2, 7, model.dims), torch.randn(2, 5, model.dims)
    for switch in (use_own_attention, use_grouped_attention, use_own_attention):
        switch(model.model)
        start, end = before.clone().requires_grad_(), behind.clone().requires_grad_()
        _, past = model.forward(start)
        hidden, _ = model.forward(end, past)
        hidden.square().sum().backward()
        assert start.grad is not None
        assert end.grad is not None
        found.append((hidden.detach(), start.grad, end.grad))
    own, grouped, again = found
    for a, b, c in zip(own, grouped, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
        assert torch.equal(a, c)


def test_equals_torch_at_the_size_of_the_papers_model() -> None:
    """InternLM2-1.8B: 16 heads of 128 channels on 8 keys, 5 tokens behind 7."""
    torch.manual_seed(0)
    shapes = ((2, 16, 5, 128), (2, 8, 12, 128), (2, 8, 12, 128))
    rows = [torch.randn(shape, requires_grad=True) for shape in shapes]
    mask = torch.full((1, 1, 5, 12), float("-inf")).triu(8)

    ours = attend(*rows, mask, 128**-0.5)
    theirs = torch.nn.functional.scaled_dot_product_attention(*rows, mask, enable_gqa=True)

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), rows) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_padding_is_masked(tmp_path: Path) -> None:
    model = load_language_model("random-tiny", tmp_path, "float32")
    torch.manual_seed(0)
    rows = torch.randn(2, 6, model.dims)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    places = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]])
    own = model.forward(rows, None, mask, places)[0]
    use_grouped_attention(model.model)
    assert model.model.config._attn_implementation == NAME
    torch.testing.assert_close(model.forward(rows, None, mask, places)[0][mask], own[mask], rtol=1e-4, atol=1e-5)
