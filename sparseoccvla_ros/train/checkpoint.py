"""Training checkpoints: one safetensors file with weights, their average, optimizer and random state; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core.errors import InvalidInput
from ..core.files import written
from ..reasoning.llm.lora import adapter_parameters
from ..reasoning.model.reasoner import Reasoner
from .data_loader import SamplerState

FORMAT_VERSION = 1
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Progress:
    """Progress of a run: steps, training time in s, place in the data, and best validation score so far."""

    step: int = 0
    seconds: float = 0.0
    place: SamplerState = field(default_factory=SamplerState)
    best: float = float("-inf")
    samples: list[int] = field(default_factory=list)
    """DrivingSamples.state in the epoch of `place`."""


def save(
    path: Path, module: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer, progress: Progress,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Write a checkpoint atomically."""
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for name, parameter in module.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{moment}.{name}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "progress": json.dumps(asdict(progress)),
        "settings": json.dumps(settings),
    }
    with written(path) as part:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part, metadata)


def load(
    path: Path, module: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Any]]:
    """Restore a checkpoint into the given objects; returns the progress and the saved settings.

    Raises InvalidInput("checkpoint", ...) naming the file when it is missing, truncated, of another format version, or
    of another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise InvalidInput("checkpoint", f"{path} does not exist") from None
    except (OSError, SafetensorError) as error:
        raise InvalidInput("checkpoint", f"{path} is damaged or truncated ({error})") from None
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise InvalidInput(
            "checkpoint", f"{path} has format {metadata.get('format_version')}, this version reads {FORMAT_VERSION}"
        )
    model = _part(tensors, "model.")
    wanted = module.state_dict()
    if {k: v.shape for k, v in model.items()} != {k: v.shape for k, v in wanted.items()}:
        raise InvalidInput("checkpoint", f"{path} belongs to another network or preset")
    module.load_state_dict(model)
    for name, value in _part(tensors, "average.").items():
        if name in average:
            average[name].copy_(value)
    moments = {m: _part(tensors, f"optimizer.{m}.") for m in _MOMENTS}
    for name, parameter in module.named_parameters():
        found = {m: values[name] for m, values in moments.items() if name in values}
        if found:
            optimizer.state[parameter] = {
                # AdamW keeps the step counter on the CPU.
                m: v if m == "step" else v.to(parameter.device)
                for m, v in found.items()
            }
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    values = json.loads(metadata["progress"])
    progress = Progress(**{**values, "place": SamplerState(**values["place"])})
    return progress, json.loads(metadata["settings"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


ADAPTER_FILE = "adapter.safetensors"


def save_reasoner(reasoner: Reasoner, path: Path, parts: Sequence[str]) -> None:
    """Write `path` for a preset's weights.reasoning and, if there are adapters, ADAPTER_FILE for weights.adapter.

    The language model is not written. parts: trained parts, read by runtime.factory.parts_of.
    """
    if next(adapter_parameters(reasoner.language_model), None) is not None:
        reasoner.save_adapter(path.with_name(ADAPTER_FILE))
    state = {k: v.detach().cpu().contiguous() for k, v in reasoner.state_dict().items()}
    save_file(state, path, {"stage": "reasoning", "format_version": "1", "parts": " ".join(parts)})


def adapter_beside(weights: Path | None) -> list[Path]:
    """Returns the adapter file beside exported weights, as a list of one or none."""
    found = [] if weights is None else [weights.with_name(ADAPTER_FILE)]
    return [path for path in found if path.is_file()]


def init_from(network: nn.Module, weights: Path, adapter: Path | None = None) -> None:
    """Initialise a network from a preset's weights file; a reasoner's adapters too, from `adapter`.

    A tensor of another shape gets the leading block that both have in common, for example the first columns of a layer
    that has more inputs now; the rest, and what the file does not have, keep their values. Where places have another
    meaning in the new shape (depth bins of another width), training has to mend that. Anchors are not taken over.

    Raises InvalidInput("init_from", ...) for an unreadable file, or one that shares no tensor with the network.
    """
    _take_over(network.state_dict(), weights)
    if adapter is not None and isinstance(network, Reasoner):
        _take_over({name: p.detach() for name, p in adapter_parameters(network.language_model)}, adapter)


def _take_over(own: Mapping[str, Tensor], file: Path) -> None:
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InvalidInput("init_from", f"cannot read {file}: {error}") from None
    shared = [n for n in own if n != "anchors" and n in found and own[n].ndim == found[n].ndim]
    if not shared:
        raise InvalidInput("init_from", f"{file} has no tensor of this network")
    with torch.no_grad():
        for name in shared:
            block = tuple(slice(min(a, b)) for a, b in zip(own[name].shape, found[name].shape, strict=True))
            own[name][block].copy_(found[name][block])
