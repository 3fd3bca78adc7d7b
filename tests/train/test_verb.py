"""`./run train` from rendered scenes to shipped weights of every stage beyond the first, with a micro preset."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sparseoccvla_ros.cli.train import app
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.data.synthetic.dataset import SPLITS, world_settings
from sparseoccvla_ros.data.synthetic.scenes import load_scene
from sparseoccvla_ros.occupancy import checkpoints
from sparseoccvla_ros.runtime.factory import build_occupancy, build_planning, build_reasoning
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train.export_weights import ship
from sparseoccvla_ros.train.stages import language
from tests.train.conftest import MICRO
from tests.train.stages.test_later_stages import CONFIG, WIDTH


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a rendered scene of each split."""
    cache = tmp_path_factory.mktemp("rendered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEOCCVLA_CACHE", str(cache))
        for split in ("train", "validation"):
            load_scene(SPLITS[split][0], world_settings(split, 32, 64, MICRO.frames))
    return cache


@pytest.fixture
def folder(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A micro preset with an encoder's weights, and rendered scenes in a cache of its own."""
    shutil.copytree(rendered, tmp_path / "cache")
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path / "cache"))
    quick = partial(language.LanguageStageSettings, connector_steps=3, question_steps=3)
    monkeypatch.setattr(language, "LanguageStageSettings", quick)
    folder = tmp_path / "preset"
    folder.mkdir()
    shutil.copy(share("models", "tiny", "anchors.npz"), folder)
    assert MICRO.embed_dims == WIDTH
    occupancy = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(MICRO).items()}
    content = CONFIG | {"occupancy": occupancy, "image": {"height": 32, "width": 64}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    checkpoints.save(build_occupancy(load_preset(str(folder))), tmp_path / "encoder.safetensors")
    ship(tmp_path / "encoder.safetensors", folder, "occupancy")
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), "--threads", "1", "--device", "cpu"])
    torch.set_num_threads(1)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_from_scenes_to_shipped_weights(folder: Path, tmp_path: Path) -> None:
    few = ("--preset", folder, "--steps", 1, "--batch-size", 2, "--validation", 1)
    run("cache", "--preset", folder)
    run("--stage", 2, *few, "--out", tmp_path / "language")
    spoken = tmp_path / "language" / "best.safetensors"
    run("cache", "--preset", folder, "--readings", "--reasoning", spoken)
    run("--stage", 3, "--parts", "planning", *few, "--reasoning", spoken, "--out", tmp_path / "planning")
    run("--stage", 3, "--parts", "forecast", *few, "--reasoning", spoken, "--out", tmp_path / "forecast")
    ship(tmp_path / "forecast" / "best.safetensors", folder, "reasoning")
    ship(tmp_path / "forecast" / "adapter.safetensors", folder, "adapter")
    ship(tmp_path / "planning" / "best.safetensors", folder, "planning")
    preset = load_preset(str(folder))
    assert preset.trained
    assert build_reasoning(preset).trained
    planner = build_planning(preset)
    assert planner.trained
    assert planner.uses_reasoning


@pytest.mark.slow
def test_a_planner_trained_alone_listens_to_nobody(folder: Path, tmp_path: Path) -> None:
    run("cache", "--preset", folder, "--no-futures", "--no-questions")
    run("--stage", 3, "--preset", folder, "--steps", 1, "--validation", 1, "--out", tmp_path / "planning")
    ship(tmp_path / "planning" / "best.safetensors", folder, "planning")
    assert not build_planning(load_preset(str(folder))).uses_reasoning
    refused = CliRunner().invoke(app, ["--stage", "3", "--parts", "dancing", "--preset", str(folder), "--steps", "1"])
    assert refused.exit_code != 0
    assert "dancing" in refused.output
