"""A model read for inference is the one that transformers loads, and what cannot be read so goes to transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import LanguageModel, load_language_model
from sparseoccvla_ros.reasoning.llm.llama_file import FILE, LlamaFile
from sparseoccvla_ros.reasoning.llm.lora import (
    adapter_parameters,
    load_adapter,
    load_merged,
    merge,
    save_adapter,
    with_lora,
)

ASK = "Is the road ahead free? <|im_end|>"


def save(folder: Path, tiny: LanguageModel, kind: str = "llama", **changes: object) -> Path:
    """A folder as transformers writes it, with norms and biases that show."""
    torch.manual_seed(3)
    sizes = {"vocab_size": len(tiny.tokenizer), "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **heads, **changes}))
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(weight, 0.3, 1.5)
    model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


def both(folder: Path, dtype: str = "float32") -> tuple[LanguageModel, LanguageModel]:
    """(transformers, the file), ready for inference."""
    whole, read = (load_language_model(str(folder), dtype=dtype, weights_only=only) for only in (False, True))
    assert isinstance(read.model, LlamaFile)
    return whole, read


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"tie_word_embeddings": True, "eos_token_id": [1, 2]}),
        ("llama", {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
    ],
    ids=["tied", "wide heads", "biases", "qwen2"],
)
def test_same_states_words_and_prompts(
    tmp_path: Path, tiny_model: LanguageModel, kind: str, changes: dict[str, object]
) -> None:
    whole, read = both(save(tmp_path, tiny_model, kind, **changes))
    read = read.for_inference()
    assert not read.model.weights, "the packed matrices are the only copy"
    assert read.tokens(ASK) == whole.tokens(ASK)
    assert read.text(read.tokens(ASK)) == whole.text(whole.tokens(ASK))
    assert read.prompt_parts("Be brief.", "Scene:") == whole.prompt_parts("Be brief.", "Scene:")
    assert (read.stop_ids, read.answer_end()) == (whole.stop_ids, whole.answer_end())
    assert (read.dims, read.context, read.dtype) == (whole.dims, whole.context, whole.dtype)
    with torch.no_grad():
        want, got = (m.forward(m.embed(m.tokens(ASK)))[0] for m in (whole, read))
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(read.logits(got), whole.logits(want), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("targets", ["all", "attention"])
def test_an_adapter_is_merged_as_peft_merges_it(tmp_path: Path, tiny_model: LanguageModel, targets: str) -> None:
    config = ReasoningConfig(lora_r=3, lora_alpha=7, lora_targets=targets)
    whole, read = both(save(tmp_path, tiny_model))
    adapted = with_lora(whole, config)
    with torch.no_grad():
        for _, parameter in adapter_parameters(adapted):
            parameter.normal_(0, 0.1)
    save_adapter(adapted, config, tmp_path / "adapter.safetensors")
    plain = load_language_model(str(tmp_path), dtype="float32")
    before = plain.model.state_dict()["model.layers.1.self_attn.q_proj.weight"].clone()
    want = merge(load_adapter(plain, config, tmp_path / "adapter.safetensors")).model.state_dict()
    got = load_merged(read, config, tmp_path / "adapter.safetensors").model.weights
    assert (want["model.layers.1.self_attn.q_proj.weight"] - before).abs().max() > 0.1
    for name, weight in got.items():
        torch.testing.assert_close(weight, want[name], atol=1e-6, rtol=1e-6)

    tensors = load_file(tmp_path / "adapter.safetensors")
    name = next(iter(tensors))
    for changed, reason in (
        ({n: t for n, t in tensors.items() if n != name}, "lacks"),
        (tensors | {"more": torch.zeros(1)}, "has more"),
        (tensors | {name: torch.zeros(3, 5)}, "another shape"),
    ):
        facts = {"format_version": "1", "lora_r": "3", "lora_alpha": "7", "lora_targets": targets}
        save_file(changed, tmp_path / "bad.safetensors", facts | {"base": "llama 2 x 48"})
        with pytest.raises(InvalidInput, match=reason):
            load_merged(read, config, tmp_path / "bad.safetensors")


def test_it_is_for_inference_alone(tmp_path: Path, tiny_model: LanguageModel) -> None:
    read = both(save(tmp_path, tiny_model))[1]
    with torch.no_grad(), pytest.raises(RuntimeError, match="for_inference"):
        read.forward(read.embed([1]))
    ready = read.for_inference()
    assert ready.for_inference() is ready
    with pytest.raises(RuntimeError, match="gradients"):
        ready.forward(ready.embed([1]))
    with pytest.raises(RuntimeError, match="other device"):
        ready.to("meta")
    with pytest.raises(InvalidInput, match="inference"):
        with_lora(read, ReasoningConfig(lora_r=2))
    assert not list(adapter_parameters(read))


def test_everything_else_goes_to_transformers(tmp_path: Path, tiny_model: LanguageModel) -> None:
    folder = save(
        tmp_path / "scaled", tiny_model, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    )
    assert not isinstance(load_language_model(str(folder), dtype="float32", weights_only=True).model, LlamaFile)
    folder = save(tmp_path / "good", tiny_model)
    assert LlamaFile.open(folder, torch.float16) is None
    whole = json.loads((folder / "config.json").read_text())
    for name in ("rms_norm_eps", "max_position_embeddings", "num_key_value_heads", "hidden_act"):
        (folder / "config.json").write_text(json.dumps({n: v for n, v in whole.items() if n != name}))
        assert LlamaFile.open(folder, torch.float32) is None, "only transformers knows the default"
    (folder / "config.json").write_text(json.dumps(whole))
    assert LlamaFile.open(folder, torch.float32) is not None
    tensors = load_file(folder / FILE)
    for change in (
        {},
        {"model.norm.weight": torch.ones(47)},
        {"model.layers.9.mlp.up_proj.weight": torch.ones(80, 48)},
    ):
        damaged = (tensors | change) if change else {n: t for n, t in tensors.items() if "layers.1" not in n}
        save_file(damaged, folder / FILE, {"format": "pt"})
        assert LlamaFile.open(folder, torch.float32) is None
    (folder / FILE).write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    assert LlamaFile.open(folder, torch.float32) is None
    with pytest.raises(InvalidInput, match="cannot read good"):
        load_language_model(str(folder), weights_only=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert LlamaFile.open(folder, torch.float32) is None
