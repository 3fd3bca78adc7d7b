"""The benches measure what they say: soak, history, rates."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from sparseoccvla_ros.bench.growth import bench_growth
from sparseoccvla_ros.bench.history import KEPT, compare_and_append
from sparseoccvla_ros.bench.roofline import physical_floor
from sparseoccvla_ros.bench.soak import Series, segments, soak, unused
from sparseoccvla_ros.bringup.latency_budget import by_kind, latency_budget
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.runtime.presets import load_preset


def test_a_regression_shows_against_the_usual_run(tmp_path):
    file = tmp_path / "history.jsonl"
    for value in (100.0, 104.0, 98.0):
        assert compare_and_append(file, "e2e", {"p50": value}, {"load": 1.0}) == []
    file.open("a").write('{"half a line')
    assert compare_and_append(file, "another preset", {"p50": 900.0}, {}) == []
    (line,) = compare_and_append(file, "e2e", {"p50": 200.0, "new": 1.0}, {})
    assert "200.0" in line
    assert "100.0" in line
    # What has become normal is no regression for ever.
    for _ in range(KEPT):
        compare_and_append(file, "e2e", {"p50": 200.0}, {})
    assert compare_and_append(file, "e2e", {"p50": 210.0}, {}) == []


def test_slope_finds_a_leak_and_forgives_a_jump():
    t = np.arange(600.0)
    noise = np.random.default_rng(0).normal(0, 3, len(t))
    leak, jump = 500 + 2 * t / 60, 500 + 40.0 * (t > 100)
    assert Series(list(t), list(leak + noise), [4] * 600).slope(60) == pytest.approx(2, abs=0.3)
    assert abs(Series(list(t), list(jump + noise), [4] * 600).slope(120)) < 0.3


def test_segments_that_somebody_uses_are_not_left_behind():
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=4096, name="fastdds_0123456789abcdef")
    try:
        assert memory.name in segments()
        assert unused({memory.name}) == []
        assert unused({"fastdds_fedcba9876543210"}) == ["fastdds_fedcba9876543210"]
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.slow
def test_the_floor_knows_the_packed_language_model():
    floor = physical_floor(load_preset("tiny"), bundled_bag())
    assert floor["token_mb"] == pytest.approx(269, rel=0.01)  # 134.5 M weights of two bytes
    assert 5 < floor["prefill_gflop"] < 50
    assert 5 < floor["encode_gflop"] < 20
    assert all(value > 0 for value in floor.values())


@pytest.mark.slow
def test_growth_of_queries_is_measured_and_drawn(tmp_path):
    numbers = bench_growth(Console(quiet=True), "tiny", 0.1, tmp_path / "growth.svg", names=("queries", "cameras"))
    queries = {row["size"]: row for row in numbers["queries"]}
    assert list(queries) == [128, 256, 512, 1024]
    assert queries[1024]["ms"] > 1.5 * queries[128]["ms"]
    assert [row["size"] for row in numbers["cameras"]] == [1, 2, 4, 6, 8]
    assert all(row["mb"] > 0 for row in numbers["cameras"])
    drawn = ElementTree.parse(tmp_path / "growth.svg").getroot()
    assert len(drawn.findall("{*}polyline")) == 4, "two dimensions, time and memory"


def test_a_budget_adds_up_to_the_latency():
    images = {stamp: 10.0 + stamp for stamp in range(5)}
    paths = {stamp: images[stamp] + 0.2 + 0.01 * stamp for stamp in range(4)}

    def trace(stamp, *names):
        return tuple((name, round(1e9 * (images[stamp] + 0.03 * (i + 1)))) for i, name in enumerate(names))

    usual = ("camera_sync/received", "camera_sync/taken", "occupancy/encoded")
    plans = [(stamp, trace(stamp, *usual)) for stamp in range(3)]
    other = [(3, trace(3, "camera_sync/received")), (4, trace(4, *usual)), (2, ())]  # another way, no path, no trace
    hops = latency_budget(plans + other, images, paths)
    assert [(h.event, h.kind) for h in hops] == [
        (usual[0], "DDS"), (usual[1], "queueing"), (usual[2], "compute"), ("path arrives", "DDS")
    ]  # fmt: skip
    assert [h.mean for h in hops[:3]] == pytest.approx([30.0] * 3, abs=1e-3)
    assert sum(h.mean for h in hops) == pytest.approx(210.0, abs=1e-3)
    assert by_kind(hops) == pytest.approx({"DDS": 150.0, "queueing": 30.0, "compute": 30.0}, abs=1e-3)
    assert latency_budget(other[1:], images, paths) == []


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.usefixtures("domain")
def test_soak_of_half_a_minute(preset):
    # The first seconds fill buffers: camera_sync grows by 10 MB.
    numbers = soak(preset, minutes=1 / 2, hz=4.0, settle=15.0)
    assert numbers["segments_left"] == []
    assert numbers["plans_per_s"] > 0.2, "plans keep coming, however busy the machine"
    assert set(numbers["nodes"]) == {"camera_sync", "occupancy", "reasoning", "planning", "bag_player"}
    for name, node in numbers["nodes"].items():
        assert node["threads_most"] - node["threads_least"] <= 4, (name, node)
        # A frame set kept for each one that came would be 50 MB a minute and more.
        assert node["mb_per_minute"] < 30, (name, node)
    json.dumps(numbers)
