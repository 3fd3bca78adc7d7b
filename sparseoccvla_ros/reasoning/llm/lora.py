"""Low-rank adapters for the language model (Hu et al., 2022): creating, saving, loading and merging them.

Adapter files are safetensors and contain the adapters only, never the base model or its vocabulary; their metadata
record the rank, the scale, the adapted layers and the base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ...core.errors import InvalidInput
from ..config import ReasoningConfig
from .grouped_attention import use_grouped_attention, use_own_attention
from .language_model import LanguageModel
from .llama_file import LlamaFile

FORMAT_VERSION = "1"
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"]
_MARK = "lora_"


def with_lora(language_model: LanguageModel, config: ReasoningConfig) -> LanguageModel:
    """Returns the model with trainable low-rank adapters in its decoder; the base stays frozen.

    Initially the output is unchanged. lora_r 0 returns the model as is. peft modifies the base model in place. Raises
    InvalidInput("language_model") when peft is missing, the model has adapters or it was loaded for inference only.
    """
    if config.lora_r == 0:
        return language_model
    if has_adapter(language_model):
        raise InvalidInput("language_model", "has adapters already; merge them first")
    if isinstance(language_model.model, LlamaFile):
        raise InvalidInput("language_model", "was read for inference; adapters are trained on a transformers model")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InvalidInput("language_model", "adapters need the Python package peft") from error
    settings = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if config.lora_targets == "all" else _ATTENTION,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(language_model.model, settings)
    for layer in model.modules():
        # The adapters are float32; peft would cast a bfloat16 model's activations to float32 and back. Autocast
        # (LanguageModel.forward) casts the small adapter matrices instead.
        if hasattr(layer, "cast_input_dtype_enabled"):
            layer.cast_input_dtype_enabled = False
    return replace(language_model, model=model.eval(), packed=None)


def has_adapter(language_model: LanguageModel) -> bool:
    """Whether the model has unmerged adapters."""
    return hasattr(language_model.model, "merge_and_unload")


def set_training(language_model: LanguageModel, mode: bool) -> None:
    """Enable or disable the adapters' dropout and the attention kernel for training. The model must have adapters."""
    language_model.model.train(mode)
    switch = use_grouped_attention if mode else use_own_attention
    switch(language_model.model.get_base_model())


def merge(language_model: LanguageModel) -> LanguageModel:
    """Returns the model with its adapters merged into the weights; unchanged if it has none."""
    if not has_adapter(language_model):
        return language_model
    merged = language_model.model.merge_and_unload().eval().requires_grad_(False)
    use_own_attention(merged)
    return replace(language_model, model=merged)


def adapter_parameters(language_model: LanguageModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields (name in the adapter file, parameter) for each adapter weight; nothing if the model has no adapters."""
    for name, parameter in language_model.model.named_parameters() if has_adapter(language_model) else ():
        if _MARK in name:
            # "model.layers.0.self_attn.q_proj.lora_A.weight": without peft's prefixes.
            yield name.removeprefix("base_model.model.").replace(".default.", "."), parameter


def save_adapter(language_model: LanguageModel, config: ReasoningConfig, path: Path) -> None:
    """Write the adapters (float32) to `path`. Raises InvalidInput("adapter") when the model has none."""
    tensors = {name: p.detach().float().cpu().contiguous() for name, p in adapter_parameters(language_model)}
    if not tensors:
        raise InvalidInput("adapter", "the language model has no adapters to save")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, _facts(language_model, config))


def load_adapter(language_model: LanguageModel, config: ReasoningConfig, path: Path) -> LanguageModel:
    """Returns the model with the adapters of `path` added; `merge` merges them for inference.

    The model must have none yet. Raises InvalidInput("adapter") naming the file when it is missing, truncated, trained
    with another rank, scale or base model, or when a tensor is missing, unknown or of another shape.
    """
    tensors = _read(language_model, config, path)
    adapted = with_lora(language_model, config)
    parameters = dict(adapter_parameters(adapted))
    try:
        _check(tensors, {name: p.shape for name, p in parameters.items()}, path)
    except InvalidInput:
        adapted.model.unload()
        raise
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    return adapted


def load_merged(language_model: LanguageModel, config: ReasoningConfig, path: Path) -> LanguageModel:
    """Returns the model with the adapters of `path` merged; equivalent to merge(load_adapter(...)), same errors.

    A model loaded with weights_only is merged here, without peft.
    """
    file = language_model.model
    if not isinstance(file, LlamaFile):
        return merge(load_adapter(language_model, config, path))
    tensors = _read(language_model, config, path)
    kinds = None if config.lora_targets == "all" else _ATTENTION
    adapted = [n for n in file.weights if n.endswith("_proj.weight") and (kinds is None or n.split(".")[-2] in kinds)]
    shapes: dict[str, tuple[int, int]] = {}
    for name in adapted:
        rows, columns = file.weights[name].shape
        shapes |= {_lora(name, "A"): (config.lora_r, columns), _lora(name, "B"): (rows, config.lora_r)}
    _check(tensors, shapes, path)
    for name in adapted:
        weight = file.weights[name]
        wide, narrow = tensors[_lora(name, "B")].float(), tensors[_lora(name, "A")].float()
        # Added in float32 and rounded once.
        merged = torch.addmm(weight.float(), wide, narrow, alpha=config.lora_alpha / config.lora_r)
        file.weights[name] = merged.to(weight.dtype)
    return language_model


def _lora(weight: str, half: str) -> str:
    """Returns the name of a weight's adapter matrix: "A" (down projection) or "B" (up projection)."""
    return f"{weight.removesuffix('weight')}lora_{half}.weight"


def _read(language_model: LanguageModel, config: ReasoningConfig, path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of an adapter file; raises InvalidInput("adapter") unless its metadata match."""
    if config.lora_r == 0:
        raise InvalidInput("adapter", f"{path.name} was given, but reasoning.lora_r is 0")
    if not path.is_file():
        raise InvalidInput("adapter", f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidInput("adapter", f"{path.name} cannot be read: {error}") from error
    for name, want in _facts(language_model, config).items():
        if facts.get(name) != want:
            raise InvalidInput("adapter", f"{path.name} has {name} {facts.get(name)}, this model wants {want}")
    return tensors


def _check(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raise InvalidInput("adapter") unless the tensors have these names and shapes."""
    problem = next((f"lacks {n}" for n in shapes if n not in tensors), None)
    problem = problem or next((f"has {n}, which the model does not" for n in tensors if n not in shapes), None)
    problem = problem or next(
        (f"has another shape of {n}" for n, shape in shapes.items() if tuple(tensors[n].shape) != tuple(shape)), None
    )
    if problem:
        raise InvalidInput("adapter", f"{path.name} {problem}")


def _facts(language_model: LanguageModel, config: ReasoningConfig) -> dict[str, str]:
    """Returns the metadata of an adapter file, which must match when it is loaded."""
    settings = language_model.config
    return {
        "format_version": FORMAT_VERSION,
        "lora_r": str(config.lora_r),
        "lora_alpha": str(config.lora_alpha),
        "lora_targets": config.lora_targets,
        "base": f"{settings.model_type} {settings.num_hidden_layers} x {settings.hidden_size}",
    }
