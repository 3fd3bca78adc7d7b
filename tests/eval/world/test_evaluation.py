"""The evaluation on the world, whole, with a micro preset on two short drives of tiny images."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sparseoccvla_ros.cli import eval as verb
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import WAYPOINT_TIMES, CommandSource
from sparseoccvla_ros.data.synthetic.dataset import SPLITS
from sparseoccvla_ros.data.synthetic.scenes import WorldSettings, load_scene
from sparseoccvla_ros.eval.metrics import ray_iou
from sparseoccvla_ros.eval.metrics.intervals import compared, scene_interval
from sparseoccvla_ros.eval.tasks import forecast, language, occupancy, planning
from sparseoccvla_ros.eval.tasks.evaluator import BLACK, EvalConfig, EvaluationReport, blinded
from sparseoccvla_ros.eval.tasks.priors import TrainingPriors
from sparseoccvla_ros.eval.world import evaluation, priors
from sparseoccvla_ros.eval.world.drives import LIDAR, Drive
from sparseoccvla_ros.eval.world.evaluation import Request, evaluate_world
from sparseoccvla_ros.eval.world.seeds import seed_range, warnings_about
from sparseoccvla_ros.pipeline import SparseOccVLA
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES
from sparseoccvla_ros.reasoning.model.forecaster import forecast_voxels
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.world.labels.annotations import expert
from sparseoccvla_ros.world.labels.occupancy import dense_labels
from sparseoccvla_ros.world.scene import Scene

SEEDS = (90_001, 90_002)
SETTINGS = WorldSettings(
    height=64, width=176, clips=1, sets=3, seconds=8.0, mount_degrees=0.0, mount_metres=0.0, interval=0.5
)


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory, worlds_made_once) -> Iterator[None]:
    """A cache of its own, short drives, two training seeds, one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(evaluation, "world_settings", lambda *_: SETTINGS)
        patch.setattr(evaluation, "SEEDS", (0, 1))
        patch.setattr(priors, "LABELLED", 1)
        patch.setattr(priors, "ASKED", 1)
        patch.setattr(priors, "DRIVEN", 4)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drive() -> Drive:
    return Drive(load_scene(SEEDS[0], SETTINGS), 2)


@pytest.fixture(scope="module")
def stages(micro: str) -> SparseOccVLA:
    return SparseOccVLA.from_preset(load_preset(micro), untrained=True)


@pytest.fixture(scope="module")
def rendered() -> None:
    """Both drives lie in the cache, so that the evaluation starts no process that renders them."""
    for seed in SEEDS:
        load_scene(seed, SETTINGS)


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report") / "plans.csv"


@pytest.fixture(scope="module")
def whole(micro: str, csv: Path, rendered: None) -> EvaluationReport:
    """Every task, every stage, both drives."""
    return evaluate_world(Request(micro, SEEDS, EvalConfig(samples=2, csv=csv), untrained=True))


# --- the report


@pytest.mark.slow
def test_every_task_reports_its_rows_with_counts_and_intervals(whole, csv):
    numbers = whole.numbers
    assert [s.title for s in whole.sections] == ["Occupancy", "Forecast", "Planning", "Language", "Latency"]
    assert set(numbers["occupancy"]["rows"]) == {occupancy.MODEL, occupancy.BLIND, occupancy.PRIOR}
    row = numbers["occupancy"]["rows"][occupancy.PRIOR]
    assert row["n"] == 4
    assert row["scenes"] == 2
    low, high = row["miou"]["interval"]
    assert low <= row["miou"]["value"] <= high
    assert 0 < row["ray_iou"]["value"] < row["iou"]["value"] < 1
    assert len(numbers["forecast"]["rows"]) == 9
    assert set(numbers["forecast"]["moving"]["rows"]) == set(numbers["forecast"]["rows"])
    assert set(numbers["planning"]["worth_of_language"]) >= {"no language", "language of another scene"}
    assert numbers["forecast"]["rows"][forecast.PLANNED]["n"] == 4
    methods = {r["method"] for r in numbers["planning"]["all"]["rows"]}
    assert {planning.CHAIN, planning.BLIND, "constant velocity", "ego-only MLP", "nearest anchor"} <= methods
    assert {r["method"] for r in numbers["planning"]["ablations"]["rows"]} >= {"no ego", "no vision", "always straight"}
    assert set(numbers["language"]["rows"]) == {language.SEEING, language.BLIND, language.SHUFFLED, language.GUESS}
    assert numbers["language"]["rows"][language.SEEING]["n"] == numbers["language"]["counts"]["all"] > 0
    assert {"occupancy", "voxels", "reasoning", "planning", "together"} <= set(numbers["latency"])
    assert numbers["latency"]["together"]["n"] == 6
    assert sum(numbers["planning"]["status"][planning.CHAIN]["status"].values()) == 4
    assert len(csv.read_text().splitlines()) > 100


