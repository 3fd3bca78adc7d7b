"""TensorRT: classic `tensorrt` if it is installed, else TensorRT-RTX, which builds engines without a GPU.

Networks are strongly typed: the precision is that of the ONNX file. The tests parse and build. Loading and running
(`TensorRtEngine`) need an NVIDIA GPU: written to the documented API, NOT RUN ON HARDWARE yet. A build without a GPU
does not prove that the engine runs: it is verified against torch where it is loaded (`backend_swap.use_runtime`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .base import Backend, CannotBuild
from .cache import Progress

BINDINGS = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
"""Modules with the same interface, in the order they are tried."""


def bindings() -> tuple[ModuleType | None, str]:
    """Returns the first module that can be imported and "", or None and why each cannot be imported."""
    problems = []
    for name in BINDINGS:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            return importlib.import_module(name), ""
        except (ImportError, OSError, RuntimeError) as error:  # a stub without its libraries
            problems.append(f"{name}: {error}")
    reason = "; ".join(problems) or "neither tensorrt nor tensorrt_rtx is installed (./run export installs the latter)"
    return None, reason


def _required() -> Any:
    module, problem = bindings()
    if module is None:
        raise CannotBuild(problem)
    return module


_loggers: dict[str, Any] = {}


def _logger(trt: Any) -> Any:
    """Returns the process's one logger: TensorRT keeps the first it gets."""
    return _loggers.setdefault(trt.__name__, trt.Logger(trt.Logger.Severity.INTERNAL_ERROR))


class TensorRtBackend(Backend):
    """Builds engines for the GPU of this machine or, without a GPU, ahead of time (RTX only)."""

    name = "tensorrt"
    suffix = ".plan"

    def missing(self) -> str:
        """Why it cannot build here, "" if it can."""
        module, problem = bindings()
        if module is None:
            return problem
        if module.__name__ == "tensorrt" and not torch.cuda.is_available():
            return "tensorrt builds engines on a machine with a GPU only; tensorrt_rtx needs none"
        return ""

    def cannot_run(self, device: torch.device) -> str:
        """Why engines cannot run beside a model on `device`, "" if they can: on CUDA only."""
        if not torch.cuda.is_available():
            return "TensorRT engines need an NVIDIA GPU, and there is none here"
        return self.missing() or (
            "" if device.type == "cuda" else f"TensorRT runs beside a model on CUDA, not {device}"
        )

    def binding(self) -> str:
        """Runtime version and the GPU that an engine is bound to."""
        trt = _required()
        gpu = "ahead of time, no GPU"
        if torch.cuda.is_available():
            major, minor = torch.cuda.get_device_capability()
            gpu = f"{torch.cuda.get_device_name()} ({major}.{minor})"
        return f"{trt.__name__.removesuffix('_bindings')} {trt.__version__} on {gpu}"

    def graph_precision(self, wanted: str) -> str:
        """Always `wanted`: strongly typed networks take their precision from the graph."""
        return wanted

    def build(self, onnx: Path, target: Path, precision: str, progress: Progress) -> None:
        """Parse and build. Raises CannotBuild naming the operators that are not supported."""
        trt = _required()
        missing = unsupported(onnx)
        if missing:
            raise CannotBuild(f"TensorRT does not support the operators {', '.join(missing)} in {onnx.name}")
        logger = _logger(trt)
        builder = trt.Builder(logger)
        flags = 0
        # Version 10 needs the flag; in later versions every network is strongly typed.
        with contextlib.suppress(AttributeError):
            flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(onnx)):
            raise CannotBuild(f"TensorRT cannot parse {onnx.name}: {'; '.join(_errors(parser))}")
        config = builder.create_builder_config()
        monitor = _monitor(trt, progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise CannotBuild(f"TensorRT builds no engine from {onnx.name}; its log names the layer")
        target.write_bytes(memoryview(plan))

    def load(self, path: Path, precision: str, threads: int) -> TensorRtEngine:
        """Load an engine onto the GPU. Raises CannotBuild."""
        return TensorRtEngine(path)


def unsupported(onnx: Path) -> list[str]:
    """Operators of an ONNX file that TensorRT's parser does not support, and GridSample on other than 4-D inputs."""
    import onnx as onnx_package

    trt = _required()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    parser = trt.OnnxParser(builder.create_network(0), logger)
    graph = onnx_package.load(str(onnx), load_external_data=False).graph
    known = {op: parser.supports_operator(op) for op in sorted({node.op_type for node in graph.node})}
    # Engines with a 5-D GridSample have been built, but only 4-D is documented.
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in (*graph.value_info, *graph.input)}
    odd = {f"{n.op_type} on {ranks[n.input[0]]}-D" for n in graph.node if n.op_type == "GridSample"
           if ranks.get(n.input[0], 4) != 4}  # fmt: skip
    return [op for op, good in known.items() if not good] + sorted(odd)


def _errors(parser: Any) -> list[str]:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    return [f"{e.node_operator()} ({e.node_name()}): {e.desc()[:300]}" for e in found] or ["no reason given"]


def _monitor(trt: Any, progress: Progress) -> Any:
    """Returns a monitor that reports shares of the outermost phase; an interrupt ends the build at its next step."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.outer = ""
            self.stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.outer = phase_name
            self.steps[phase_name] = max(num_steps, 1)

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name == self.outer:
                    progress(f"TensorRT: {phase_name}", min(1.0, (step + 1) / self.steps.get(phase_name, 1)))
            except KeyboardInterrupt:
                self.stopped = True
            return not self.stopped

    return Monitor()


_TYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
}


class TensorRtEngine:
    """An engine on the current CUDA device and stream. NOT RUN ON HARDWARE."""

    def __init__(self, path: Path) -> None:
        trt = _required()
        self._runtime = trt.Runtime(_logger(trt))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise CannotBuild(f"{path.name} does not load on {torch.cuda.get_device_name()}: another GPU or version")
        self._context = self._engine.create_execution_context()
        self._outputs: list[tuple[str, tuple[int, ...], torch.dtype]] = []
        self._inputs: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(name))
            dtype = _TYPES[self._engine.get_tensor_dtype(name).name]
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self._inputs[name] = (shape, dtype)
            else:
                self._outputs.append((name, shape, dtype))

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on CUDA tensors in the current stream; nothing is copied to or from the host."""
        held = []
        for name, (shape, dtype) in self._inputs.items():
            value = inputs[name].to(device="cuda", dtype=dtype).contiguous()
            if tuple(value.shape) != shape:
                raise RuntimeError(f"TensorRT input {name} has shape {tuple(value.shape)}, the engine takes {shape}")
            held.append(value)
            self._context.set_tensor_address(name, value.data_ptr())
        results = {name: torch.empty(shape, dtype=dtype, device="cuda") for name, shape, dtype in self._outputs}
        for name, value in results.items():
            self._context.set_tensor_address(name, value.data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT did not start the engine; its log names the reason")
        for value in held:
            value.record_stream(stream)
        return results
