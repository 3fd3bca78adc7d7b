"""Start of training from shipped weights, also of a network whose configuration has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..core.errors import InvalidInput
from ..reasoning.llm.lora import adapter_parameters
from ..reasoning.model.reasoner import Reasoner


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
