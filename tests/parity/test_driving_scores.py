"""PDMS and EPDMS against numbers of the official NAVSIM code.

SPARSEOCCVLA_FIXTURES names the folder (default: shared/fixtures beside the checkout); without it every test skips.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.eval.metrics.driving import aggregation, collisions, comfort, pdm_score, tracker
from sparseoccvla_ros.eval.metrics.driving.pdm_score import SubScores, Version
from sparseoccvla_ros.eval.metrics.driving.traffic_scene import (
    DriveAreas,
    Objects,
    RedLights,
    RoadMap,
    Surface,
    TrafficScene,
    interpolate_tracks,
)

pytestmark = pytest.mark.numeric

CLOSE = dict(rtol=0, atol=1e-6)
EXACT = dict(rtol=0, atol=1e-9)


def scene_of(inputs: dict[str, np.ndarray]) -> TrafficScene:
    offset, vertex = inputs["polygon_offset"], inputs["polygon_vertex"]
    polygons = [vertex[a:b] for a, b in pairwise(offset)]
    kinds = [Surface(k) for k in inputs["polygon_type"]]
    surfaces = list(zip(kinds, polygons, inputs["polygon_on_route"].tolist(), strict=True))
    return TrafficScene(
        RoadMap(surfaces, inputs["centerline"]),
        Objects(inputs["object_type"], inputs["object_size"], inputs["object_state"], inputs["object_valid"]),
        RedLights(tuple(polygons[i] for i in inputs["red_light_polygon"]), inputs["red_light_on"]),
        inputs["history_states"],
    )


def assert_scores(got: SubScores, stated: dict) -> None:
    names = {"NC": "NC", "DAC": "DAC", "DDC": "DDC", "TLC": "TLC", "TTC": "TTC", "LK": "LK", "C": "comfort",
             "HC": "comfort", "first_at_fault_step": "first_at_fault_step", "first_ttc_step": "first_ttc_step",
             "EC": "EC"}  # fmt: skip
    for name, field in names.items():
        if name in stated:
            assert getattr(got, field) == stated[name], name
    assert abs(got.EP - stated["EP"]) <= 1e-6
    assert got.multiplier == pytest.approx(stated["multiplier"], abs=1e-9)
    if "progress_raw" in stated:
        assert got.progress == pytest.approx(stated["progress_raw"], abs=1e-6)


def assert_drive(inputs: dict, expected: dict, scene: TrafficScene) -> None:
    """Areas, events and traces of the plan's drive."""
    states = expected["simulated"]
    areas = DriveAreas(states[:, :3], scene.road, scene.vehicle)
    np.testing.assert_allclose(areas.corners, expected["corners"][:, :4], **CLOSE)
    np.testing.assert_allclose(areas.centres, expected["corners"][:, 4], **CLOSE)
    flags = np.stack([areas.multiple_lanes, areas.non_drivable, areas.oncoming], -1)
    np.testing.assert_array_equal(flags, expected["areas"])
    np.testing.assert_array_equal(areas.centre_in_intersection, expected["center_in_intersection"])
    np.testing.assert_array_equal(areas.rear_axle_in_intersection, expected["rear_axle_in_intersection"])
    np.testing.assert_allclose(areas.progress, expected["center_progress"], **CLOSE)
    np.testing.assert_allclose(areas.deviation, expected["lateral_deviation"], **CLOSE)
    gone = pdm_score.at_start(scene.objects, areas.corners[0])
    np.testing.assert_array_equal(gone, expected["v2.object_removed"])
    for version, objects in (("v1", scene.objects), ("v2", scene.objects.without(gone))):
        events = collisions.collision_events(states, areas, objects)
        rows = {(e.step, e.object, int(e.contact), int(e.at_fault)) for e in events}
        assert rows == {tuple(r) for r in expected[f"{version}.collision_events"].tolist()}
    history = comfort.history_to_10hz(inputs["history_states"])
    np.testing.assert_allclose(history, expected["history_10hz"], **CLOSE)
    np.testing.assert_allclose(comfort.traces_v1(states), expected["v1.comfort_traces"], **CLOSE)
    traces = comfort.traces_v2(np.concatenate([history, states]))
    np.testing.assert_allclose(traces, expected["v2.comfort_traces"], **CLOSE)


