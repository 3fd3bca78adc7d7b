"""Stages 2 and 3 learn on cached features, resume, and end up in a preset that loads."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import FREE, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.core.types import HORIZONS
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.synthetic.qa_cache import QaPair
from sparseoccvla_ros.eval.metrics.moving_voxels import flow_of
from sparseoccvla_ros.eval.world.seeds import trained_on
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.planning.anchors import MODES, AnchorSet
from sparseoccvla_ros.planning.config import PlanningConfig
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES
from sparseoccvla_ros.planning.losses import positive_anchors
from sparseoccvla_ros.planning.obstacles.grid import obstacle_grid, seen_from, with_stop_line
from sparseoccvla_ros.planning.planner import Planner
from sparseoccvla_ros.reasoning.model.forecaster import Forecast
from sparseoccvla_ros.runtime.factory import build_planning, build_reasoning
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train.export_weights import ship
from sparseoccvla_ros.train.features.dataset import FeatureSample
from sparseoccvla_ros.train.stages.forecast import (
    ForecastStage,
    displacement,
    nearest_of_class,
    queries_of,
)
from sparseoccvla_ros.train.stages.language import LanguageStage, LanguageStageSettings
from sparseoccvla_ros.train.stages.planning import REASONING_FIELDS, PlanningStage, PlanningStageSettings, off_route
from sparseoccvla_ros.train.task import Stage
from sparseoccvla_ros.train.trainer import BEST, Report, Trainer
from tests.train.conftest import few_steps

WIDTH, POINTS = 32, 6
CONFIG = {
    "format_version": 1, "name": "micro", "seed": 4,
    "reasoning": {"language_model": "random-tiny", "dtype": "float32", "query_dims": WIDTH, "occupancy_tokens": 6,
                  "global_tokens": 2, "lora_r": 2, "lora_dropout": 0.0, "forecaster_dims": 32, "anchor_dims": 16,
                  "score_threshold": 0.3},
    "planning": {"query_dims": WIDTH, "reasoning_dims": 64, "hidden": 32, "layers": 1},
}  # fmt: skip
MAKERS = {"planning": "planning", "forecast": "reasoning", "language": "reasoning"}


class Straight:
    """Cars that drive on at their speed beside one that comes along at theirs; a question whose answer is its place."""

    def __init__(self, count: int = 6) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> FeatureSample:
        rng = np.random.default_rng(index)
        speed = 4.0 + index % 3 * 2.0
        future = np.tile(np.eye(4, dtype=np.float32), (6, 1, 1))
        future[:, 0, 3] = speed * 0.5 * np.arange(1, 7)
        ego = np.zeros(len(FEATURE_NAMES), np.float32)
        ego[[FEATURE_NAMES.index("vx"), FEATURE_NAMES.index("has_velocity")]] = speed, 1.0
        twist = np.array([speed, 0, 0, 0, 0, 0], np.float32)
        car = (8.0 + index % 3, 2.0)
        centres = rng.uniform(-20, 20, (12, 3)).astype(np.float32)
        centres[0] = (*car, 1.0)
        points = (centres[:, None] + rng.uniform(-0.7, 0.7, (12, POINTS, 3))).astype(np.float32)
        labels = np.full((12, POINTS), LABEL["manmade"], np.uint8)
        labels[0] = LABEL["car"]
        features = rng.normal(size=(12, WIDTH)).astype(np.float32)
        features[0] = 2.0
        movers = np.array([[(car[0] + speed * t, car[1], 0.0, 4.0, 2.0)] for t in (0.0, *HORIZONS)], np.float32)
        later = np.full((3, *OCC3D_GRID.shape), FREE, np.uint8)
        for k, horizon in enumerate(HORIZONS):
            moved = points + (labels == LABEL["car"])[..., None] * np.array([speed * horizon, 0, 0])
            where, inside = OCC3D_GRID.index_of(moved.reshape(-1, 3))
            later[k][tuple(where[inside].T)] = labels.ravel()[inside]
        questions = [QaPair("Is there a car?", "Yes.", "yes_no"), QaPair("Describe it.", "A road.", "free_text")]
        arrays = {
            "features": features, "centres": centres, "points": points, "labels": labels,
            "scores": np.full((12, POINTS), 0.8, np.float32),
            "view_features": rng.normal(size=(4, WIDTH)).astype(np.float32), "movers": movers,
            "future_labels": zlib.compress(later.tobytes()), "questions": questions,
        }  # fmt: skip
        return FeatureSample(index, 1.0, ego, twist, 1, future, arrays)

    def state(self) -> list[int]:
        return [self.count]

    def refresh(self, state: list[int] | None = None) -> None:
        self.count = state[0] if state else self.count


def write_preset(folder: Path) -> Path:
    """A micro preset without weights."""
    folder.mkdir()
    shutil.copy(share("models", "tiny", "anchors.npz"), folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_preset(tmp_path / "preset")


def stage_of(name: str, folder: Path) -> Stage:
    preset = load_preset(str(folder))
    if name == "planning":
        return PlanningStage(build_planning(preset))
    reasoner = build_reasoning(preset)
    if name == "forecast":
        return ForecastStage(reasoner, OccupancyConfig(score_threshold=0.3))
    return LanguageStage(reasoner, settings=LanguageStageSettings(max_tokens=2, connector_steps=3, question_steps=3))


def train(
    name: str, folder: Path, out: Path, steps: int, resume: bool = False, stop: int = 0,
    watch: Callable[[Report], None] = lambda report: None, save_every: int = 1,
) -> Trainer:  # fmt: skip
    def report(found: Report) -> None:
        watch(found)
        if found.step == stop:
            raise KeyboardInterrupt

    settings = few_steps(steps, learning_rate=3e-3, warmup_steps=2, ema_decay=0.5, save_every=save_every)
    stage = stage_of(name, folder)
    trainer = Trainer(stage, Straight(5), Straight(3), settings, out, resume, stage.augment, "cpu", report)
    try:
        trainer.run()
    except KeyboardInterrupt:
        assert stop
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trainer]:
    """Runs of three steps of the stages, each made when it is first asked for; nobody changes them."""
    root = tmp_path_factory.mktemp("trained")
    preset = write_preset(root / "preset")
    return cache(lambda name: train(name, preset, root / name, 3))


each_stage = pytest.mark.parametrize("name", list(MAKERS))
dear = pytest.mark.parametrize(
    "name", ["planning", *(pytest.param(name, marks=pytest.mark.slow) for name in ("language", "forecast"))]
)


@dear
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, folder: Path, tmp_path: Path) -> None:
    whole = train(name, folder, tmp_path / "whole", 5)
    train(name, folder, tmp_path / "parts", 5, stop=3)
    resumed = train(name, folder, tmp_path / "parts", 5, resume=True)
    assert resumed.progress.place == whole.progress.place
    for key, value in whole.stage.state_dict().items():
        torch.testing.assert_close(value, resumed.stage.state_dict()[key], rtol=0, atol=0, msg=key)
        torch.testing.assert_close(whole.average[key], resumed.average[key], rtol=0, atol=0, msg=key)


@dear
def test_the_loss_falls(name: str, folder: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    train(name, folder, tmp_path / "out", 40, watch=lambda r: losses.append(r.loss), save_every=1000)
    assert np.mean(losses[-6:]) < 0.75 * np.mean(losses[:3])


@each_stage
def test_what_is_shipped_is_what_was_averaged(name: str, folder: Path, trained: Callable[[str], Trainer]) -> None:
    trainer = trained(name)
    made = MAKERS[name]
    ship(trainer.out / BEST, folder, made)
    if name == "language":
        ship(trainer.out / "adapter.safetensors", folder, "adapter", "3:9")
    preset = load_preset(str(folder))
    told = {stage: seeds for stage, seeds in trained_on(preset).items() if stage == "adapter"}
    assert told == ({"adapter": range(3, 9)} if name == "language" else {})
    loaded = build_planning(preset) if made == "planning" else build_reasoning(preset)
    # A forecaster alone does not make the reasoning token mean anything.
    assert loaded.trained is (name != "forecast")
    prefix = "planner." if made == "planning" else "reasoner."
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, trainer.average[prefix + key], rtol=1e-3, atol=1e-3, msg=key)
    assert not any("embed_tokens" in key for key in trainer.average)


def test_weights_belong_to_their_anchors(folder: Path, trained: Callable[[str], Trainer]) -> None:
    for name in ("planning", "forecast"):
        ship(trained(name).out / BEST, folder, MAKERS[name])
    known = AnchorSet.load(folder / "anchors.npz")
    replace(known, array=known.array * np.float32(0.9)).save(folder / "anchors.npz")
    for build, what in ((build_planning, "planning"), (build_reasoning, "reasoning")):
        with pytest.raises(InvalidInput, match=rf"weights.{what}: .* other anchors"):
            build(load_preset(str(folder)))


def test_only_what_is_meant_trains(folder: Path, trained: Callable[[str], Trainer]) -> None:
    for name, moving in (("forecast", ("forecaster.", "fusion.", "steepness")), ("language", ())):
        before = stage_of(name, folder).state_dict()
        after = trained(name).stage.state_dict()
        moved = {k.removeprefix("reasoner.") for k in before if not torch.equal(before[k], after[k])}
        if moving:
            assert all(k.startswith(moving) for k in moved)
        else:
            assert not any(k.startswith(("forecaster.", "fusion.", "anchors")) for k in moved)
            assert any(k.startswith("connector.") for k in moved)
            assert any(k.startswith("adapter/") for k in moved)


def test_the_positive_is_of_the_commanded_group() -> None:
    anchors = torch.from_numpy(AnchorSet.load(share("models", "tiny", "anchors.npz")).flat)
    command = torch.arange(3)
    truth = anchors[7].expand(3, -1, -1)  # a straight one
    positive, group = positive_anchors(anchors, truth, command)
    assert (positive // MODES).tolist() == [0, 1, 2]
    assert positive[1] == 7
    assert group[2].tolist() == list(range(12, 18))


def test_flow_follows_boxes_and_a_forecast_can_say_it() -> None:
    sample = Straight()[0]
    points, labels = sample.arrays["points"], sample.arrays["labels"]
    movers = sample.arrays["movers"].copy()
    movers[1:, :, 2] = 0.3  # it turns, too
    flow = flow_of(points, labels, movers)
    assert not flow[:, 1:].any()
    # The shift of the car's query is that of its box, the turn is the box's.
    centre = sample.arrays["centres"][0, :2]
    turned = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    for k in range(3):
        want = movers[k + 1, 0, :2] + (points[0, :, :2] - movers[0, 0, :2]) @ turned.T - points[0, :, :2]
        np.testing.assert_allclose(flow[k, 0, :, :2], want, atol=1e-4)
    found = type("Found", (), {})()
    found.turn = torch.zeros(1, 3, 12)
    found.turn[0, :, 0] = 0.3
    found.shift = torch.zeros(1, 3, 12, 3)
    for k in range(3):
        shift = movers[k + 1, 0, :2] + turned @ (centre - movers[0, 0, :2]) - centre
        found.shift[0, k, 0, :2] = torch.from_numpy(shift)
    moved = displacement(found, torch.from_numpy(points)[None], torch.from_numpy(sample.arrays["centres"])[None])
    np.testing.assert_allclose(moved[0].numpy(), flow, atol=1e-4)


def test_voxels_learn_to_go_with_the_query_that_takes_them_along(folder: Path) -> None:
    """The nearest query moves a car's voxels, whatever it shows; those of parked ones learn to stay."""
    sample = Straight()[0]
    car = OCC3D_GRID.index_of(sample.arrays["points"][0])[0]
    parked = np.array([[20, 20, 5]])
    places = np.concatenate([car, parked])
    voxels = np.column_stack([places, np.full(len(places), LABEL["car"])]).astype(np.int16)
    arrays = sample.arrays | {"voxels": voxels}
    arrays["centres"] = np.concatenate([arrays["centres"], [[-31.8, -31.8, 1.2]]]).astype(np.float32)
    for name in ("features", "points", "labels", "scores"):
        arrays[name] = np.concatenate([arrays[name], arrays[name][1:2]])
    stage = stage_of("forecast", folder)
    batch = stage.collate([replace(sample, arrays=arrays)])
    assert batch.voxels is not None
    assert int(batch.voxels.counts.sum()) == len(voxels)
    speed = float(sample.twist[0])
    np.testing.assert_allclose(batch.voxels.flow[0, :, 0, 0], speed * np.array(HORIZONS), atol=1e-5)
    assert batch.voxels.owner[0, len(voxels) - 1] == 12
    right = Forecast(torch.zeros(1, 3, 13, 3), torch.zeros(1, 3, 13), torch.zeros(1, 3, 13, 17))
    still = float(stage._voxel_loss(right, batch, batch.voxels))
    assert still == pytest.approx(speed * len(car) / len(voxels))
    for owner in set(batch.voxels.owner[0, : len(car)].tolist()):
        right.shift[0, :, owner, 0] = speed * torch.tensor(HORIZONS)
    assert float(stage._voxel_loss(right, batch, batch.voxels)) == pytest.approx(0.0, abs=1e-5)
    found = stage.validate([batch])
    assert found.numbers["moving_miou_1s"] == found.numbers["copy_moving_miou_1s"]
    assert {"voxels", "moving", "still"} < set(stage(batch))


