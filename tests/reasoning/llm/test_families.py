"""Every family of causal models runs the whole path from a folder with random weights."""

import numpy as np
import pytest
import torch

from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.llm.lora import adapter_parameters
from sparseoccvla_ros.reasoning.model.ego_motion import constant_velocity
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3"])
def test_a_family_from_random_weights(family, tmp_path, tiny_model, anchors, make_scene, batch):
    from transformers import AutoConfig, AutoModelForCausalLM

    extra = {"head_dim": 8} if family == "qwen3" else {}
    vocabulary = len(tiny_model.tokenizer)
    settings = AutoConfig.for_model(family, vocab_size=vocabulary, pad_token_id=0, eos_token_id=2, **SIZES, **extra)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path)
    tiny_model.tokenizer.save_pretrained(tmp_path)

    config = ReasoningConfig(language_model=str(tmp_path), dtype="float32", lora_r=2)
    model = load_language_model(config.language_model, dtype=config.dtype)
    assert model.config.model_type == family
    reasoner = Reasoner(config, model, anchors).eval()
    queries = make_scene(0)
    cached = reasoner.reason(queries)
    inputs = batch(queries, constant_velocity(queries.ego.twist))
    with torch.inference_mode():
        fresh = reasoner(*inputs)
    np.testing.assert_allclose(cached.token, fresh.token[0].numpy(), atol=1e-4)
    assert reasoner.ask("Is the road ahead free?", max_tokens=5).tokens <= 5

    reasoner.add_adapter()
    reasoner(*inputs).token.square().sum().backward()
    assert all(p.grad is not None for p in [p for _, p in adapter_parameters(reasoner.language_model)])
