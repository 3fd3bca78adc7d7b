"""Registry of the compiled runtimes."""

from __future__ import annotations

from ...core.errors import InvalidInput
from .base import Backend

ENGINES = ("onnx", "openvino", "tensorrt")


RUNTIMES = ("torch", "compiled", *ENGINES)


def backend(name: str) -> Backend:
    """Returns the runtime of a name. Raises InvalidInput("runtime", ...) for an unknown one. Imports nothing heavy."""
    if name == "onnx":
        from .onnx import OnnxBackend

        return OnnxBackend()
    if name == "openvino":
        from .openvino import OpenVinoBackend

        return OpenVinoBackend()
    if name == "tensorrt":
        from .tensorrt import TensorRtBackend

        return TensorRtBackend()
    raise InvalidInput("runtime", f"'{name}' is not one of {', '.join(ENGINES)}")