@pytest.mark.recorded("pdms*/scenes/*.inputs.npz", "path")
def test_scene(path: Path) -> None:
    name = path.name.removesuffix(".inputs.npz")
    inputs = dict(np.load(path))
    expected = dict(np.load(path.with_name(f"{name}.expected.npz")))
    stated = next(s for s in json.loads((path.parents[1] / "scenes.json").read_text())["scenes"] if s["name"] == name)
    scene, start_us = scene_of(inputs), int(inputs["start_time_us"])
    now, before = inputs["initial_state"], inputs["previous_initial_state"]

    drives = {}
    for key, state, plan, clock in (
        ("", now, inputs["plan_poses"], start_us),
        ("_previous", before, inputs["previous_plan_poses"], start_us - 500_000),
        ("_human", now, inputs["human_poses"], start_us),
    ):
        if len(plan):
            poses = tracker.plan_to_10hz(state[:3], plan, start_us=clock)
            np.testing.assert_allclose(poses, expected[f"{key[1:] or 'plan'}_states"], **CLOSE)
            drives[key] = tracker.track(poses[None], state[None])[0][0]
            np.testing.assert_allclose(drives[key], expected[f"simulated{key}"], **CLOSE)
    assert_drive(inputs, expected, scene)

    for version in Version:
        v = version.value
        reference = tracker.track(inputs[f"reference_poses_{v}"][None], now[None])[0][0]
        np.testing.assert_allclose(reference, expected[f"simulated_reference_{v}"], **CLOSE)
        rows = [pdm_score.rate(states, scene, version) for states in (drives[""], reference)]
        assert pdm_score.progress_norm(rows) == pytest.approx(stated[v]["progress_norm"], abs=1e-6)
        plan, other = pdm_score.compare_progress(rows)
        assert_scores(plan, stated[v]["plan"])
        assert_scores(other, stated[v]["reference"])
        if version is Version.PDMS:
            assert comfort.within(comfort.traces_v1(drives[""])).tolist() == stated[v]["comfort_within"]
            assert plan.score == pytest.approx(stated[v]["PDMS"], abs=1e-6)
            continue
        history = comfort.history_to_10hz(inputs["history_states"])
        traces = comfort.traces_v2(np.concatenate([history, drives[""]]))
        assert comfort.within(traces).tolist() == stated[v]["comfort_within"]
        assert_epdms(plan, drives, scene, stated[v], expected)


def assert_epdms(plan: SubScores, drives: dict, scene: TrafficScene, stated: dict, expected: dict) -> None:
    """Extended comfort, human filter and totals."""
    columns = [2, 5, 6]
    now, before = drives[""][:, columns], drives["_previous"][:, columns]
    one, two = (comfort.two_frame_traces(*d.T) for d in (now[:36], before[5:]))
    np.testing.assert_allclose(np.stack([one, two], 1), expected["v2.two_frame_traces"], **CLOSE)
    np.testing.assert_allclose(comfort.two_frame(now, before), stated["two_frame_rms"], **CLOSE)
    ec = comfort.extended_comfort(now, before)
    filtered = plan
    if "_human" in drives:
        human = pdm_score.rate(drives["_human"], scene, Version.EPDMS, with_history=False)
        assert human.comfort == 1.0  # so that HC is never excused
        assert_scores(human, stated["human"])
        filtered = pdm_score.filter_by_human(plan, human)
    for key, row in (("raw", plan), ("filtered", filtered)):
        with_ec = pdm_score.replace(row, EC=ec)
        assert_scores(with_ec, stated[key])
        assert with_ec.score == pytest.approx(stated[key]["EPDMS"], abs=1e-6)
        assert row.score == pytest.approx(stated[key]["EPDMS_without_EC"], abs=1e-6)
        assert plan.score == pytest.approx(stated[key]["pdm_score_column"], abs=1e-6)


@pytest.mark.recorded("pdms*/components", "folder")
@pytest.mark.parametrize("count", [40, 30, 80])
def test_tracker(folder: Path, count: int) -> None:
    case = {k.removeprefix(f"n{count}."): v for k, v in np.load(folder / "tracker.npz").items() if f"n{count}." in k}
    speeds, curvatures = tracker.profiles(case["reference_poses"])
    np.testing.assert_allclose(speeds, case["velocity_profile"], **CLOSE)
    np.testing.assert_allclose(curvatures, case["curvature_profile"], **CLOSE)
    states, commands = tracker.track(case["reference_poses"], case["initial_state"])
    np.testing.assert_allclose(commands, case["commands"], **CLOSE)
    np.testing.assert_allclose(states, case["states"], **CLOSE)