def test_under_another_plan_only_motion_is_learnt(folder: Path) -> None:
    sample = Straight()[0]
    other = sample.arrays["movers"].copy()
    other[1:] = other[0]  # the car waits for an ego that goes
    motion = 2.0 * sample.waypoints
    car = OCC3D_GRID.index_of(sample.arrays["points"][0])[0]
    voxels = np.column_stack([car, np.full(len(car), LABEL["car"])]).astype(np.int16)
    arrays = sample.arrays | {"other_movers": other, "other_motion": motion, "voxels": voxels}
    stage = stage_of("forecast", folder)
    rng = np.random.default_rng(0)
    drawn = [stage.augment(replace(sample, arrays=arrays), rng) for _ in range(20)]
    assert 4 < sum(s.arrays["other"] for s in drawn) < 16
    batch = stage.collate([next(s for s in drawn if s.arrays["other"] is wanted) for wanted in (True, False)])
    np.testing.assert_array_equal(batch.motion[0].numpy(), motion)
    np.testing.assert_array_equal(batch.steady[0].numpy(), motion)
    np.testing.assert_array_equal(batch.motion[1].numpy(), sample.waypoints)
    assert not batch.flow[0].any()
    assert bool(batch.flow[1].any())
    assert bool((batch.known[0] > FREE).all())
    assert batch.voxels is not None
    assert set(batch.voxels.counts.unique().tolist()) == {0.0, stage.settings.reacts}
    assert all(bool(term.isfinite()) for term in stage(batch).values())
    assert "other_motion" not in stage.augment(sample, rng).arrays