@pytest.mark.slow
def test_the_truth_scores_nothing_but_right(whole):
    planned = whole.numbers["planning"]
    assert planned["all"]["self_test_passed"]
    truth = [r for r in planned["all"]["rows"] if r["self_test"]]
    assert truth
    assert all(r["l2"]["average"] == 0 and r["collision"]["average"] == 0 and r["missing"] == 0 for r in truth)
    assert all(d["off_road"] == 0 for d in planned["all"]["driving"] if d["method"] == "ground truth")
    obeys = planned["obedience"]["ground truth"]["told_to_turn_and_the_expert_does"]
    assert obeys["n"] == 0 or obeys["share"]["value"] == 1


@pytest.mark.slow
def test_numbers_are_plain_json(whole):
    assert json.loads(json.dumps(whole.numbers, allow_nan=False)) == whole.numbers


def test_stages_without_weights_are_left_out_and_baselines_stay(micro, drive, monkeypatch):
    monkeypatch.setattr(evaluation, "SEEDS", (0,))
    monkeypatch.setattr(ray_iou, "ray_directions", functools.partial(ray_iou.ray_directions, azimuths=12))
    found = evaluate_world(Request(micro, SEEDS[:1], EvalConfig(samples=1)))
    assert set(found.numbers["absent"]) == {"occupancy", "reasoning", "planning"}
    assert "untrained" in found.numbers["absent"]["reasoning"]
    assert set(found.numbers["occupancy"]["rows"]) == {occupancy.PRIOR}
    assert set(found.numbers["forecast"]["rows"]) == {forecast.TRUE_UNMOVED, forecast.TRUE_FORWARD}
    assert set(found.numbers["language"]["rows"]) == {language.GUESS}
    assert planning.CHAIN not in {r["method"] for r in found.numbers["planning"]["all"]["rows"]}
    assert found.numbers["occupancy"]["rows"][occupancy.PRIOR]["miou"]["interval"] is None


@pytest.mark.slow
def test_the_verb_leaves_a_folder_that_stands_alone(micro, rendered, tmp_path):
    out, extra = tmp_path / "page", tmp_path / "numbers" / "all.json"
    words = ["world", "--seeds", "90001:90003", "--tasks", "occupancy,forecast", "--preset", micro, "--untrained"]
    done = CliRunner().invoke(verb.app, [*words, "--out", str(out), "--json", str(extra), "--threads", "1"])
    assert done.exit_code == 0, done.output
    numbers = json.loads(extra.read_text())
    assert numbers["seeds"] == [90001, 90002]
    assert json.loads((out / "report.json").read_text()) == numbers
    assert numbers["random"] == ["occupancy", "reasoning", "planning"]
    page = (out / "report.md").read_text()
    assert re.findall("\n## (.*)", page) == ["At a glance", "Occupancy", "Forecast", "Latency", "Pictures"]
    pictures = re.findall(r"\]\(([^)]+)\)", page)
    assert pictures == [
        *(f"plot-{name}.png" for name in ("occupancy", "classes", "forecast")), "scene-1.png", "scene-2.png"
    ]  # fmt: skip
    assert all((out / name).stat().st_size > 3_000 for name in pictures)


@pytest.mark.parametrize("text", ["7", "5:5", "9:3", "a:b", "-1:4", ":3"])
def test_seeds_that_are_no_range_are_refused(text):
    with pytest.raises(InvalidInput, match="seeds"):
        seed_range(text)


def test_bad_requests_name_the_field(micro):
    assert list(seed_range("90000:90002")) == [90000, 90001]
    for field, value in (
        ("tasks", ("sleep",)),
        ("tasks", ()),
        ("samples", -1),
        ("captions", -1),
        ("caption_tokens", 0),
    ):
        with pytest.raises(InvalidInput, match=field):
            EvalConfig(**{field: value})
    with pytest.raises(InvalidInput, match="seeds"):
        Request(micro, (1, 1))


