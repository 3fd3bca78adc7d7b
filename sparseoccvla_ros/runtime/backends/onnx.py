"""ONNX Runtime on a CPU. It loads the ONNX file itself, so there is nothing to build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .base import CannotBuild, absent
from .cache import Progress


class OnnxBackend:
    """Computes in float32: its CPU kernels know no bfloat16."""

    name = "onnx"
    suffix = ""

    def missing(self) -> str:
        """Why it cannot be used here, "" if it can."""
        return absent("onnxruntime")

    def cannot_run(self, device: torch.device) -> str:
        """It runs beside a model on the CPU only."""
        return self.missing() or ("" if device.type == "cpu" else f"ONNX Runtime runs on the CPU here, not {device}")

    def binding(self) -> str:
        """Its version; an ONNX file is bound to no hardware."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def precision(self, wanted: str) -> str:
        """float32, whatever is wanted."""
        return "float32"

    def graph_precision(self, wanted: str) -> str:
        """float32."""
        return "float32"

    def build(self, onnx: Path, target: Path, precision: str, progress: Progress) -> None:
        """Nothing to build."""

    def load(self, path: Path, precision: str, threads: int) -> OnnxEngine:
        """A session on the CPU. Raises CannotBuild."""
        return OnnxEngine(path, threads)


class OnnxEngine:
    """One session; inputs are read in place, outputs are new."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while they wait take the cores from the other nodes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise CannotBuild(f"ONNX Runtime refuses {path.name}: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on CPU tensors."""
        feeds = {name: value.contiguous().numpy() for name, value in inputs.items()}
        return {n: torch.from_numpy(v) for n, v in zip(self._outputs, self._session.run(None, feeds), strict=True)}
