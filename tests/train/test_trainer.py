"""The loop learns, resumes exactly, refuses broken checkpoints, and keeps the best by validation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.dataset import Augmentation
from sparseoccvla_ros.occupancy import checkpoints
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.train.settings import TrainSettings
from sparseoccvla_ros.train.stages.occupancy import OccupancyStage, OccupancyStageSettings
from sparseoccvla_ros.train.trainer import BEST, LAST, Report, Trainer
from tests.train.conftest import MICRO, Boxes, few_steps


def stage() -> OccupancyStage:
    torch.manual_seed(3)
    return OccupancyStage(OccupancyEncoder(MICRO), OccupancyStageSettings(frozen=2))


def train(
    out: Path,
    steps: int,
    resume: bool = False,
    stop: int | None = None,
    watch: Callable[[Report], None] | None = None,
    save_every: int = 1,
) -> Trainer:
    """Run; with `stop` it is interrupted after that many steps, as Ctrl-C would."""

    def report(found: Report) -> None:
        if watch is not None:
            watch(found)
        if stop is not None and found.step == stop:
            raise KeyboardInterrupt

    settings = few_steps(steps, learning_rate=2e-3, warmup_steps=4, ema_decay=0.9, save_every=save_every)
    trainer = Trainer(stage(), Boxes(5), Boxes(2), settings, out, resume, Augmentation(photograph=0.3), "cpu", report)
    try:
        trainer.run()
    except KeyboardInterrupt:
        assert stop is not None
    return trainer


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, list[float]]:
    """A whole run of 24 steps and its losses; nobody writes into its folder."""
    losses: list[float] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("learnt")
    trainer = train(out, 24, watch=lambda r: losses.append(r.loss), save_every=1000)
    torch.set_num_threads(before)
    return trainer, losses


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 7)
    # Interrupted inside the second epoch (two batches each); the step that was not saved is done again.
    train(tmp_path / "parts", 7, stop=4)
    resumed = train(tmp_path / "parts", 7, resume=True)
    assert resumed.progress.step == whole.progress.step == 7
    assert resumed.progress.place == whole.progress.place
    for (name, a), b in zip(whole.stage.state_dict().items(), resumed.stage.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
        torch.testing.assert_close(whole.average[name], resumed.average[name], rtol=0, atol=0, msg=name)


def test_what_a_stage_learns_before_its_first_step_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def begin(self: OccupancyStage, data: object, seed: int) -> None:
        begun.append(seed)
        with torch.no_grad():
            self.encoder.decoder.init_points.weight.add_(0.01 * torch.randn(()))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OccupancyStage, "begin", begin)
    whole = train(tmp_path / "whole", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", killed)
        train(tmp_path / "parts", 2, stop=1)
    resumed = train(tmp_path / "parts", 2, resume=True)
    assert begun == [5, 5], "it does not begin again"
    for (name, a), b in zip(whole.stage.state_dict().items(), resumed.stage.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_the_loss_falls(learnt: tuple[Trainer, list[float]]) -> None:
    out, losses = learnt[0].out, learnt[1]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3])
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 25))
    assert lines[-1]["kind"] == "validation"
    assert lines[-1]["samples"] == 2
    assert list((out / "pictures").glob("occupancy_*.png"))


def test_a_checkpoint_takes_training_time_but_no_data_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Trainer.save

    def slow(trainer: Trainer) -> None:
        time.sleep(0.5)
        save(trainer)

    monkeypatch.setattr(Trainer, "save", slow)
    train(tmp_path, 3)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert max(line["data_seconds"] for line in steps[1:]) < 0.5, "the batches were loaded meanwhile"
    assert steps[-1]["seconds"] > 1.0


def test_the_best_is_exported_and_loads(learnt: tuple[Trainer, list[float]]) -> None:
    trainer = learnt[0]
    encoder = OccupancyEncoder(MICRO)
    checkpoints.load(encoder, trainer.out / BEST)
    assert encoder.trained
    average = trainer.average["encoder.decoder.init_points.weight"]
    torch.testing.assert_close(encoder.decoder.init_points.weight.detach(), average)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_checkpoint_is_refused_by_name(
    learnt: tuple[Trainer, list[float]], tmp_path: Path, damage: str
) -> None:
    data = (learnt[0].out / LAST).read_bytes()
    damaged = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"no checkpoint"}[damage]
    (tmp_path / LAST).write_bytes(damaged)
    with pytest.raises(InvalidInput, match=rf"checkpoint: .*{LAST} is damaged or truncated"):
        train(tmp_path, 4, resume=True)


def test_a_checkpoint_of_another_network_is_refused(learnt: tuple[Trainer, list[float]]) -> None:
    other = OccupancyStage(OccupancyEncoder(MICRO.replace(queries=12)))
    with pytest.raises(InvalidInput, match="another network"):
        Trainer(other, Boxes(), Boxes(), TrainSettings(steps=2), learnt[0].out, resume=True, device="cpu")


def test_a_run_is_not_overwritten_by_accident(learnt: tuple[Trainer, list[float]], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--resume"):
        train(learnt[0].out, 2)
    with pytest.raises(InvalidInput, match="does not exist"):
        train(tmp_path / "nothing", 2, resume=True)


def test_frozen_parts_keep_their_weights(learnt: tuple[Trainer, list[float]]) -> None:
    before = stage().state_dict()
    after = learnt[0].stage.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert not any(k.startswith(("encoder.backbone.stem", "encoder.backbone.blocks.0.")) for k in moved)
    assert any(k.startswith("encoder.backbone.blocks.10.") for k in moved)
    assert not any("running" in k for k in moved)


def test_the_schedule_follows_steps_or_time() -> None:
    by_steps, by_time = TrainSettings(steps=100, warmup_steps=10), TrainSettings(minutes=2, warmup_steps=0)
    assert by_steps.share(50, 1e9) == 0.5
    assert by_time.share(10**9, 60) == 0.5
    assert TrainSettings(steps=100, minutes=1).share(20, 30) == 0.5
    assert by_steps.lr_scale(0, 0.0) == pytest.approx(1 / 3)
    assert by_steps.lr_scale(10, 0.0) == pytest.approx(1.0)
    assert by_time.lr_scale(1, 1.0) == pytest.approx(by_time.final_lr_scale)
    assert by_time.lr_scale(1, 0.5) == pytest.approx(0.5 * (1 + by_time.final_lr_scale))
    with pytest.raises(InvalidInput, match="steps"):
        TrainSettings()
    with pytest.raises(InvalidInput, match="learning_rate"):
        TrainSettings(steps=1, learning_rate=math.nan)
