"""The files of a trained reasoner: its bridge, and beside it the adapters of its language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from ..reasoning.adapters import adapter_parameters
from ..reasoning.reasoner import Reasoner

ADAPTER_FILE = "adapter.safetensors"


def save_reasoner(reasoner: Reasoner, path: Path, parts: Sequence[str]) -> None:
    """Write `path` for a preset's weights.reasoning and, where there are adapters, ADAPTER_FILE for weights.adapter.

    The language model is never written. parts: which of language, forecast were trained.
    """
    if next(adapter_parameters(reasoner.language_model), None) is not None:
        reasoner.save_adapter(path.with_name(ADAPTER_FILE))
    state = {k: v.detach().cpu().contiguous() for k, v in reasoner.state_dict().items()}
    save_file(state, path, {"stage": "reasoning", "format_version": "1", "parts": " ".join(parts)})


def adapter_beside(weights: Path | None) -> list[Path]:
    """The adapters that lie beside exported weights: one file or none."""
    found = [] if weights is None else [weights.with_name(ADAPTER_FILE)]
    return [path for path in found if path.is_file()]