@pytest.mark.recorded("pdms*/components", "folder")
def test_bicycle(folder: Path) -> None:
    case = np.load(folder / "bicycle.npz")
    for key, dt in (("next_100ms", 0.1), ("next_50ms", 0.05)):
        np.testing.assert_allclose(tracker.advance(case["states"], case["commands"], dt), case[key], **EXACT)


@pytest.mark.recorded("pdms*/components", "folder")
@pytest.mark.parametrize("count", [41, 55, 12])
def test_comfort(folder: Path, count: int) -> None:
    case = np.load(folder / "comfort.npz")
    states = case[f"t{count}.states"]
    for version, traces in (("v1", comfort.traces_v1(states)), ("v2", comfort.traces_v2(states))):
        np.testing.assert_allclose(traces, case[f"t{count}.{version}_traces"], **CLOSE)
        np.testing.assert_array_equal(comfort.within(traces), case[f"t{count}.{version}_within"])


@pytest.mark.recorded("pdms*/components", "folder")
def test_two_frame(folder: Path) -> None:
    case = np.load(folder / "two_frame.npz")
    columns = [2, 5, 6]
    for i, (now, before) in enumerate(zip(case["now"], case["before"], strict=True)):
        one, two = (comfort.two_frame_traces(*states[:, columns].T) for states in (now, before))
        np.testing.assert_allclose(one, case["traces_now"][i], **EXACT)
        np.testing.assert_allclose(two, case["traces_before"][i], **EXACT)
        np.testing.assert_allclose(comfort.two_frame(now[:, columns], before[:, columns], 0.0), case["rms"][i], **EXACT)
        assert comfort.extended_comfort(now[:, columns], before[:, columns], 0.0) == case["ok"][i]


@pytest.mark.recorded("pdms*/components", "folder")
def test_plan_interpolation(folder: Path) -> None:
    case = np.load(folder / "plan_interpolation.npz")
    for i in range(sum(k.endswith(".poses") for k in case)):
        initial, poses = case[f"plan{i}.initial_pose"], case[f"plan{i}.poses"]
        interval, start = float(case[f"plan{i}.interval_s"]), int(case[f"plan{i}.start_time_us"])
        got = tracker.plan_to_10hz(initial, poses, interval, start)
        np.testing.assert_allclose(got, case[f"plan{i}.poses_10hz"], **CLOSE)


@pytest.mark.recorded("pdms*/components", "folder")
def test_object_interpolation(folder: Path) -> None:
    case = np.load(folder / "object_interpolation.npz")
    for key, steps in (("state_10hz_v1", 51), ("state_10hz_v2", 41)):
        np.testing.assert_allclose(interpolate_tracks(case["state_2hz"], steps), case[key], **EXACT)


def frames_of(folder: Path, part: dict) -> list[aggregation.Frame]:
    states = np.load(folder / "aggregation.npz")["states"]
    names = ("NC", "DAC", "DDC", "TLC", "EP", "TTC", "LK", "HC")
    return [
        aggregation.Frame(
            r["token"],
            {n: r[n] for n in names},
            r["log"],
            r["start_time_s"],
            states[r["states_index"]],
            r["synthetic"],
            tuple(r["endpoint"]),
            tuple(r["start_point"]),
        )
        for r in part["rows"]
    ]


@pytest.mark.recorded("pdms*/components", "folder")
def test_one_stage(folder: Path) -> None:
    part = json.loads((folder / "aggregation.json").read_text())["one_stage"]
    frames = frames_of(folder, part)
    assert aggregation.pairs(frames) == part["previous_of"]
    rows, average = aggregation.one_stage(frames)
    assert {t: r["EC"] for t, r in rows.items()} == part["EC"]
    assert {t: r["EPDMS"] for t, r in rows.items()} == pytest.approx(part["EPDMS"], abs=1e-6)
    assert average == pytest.approx(part["average"], abs=1e-6)


@pytest.mark.recorded("pdms*/components", "folder")
def test_two_stages(folder: Path) -> None:
    part = json.loads((folder / "aggregation.json").read_text())["two_stage"]
    groups = [(tuple(pair), [tuple(f) for f in following]) for pair, following in part["mapping"]]
    got = aggregation.two_stages(frames_of(folder, part), groups)
    assert got.ec == part["EC"]
    assert got.weight == pytest.approx(part["weight"], abs=1e-6)
    assert got.epdms == pytest.approx(part["EPDMS"], abs=1e-6)
    for name in ("stage_one", "stage_two", "combined"):
        assert getattr(got, name) == pytest.approx(part[name], abs=1e-6)
