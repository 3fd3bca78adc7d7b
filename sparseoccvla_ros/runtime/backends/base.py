"""Interface of a compiled runtime: builds an engine from an ONNX file, loads it, and runs it on tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .cache import Progress

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest allowed `difference` from torch in float32; bfloat16 keeps 8 bits of every intermediate value."""


class CannotBuild(RuntimeError):
    """A runtime cannot build or run a graph; the text says why."""


class Engine(Protocol):
    """A built graph. Takes tensors by input name, returns tensors by output name that later calls do not overwrite."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class Backend:
    """One runtime, on the CPU unless it overrides `cannot_run`.

    label: its name in texts; package: what it needs; suffix: of engine files, "" if it loads the ONNX file itself.
    """

    name: str
    label: str
    package: str
    suffix = ""

    def missing(self) -> str:
        """Why engines cannot be built here, "" if they can."""
        return absent(self.package)

    def cannot_run(self, device: torch.device) -> str:
        """Why engines cannot run beside a model on `device`, "" if they can."""
        return self.missing() or ("" if device.type == "cpu" else f"{self.label} runs on the CPU here, not {device}")

    def binding(self) -> str:
        """Runtime version and the hardware that an engine is bound to."""
        raise NotImplementedError

    def precision(self, wanted: str) -> str:
        """Precision that the engine uses when `wanted` (float32, bfloat16) is requested."""
        return wanted

    def graph_precision(self, wanted: str) -> str:
        """Precision that the ONNX graph itself must have."""
        return "float32"

    def build(self, onnx: Path, target: Path, precision: str, progress: Progress) -> None:
        """Write an engine to `target`, if it has a suffix. Raises CannotBuild naming what is not supported."""

    def load(self, path: Path, precision: str, threads: int) -> Engine:
        """Load an engine. Raises CannotBuild."""
        raise NotImplementedError


def absent(*modules: str) -> str:
    """Returns a message about the first module that is not installed, "" if all are."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed (./run export installs it)"
    return ""


def cpu_name() -> str:
    """Model name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def difference(ours: Tensor, truth: Tensor) -> float:
    """Largest |ours - truth| over the largest |truth|; infinite if shapes differ or a value of `ours` is not finite."""
    if ours.shape != truth.shape or not bool(ours.isfinite().all()):
        return float("inf")
    return float((ours.double() - truth.double()).abs().max() / truth.double().abs().max().clamp(min=1e-12))