def test_the_nearest_voxel_of_the_same_class_is_found() -> None:
    car, bus = LABEL["car"], LABEL["bus"]
    known = torch.full((1, 1, *OCC3D_GRID.shape), FREE, dtype=torch.uint8)
    known[0, 0, 100, 100, 5] = known[0, 0, 103, 100, 5] = car
    known[0, 0, 101, 100, 5] = bus
    lower, at = torch.tensor(OCC3D_GRID.lower), [[101.0, 100, 5], [102, 101, 5], [110, 100, 5], [-3, 0, 0]]
    points = (lower + (torch.tensor(at) + 0.5) * OCC3D_GRID.size + 0.1)[None, None, :, None]
    near = [True, True, False, False]
    for label, index in ((car, [[100, 100, 5], [103, 100, 5]]), (bus, [[101, 100, 5], [101, 100, 5]])):
        found, there = nearest_of_class(points, torch.full((1, 1, 4, 1), label), known)
        assert there[0, 0, :, 0].tolist() == near
        assert ((found - lower) / OCC3D_GRID.size).floor().long()[0, 0, :2, 0].tolist() == index


def test_other_features_are_seen_and_ego_noise_only_trains(folder: Path) -> None:
    stage = stage_of("planning", folder)
    batch = stage.collate([Straight()[i] for i in range(3)])
    torch.manual_seed(0)
    blurred = stage.blurred(batch.ego.expand(3, -1).repeat(200, 1))
    cut = blurred[:, FEATURE_NAMES.index("has_acceleration")] == 0
    assert blurred.std(0)[FEATURE_NAMES.index("vx")] > 0
    assert bool(cut.any())
    found = stage.validate([batch])
    assert found.score == pytest.approx(-found.numbers["l2_avg"])
    assert found.picture is not None


