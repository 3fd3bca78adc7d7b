"""Learning from recorded drives: what is a label, what is left out, what is named, and that an error falls."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from sparseoccvla_ros.cli.train import app
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import bundled_bag, share
from sparseoccvla_ros.core.types import NANOSECONDS
from sparseoccvla_ros.data.bags.drive import Drive
from sparseoccvla_ros.data.bags.writer import BagWriter
from sparseoccvla_ros.data.synthetic.drives import START
from sparseoccvla_ros.data.synthetic.to_bag import make_world_bag
from sparseoccvla_ros.planning.anchors import COMMAND_ORDER, AnchorSet
from sparseoccvla_ros.runtime.factory import build_occupancy
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train import build
from sparseoccvla_ros.train.anchors import too_few
from sparseoccvla_ros.train.features import bags as bag_features
from sparseoccvla_ros.train.features.bags import (
    HELD_OUT,
    BagFeatures,
    BagQuestions,
    Recording,
    future_of,
    missing_of,
    trajectories,
)
from sparseoccvla_ros.train.settings import TrainSettings
from sparseoccvla_ros.train.trainer import BEST, Trainer

SPEED = 5.0
STEPS, LEARNING_RATE = 40, 3e-4
"""Of the fine-tuning."""


def straight(seconds: float, step: float = 0.05) -> Drive:
    """At SPEED along x."""
    times = np.arange(0.0, seconds + 1e-9, step)
    poses = np.stack([SPEED * times, np.zeros_like(times), np.zeros_like(times)], -1)
    return Drive("map", "base_link", START + np.round(times * NANOSECONDS).astype(np.int64), poses)


def at(seconds: float) -> int:
    return START + round(seconds * NANOSECONDS)


def test_the_label_is_where_the_vehicle_went() -> None:
    future, why = future_of(straight(10.0), at(2.0))
    assert not why
    np.testing.assert_allclose(future[:, :3, 3], [[SPEED * t, 0, 0] for t in (0.5, 1, 1.5, 2, 2.5, 3)], atol=1e-6)


def test_what_is_not_known_is_no_label() -> None:
    drive = straight(10.0)
    assert future_of(drive, at(7.1)) == (None, "less than 3 s of the drive follow")
    gap = (drive.stamps < at(4.0)) | (drive.stamps > at(5.0))
    silent = Drive("map", "base_link", drive.stamps[gap], drive.poses[gap])
    assert "not recorded" in future_of(silent, at(3.0))[1]
    assert future_of(silent, at(5.5))[0] is not None
    moved = drive.poses + np.where(drive.stamps > at(4.0), 30.0, 0.0)[:, None] * [1.0, 0.0, 0.0]
    assert "jumps" in future_of(Drive("map", "base_link", drive.stamps, moved), at(3.0))[1]


def test_trajectories_of_the_bundled_bag_turn_right() -> None:
    paths, commands = trajectories([Recording(bundled_bag())])
    assert len(paths) == len(commands) == 37, "one every half second up to 3 s before the end of 21 s"
    asked = [COMMAND_ORDER[c].value for c in commands]
    assert set(asked) <= {"straight", "right"}
    assert paths[commands == 2, -1, 1].min() < -1.0, "y is left"
    assert 0 in too_few(paths, commands), "nobody turned left"


@pytest.mark.slow
def test_a_frame_set_that_the_encoder_refuses_is_left_out(preset, monkeypatch) -> None:
    """A black one, as before a driver's first image."""
    every = bag_features.bag_frames

    def frame_sets(*words):
        for k, frames in enumerate(itertools.islice(every(*words), 3)):
            yield replace(frames, images=np.zeros_like(frames.images)) if k == 1 else frames

    monkeypatch.setattr(bag_features, "bag_frames", frame_sets)
    loaded = load_preset(str(preset))
    features = BagFeatures((Recording(bundled_bag()),), loaded.image, "", "")
    for _ in features.prepare(build_occupancy(loaded), [0]):
        assert len(features.rows(0)) == 2


def test_what_a_bag_lacks_is_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for t in np.arange(0.0, 5.0, 0.1):
            bag.transforms(at(t), [("map", "base_link", geometry.planar(SPEED * t, 0.0, 0.0))])
    lines = missing_of(Recording(tmp_path / "bag"))
    assert sum("it is black" in line for line in lines) == 6
    assert any("no planning/command" in line for line in lines)
    assert any("speeds are differences of poses" in line for line in lines)
    assert missing_of(Recording(bundled_bag())) == []


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds at 2 Hz with small images."""
    return make_world_bag(
        tmp_path_factory.mktemp("small") / "bag", seed=3, seconds=8.0, rate=2.0, height=36, width=64, jpeg_quality=80
    )


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped preset without its language model, in a folder and with a cache of its own."""
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path / "cache"))
    return _quiet_preset(tmp_path / "preset")


