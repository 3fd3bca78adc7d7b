"""Exported graphs equal torch on real frames, in every runtime that is installed, and stand in for it on-line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.types import SceneQueries
from sparseoccvla_ros.runtime import backend_swap, onnx_graphs
from sparseoccvla_ros.runtime.backend_swap import graphs_of, precisions, use_runtime, use_torch
from sparseoccvla_ros.runtime.backends.base import CannotBuild, difference
from sparseoccvla_ros.runtime.backends.registry import backend
from sparseoccvla_ros.runtime.export import Built, build

from .conftest import random_encoder

pytestmark = [pytest.mark.usefixtures("cache")]
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: ./run export installs it")


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("tiny", "r50")])
def case(request: pytest.FixtureRequest, presets, frames):
    """Preset, encoder, frames, and what went through its graphs."""
    preset = presets[request.param]
    encoder = random_encoder(preset)
    return preset, encoder, frames[request.param], onnx_graphs.record(encoder, frames[request.param][:6])


def engines(case, runtime: str) -> list[Built]:
    problem = backend(runtime).missing()
    if problem:
        pytest.skip(problem)
    preset, encoder, _, seen = case
    samples = (seen.images, seen.decoder)
    pairs = zip(graphs_of(encoder, preset, runtime), samples, precisions(encoder, runtime), strict=True)
    return [build(preset.name, graph, runtime, real, precision) for graph, real, precision in pairs]


def alike(ours: SceneQueries, truth: SceneQueries) -> float:
    """Share of queries that agree to 1e-3 in points [m] and scores with the nearest one of the other encoder.

    Image queries start at the cells that are most telling. With random weights many are equally telling, so that a
    rounding error of a runtime may choose another cell, or the same cells in another order.
    """
    nearest = np.linalg.norm(ours.centres[:, None] - truth.centres, axis=-1).argmin(1)
    points = np.abs(ours.points - truth.points[nearest]).max((1, 2))
    scores = np.abs(ours.scores - truth.scores[nearest]).max(1)
    return float(((points < 1e-3) & (scores < 1e-3)).mean())


def test_the_samples_see_a_turning_ring(case) -> None:
    seen = case[3]
    assert len({tuple(s["slots"].tolist()) for s in seen.decoder}) > 1
    assert not torch.equal(seen.images[0]["images"], seen.images[1]["images"])


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_engine_equals_torch_on_the_bag_and_streams(case, runtime) -> None:
    preset, _, sets, _ = case
    for item in engines(case, runtime):
        assert item.record["verified"] == "against torch"
        assert max(item.record["difference"].values()) <= 1e-3
        assert max(item.record["onnx_difference"].values()) <= 1e-3
    assert all(not again.fresh for again in engines(case, runtime))
    accelerated, plain = random_encoder(preset), random_encoder(preset)
    assert use_runtime(accelerated, preset, runtime) == ""
    for item in [*sets, replace(sets[0], epoch=sets[0].epoch + 1)]:
        ours, truth = accelerated.encode(item), plain.encode(item)
        assert accelerated.memory.history == plain.memory.history
        assert alike(ours, truth) >= (0.9 if preset.occupancy.image_queries else 1.0)
        np.testing.assert_allclose(
            ours.view_features, truth.view_features, atol=1e-3 * np.abs(truth.view_features).max()
        )
    kept = ours.points.copy()
    accelerated.encode(sets[1])
    np.testing.assert_array_equal(ours.points, kept)  # results are no windows into the engine


@pytest.mark.slow
def test_a_densifier_runs_in_torch_behind_an_engine(presets, frames) -> None:
    r50 = presets["r50"]
    config = r50.occupancy.replace(decoder="opus_v2", point_features=8, densifier_dims=16, score_threshold=0.01)
    preset = replace(r50, name="opus_v2", occupancy=config)
    accelerated, plain = random_encoder(preset), random_encoder(preset)
    seen = onnx_graphs.record(plain, frames["r50"][:3])
    for graph, real, precision in zip(
        graphs_of(plain, preset, "onnx"), (seen.images, seen.decoder), precisions(plain, "onnx"), strict=True
    ):
        assert not any(name.startswith("densifiers") for name, _ in graph.module.named_parameters())
        assert build(preset.name, graph, "onnx", real, precision).record["verified"] == "against torch"
    assert use_runtime(accelerated, preset, "onnx") == ""
    for item in frames["r50"][:3]:
        ours, truth = accelerated.encode(item), plain.encode(item)
        np.testing.assert_allclose(ours.points, truth.points, atol=1e-3)
        assert ours.voxels is not None
        assert truth.voxels is not None
        a, b = ({tuple(v) for v in q.voxels.indices.tolist()} for q in (ours, truth))
        # A point that a rounding error moves over a voxel's border takes a few voxels along.
        assert len(a & b) > 0.98 * len(a | b) > 0


def test_tensorrt_knows_every_operator_and_builds(case) -> None:
    for item in engines(case, "tensorrt"):
        from sparseoccvla_ros.runtime.backends.tensorrt import unsupported

        assert unsupported(item.onnx) == []
        assert item.engine.stat().st_size > 100_000
        if not torch.cuda.is_available():
            assert "GPU" in item.record["verified"]
            assert "difference" not in item.record


def test_operators_are_plain_ones(case) -> None:
    used = {op for item in engines(case, "onnx") for op in item.record["operators"]}
    assert "GridSample" in used
    assert not used & {"Loop", "If", "Scan", "NonZero", "ScatterND", "DeformConv", "Unique"}
    assert ("TopK" in used) is (case[0].occupancy.image_queries > 0), "only image queries are chosen"


@pytest.mark.slow
def test_bfloat16_stays_in_the_backbone(presets, frames) -> None:
    problem = backend("openvino").missing()
    if problem:
        pytest.skip(problem)
    preset = presets["r50"]
    encoder = random_encoder(preset)
    seen = onnx_graphs.record(encoder, frames["r50"][:4])
    encoder.config = encoder.config.replace(backbone_dtype="bfloat16")
    images, decoder = engines((preset, encoder, frames["r50"], seen), "openvino")
    assert (images.record["precision"], decoder.record["precision"]) == ("bfloat16", "float32")
    assert max(decoder.record["difference"].values()) <= 1e-3
    assert use_runtime(encoder, preset, "openvino") == ""
    assert np.isfinite(encoder.encode(frames["r50"][0]).points).all()


def test_another_set_of_cameras_is_left_to_torch(case) -> None:
    preset, _, sets, _ = case
    engines(case, "onnx")
    encoder, plain = random_encoder(preset), random_encoder(preset)
    assert use_runtime(encoder, preset, "onnx") == ""
    item = sets[0]
    three = replace(
        item, names=item.names[:3], stamps=item.stamps[:3], valid=item.valid[:3], images=item.images[:3],
        ego2img=item.ego2img[:3],
    )  # fmt: skip
    np.testing.assert_array_equal(encoder.encode(three).points, plain.encode(three).points)


def test_an_engine_that_fails_hands_back_to_torch(case, monkeypatch) -> None:
    preset, _, sets, _ = case
    engines(case, "onnx")
    encoder, plain = random_encoder(preset), random_encoder(preset)
    assert use_runtime(encoder, preset, "onnx") == ""
    stand_in = encoder.decode.__self__

    def broken(inputs):
        raise RuntimeError("the device is gone")

    stand_in._decoder = broken
    np.testing.assert_allclose(encoder.encode(sets[0]).points, plain.encode(sets[0]).points, atol=1e-3)
    assert "the device is gone" in encoder.warnings[-1]
    assert "decode" not in encoder.__dict__


def test_reasons_are_named(case, monkeypatch, tmp_path: Path) -> None:
    preset, encoder, sets, _ = case
    with pytest.raises(ValueError, match="runtime: 'tensorflow' is not one of torch, compiled, onnx"):
        use_runtime(encoder, preset, "tensorflow")
    if not torch.cuda.is_available():
        assert "need an NVIDIA GPU" in use_runtime(encoder, preset, "tensorrt")
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    reason = use_runtime(encoder, preset, "onnx")
    assert f"./run export --preset {preset.name} --runtime onnx" in reason
    assert "image_features" not in encoder.__dict__
    monkeypatch.setattr("sparseoccvla_ros.runtime.backends.base.absent", lambda *names: f"{names[0]} is not installed")
    assert use_runtime(encoder, preset, "onnx") == "onnxruntime is not installed"
    assert len(encoder.encode(sets[0]).points) == preset.occupancy.queries


def test_a_wrong_engine_is_found_where_it_runs(case, monkeypatch) -> None:
    preset, encoder, _, _ = case
    built = engines(case, "onnx")

    def refuse(*arguments):
        raise CannotBuild("images.level0 differs from torch by 3.0e-01")

    monkeypatch.setattr(backend_swap, "compare", refuse)
    assert "differs from torch" in use_runtime(encoder, preset, "onnx")
    assert not built[0].engine.exists()
    use_torch(encoder)


def test_compiled_backbone(presets, frames) -> None:
    preset, sets = presets["r50"], frames["r50"]
    encoder, plain = random_encoder(preset), random_encoder(preset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)  # the real one takes a minute
        assert use_runtime(encoder, preset, "compiled") == ""
    np.testing.assert_allclose(encoder.encode(sets[0]).points, plain.encode(sets[0]).points, atol=1e-4)

    def no_compiler(function, **_):
        def fail(*arguments):
            raise RuntimeError("no C++ compiler")

        return fail

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", no_compiler)
        assert use_runtime(encoder, preset, "compiled") == "torch.compile fails: no C++ compiler"


def test_difference_is_infinite_for_what_is_not_finite() -> None:
    assert difference(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")
    assert difference(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 5.0])) == pytest.approx(0.2)
