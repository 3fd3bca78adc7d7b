"""Counts, intervals, marks, tables and the CSV file."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import Command, CommandSource, Plan, PlanStatus
from sparseoccvla_ros.eval.metrics.intervals import scene_interval
from sparseoccvla_ros.eval.protocols import planning
from sparseoccvla_ros.eval.protocols.planning import PROTOCOLS
from sparseoccvla_ros.eval.report.planning_tables import report
from sparseoccvla_ros.eval.tasks import baselines
from sparseoccvla_ros.eval.tasks.evaluator import plain
from sparseoccvla_ros.eval.tasks.planning_loop import evaluate, write_csv
from sparseoccvla_ros.eval.tasks.planning_samples import Method, Prediction


@pytest.fixture
def samples(make_sample, parked):
    """Ten samples of three scenes: one whose recording ends early, one with a car in the way from 12 m on."""
    out = [make_sample(token=f"t{k}", scene=f"scene-{k % 3}", command=Command.STRAIGHT) for k in range(8)]
    out.append(make_sample(token="tail", scene="scene-0", mask=np.array([True] * 4 + [False] * 2)))
    stops = np.minimum(out[0].truth, (5.0, 0.0))
    out.append(
        make_sample(token="car", scene="scene-1", truth=stops, agents=parked((14.0, 0.0)), tags=frozenset({"night"}))
    )
    return out


def told(sample, offset=0.5, source=CommandSource.ROUTE):
    return Prediction(sample.truth + np.array([offset, 0.0]), Command.STRAIGHT, source, chosen=3)


@pytest.fixture
def evaluation(samples):
    spotty = Method("spotty", lambda s: {"t0": None, "t1": Prediction(None, reason="gate")}.get(s.token, told(s)))
    broken = Method("broken", lambda s: Prediction(np.full((6, 2), np.nan)) if s.token == "t2" else told(s, 1.0))
    leaky = Method("leaky", lambda s: told(s, 0.0, CommandSource.ORACLE))
    return evaluate(iter(samples), [*baselines.BASELINES, spotty, broken, leaky])


def rows(made, method):
    return {row.protocol: row for row in made.rows if row.method == method}


def test_counts_add_up(evaluation):
    made = report(evaluation)
    assert (made.samples, made.scenes) == (10, 3)
    for row in made.rows:
        assert row.n + row.missing == (10 if row.protocol == "UniAD" else 9)
    assert {row.missing for row in rows(made, "spotty").values()} == {2}
    assert {row.missing for row in rows(made, "broken").values()} == {1}
    assert {row.missing for row in rows(made, "stationary").values()} == {0}


def test_self_test_and_marks(evaluation):
    made = report(evaluation)
    assert made.self_test_passed
    marks = {row.method: (row.oracle, row.self_test) for row in made.rows}
    assert marks["ground truth"] == (True, True)
    assert marks["leaky"] == (True, False)  # found out by its command source
    assert marks["spotty"] == marks["constant velocity"] == (False, False)
    assert {row.command_source for row in made.rows} == {"none", "route", "oracle"}


def test_values_by_hand(evaluation):
    made = report(evaluation)
    row = rows(made, "spotty")["VAD"]
    np.testing.assert_allclose(row.l2.horizons, 0.5, atol=1e-6)
    assert row.l2.average == pytest.approx(0.5)
    assert row.collision.average == 0
    # two missing of nine: standing still is off by the truth's own distance, and counts as colliding
    standing = planning.VAD.l2(np.arange(1, 7) * 2.5).mean()
    assert row.worst_l2 == pytest.approx((7 * 0.5 + 2 * standing) / 9)
    assert row.worst_collision == pytest.approx(2 / 9)
    # at T for UniAD: constant velocity errs only in sample "car", by 0, 5 and 10 m
    uniad = rows(made, "constant velocity")["UniAD"]
    np.testing.assert_allclose(uniad.l2.horizons, np.array([0, 5, 10]) / 10, atol=1e-6)
    anyhit = rows(made, "constant velocity")["OmniDrive"]
    np.testing.assert_allclose(anyhit.collision.horizons, np.array([0, 1, 1]) / 9, atol=1e-9)
    assert anyhit.road is not None
    assert anyhit.road_n == 0
    assert rows(made, "constant velocity")["VAD"].road is None


def test_subset(evaluation):
    night = report(evaluation, "night")
    assert night.samples == 1
    assert {row.n for row in night.rows} == {1}
    assert all(row.l2.interval is None for row in night.rows)
    assert report(evaluation, "stopping").samples == 1
    with pytest.raises(InvalidInput, match="subset"):
        report(evaluation, "fog")


def test_truth_that_collides_is_told(make_sample, parked):
    sample = make_sample(agents=parked((10.0, 0.0)))
    made = report(evaluate([sample], []))
    assert made.self_test_passed
    assert {row.truth_hits for row in made.rows} == {1.0}
    tail = make_sample(mask=np.array([True] * 4 + [False] * 2))
    assert report(evaluate([tail], [])).rows[0].truth_hits == 0  # UniAD; the end of a recording is no collision


def test_road_and_comfort(make_sample, features):
    road = np.zeros((1000, 1000), bool)
    road[480:520, :600] = True
    samples = [make_sample(token=t, drivable=road) for t in "ab"]
    made = report(evaluate(samples, [baselines.STATIONARY, baselines.CONSTANT_VELOCITY]))
    driving = {d.method: d for d in made.driving}
    assert driving["stationary"].off_road == 0
    assert driving["constant velocity"].off_road == 1
    assert driving["stationary"].acceleration == pytest.approx(20)
    assert driving["constant velocity"].acceleration == pytest.approx(0, abs=1e-6)
    assert rows(made, "constant velocity")["OmniDrive"].road.horizons == (0, 1, 1)
    assert rows(made, "constant velocity")["OmniDrive"].road_n == 2


def test_tables(evaluation):
    made = report(evaluation)
    text = made.to_markdown()
    for expected in (
        "| stationary |",
        "leaky (oracle)",
        "ground truth (self-test)",
        "passed",
        *(p.name for p in PROTOCOLS),
    ):
        assert expected in text
    data = json.loads(json.dumps(plain(made.to_dict()), allow_nan=False))
    assert data["self_test_passed"] is True
    assert len(data["rows"]) == len(PROTOCOLS) * 7
    assert data["protocols"]["UniAD"]["L2"] == "at T"
    assert data["methods"]["stationary"]
    assert plain(report(evaluation).to_dict()) == plain(made.to_dict())


def test_csv(evaluation, tmp_path):
    path = tmp_path / "samples.csv"
    write_csv(evaluation, path)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10 * 7 * len(PROTOCOLS)
    found = {(line["token"], line["method"], line["protocol"]): line for line in lines}
    line = found["car", "constant velocity", "OmniDrive"]
    assert float(line["l2_3.0s"]) == pytest.approx(10)
    assert line["collision_2.0s"] == "1"
    assert line["tags"] == "night stopping"
    assert found["t1", "spotty", "VAD"]["missing"] == "1"
    assert found["t1", "spotty", "VAD"]["reason"] == "gate"
    assert found["t1", "spotty", "VAD"]["l2_0.5s"] == ""
    assert found["t0", "spotty", "VAD"]["missing"] == "1"
    assert found["tail", "spotty", "VAD"]["counted"] == "0"
    assert found["t5", "spotty", "VAD"]["chosen"] == "3"
    assert found["t5", "leaky", "VAD"]["oracle"] == "1"


def test_plans_become_predictions():
    none = np.zeros(0, np.float32)
    rejected = Plan(
        0, 0, np.zeros((0, 2), np.float32), none, none, none, np.zeros((0, 6, 2), np.float32), none, -1,
        Command.LEFT, CommandSource.TOPIC, PlanStatus.REJECTED, reasons=("ego_invalid",),
    )  # fmt: skip
    answer = Prediction.of_plan(rejected)
    assert not answer.usable
    assert answer.reason == "ego_invalid"
    assert answer.source is CommandSource.TOPIC


def test_refusals(make_sample):
    with pytest.raises(InvalidInput, match="samples"):
        evaluate([], [])
    with pytest.raises(InvalidInput, match="samples"):
        evaluate([make_sample(), make_sample()], [])
    with pytest.raises(InvalidInput, match="methods"):
        evaluate([make_sample()], [baselines.STATIONARY, baselines.STATIONARY])
    with pytest.raises(ZeroDivisionError):
        evaluate([make_sample()], [Method("crash", lambda s: 1 / 0)])


def test_stored_predictions(make_sample):
    method = Method.stored("file", {"a": Prediction(np.zeros((6, 2)))})
    made = report(evaluate([make_sample("a"), make_sample("b")], [method]))
    assert {(row.n, row.missing) for row in made.rows if row.method == "file"} == {(1, 1)}


values = st.lists(st.tuples(st.integers(0, 6), st.floats(0, 50)), min_size=2, max_size=60)


@settings(max_examples=60)
@given(values)
def test_interval_contains_the_mean(pairs):
    scenes, numbers = [str(scene) for scene, _ in pairs], np.array([value for _, value in pairs])
    interval = scene_interval(numbers, scenes)
    if len(set(scenes)) < 2:
        assert interval is None
        return
    low, high = interval
    assert low - 1e-9 <= numbers.mean() <= high + 1e-9
    assert interval == scene_interval(numbers, scenes)
    holes = np.append(numbers, np.nan)
    assert scene_interval(holes, [*scenes, "other"]) == interval


def test_interval_draws_scenes_not_samples():
    """A hundred copies of two scenes say no more than the two scenes do."""
    pair = np.array([0.0, 1.0])
    wide = scene_interval(np.repeat(pair, 100), ["a"] * 100 + ["b"] * 100)
    assert wide == (0.0, 1.0)
    many = scene_interval(np.tile(pair, 100), [str(k) for k in range(200)])
    assert 0.4 < many[0] < 0.5 < many[1] < 0.6
    with pytest.raises(InvalidInput, match="scenes"):
        scene_interval(pair, ["a"])


@settings(max_examples=15)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_missing_counts_add_up_for_any_pattern(pattern):
    from sparseoccvla_ros.eval.tasks.planning_samples import AgentBoxes, Sample
    from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES

    def sample(index: int, complete: bool) -> Sample:
        mask = np.array([True] * 5 + [complete])
        ego = np.zeros(len(FEATURE_NAMES), np.float32)
        return Sample(str(index), str(index % 2), np.zeros((6, 2)), mask, AgentBoxes.none(), ego)

    answered = {str(k) for k, (_, there) in enumerate(pattern) if there}
    method = Method("m", lambda s: Prediction(np.ones((6, 2))) if s.token in answered else None)
    made = report(evaluate((sample(k, complete) for k, (complete, _) in enumerate(pattern)), [method]))
    for row in made.rows:
        if row.method == "m":
            kept = [there for complete, there in pattern if complete or row.protocol == "UniAD"]
            assert (row.n, row.missing) == (sum(kept), len(kept) - sum(kept))
