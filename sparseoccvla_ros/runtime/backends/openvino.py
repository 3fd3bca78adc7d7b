"""OpenVINO on a CPU: the fastest runtime here, above all in bfloat16 on processors that support it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .base import Backend, CannotBuild, cpu_name
from .cache import Progress

_HINT = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackend(Backend):
    """OpenVINO on the CPU. Its precision is a compile-time hint that must always be given: on a CPU with bfloat16 units
    the default is bfloat16, which moves projected points by pixels."""

    name = "openvino"
    label = "OpenVINO"
    package = "openvino"
    suffix = ".blob"

    def binding(self) -> str:
        """Runtime version and processor."""
        import openvino

        return f"openvino {openvino.__version__} on {cpu_name()}"

    def build(self, onnx: Path, target: Path, precision: str, progress: Progress) -> None:
        """Compile and write the compiled model. Raises CannotBuild."""
        import openvino

        progress(f"OpenVINO compiles {onnx.name}", 0.0)
        try:
            compiled = openvino.Core().compile_model(str(onnx), "CPU", _settings(precision, 1))
            target.write_bytes(compiled.export_model().getbuffer())
        except RuntimeError as error:
            raise CannotBuild(f"OpenVINO refuses {onnx.name}: {str(error)[:500]}") from error

    def load(self, path: Path, precision: str, threads: int) -> OpenVinoEngine:
        """Load a compiled model. Raises CannotBuild."""
        return OpenVinoEngine(path, precision, threads)


class OpenVinoEngine:
    """An inference request; inputs are read in place, outputs are copied."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import openvino

        try:
            model = openvino.Core().import_model(path.read_bytes(), "CPU", _settings(precision, threads))
        except RuntimeError as error:
            raise CannotBuild(f"OpenVINO refuses {path.name}: {str(error)[:500]}") from error
        self._request = model.create_infer_request()
        self._outputs = [output.get_any_name() for output in model.outputs]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on CPU tensors."""
        feeds = {name: value.contiguous().numpy() for name, value in inputs.items()}
        results = self._request.infer(feeds, share_inputs=True)
        # Without share_outputs each result is a separate array, which the next run does not overwrite.
        return {name: torch.from_numpy(results[index]) for index, name in enumerate(self._outputs)}


def _settings(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINT[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
