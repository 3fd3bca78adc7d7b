"""A recipe goes on after kills to the same weights, does nothing twice, and redoes what depends on a change."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.data.synthetic.dataset import SPLITS, world_settings
from sparseoccvla_ros.data.synthetic.scenes import scene_file, write_scene
from sparseoccvla_ros.runtime.factory import build_planning, parts_of
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train import build
from sparseoccvla_ros.train.checkpoint import init_from
from sparseoccvla_ros.train.recipe import steps as recipe_steps
from sparseoccvla_ros.train.recipe.export import changed, install
from sparseoccvla_ros.train.recipe.plan import NEEDS, load_recipe
from sparseoccvla_ros.train.recipe.run import run_recipe
from sparseoccvla_ros.train.recipe.steps import STEPS
from sparseoccvla_ros.train.stages.language import LanguageStage, LanguageStageSettings
from sparseoccvla_ros.train.voxel_head import calibrate_voxel_head
from tests.train.fake_scenes import scene_of

CONFIG: dict[str, Any] = {
    "format_version": 1, "name": "toy", "seed": 3, "stages": ["occupancy"], "image": {"height": 32, "width": 64},
    "occupancy": {
        "pretrained": False, "strides": [8, 16], "embed_dims": 16, "groups": 2, "heads": 2, "queries": 12,
        "image_queries": 4, "voxel_head": True, "traffic_lights": True,
        "points_per_group": 2, "points_per_layer": [2, 4], "ffn_dims": 16, "mixing_points": 4,
    },
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "format_version": 1, "seed": 5, "data": {"scenes": 1, "validation": 1},
    "config": {"occupancy": {"depth_bins": 8}},
    "steps": {
        "render": {"hours": 1}, "cache": {"hours": 1, "blocks": 5, "variants": 2},
        "cells": {"hours": 2, "steps": 6, "batch_size": 1, "warmup_steps": 1, "validate_every": 4, "save_every": 2},
        "whole": {"hours": 4, "steps": 3, "batch_size": 1, "warmup_steps": 1, "validate_every": 9, "save_every": 1},
        "voxel_head": {"scenes": 1, "rank_samples": 1, "rank_steps": 2, "steps": 2, "blocks": 40, "batch_size": 16},
        "traffic_lights": {"steps": 2, "batch_size": 2},
        "export": {}, "report": {},
    },
}  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a toy preset with a recipe, whose scenes are rendered already; its voxel head is calibrated once."""
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(recipe_steps, "calibrate_voxel_head", partial(calibrate_voxel_head, rounds=1))
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    write_recipe(folder)
    for split, count in (("train", 2), ("validation", 1)):
        settings = world_settings(split, 32, 64, 2)
        for seed in SPLITS[split][:count]:
            write_scene(scene_of(seed, settings), scene_file(seed, settings))
    return folder


def write_recipe(folder: Path, **steps: dict[str, Any]) -> None:
    found = RECIPE | {"steps": {name: values | steps.get(name, {}) for name, values in RECIPE["steps"].items()}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(found, sort_keys=False))


def run(folder: Path, out: Path, **options: Any) -> list[str]:
    said: list[str] = []
    torch.set_num_threads(1)
    run_recipe(load_recipe(str(folder)), STEPS, out, say=said.append, **options)
    return said


def written(out: Path) -> int:
    """How far a run is: files, and lines of its logs."""
    logs = sum(len(p.read_bytes().splitlines()) for p in out.glob("*/log.jsonl"))
    return logs + len(list(out.glob("*/*.safetensors"))) + len(list(out.glob("*/done.json")))


def weights(out: Path) -> dict[str, torch.Tensor]:
    (file,) = out.glob("export-*/preset/occupancy.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_places_it_ends_in_the_same_weights(toy: Path, tmp_path: Path) -> None:
    run(toy, tmp_path / "whole")
    total, out = written(tmp_path / "whole"), tmp_path / "killed"
    cache = tmp_path / "cache" / "backbone"
    cache.rename(tmp_path / "cache" / "before")
    rng = np.random.default_rng()
    process = multiprocessing.get_context("fork")
    kills = 0
    for place in np.sort(rng.integers(0, total - 2, 5)).tolist():
        child = process.Process(target=run, args=(toy, out))
        child.start()
        while child.is_alive() and written(out) <= place:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0.0, 0.1)))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
    assert kills >= 3
    run(toy, out)
    whole, killed = weights(tmp_path / "whole"), weights(out)
    assert whole.keys() == killed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, rtol=0, atol=0, msg=name)