def test_a_planner_hears_late_in_part_and_not_at_all(folder: Path) -> None:
    def heard(**settings: float) -> list[FeatureSample]:
        stage = PlanningStage(
            build_planning(load_preset(str(folder))),
            PlanningStageSettings(**({"late": 0.0, "no_reasoning": 0.0, "no_scores": 0.0} | settings)),
            uses_reasoning=True,
        )
        rng = np.random.default_rng(0)
        sample = Straight()[0]
        own = {"token": np.ones(64, np.float32), "anchor_scores": np.ones(18, np.float32)}
        before = {f"{name}_before": 2 * value for name, value in own.items()}
        sample = replace(sample, arrays=sample.arrays | own | before)
        found = [stage.augment(sample, rng) for _ in range(40)]
        loss = torch.stack(list(stage(stage.collate(found)).values())).sum()
        loss.backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in stage.parameters())
        return found

    assert {tuple(s.arrays[name][0] for name in REASONING_FIELDS) for s in heard()} == {(1.0, 1.0)}
    assert {tuple(s.arrays[name][0] for name in REASONING_FIELDS) for s in heard(late=0.5)} == {(1.0, 1.0), (2.0, 2.0)}
    assert {tuple(s.arrays[name][0] for name in REASONING_FIELDS) for s in heard(no_scores=0.5)} == {
        (1.0, 1.0),
        (1.0, 0.0),
    }
    silent = [s for s in heard(no_reasoning=0.5) if np.isnan(s.arrays["token"]).all()]
    assert 5 < len(silent) < 35
    assert not any(s.arrays["anchor_scores"].any() for s in silent)


