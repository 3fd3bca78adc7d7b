"""Registry of the compiled runtimes."""

from __future__ import annotations

from ...core.errors import InvalidInput
from .base import Backend
from .onnx import OnnxBackend
from .openvino import OpenVinoBackend
from .tensorrt import TensorRtBackend

_BACKENDS: dict[str, type[Backend]] = {
    "onnx": OnnxBackend,
    "openvino": OpenVinoBackend,
    "tensorrt": TensorRtBackend,
}
ENGINES = tuple(_BACKENDS)
RUNTIMES = ("torch", "compiled", *ENGINES)


def backend(name: str) -> Backend:
    """Returns the runtime of a name. Raises InvalidInput("runtime", ...) for an unknown one. Imports nothing heavy."""
    if name in _BACKENDS:
        return _BACKENDS[name]()
    raise InvalidInput("runtime", f"'{name}' is not one of {', '.join(ENGINES)}")
