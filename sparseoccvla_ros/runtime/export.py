"""From a graph to a verified engine: ONNX export, parity with torch on real inputs, build, cache."""

from __future__ import annotations

import logging
import shutil
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch

from ..core.files import written
from .backends.base import TOLERANCE, Backend, CannotBuild, Engine, absent, difference
from .backends.cache import Progress, building, engine_folder, record_path, short, silent, valid_record, write_record
from .backends.registry import backend
from .onnx_graphs import Graph, Sample

OPSET = 20
"""ONNX opset: the first in which every runtime here reads GridSample and Gelu as torch's exporter writes them."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Built:
    """An engine. record: its .json ("verified": against torch, or why not); fresh: False if it came from the cache."""

    graph: str
    runtime: str
    onnx: Path
    engine: Path
    record: dict[str, Any]
    fresh: bool


def onnx_path(preset: str, graph: Graph) -> Path:
    """Returns the path of a graph's ONNX file."""
    return engine_folder(preset) / f"{graph.name}-{graph.key}.onnx"


def engine_path(preset: str, graph: Graph, runtime: Backend, precision: str) -> Path:
    """Returns the path of a graph's engine; the name depends on runtime, its version, hardware and precision."""
    file = onnx_path(preset, graph)
    binding = short(f"{runtime.binding()} {precision}")
    return file.with_name(f"{file.stem}-{runtime.name}-{binding}{runtime.suffix or '.onnx'}")


def find(preset: str, graph: Graph, runtime: Backend, precision: str) -> Path | None:
    """Returns the cached engine for exactly these weights, code, runtime and machine; None if it is missing."""
    path = engine_path(preset, graph, runtime, precision)
    record = valid_record(path)
    return path if record is not None else None


def build(
    preset: str,
    graph: Graph,
    runtime_name: str,
    samples: Sequence[Sample],
    precision: str = "float32",
    threads: int = 1,
    progress: Progress = silent,
) -> Built:
    """Returns an engine for a graph, from the cache or built now, compared with torch if it can run here.

    samples: real inputs, at least one; precision: what the engine computes in, as `Backend.precision` gives it.
    Raises CannotBuild when a package is missing, an operator is not supported or the result differs from torch;
    no engine is left behind then.
    """
    runtime = backend(runtime_name)
    problem = runtime.missing() or absent("onnx", "onnxscript", "onnxruntime")
    if problem:
        raise CannotBuild(problem)
    with building(engine_folder(preset), progress):
        path = engine_path(preset, graph, runtime, precision)
        file = onnx_path(preset, graph)
        record = valid_record(path)
        if record is not None and (file.is_file() or not runtime.suffix):
            return Built(graph.name, runtime_name, file, path, record, fresh=False)
        truth = [graph.run(sample) for sample in samples]
        record = _export(graph, file, samples, truth, threads, progress)
        began = time.monotonic()
        record |= {"runtime": runtime_name, "binding": runtime.binding(), "precision": precision}
        with written(path) as part:
            if runtime.suffix:
                runtime.build(file, part, precision, progress)
            else:
                shutil.copyfile(file, part)
            record["seconds"] = round(time.monotonic() - began, 2)
            why_not = runtime.cannot_run(CPU if runtime_name != "tensorrt" else torch.device("cuda"))
            record["verified"] = why_not or "against torch"
            if not why_not:
                progress(f"comparing {graph.name} in {runtime_name} with torch", 0.0)
                engine = runtime.load(part, precision, threads)
                record["difference"] = compare(engine, graph, samples, truth, precision)
        return Built(graph.name, runtime_name, file, path, write_record(path, record), fresh=True)


def compare(
    engine: Engine, graph: Graph, samples: Sequence[Sample], truth: Sequence[Sample], precision: str
) -> dict[str, float]:
    """Returns the `difference` from torch per output, the largest of the samples. Raises CannotBuild above TOLERANCE.

    Of the decoder the median: two image cells of one square can be so equally sure that rounding decides which becomes
    a query, which is no fault of the engine.
    """
    each: dict[str, list[float]] = {name: [] for name in graph.outputs}
    for sample, want in zip(samples, truth, strict=True):
        got = engine(sample)
        for name in graph.outputs:
            each[name].append(difference(got[name].cpu(), want[name].cpu()))
    typical = statistics.median if graph.name == "decoder" else max
    found = {name: inf if inf in values else typical(values) for name, values in each.items()}
    worst = max(found, key=lambda name: found[name])
    if not found[worst] <= TOLERANCE[precision]:
        raise CannotBuild(
            f"{graph.name}.{worst} differs from torch by {found[worst]:.1e}, more than {TOLERANCE[precision]:g}"
        )
    return found


def _export(
    graph: Graph, file: Path, samples: Sequence[Sample], truth: Sequence[Sample], threads: int, progress: Progress
) -> dict[str, Any]:
    """Write and verify the ONNX file unless it exists; returns a copy of its record."""
    record = valid_record(file)
    if record is not None:
        return {"onnx_difference": record["onnx_difference"], "operators": record["operators"]}
    progress(f"exporting {graph.name} to ONNX", 0.0)
    with written(file) as part:
        write_onnx(graph, samples[0], part)
        found: dict[str, float] | str
        if graph.precision == "float32":
            found = compare(backend("onnx").load(part, "float32", threads), graph, samples, truth, "float32")
        else:
            found = f"no CPU runtime here computes a {graph.precision} graph"
        record = {"onnx_difference": found, "operators": operators(part)}
    write_record(file, {"graph": graph.name, "opset": OPSET, **record})
    return record


def write_onnx(graph: Graph, sample: Sample, path: Path) -> None:
    """Export a graph with static shapes and embedded weights; folds constants, including those of batch norm."""
    from onnxscript import optimizer

    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            tuple(sample[name] for name in graph.inputs),
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # The default limits leave the padding of large kernels in the graph, which ONNX Runtime then breaks.
        optimizer.optimize(program.model, input_size_limit=1 << 24, output_size_limit=1 << 24)
        program.save(str(path))


def operators(path: Path) -> dict[str, int]:
    """Returns the number of occurrences of each operator in an ONNX file."""
    import onnx

    counts: dict[str, int] = {}
    for node in onnx.load(str(path), load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def forget(preset: str, graph: Graph, runtime: Backend, precision: str) -> None:
    """Remove a bad engine from the cache; the next build makes a new one."""
    path = engine_path(preset, graph, runtime, precision)
    record_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and its log messages below ERROR."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