def test_validation_says_what_language_is_worth(folder: Path) -> None:
    stage = PlanningStage(build_planning(load_preset(str(folder))), uses_reasoning=True)
    samples = [Straight()[i] for i in range(4)]
    silent = stage.validate([stage.collate(samples)]).numbers
    assert "l2_no_reasoning_avg" not in silent
    heard = [
        replace(s, arrays=s.arrays | {"token": np.full(64, k, np.float32), "anchor_scores": np.zeros(18, np.float32)})
        for k, s in enumerate(samples)
    ]
    # A score that only the own moment gives decides which anchor is chosen.
    for k, sample in enumerate(heard):
        sample.arrays["anchor_scores"][6 + k] = 100.0
    numbers = stage.validate([stage.collate(heard)]).numbers
    assert numbers["l2_no_reasoning_avg"] == pytest.approx(silent["l2_avg"])
    assert (
        len({round(numbers[name], 5) for name in ("l2_avg", "l2_no_reasoning_avg", "l2_shuffled_reasoning_avg")}) == 3
    )


def test_a_planner_learns_with_and_without_a_route(folder: Path) -> None:
    preset = load_preset(str(folder))
    assert preset.planning is not None
    preset = replace(preset, planning=replace(preset.planning, target_points=(5.0, 10.0)))
    stage = PlanningStage(build_planning(preset), PlanningStageSettings(no_route=0.5))
    points = {"target_points": np.array([(5.0, 0.0), (10.0, 0.0)], np.float32)}
    rng, samples = np.random.default_rng(0), [Straight()[i % 6] for i in range(40)]
    routed = [replace(s, arrays=s.arrays | points) for s in samples]
    found = [stage.augment(s, rng) for s in routed]
    lost = [s for s in found if np.isnan(s.arrays["target_points"]).all()]
    assert 5 < len(lost) < 35
    assert all(np.abs(s.arrays["target_points"] - points["target_points"]).max() < 6.0 for s in found if s not in lost)
    torch.stack(list(stage(stage.collate(found)).values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in stage.parameters())
    numbers = stage.validate([stage.collate(routed[:4])]).numbers
    assert "l2_no_route_avg" in numbers
    batch = stage.collate([lost[0], found[[s in lost for s in found].index(False)]])
    without, _ = stage.planner(batch.features, batch.centres, batch.ego)
    with_route, _ = stage.planner(batch.features, batch.centres, batch.ego, target_points=batch.target_points)
    torch.testing.assert_close(with_route[0], without[0])
    assert not torch.allclose(with_route[1], without[1])


@pytest.mark.parametrize(("offset", "turned"), [(1.5, 0.0), (-1.0, 0.1), (0.0, -0.2)])
def test_a_vehicle_beside_its_route_returns_to_it(offset: float, turned: float) -> None:
    sample = Straight()[1]
    points = np.array([(5.0, 0.0), (40.0, 0.0)], np.float32)
    drawn = obstacle_grid(np.array([(20.0, 3.0, 0.5, 0.0)]))
    sample = replace(sample, arrays=sample.arrays | {"target_points": points, "obstacles": drawn})
    moved = off_route(sample, offset, turned)
    place = geometry.planar(0.0, offset, turned)
    ahead = moved.waypoints @ place[:2, :2].T + place[:2, 3]  # in the frame of the route
    np.testing.assert_allclose(ahead[:, 0], sample.waypoints[:, 0], atol=1e-4)
    assert abs(ahead[-1, 1]) < 0.05
    assert abs(moved.waypoints[0, 1]) < 0.35 * moved.waypoints[0, 0], "it starts along the vehicle"
    route = moved.arrays["target_points"] @ place[:2, :2].T + place[:2, 3]
    np.testing.assert_allclose(route, points, atol=1e-4)
    scene = moved.arrays["centres"][:, :2] @ place[:2, :2].T + place[:2, 3]
    np.testing.assert_allclose(scene, sample.arrays["centres"][:, :2], atol=1e-4)
    np.testing.assert_array_equal(sample.arrays["target_points"], points)
    np.testing.assert_array_equal(moved.arrays["obstacles"], seen_from(drawn, place))
    np.testing.assert_array_equal(sample.arrays["obstacles"], drawn)


def test_at_another_speed_the_line_of_the_light_is_that_of_this_speed(folder: Path) -> None:
    sample = Straight()[1]
    other = np.tile(sample.ego, (2, 1))
    other[:, FEATURE_NAMES.index("vx")] = 0.0, 9.0
    drawn = obstacle_grid(np.zeros((0, 4), np.float32), stop_line=20.0)
    arrays = {"other_ego": other, "other_future": np.tile(sample.future, (2, 1, 1, 1)), "obstacles": drawn}
    sample = replace(sample, arrays=sample.arrays | arrays | {"other_stop_line": np.array([12.0, np.nan], np.float32)})
    stage = PlanningStage(build_planning(load_preset(str(folder))), PlanningStageSettings(other_speed=1.0))
    found = [stage.augment(sample, np.random.default_rng(seed)) for seed in range(8)]
    assert {bool(f.ego[FEATURE_NAMES.index("vx")]) for f in found} == {True, False}
    for one in found:
        fast = one.ego[FEATURE_NAMES.index("vx")] > 0
        np.testing.assert_array_equal(one.arrays["obstacles"], with_stop_line(drawn, None if fast else 12.0))
    assert drawn[-1].any()


def test_rows_that_hear_nothing_plan_as_without_language(folder: Path) -> None:
    planner = build_planning(load_preset(str(folder)))
    rng = np.random.default_rng(1)
    inputs = [torch.from_numpy(rng.normal(size=s).astype(np.float32)) for s in ((2, 5, WIDTH), (2, 5, 3))]
    ego, token = torch.zeros(2, len(FEATURE_NAMES)), torch.randn(2, 64)
    token[1] = torch.nan
    for own, without in zip(planner(*inputs, ego, token), planner(*inputs, ego), strict=True):
        torch.testing.assert_close(own[1], without[1])
    assert not torch.allclose(planner(*inputs, ego, token)[0][0], planner(*inputs, ego)[0][0])


def test_queries_of_a_sample_are_the_cached_ones() -> None:
    sample = Straight()[2]
    queries = queries_of(sample)
    np.testing.assert_array_equal(queries.features, sample.arrays["features"])
    assert queries.ego.speed == sample.twist[0]
    planner = Planner(PlanningConfig(query_dims=WIDTH), AnchorSet.load(share("models", "tiny", "anchors.npz")))
    assert planner.config.query_dims == queries.features.shape[1]


def test_most_questions_are_told_what_the_car_is_about_to_do(folder: Path) -> None:
    stage = stage_of("language", folder)
    told = [q for i in range(30) for q in stage.collate([Straight()[i], Straight()[i + 1]]).text.questions]
    share = sum(q.startswith("The car is about to keep the speed. ") for q in told) / len(told)
    assert 0.5 < share < 0.9, "on line there is nearly always a plan, but not always"
    assert "plan" in stage._parts
