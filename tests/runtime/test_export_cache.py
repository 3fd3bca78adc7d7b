"""Engines in the cache: keys, interrupted and damaged builds, refusals."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from sparseoccvla_ros.core.files import written
from sparseoccvla_ros.runtime import export
from sparseoccvla_ros.runtime.backends.base import TOLERANCE, CannotBuild
from sparseoccvla_ros.runtime.backends.cache import building, engine_folder, valid_record, write_record
from sparseoccvla_ros.runtime.backends.registry import backend
from sparseoccvla_ros.runtime.export import build, engine_path, find, write_onnx
from sparseoccvla_ros.runtime.onnx_graphs import Graph, decoder_graph, image_graph

from .conftest import random_encoder

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: ./run export installs it")

SIZE = (64, 96)


class Two(nn.Module):
    """One matrix product, in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.linear(x),)


@pytest.fixture(scope="module")
def exported() -> dict[str, bytes]:
    """ONNX files by the key of their graph."""
    return {}


@pytest.fixture(autouse=True)
def _export_once(exported: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch takes seconds to export even the smallest graph: it does it once, and then its file is copied."""

    def write(graph: Graph, sample: dict[str, torch.Tensor], path: Path) -> None:
        if graph.key not in exported:
            write_onnx(graph, sample, path)
            exported[graph.key] = path.read_bytes()
        path.write_bytes(exported[graph.key])

    monkeypatch.setattr(export, "write_onnx", write)


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return Graph("two", Two().requires_grad_(False), {"x": (torch.float32, (2, 4))}, ("y",), "", "occupancy")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    return engine_folder("p")


SAMPLES = [{"x": torch.ones(2, 4)}, {"x": torch.arange(8.0).view(2, 4)}]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def test_key_changes_with_weights_settings_and_precision(presets) -> None:
    encoder = random_encoder(presets["r50"])
    keys = [image_graph(encoder, SIZE).key, decoder_graph(encoder, SIZE).key]
    assert keys == [image_graph(encoder, SIZE).key, decoder_graph(encoder, SIZE).key]
    keys += [image_graph(encoder, SIZE, "bfloat16").key, image_graph(encoder, (64, 128)).key]
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        other.backbone.bn1.running_mean[0] += 1e-3  # a buffer
        other.decoder.init_points.weight[0, 0] += 1e-3
    keys += [image_graph(other, SIZE).key, decoder_graph(other, SIZE).key]
    encoder.config = encoder.config.replace(offset_scale=0.7)
    keys.append(decoder_graph(encoder, SIZE).key)
    assert len(set(keys)) == len(keys)


def test_engine_name_changes_with_version_and_precision(folder, graph, monkeypatch) -> None:
    runtime = backend("onnx")
    paths = {engine_path("p", graph, runtime, p) for p in ("float32", "bfloat16")}
    monkeypatch.setattr(type(runtime), "binding", lambda self: "onnxruntime 0.0.1")
    paths.add(engine_path("p", graph, runtime, "float32"))
    assert len(paths) == 3


def test_built_once_and_found(folder, graph) -> None:
    assert find("p", graph, backend("onnx"), "float32") is None
    first = build("p", graph, "onnx", SAMPLES)
    assert first.fresh
    assert first.record["difference"]["y"] <= 1e-6
    assert not build("p", graph, "onnx", SAMPLES).fresh
    assert find("p", graph, backend("onnx"), "float32") == first.engine


def test_damaged_engine_is_made_anew(folder, graph) -> None:
    engine = build("p", graph, "onnx", SAMPLES).engine
    engine.write_bytes(engine.read_bytes()[:-7])
    assert find("p", graph, backend("onnx"), "float32") is None
    assert build("p", graph, "onnx", SAMPLES).fresh
    assert find("p", graph, backend("onnx"), "float32") == engine


def test_20_two_that_build_at_once_build_once(folder, graph) -> None:
    """The lock is of the open file, so that two threads hold it as two processes do."""
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: build("p", graph, "onnx", SAMPLES), range(2)))
    assert sorted(one.fresh for one in made) == [False, True]
    assert made[0].engine == made[1].engine


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_interrupted_build_leaves_no_half_file(folder, graph, monkeypatch, error) -> None:
    def half(self, onnx, target, precision, progress):
        target.write_bytes(b"half an engine")
        raise error

    kind = type(backend("onnx"))
    monkeypatch.setattr(kind, "build", half)
    monkeypatch.setattr(kind, "suffix", ".half")
    with pytest.raises(type(error)):
        build("p", graph, "onnx", SAMPLES)
    assert [n for n in names(folder) if not n.endswith((".onnx", ".onnx.json"))] == []
    assert find("p", graph, backend("onnx"), "float32") is None


def test_interrupted_export_leaves_nothing(folder, graph, monkeypatch) -> None:
    def half(graph, sample, path):
        path.write_bytes(b"half a graph")
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_onnx", half)
    with pytest.raises(KeyboardInterrupt):
        build("p", graph, "onnx", SAMPLES)
    assert names(folder) == []


def test_leftovers_of_a_killed_build_go(folder) -> None:
    (folder / ".two-1.onnx.4711.part").write_bytes(b"half")
    with building(folder):
        assert names(folder) == []


def test_a_file_without_its_record_is_not_believed(folder) -> None:
    path = folder / "engine.plan"
    with written(path) as part:
        part.write_bytes(b"whole")
    assert valid_record(path) is None
    assert write_record(path, {"graph": "two"})["size"] == 5
    assert valid_record(path)["graph"] == "two"
    path.write_bytes(b"wrong")
    assert valid_record(path) is None


def test_difference_above_the_tolerance_is_refused(folder, graph, monkeypatch) -> None:
    monkeypatch.setitem(TOLERANCE, "float32", -1.0)
    with pytest.raises(CannotBuild, match=r"two\.y differs from torch by"):
        build("p", graph, "onnx", SAMPLES)
    assert names(folder) == []


def test_missing_package_is_named(folder, graph, monkeypatch) -> None:
    monkeypatch.setattr(export, "absent", lambda *packages: "onnxscript is not installed")
    with pytest.raises(CannotBuild, match="onnxscript is not installed"):
        build("p", graph, "onnx", SAMPLES)


def test_tensorrt_names_what_it_does_not_support(tmp_path) -> None:
    import onnx

    runtime = backend("tensorrt")
    if runtime.missing():
        pytest.skip(runtime.missing())
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Unique", ["x"], ["y"])
    grid = helper.make_node("GridSample", ["volume", "grid"], ["z"])
    inputs = [
        helper.make_tensor_value_info(n, kind, s)
        for n, s in (("x", [4]), ("volume", [1, 1, 2, 4, 4]), ("grid", [1, 1, 1, 2, 3]))
    ]
    outputs = [helper.make_tensor_value_info(n, kind, None) for n in ("y", "z")]
    model = helper.make_model(helper.make_graph([node, grid], "odd", inputs, outputs))
    onnx.save(model, str(tmp_path / "odd.onnx"))
    with pytest.raises(CannotBuild, match=r"support the operators Unique, GridSample on 5-D in odd\.onnx"):
        runtime.build(tmp_path / "odd.onnx", tmp_path / "odd.plan", "float32", lambda text, share: None)
    assert not (tmp_path / "odd.plan").exists()
