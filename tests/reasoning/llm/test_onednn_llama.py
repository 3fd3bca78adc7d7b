"""The packed decoder computes what transformers computes, and is left alone where it would not."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm import dummy_llm, internvl
from sparseoccvla_ros.reasoning.llm.language_model import LanguageModel, load_language_model
from sparseoccvla_ros.reasoning.llm.lora import with_lora
from sparseoccvla_ros.reasoning.llm.onednn_llama import PackedLlama

SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def made_up(kind: str, tiny: LanguageModel, dtype: torch.dtype = torch.float32, **changes) -> LanguageModel:
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
    plain = made_up(kind, tiny_model, **changes)
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


def test_rows_of_different_lengths_are_masked_and_placed(tiny_model):
    """As decode_batch asks: padding between a shared past and the shorter rows, then one token at a time."""
    plain = made_up("llama", tiny_model)
    packed = plain.for_inference()
    shared, rows = torch.randn(1, 5, 48), torch.randn(2, 4, 48)
    mask = torch.tensor([[True] * 5 + [False, False, True, True], [True] * 9])
    places = torch.tensor([[5, 5, 5, 6], [5, 6, 7, 8]])
    with torch.no_grad():
        past = tuple((k.expand(2, -1, -1, -1), v.expand(2, -1, -1, -1)) for k, v in plain.forward(shared)[1])
        want, longer = plain.forward(rows, past, mask, places)
        got, mine = packed.forward(rows, past, mask, places)
        torch.testing.assert_close(got[mask[:, 5:]], want[mask[:, 5:]], atol=2e-5, rtol=2e-5)
        assert got.isfinite().all(), "what is padding, too"
        mask, places = torch.cat([mask, mask[:, :1]], 1), places[:, -1:] + 1
        want, got = (m.forward(rows[:, :1], p, mask, places)[0] for m, p in ((plain, longer), (packed, mine)))
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


def test_gradients_and_adapters_go_through_transformers(tiny_model):
    packed = tiny_model.for_inference()
    x = torch.randn(1, 4, packed.dims, requires_grad=True)
    packed.forward(x)[0].sum().backward()
    assert x.grad.abs().max() > 0
    adapted = with_lora(made_up("llama", tiny_model).for_inference(), ReasoningConfig())
    assert adapted.packed is None
    assert "adapters" in PackedLlama.why_not(adapted.model)


def test_what_cannot_be_packed_is_named(tiny_model):
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    cases = {
        "gpt2": made_up("gpt2", tiny_model, n_embd=48, n_head=6, n_layer=1, n_positions=64),
        "dynamic": made_up("llama", tiny_model, rope_parameters=scaled),
        "float16": made_up("llama", tiny_model, torch.float16),
    }
    for reason, model in cases.items():
        assert reason in PackedLlama.why_not(model.model)
        assert model.for_inference() is model


def test_a_fetched_model_is_found_by_its_name(tmp_path, monkeypatch, tiny_model):
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    with pytest.raises(InvalidInput, match="fetch"):
        load_language_model("internvl2-2b")
    folder = tmp_path / "models" / "internvl2-2b"
    tiny_model.model.save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    loaded = load_language_model("internvl2-2b", dtype="float32")
    assert torch.equal(loaded.embedding_weight, tiny_model.embedding_weight)


def test_reduced_internlm2_is_the_published_one_but_smaller():
    reduced = load_language_model(dummy_llm.REDUCED, dtype="float32").config
    assert (reduced.hidden_size, reduced.num_attention_heads, reduced.num_key_value_heads) == (256, 16, 8)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(internvl.llama_config(internvl.INTERNLM2_1_8B))
    assert sum(p.numel() for p in whole.parameters()) == pytest.approx(1.89e9, rel=0.01)
