"""ONNX Runtime on a CPU. It loads the ONNX file itself, so there is nothing to build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .base import Backend, CannotBuild


class OnnxBackend(Backend):
    """ONNX Runtime in float32: its CPU kernels do not support bfloat16."""

    name = "onnx"
    label = "ONNX Runtime"
    package = "onnxruntime"

    def binding(self) -> str:
        """Runtime version; an ONNX file is not bound to hardware."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def precision(self, wanted: str) -> str:
        """Always float32."""
        return "float32"

    def load(self, path: Path, precision: str, threads: int) -> OnnxEngine:
        """Create a session on the CPU. Raises CannotBuild."""
        return OnnxEngine(path, threads)


class OnnxEngine:
    """An inference session; inputs are read in place, outputs are new arrays."""

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
