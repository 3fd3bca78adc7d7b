"""Language models from InternVL and InternLM2 checkpoints, as native transformers classes, without remote code.

InternVL2-2B, used in the paper, contains InternLM2-1.8B (Cai et al., 2024): a Llama with other tensor names and one
fused projection (per key/value group: query heads, then key, then value). Its dynamic rotary scaling (x2) applies
beyond max_position_embeddings (32768), longer than any prompt here; transformers' "dynamic" type uses the same formula.
InternVL2-1B and InternVL3 contain Qwen2, whose tensors only lose their prefix.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...core.errors import InvalidInput

INTERNLM2_1_8B = {
    "model_type": "internlm2",
    "vocab_size": 92553,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
}
"""Published configuration of InternVL2-2B's language model (llm_config in its config.json)."""
MODEL_TYPES = ("internlm2", "internvl_chat", "internvl")
"""Values of `model_type` in config.json that `load` supports."""
_PREFIXES = ("language_model.model.", "model.language_model.")
"""Prefixes of the decoder's tensors in InternVL repositories and in transformers' InternVL class."""
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""InternLM2's module names inside a layer to Llama's."""
_TOP = {"model.tok_embeddings.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
_SPELLED_ANEW = ("auto_map", "attn_implementation", "_attn_implementation", "torch_dtype", "dtype", "_name_or_path")
"""Configuration entries to drop: they describe remote code or how the model was saved."""


def load(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Any:
    """Loads the causal language model of an InternVL or InternLM2 folder, in eval mode on the CPU.

    config: content of its config.json. Tensors are read from *.safetensors, else from *.bin, *.pt and *.pth with
    `weights_only`; those of the vision encoder are skipped. Raises InvalidInput("language_model") naming the file or
    tensor that is missing, unknown, broken or of another shape.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    inner = config.get("llm_config") or config.get("text_config") or config
    state = {name: tensor.to(dtype) for name, tensor in _tensors(folder)}
    if inner.get("model_type") == "internlm2":
        settings = llama_config(inner)
        state = llama_state(state, inner["num_attention_heads"], settings.num_key_value_heads)
    else:
        settings = _native_config(inner)
    with torch.device("meta"):
        wanted = AutoModelForCausalLM.from_config(settings).state_dict()
    if settings.tie_word_embeddings:
        state.setdefault("lm_head.weight", state.get("model.embed_tokens.weight", torch.empty(0)))
    for name, like in wanted.items():
        if name not in state:
            raise InvalidInput("language_model", f"{folder.name} lacks {name}")
        if state[name].shape != like.shape:
            raise InvalidInput(
                "language_model", f"{folder.name}: {name} is {list(state[name].shape)}, want {list(like.shape)}"
            )
    unknown = sorted(name for name in state if name not in wanted and not name.endswith("inv_freq"))
    if unknown:
        raise InvalidInput("language_model", f"{folder.name} has {unknown[0]}, which {settings.model_type} does not")
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]
    return kind.from_pretrained(None, config=settings, state_dict={n: state[n] for n in wanted}, dtype=dtype)


def llama_config(config: dict[str, Any]) -> Any:
    """Returns the LlamaConfig equivalent to an InternLM2 configuration."""
    from transformers import LlamaConfig

    scaling = dict(config.get("rope_scaling") or {"type": "default"})
    rope = {
        "rope_type": scaling.pop("type", "default"),
        "rope_theta": float(config.get("rope_theta", 10000)),
        **scaling,
    }
    heads = config["num_attention_heads"]
    return LlamaConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        hidden_act=config.get("hidden_act", "silu"),
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_parameters=rope,
        attention_bias=bool(config.get("bias", False)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        bos_token_id=config.get("bos_token_id", 1),
        eos_token_id=config.get("eos_token_id", 2),
        pad_token_id=config.get("pad_token_id", 2),
    )


def llama_state(state: dict[str, torch.Tensor], heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """Returns InternLM2's tensors under Llama's names; raises InvalidInput("language_model") if `wqkv` cannot be split.

    `wqkv` [(heads + 2 kv_heads) d, hidden] (or its bias) contains, per key/value group, the group's query heads,
    then its key, then its value.
    """
    out: dict[str, torch.Tensor] = {}
    slots = heads // kv_heads + 2
    for name, tensor in state.items():
        found = _LAYER.fullmatch(name)
        if found is None:
            out[_TOP.get(name, name)] = tensor
            continue
        layer, inner = found.groups()
        module, _, kind = inner.rpartition(".")
        where = f"model.layers.{layer}."
        if module != "attention.wqkv":
            out[f"{where}{_NAMES.get(module, module)}.{kind}"] = tensor
            continue
        if tensor.shape[0] % (kv_heads * slots):
            raise InvalidInput("language_model", f"{name} {list(tensor.shape)} does not divide into {kv_heads} groups")
        groups = tensor.unflatten(0, (kv_heads, slots, -1))
        parts = {"q": groups[:, :-2], "k": groups[:, -2], "v": groups[:, -1]}
        for letter, part in parts.items():
            out[f"{where}self_attn.{letter}_proj.{kind}"] = part.reshape(-1, *tensor.shape[1:]).contiguous()
    return out


def _native_config(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    values = {key: value for key, value in config.items() if key not in (*_SPELLED_ANEW, "model_type")}
    return AutoConfig.for_model(config.get("model_type", ""), **values)


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name inside the language model, tensor) for its tensors in the folder's weight files."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    pickles = sorted(p for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if not files and not pickles:
        raise InvalidInput("language_model", f"{folder.name} has no weight files")
    for file in files or pickles:
        try:
            if files:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118
                        if inner := _inner_name(name):
                            yield inner, opened.get_tensor(name)
            else:
                for name, tensor in torch.load(file, map_location="cpu", weights_only=True, mmap=True).items():
                    if inner := _inner_name(name):
                        yield inner, tensor
        except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise InvalidInput("language_model", f"{file.name} cannot be read: {str(error).splitlines()[0]}") from error


def _inner_name(name: str) -> str | None:
    """Returns the tensor's name inside the language model, or None if it does not belong to it."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return "model." + name.removeprefix(prefix)
    if name.startswith("language_model."):
        return name.removeprefix("language_model.")
    if name.startswith(("model.layers.", "model.tok_embeddings.", "model.norm.", "output.", "lm_head.")):
        return name
    return None