def test_training_seeds_are_warned_about(micro, tmp_path):
    preset = load_preset(micro)
    assert warnings_about(preset, (90_000,), (0, 1)) == []
    assert "baselines" in warnings_about(preset, (0, 5), (0, 1))[0]
    from safetensors.numpy import save_file

    file = tmp_path / "o.safetensors"
    save_file({"x": np.zeros(1)}, file, {"train_seeds": "0:3"})
    trained = replace(preset, weights={"occupancy": file})
    assert "TRAINED ON by occupancy (2..2)" in warnings_about(trained, (2, 3), ())[0]
    assert "training split" in warnings_about(trained, (3, 4), ())[0]
    assert "validation" in warnings_about(trained, (80_000,), ())[0]
    assert "reserved" in warnings_about(trained, (1_000_000,), ())[0]
    save_file({"x": np.zeros(1)}, file)
    assert "TRAINED ON" in warnings_about(trained, (79_999,), ())[0]
    assert warnings_about(trained, (90_000, 99_999), ()) == []


# --- what it is made of


@pytest.mark.slow
def test_the_prior_comes_from_training_seeds_only(monkeypatch):
    for seeds in ((90_000,), (3, 80_000), (1_000_000,), ()):
        with pytest.raises(InvalidInput, match="seeds"):
            priors.known(seeds)
    found = priors.known((2,))
    scene = Scene.generate(2, priors.SECONDS)
    moment = priors._moments(2, 1, 29)[0]
    np.testing.assert_array_equal(found.prior, dense_labels(scene, moment, scene.ego.at(moment)[0]))
    assert found.features.shape == (4, len(FEATURE_NAMES))
    monkeypatch.setattr(Scene, "generate", lambda *_: pytest.fail("the cache was not used"))
    again = priors.known((2,))
    np.testing.assert_array_equal(again.prior, found.prior)
    np.testing.assert_array_equal(again.truth, found.truth)
    assert again.answers == found.answers
    assert set(evaluation.known.__defaults__[0]) <= set(SPLITS["train"])


def test_usual_answers_fall_back_to_the_template():
    counts = {"count/car/ahead": {"2.": 3, "1.": 1}, "count/bus/ahead": {"0.": 9}}
    found = TrainingPriors("", None, np.zeros(0), np.zeros(0), {k: priors.Counter(v) for k, v in counts.items()})
    assert found.answer("count/car/ahead") == "2."
    assert found.answer("count/truck/ahead") == "0."
    assert found.answer("weather") == ""


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(monkeypatch):
    found = priors.known((3,))
    path = priors._file((3,))
    path.write_bytes(path.read_bytes()[:200])
    np.testing.assert_array_equal(priors.known((3,)).prior, found.prior)


def test_frames_samples_and_truth_of_a_drive(drive):
    assert drive.presents == [1, 2]
    for index in drive.presents:
        frames = drive.frames(index, 5)
        assert frames.names == CAMERAS
        assert frames.epoch == 5
        assert frames.stamp == frames.stamps[0] == drive.stamp(index)
        sample = drive.sample(index)
        time = float(drive.rendered.time[index])
        np.testing.assert_allclose(sample.truth, expert(drive.world, time).waypoints, atol=1e-4)
        assert sample.drivable[500, 500:510].all()
        assert sample.command_source is CommandSource.ROUTE
        speed = sample.ego_features[FEATURE_NAMES.index("vx")]
        assert speed == pytest.approx(drive.rendered.twist[index, 0], abs=1e-5)
        assert len(drive.history(index)) <= 32
        dense, _ = drive.semantics(index)
        np.testing.assert_array_equal(dense, dense_labels(drive.world, time, drive.rendered.pose[index]))
        later = drive.future_semantics(index)
        moved = drive.world.ego.at(time + 1.0)[0]
        np.testing.assert_allclose(drive.rendered.pose[index] @ drive.future(index)[1], moved, atol=1e-9)
        np.testing.assert_array_equal(later[0], dense_labels(drive.world, time + 1.0, moved))


