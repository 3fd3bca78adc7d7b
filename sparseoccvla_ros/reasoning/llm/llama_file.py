"""Weights of a Llama or Qwen2 model read directly from its safetensors file, for inference only.

Importing the equivalent transformers class takes longer than the rest of a node's start, because it pulls in torch's
compiler and distributed tensors. onednn_llama.py needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .onednn_llama import PackedLlama

FILE = "model.safetensors"


class LlamaFile:
    """The parts of a causal model that LanguageModel and PackedLlama need: configuration, vocabulary, layer weights.

    config: as in config.json; generation_config: as in generation_config.json; weights: by transformers' names, in the
    requested dtype, without embeddings and vocabulary head.
    """

    def __init__(self, config: SimpleNamespace, generation: SimpleNamespace, weights: dict[str, torch.Tensor]) -> None:
        self.config, self.generation_config, self.weights = config, generation, weights
        embeddings = weights.pop("model.embed_tokens.weight")
        self._embeddings = nn.Embedding.from_pretrained(embeddings)
        self._head = partial(F.linear, weight=weights.pop("lm_head.weight", embeddings))

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> LlamaFile | None:
        """Loads the model in a folder; returns None if it is incomplete or PackedLlama does not support it here.

        On None, callers fall back to transformers, which supports more models and reports what is wrong.
        """
        from safetensors import SafetensorError, safe_open

        try:
            content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = SimpleNamespace(**content)
            with safe_open(folder / FILE, framework="pt") as file:
                weights = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
            generation = folder / "generation_config.json"
            rest = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
            # Defaults for missing entries are defined in transformers only.
            if not (_whole(content, weights) and {"rms_norm_eps", "max_position_embeddings"} <= set(content)):
                return None
            model = cls(config, SimpleNamespace(**rest), weights)
            return None if PackedLlama.why_not(model) else model
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError):
            return None

    def get_input_embeddings(self) -> nn.Module:
        """Returns the module that embeds token ids."""
        return self._embeddings

    def get_output_embeddings(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Returns the function from hidden states to vocabulary logits."""
        return self._head

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the layers' weights by transformers' names."""
        return self.weights

    def packed(self) -> PackedLlama:
        """Returns the packed decoder; releases the unpacked layer weights."""
        decoder, self.weights = PackedLlama(self), {}
        return decoder


def _whole(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether the weights are exactly those that the configuration implies, in the right shapes."""
    wide, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or wide // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    layer = {
        "self_attn.q_proj": (queries, wide),
        "self_attn.k_proj": (keys, wide),
        "self_attn.v_proj": (keys, wide),
        "self_attn.o_proj": (wide, queries),
        "mlp.gate_proj": (inner, wide),
        "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner),
        "input_layernorm": (wide,),
        "post_attention_layernorm": (wide,),
    }
    want: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], wide),
        "model.norm.weight": (wide,),
    }
    if not config.get("tie_word_embeddings", False):
        want["lm_head.weight"] = (config["vocab_size"], wide)
    biases: dict[str, tuple[int, ...]] = {}
    for i in range(config["num_hidden_layers"]):
        want |= {f"model.layers.{i}.{name}.weight": size for name, size in layer.items()}
        biases |= {f"model.layers.{i}.{name}.bias": size[:1] for name, size in layer.items() if name.endswith("_proj")}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    return all(found.get(n) == size for n, size in want.items()) and all(
        size == want.get(n, biases.get(n)) for n, size in found.items()
    )
