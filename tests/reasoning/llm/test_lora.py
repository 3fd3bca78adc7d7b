"""Adapters live in a file of their own, merge without a trace, and a file that does not fit is refused by name."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.llm.lora import adapter_parameters, has_adapter
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner


def make(anchors, **changes):
    torch.manual_seed(1)
    config = ReasoningConfig(language_model="random-tiny", dtype="float32", **{"lora_r": 4, **changes})
    return Reasoner(config, load_language_model("random-tiny", dtype="float32"), anchors).eval()


@pytest.fixture
def trained(anchors, tmp_path):
    """A reasoner with adapters that are no longer zero, and their file."""
    reasoner = make(anchors)
    reasoner.add_adapter()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in [p for _, p in adapter_parameters(reasoner.language_model)]:
            parameter.normal_(0, 0.1)
    reasoner.save_adapter(tmp_path / "deep" / "adapter.safetensors")
    return reasoner, tmp_path / "deep" / "adapter.safetensors"


def logits(reasoner, queries):
    reasoner.reason(queries)
    model = reasoner.language_model
    with torch.inference_mode():
        hidden, _ = model.forward(model.embed(reasoner.question_ids("What is near?")), reasoner._scene.layers)
        return model.logits(hidden)


def test_merged_equals_unmerged(trained, anchors, make_scene):
    reasoner, path = trained
    want, plain = logits(reasoner, make_scene(0)), logits(make(anchors), make_scene(0))
    assert (want - plain).abs().max() > 0.1
    merged, unmerged = make(anchors), make(anchors)
    merged.load_adapter(path)
    unmerged.load_adapter(path, merge=False)
    assert not has_adapter(merged.language_model)
    assert has_adapter(unmerged.language_model)
    torch.testing.assert_close(logits(merged, make_scene(0)), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(unmerged, make_scene(0)), want, atol=1e-6, rtol=1e-6)
    assert not [p for _, p in adapter_parameters(merged.language_model)]
    assert not any(p.requires_grad for p in merged.language_model.model.parameters())


def test_the_file_holds_adapters_only(trained):
    reasoner, path = trained
    tensors = load_file(path)
    assert tensors
    assert all(".lora_A." in name or ".lora_B." in name for name in tensors)
    assert not any("lm_head" in name or "embed" in name for name in tensors)
    assert sum(t.numel() for t in tensors.values()) == sum(
        p.numel() for p in [p for _, p in adapter_parameters(reasoner.language_model)]
    )
    with safe_open(path, "pt") as file:
        assert file.metadata()["lora_r"] == "4"


def test_training_goes_on_from_a_file_and_dropout_obeys_the_mode(trained, anchors, make_scene):
    _, path = trained
    reasoner = make(anchors, lora_dropout=0.5)
    reasoner.load_adapter(path, merge=False)
    assert all(p.requires_grad for p in [p for _, p in adapter_parameters(reasoner.language_model)])
    still = [reasoner.reason(make_scene(0)).token for _ in range(2)]
    np.testing.assert_array_equal(*still)
    reasoner.train()
    reasoner.set_language_model(reasoner.language_model)
    assert np.abs(reasoner.reason(make_scene(0)).token - still[0]).max() > 1e-4
    reasoner.eval()
    reasoner.set_language_model(reasoner.language_model)
    np.testing.assert_array_equal(reasoner.reason(make_scene(0)).token, still[0])


def test_targets(anchors):
    everything, attention = make(anchors), make(anchors, lora_targets="attention")
    counts = []
    for reasoner in (everything, attention):
        reasoner.add_adapter()
        counts.append(len([p for _, p in adapter_parameters(reasoner.language_model)]))
    # 2 layers x (4 attention + 3 feed-forward) x (A, B)
    assert counts == [28, 16]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("gone", "is missing"),
        ("short", "cannot be read"),
        ("rank", "lora_r 4, this model wants 2"),
        ("alpha", "lora_alpha"),
        ("targets", "lora_targets"),
        ("base", "base llama 9 x 9"),
        ("foreign", "has format_version None"),
        ("lacks", "lacks model.layers.1"),
        ("extra", "has something, which the model does not"),
        ("shape", "another shape of model.layers.0"),
        ("off", "lora_r is 0"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(trained, anchors, make_scene, damage, reason):
    _, path = trained
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    tensors = load_file(path)
    changes = {}
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage in ("rank", "alpha", "targets", "off"):
        changes = {
            "rank": {"lora_r": 2}, "alpha": {"lora_alpha": 3}, "targets": {"lora_targets": "attention"},
            "off": {"lora_r": 0},
        }[damage]  # fmt: skip
    else:
        last, first = max(tensors), min(tensors)
        if damage == "base":
            facts["base"] = "llama 9 x 9"
        elif damage == "foreign":
            facts = {}
        elif damage == "lacks":
            tensors.pop(last)
        elif damage == "extra":
            tensors["something"] = torch.zeros(1)
        elif damage == "shape":
            tensors[first] = tensors[first][:1].clone()
        save_file(tensors, path, facts)
    reasoner = make(anchors, **changes)
    before = reasoner.reason(make_scene(0)).token
    with pytest.raises(InvalidInput, match=reason) as error:
        reasoner.load_adapter(path)
    assert error.value.field == "adapter"
    assert not has_adapter(reasoner.language_model)
    np.testing.assert_array_equal(reasoner.reason(make_scene(0)).token, before)
    reasoner.add_adapter()


def test_no_adapter_to_save_and_none_twice(anchors, tmp_path):
    reasoner = make(anchors)
    with pytest.raises(InvalidInput) as error:
        reasoner.save_adapter(tmp_path / "a.safetensors")
    assert error.value.field == "adapter"
    reasoner.add_adapter()
    with pytest.raises(InvalidInput):
        reasoner.add_adapter()


def test_the_reasoning_token_is_saved_with_the_bridge_and_the_vocabulary_stays(anchors):
    """The one added token is a row of the bridge: the frozen embedding neither grows nor trains."""
    reasoner = make(anchors)
    rows = len(reasoner.language_model.embedding_weight)
    reasoner.add_adapter()
    assert len(reasoner.language_model.embedding_weight) == rows
    assert not reasoner.language_model.embedding_weight.requires_grad
    assert any(p is reasoner.reasoning_token for p in list(reasoner.parameters()))
    assert "reasoning_token" in reasoner.state_dict()