def test_agents_are_where_the_labels_have_them(drive):
    """Voxels above the ground in the middle of a car's box are a car's, now and a second on."""
    agents = drive.sample(1).agents
    pose = drive.rendered.pose[1]
    grids = {0: drive.semantics(1)[0], 2: drive.future_semantics(1)[0]}
    frames = {0: pose, 2: pose @ drive.future(1)[1]}
    checked = 0
    for step, grid in grids.items():
        for a, category in enumerate(agents.categories):
            if category != "vehicle.car":
                continue
            at = geometry.apply(geometry.inverse(frames[step]) @ pose, np.array([*agents.centres[a, step], 0.6]))
            index = np.floor((at - (-40, -40, -1)) / 0.4).astype(int)
            if ((index >= 2) & (index < (198, 198, 16))).all():
                assert grid[tuple(index)] == LABEL["car"]
                checked += 1
    assert checked >= 4
    steps = np.linalg.norm(np.diff(agents.centres, axis=1), axis=-1)
    assert steps.max() < 15 * float(WAYPOINT_TIMES[0])


def test_blind_chain_sees_other_images_and_says_something_else(stages, drive):
    chain = stages
    chain.reset()
    frames = drive.frames(0, 1)
    black = blinded(frames)
    assert (black.images == BLACK).all()
    assert frames.images.max() > 100
    np.testing.assert_array_equal(black.ego2img, frames.ego2img)

    def queries(given, epoch):
        given = replace(given, epoch=epoch)
        return chain.step(given, *drive.command(0), drive.history(0)).queries

    seeing, blind, again = queries(frames, 1), queries(black, 2), queries(frames, 3)
    assert blind.missing == ()
    assert not np.allclose(seeing.features, blind.features)
    np.testing.assert_array_equal(seeing.features, again.features)


def test_chain_remembers_within_a_clip_and_forgets_between_them(stages, drive):
    chain = stages
    chain.reset()

    def run(indices, epoch):
        for index in indices:
            step = chain.step(drive.frames(index, epoch), *drive.command(index), drive.history(index))
        return step

    with_past, alone, again = run((0, 1), 1), run((1,), 2), run((0, 1), 3)
    assert with_past.motion is not None
    assert alone.motion is None
    assert with_past.reasoning.forecast_motion == "planned"
    assert not np.array_equal(with_past.queries.features, alone.queries.features)
    np.testing.assert_array_equal(with_past.queries.features, again.queries.features)
    np.testing.assert_array_equal(with_past.plan.waypoints, again.plan.waypoints)


def test_forecasts_without_another_prefill_are_those_of_the_reasoner(stages, drive):
    stages.reset()
    step = stages.step(drive.frames(0, 9), *drive.command(0), drive.history(0))
    where = drive.future(0)[[1, 3, 5]]
    motions = forecast.told_motions(step.motion, step.queries.ego.twist, drive.future(0))
    np.testing.assert_array_equal(motions[forecast.PLANNED], motions[forecast.CONSTANT])
    np.testing.assert_allclose(motions[forecast.TRUE], drive.sample(0).truth, atol=1e-5)
    motion = motions[forecast.TRUE]
    ours = forecast.forecasts(stages.reasoner, step.queries, step.reasoning, motions, where)[forecast.TRUE]
    reasoner = stages.reasoner
    *tensors, path, _ = reasoner._inputs(step.queries, motion, "planned")
    with torch.inference_mode():
        out = reasoner(*tensors, path).forecast
    theirs = forecast_voxels(step.queries, out, reasoner.config, reasoner.grid, where)
    assert sum(map(len, ours)) > 0
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.dense(), b.dense())


def test_intervals_of_a_mean_are_those_of_the_planning_report():
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    counts = np.stack([values, np.ones(5)], 1)
    found, gains = compared(
        {"a": counts, "b": counts + np.array((1.0, 0.0))},
        lambda c: np.array([c[0] / c[1]]),
        (("b", "a"), ("b", "absent")),
    )
    assert found["a"][0].value == 4.0
    assert found["a"][0].interval == pytest.approx(scene_interval(values, list("abcde")))
    assert list(gains) == [("b", "a")]
    assert gains["b", "a"][0].value == pytest.approx(1.0)
    assert gains["b", "a"][0].interval == pytest.approx((1.0, 1.0))
    assert compared({"a": counts[:1]}, lambda c: c, ())[0]["a"][0].interval is None


def test_truth_as_prediction_scores_one(drive):
    task = occupancy.OccupancyTask()
    truth, visible = drive.semantics(1)
    task.add("truth", drive.name, truth, truth, visible, LIDAR)
    row = task.result("the lidar")[0]["rows"]["truth"]
    assert row["miou"].value == row["iou"].value == row["ray_iou"].value == 1.0
