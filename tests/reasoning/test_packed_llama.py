"""The packed decoder computes what transformers computes, and is left alone where it would not."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparseoccvla_ros.reasoning.adapters import with_lora
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.language_model import LanguageModel
from sparseoccvla_ros.reasoning.packed_llama import PackedLlama

SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def random_model(kind: str, tiny: LanguageModel, dtype: torch.dtype = torch.float32, **changes) -> LanguageModel:
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**SIZES, **changes})
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for name, weight in model.named_parameters():
        # As from_config leaves them, norms are ones and biases zero, and a mistake in either would not show.
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(weight, 0.3, 1.5)
    return replace(tiny, model=model.requires_grad_(False))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("llama", {"head_dim": 16}), ("llama", {"attention_bias": True}), ("qwen2", {})],
    ids=["llama", "wide heads", "biases", "qwen2"],
)
def test_packed_equals_transformers(kind, changes, tiny_model):
    plain = random_model(kind, tiny_model, **changes)
    packed = plain.for_inference()
    assert packed.packed is not None
    first, second, one = (torch.randn(2, n, 48) for n in (7, 20, 1))
    with torch.inference_mode():
        past = mine = None
        for part in (first, second, one):
            want, past = plain.forward(part, past)
            got, mine = packed.forward(part, mine)
            torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
        for (k, v), (k0, v0) in zip(mine, past, strict=True):
            torch.testing.assert_close(k, k0, atol=2e-5, rtol=2e-5)
            torch.testing.assert_close(v, v0, atol=2e-5, rtol=2e-5)


def test_gradients_masks_and_adapters_go_through_transformers(tiny_model):
    packed = tiny_model.for_inference()
    x = torch.randn(1, 4, packed.dims, requires_grad=True)
    packed.forward(x)[0].sum().backward()
    assert x.grad.abs().max() > 0
    with torch.inference_mode():
        mask = torch.tensor([[False, True, True, True]])
        places = torch.tensor([[0, 0, 1, 2]])
        want = tiny_model.forward(x.detach()[:, 1:])[0]
        got = packed.forward(x.detach(), None, mask, places)[0][:, 1:]
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    adapted = with_lora(random_model("llama", tiny_model).for_inference(), ReasoningConfig())
    assert adapted.packed is None
    assert "adapters" in PackedLlama.why_not(adapted.model)


def test_what_cannot_be_packed_is_named(tiny_model):
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    cases = {
        "gpt2": random_model("gpt2", tiny_model, n_embd=48, n_head=6, n_layer=1, n_positions=64),
        "dynamic": random_model("llama", tiny_model, rope_parameters=scaled),
        "float16": random_model("llama", tiny_model, torch.float16),
    }
    for reason, model in cases.items():
        assert reason in PackedLlama.why_not(model.model)
        assert model.for_inference() is model