def test_what_is_done_stays_and_what_depends_on_a_change_is_redone(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quick: dict[str, dict[str, Any]] = {"cells": {"steps": 3, "validate_every": 9}, "whole": {"steps": 2}}
    write_recipe(toy, **quick)
    run(toy, out)
    (page,) = out.glob("report-*/report.html")
    assert "cells" in page.read_text()
    assert (page.parent / "curves.png").is_file()
    (preset,) = out.glob("export-*/preset")
    assert load_preset(str(preset)).occupancy.depth_bins == 8
    said = run(toy, out)
    assert len(said) == len(RECIPE["steps"])
    assert all("is done" in line for line in said)
    before = load_recipe(str(toy))
    write_recipe(toy, **quick | {"whole": {"steps": 1}})
    after = load_recipe(str(toy))
    same = {name for name in RECIPE["steps"] if before.key(name) == after.key(name)}
    assert same == {"render", "cache", "cells"}
    write_recipe(toy, **quick | {"whole": {"steps": 2, "hours": 9}})
    assert load_recipe(str(toy)).key("export") == before.key("export")
    assert install(before, out)[-1] == "config.yaml"
    assert load_preset(str(toy)).trained


LATER: dict[str, Any] = {
    "features": {},
    "language": {"steps": 2, "batch_size": 2, "warmup_steps": 1, "validate_every": 9, "save_every": 1},
    "reasoning_features": {},
    "planning": {"steps": 2, "batch_size": 4, "warmup_steps": 1, "validate_every": 9, "save_every": 1},
    "rollouts": {"drives": 1, "first_seed": 1006, "expert_share": 0.9},
    "dagger": {"steps": 2, "batch_size": 4, "warmup_steps": 1, "validate_every": 9, "save_every": 1},
    "forecast": {"steps": 2, "batch_size": 2, "warmup_steps": 1, "validate_every": 9, "save_every": 1},
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_the_encoder(toy: Path, tmp_path: Path) -> None:
    """As docs/training.md advises on two cores; the voxel head has no loss in this step."""
    out = tmp_path / "out"
    run(toy, out, only=("render", "cache", "cells"))
    recipe = ["sparseoccvla_ros.cli", "train", "recipe", str(toy), "--out", str(out), "--only", "whole"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", *recipe]
    done = subprocess.run([*launcher, "--device", "cpu", "--threads", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (mark,) = out.glob("whole-*/done.json")
    assert np.isfinite(json.loads(mark.read_text())["best"]), "of the process that validates"
    (log,) = out.glob("whole-*/log.jsonl")
    steps = [entry for line in log.read_text().splitlines() if (entry := json.loads(line))["kind"] == "train"]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    (file,) = out.glob("whole-*/best.safetensors")
    assert all(bool(value.isfinite().all()) for value in load_file(file).values())


@pytest.mark.slow
def test_the_planner_learns_with_the_language_model_that_it_will_hear(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(share("models", "tiny", "anchors.npz"), toy)
    sizes = {
        "query_dims": 16,
        "reasoning_dims": 64,
        "hidden": 16,
        "layers": 1,
        "target_points": [5.0],
        "obstacle_grid": True,
    }
    reasoning = {
        "language_model": "random-tiny", "dtype": "float32", "query_dims": 16, "occupancy_tokens": 4,
        "global_tokens": 2, "lora_r": 2, "forecaster_dims": 16, "anchor_dims": 8, "reading_dims": 8,
    }  # fmt: skip
    config = CONFIG | {"reasoning": reasoning, "planning": sizes, "anchors": "anchors.npz"}
    config["stages"] = ["occupancy", "reasoning", "planning"]
    (toy / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    steps = RECIPE["steps"]
    order = [*list(steps)[:5], *LATER, "export"]
    changes = RECIPE["config"] | {"reasoning": {"reading_counts": 2, "token_reads": True}}
    found = RECIPE | {"config": changes, "steps": {name: (steps | LATER)[name] for name in order}}
    (toy / "recipe.yaml").write_text(yaml.safe_dump(found, sort_keys=False))
    short = LanguageStageSettings(max_tokens=2, connector_steps=2, question_steps=2)
    monkeypatch.setattr(build, "LanguageStage", partial(LanguageStage, settings=short))
    run(toy, tmp_path / "out", workers=2)
    (folder,) = (tmp_path / "out").glob("export-*/preset")
    preset = load_preset(str(folder))
    assert set(preset.weights) == {"occupancy", "reasoning", "planning", "adapter"}
    (driven,) = (tmp_path / "out").glob("rollouts-*/drives/*.safetensors")
    assert driven.name == "00001006-lead_brakes-0.9.safetensors"
    (went_on,) = (tmp_path / "out").glob("dagger-*/done.json")
    (before,) = (tmp_path / "out").glob("planning-*/done.json")
    items = [json.loads(file.read_text())["items"] for file in (went_on, before)]
    assert items[0] > items[1] + 1, "the drive's frame sets are learnt from too"
    assert build_planning(preset).uses_reasoning
    assert {"language", "forecast"} <= set(parts_of(preset.weights["reasoning"]))
    assert preset.reasoning.token_reads


def test_it_starts_from_shipped_weights_of_another_shape(toy: Path, tmp_path: Path) -> None:
    """A run whose steps change nothing ends in the weights it starts from, on other scenes."""
    run(toy, tmp_path / "first")
    (shipped,) = (tmp_path / "first").glob("export-*/preset")
    still = {"learning_rate": 1e-12, "ema_decay": 0.0}
    write_recipe(toy, cells=still, whole=still)
    scratch = load_recipe(str(toy))
    more = {
        "init_from": str(shipped),
        "data": RECIPE["data"] | {"first_scene": 1},
        "config": {"occupancy": {"depth_bins": 6}},
    }
    (toy / "recipe.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((toy / "recipe.yaml").read_text()) | more, sort_keys=False)
    )
    recipe = load_recipe(str(toy))
    assert recipe.key("cells") != scratch.key("cells")
    write_scene(scene_of(2, world_settings("train", 32, 64, 2)), scene_file(2, world_settings("train", 32, 64, 2)))
    run(toy, tmp_path / "second")
    assert {p.name for p in (tmp_path / "cache/backbone").rglob("*1.safetensors")} == {"00000001.safetensors"}
    start, end = weights(tmp_path / "first"), weights(tmp_path / "second")
    out = "decoder.proposals.out.weight"
    assert len(end[out]) == len(start[out]) - 2
    for name, value in end.items():
        if not name.startswith(("voxel_head.", "traffic_light_head.")) and value.ndim:
            torch.testing.assert_close(value, start[name][: len(value)], rtol=1e-3, atol=1e-4, msg=name)


def test_an_unreadable_start_is_refused(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"no weights")
    with pytest.raises(InvalidInput, match="init_from"):
        init_from(torch.nn.Linear(2, 2), tmp_path / "no.safetensors")
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidInput, match="no tensor of this network"):
        init_from(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")


def test_one_step_alone_and_in_little_time(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cells needs cache"):
        run(toy, tmp_path / "out", only=["cells"])
    run(toy, tmp_path / "out", only=["render", "cache", "cells"], minutes=0.02)
    (folder,) = (tmp_path / "out").glob("cells-*")
    done = json.loads((folder / "done.json").read_text())
    assert 1 <= done["steps"] <= 6
    assert (folder / "best.safetensors").is_file()
    assert not list((tmp_path / "out").glob("whole-*"))


def test_a_wrong_recipe_is_refused_by_name(toy: Path) -> None:
    for steps, message in (
        ({"cache": {}, "render": {}}, "order"), ({"fly": {}}, r"steps\.fly"), ({"render": {"hours": -1}}, "hours"),
    ):  # fmt: skip
        (toy / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"steps": steps}, sort_keys=False))
        with pytest.raises(InvalidInput, match=message):
            load_recipe(str(toy))
    for change, message in (
        ({"init_from": str(toy)}, "no weights to start from"),
        ({"init_from": "tiny"}, "first_scene"),
        ({"data": RECIPE["data"] | {"first_scene": 80_000}}, "first_scene"),
    ):
        (toy / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | change, sort_keys=False))
        with pytest.raises(InvalidInput, match=message):
            load_recipe(str(toy))


def test_the_recipe_of_tiny_has_every_step() -> None:
    recipe = load_recipe("tiny")
    assert [step.name for step in recipe.steps] == list(NEEDS)
    assert recipe.preset.occupancy.depth_bins == 64
    assert not recipe.preset.weights
    text = (recipe.preset.folder / "config.yaml").read_text()
    found = yaml.safe_load(changed(text, recipe.changes))
    assert found["occupancy"] == yaml.safe_load(text)["occupancy"] | {"depth_bins": 64}
    assert "weights" not in found
