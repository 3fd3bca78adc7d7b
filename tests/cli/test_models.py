"""./run models: conversion into a preset that loads, and what happens with and without a hub. Nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from sparseoccvla_ros.cli import models
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.runtime.presets import load_preset

SMALL = OccupancyConfig.opus(
    "t", queries=20, embed_dims=64, backbone_width=8, frames=3, points_per_layer=(1, 4, 8), ffn_dims=96
)
RUN = CliRunner()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_checkpoint_becomes_a_preset(public_state, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    source = OccupancyEncoder(SMALL)
    torch.save({"meta": {"epoch": 100}, "state_dict": public_state(source)}, tmp_path / "epoch_100.pth")
    arguments = ["convert", str(tmp_path / "epoch_100.pth"), "--preset", "opus_t", "--out", str(tmp_path / "mine")]
    done = RUN.invoke(models.app, arguments)
    assert done.exit_code == 0, done.output
    assert "queries 20" in done.output
    preset = load_preset(str(tmp_path / "mine"))
    assert (preset.stages, preset.untrained, preset.name) == (("occupancy",), (), "mine")
    assert preset.occupancy.queries == 20
    printed = yaml.safe_load(done.output[done.output.index("weights:") :])
    stored = yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())
    assert printed["weights"] == stored["weights"]
    from sparseoccvla_ros.occupancy import checkpoints

    again = OccupancyEncoder(preset.occupancy)
    checkpoints.load(again, preset.weights["occupancy"])
    assert again.trained
    for name, value in source.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)
    assert RUN.invoke(models.app, arguments).exit_code == 2  # a preset is there already


def test_a_checkpoint_of_opus_v2_gives_its_preset_weights(public_state, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    assert load_preset("opus_v2_t").untrained == ("occupancy", "reasoning", "planning")
    source = OccupancyEncoder(SMALL.replace(decoder="opus_v2", score_threshold=0.25, densifier_dims=16))
    file = tmp_path / "opusv2-t.pth"
    torch.save({"meta": {"epoch": 100}, "state_dict": public_state(source)}, file)
    refused = RUN.invoke(models.app, ["convert", str(file), "--preset", "opus_t"])
    assert refused.exit_code == 2
    assert "is of opus_v2" in refused.output
    done = RUN.invoke(models.app, ["convert", str(file), "--preset", "opus_v2_t"])
    assert done.exit_code == 0, done.output
    preset = load_preset("opus_v2_t")
    assert (preset.name, preset.untrained) == ("opus_v2_t", ("reasoning", "planning"))
    assert preset.occupancy == source.config
    assert preset.anchors is not None
    assert preset.anchors.is_file()
    from sparseoccvla_ros.runtime.factory import build_occupancy

    again = build_occupancy(preset)
    assert again.trained
    for name, value in source.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)


def test_what_is_no_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("no weights")
    for file in ("a.pth", "none.pth"):
        done = RUN.invoke(models.app, ["convert", str(tmp_path / file), "--out", str(tmp_path / "out")])
        assert done.exit_code == 2
        assert "occupancy.weights" in done.output
    assert not (tmp_path / "out").exists()


def test_list_names_presets_public_weights_and_licences() -> None:
    shown = RUN.invoke(models.app, ["list"])
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    for word in (
        "tiny",
        "opus_l",
        "opus_v2_t",
        "36.5",
        "42.0",
        "sparseworld",
        "internvl2-2b",
        "no licence file",
        "MIT",
    ):
        assert word in text


def test_without_a_hub_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    for name in ("sparseworld", "internvl2-2b", "opus_s", "opus_v2_s"):
        told = RUN.invoke(models.app, ["fetch", name])
        assert told.exit_code == 3
        for word in ("licence:", "by hand:", "then:", str(cache / "models" / name)):
            assert word in told.output
    assert RUN.invoke(models.app, ["fetch", "other"]).exit_code == 2


def test_a_revision_is_pinned_by_the_first_fetch(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    asked: list[str | None] = []
    content = ["first"]

    class Info:
        sha = "a" * 40

    def info(self: object, repository: str, revision: str | None = None, timeout: float = 0.0) -> Info:
        asked.append(revision)
        return Info()

    def download(repository: str, revision: str, allow_patterns: list[str], local_dir: Path) -> None:
        assert (repository, revision) == ("MSunDYY2001/SparseWorld", "a" * 40)
        (local_dir / "ckpts").mkdir(parents=True, exist_ok=True)
        (local_dir / allow_patterns[0]).write_text(content[0])
        (local_dir / ".cache").mkdir(exist_ok=True)
        (local_dir / ".cache" / "lock").write_text("")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    done = RUN.invoke(models.app, ["fetch", "sparseworld"])
    assert done.exit_code == 0, done.output
    source = json.loads((cache / "models" / "sparseworld" / "source.json").read_text())
    assert source["revision"] == "a" * 40
    assert list(source["sha256"]) == ["ckpts/epoch_56.pth"]
    assert RUN.invoke(models.app, ["fetch", "sparseworld"]).exit_code == 0
    assert asked == [None, "a" * 40]
    content[0] = "another"
    changed = RUN.invoke(models.app, ["fetch", "sparseworld"])
    assert changed.exit_code == 2
    assert "sha256" in changed.output