def _quiet_preset(folder: Path) -> Path:
    shutil.copytree(share("models", "tiny"), folder)
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["weights"] = {name: content["weights"][name] for name in ("occupancy", "planning")}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), "--threads", "1", "--device", "cpu"])
    torch.set_num_threads(1)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_verb_learns_from_a_bag(small: Path, preset: Path, tmp_path: Path) -> None:
    output = run(
        "--stage", 3, "--data", "bag", "--bag", small, "--preset", preset, "--steps", 1, "--out", tmp_path / "out"
    )
    assert (tmp_path / "out" / BEST).is_file()
    samples = int(output.split(" samples to learn")[0].split()[-1])
    assert 0 < samples < 8 * 2 - 3 * 2, "the end is held out, and what reaches into it"
    before = AnchorSet.load(load_preset(str(preset)).anchors)
    result = CliRunner().invoke(app, ["anchors", "--data", "bag", "--bag", str(bundled_bag()), "--preset", str(preset)])
    assert result.exit_code == 0, result.output
    after = AnchorSet.load(load_preset(str(preset)).anchors)
    np.testing.assert_allclose(after.array[0], before.array[0], atol=2e-3, err_msg="nobody turned left")
    assert np.abs(after.array[1] - before.array[1]).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--stage", "3", "--data", "bag"], "--bag"),
        (["--stage", "3", "--data", "bag", "--bag", "/nowhere"], "is not there"),
        (["--stage", "1", "--data", "bag", "--bag", "."], "occupancy"),
        (["--stage", "3", "--parts", "forecast", "--data", "bag", "--bag", "BUNDLED"], "later moments"),
    ],
)
def test_what_cannot_be_learnt_is_refused(arguments: list[str], why: str) -> None:
    given = [str(bundled_bag()) if a == "BUNDLED" else a for a in arguments]
    result = CliRunner().invoke(app, [*given, "--steps", "1"])
    assert result.exit_code != 0
    assert why in " ".join(result.output.split())


def drives(folder: Path, seeds: tuple[int, ...]) -> list[Recording]:
    """Twenty seconds each of a shuttle that is half as fast as the traffic that the shipped weights know."""
    return [
        Recording(
            make_world_bag(folder / str(seed), seed=seed, seconds=20.0, rate=2.0, height=144, width=256, pace=0.5)
        )
        for seed in seeds
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_seconds_of_a_drive_lower_the_error_on_others(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuned on one drive of a kind that the weights do not know, judged on two others, thrice."""
    folder = tmp_path_factory.mktemp("shuttle")
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(folder / "cache"))
    preset = load_preset(str(_quiet_preset(folder / "preset")))
    network, weights = build.frozen_encoder(preset, None, "cpu")
    learned, checked = drives(folder, (501,)), drives(folder, (502, 503))
    sources = build.bag_sources(network, weights, preset, "planning", learned, checked, lambda *done: None)

    def error(seed: int, steps: int, learning_rate: float) -> float:
        """L2 on the other drives, m, after so many steps: of the last validation, not of the best one."""
        stage, train, validation = build.build("planning", preset, None, preset.weights["planning"], sources)
        settings = TrainSettings(
            steps=steps,
            batch_size=16,
            learning_rate=learning_rate,
            warmup_steps=5,
            ema_decay=0.9,
            seed=seed,
            validate_every=10**6,
            save_every=10**6,
        )
        last = Trainer(stage, train, validation, settings, folder / f"{seed}-{steps}", device="cpu").run()
        assert last is not None
        return -last.score

    before = error(0, 1, 1e-12)
    after = [error(seed, STEPS, LEARNING_RATE) for seed in (1, 2, 3)]
    print(f"L2 before {before:.3f} m, after {after}")
    gain, noise = before - np.mean(after), np.std(after, ddof=1)
    assert gain > 0.1 * before, (before, after)
    assert gain > 3 * noise, (before, after)


def test_rows_that_learn_do_not_reach_into_those_that_are_held_out(tmp_path: Path, monkeypatch) -> None:
    times = np.arange(0.0, 17.0, 0.5)
    monkeypatch.setattr("sparseoccvla_ros.train.features.bags.read_arrays", lambda file, names: {"time": times})
    features = BagFeatures((Recording(tmp_path),), load_preset("tiny").image, "", "")
    learnt, held = features.rows(0, False), features.rows(0, True)
    assert len(held) == pytest.approx(HELD_OUT * len(times), abs=1)
    assert times[learnt].max() + 3.0 < times[held].min()
    assert features.rows(0) == list(range(len(times)))


def test_the_next_action_is_what_was_driven(monkeypatch) -> None:
    future = np.tile(np.eye(4), (2, 6, 1, 1))
    future[0, :, 0, 3] = [1.25, 2.4, 3.2, 3.8, 4.0, 4.0]
    future[1, :, 0, 3] = SPEED * np.arange(0.5, 3.1, 0.5)
    arrays = {"twist": np.full((2, 6), SPEED), "future": future, "command": np.array([1, 1], np.uint8)}
    monkeypatch.setattr("sparseoccvla_ros.train.features.bags.read_arrays", lambda file, names: arrays)
    features = BagFeatures((Recording(bundled_bag()),), load_preset("tiny").image, "", "")
    asked = BagQuestions(features, lambda scene: [0, 1]).read(0)["questions"]
    assert [q[0].answer for q in asked] == ["Brake to a stop.", "Keep the speed."]


@pytest.mark.slow
def test_a_bag_that_is_too_short_says_so(preset: Path, tmp_path: Path) -> None:
    bag = make_world_bag(tmp_path / "bag", seed=3, seconds=2.0, rate=1.0, height=36, width=64)
    found = load_preset(str(preset))
    network, weights = build.frozen_encoder(found, None, "cpu")
    with pytest.raises(InvalidInput, match="3 s of the drive"):
        build.bag_sources(network, weights, found, "planning", [Recording(bag)], [], lambda *done: None)
