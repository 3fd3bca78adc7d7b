"""Weights belong to stages: one can be trained while others are not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.occupancy import checkpoints
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.runtime.factory import build_occupancy, build_planning
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train.export_weights import ship

SMALL = {"pretrained": False, "strides": [16, 32], "embed_dims": 32, "queries": 8, "points_per_layer": [2, 4]}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset with a small encoder whose file of weights is known, and an untrained rest."""
    made = tmp_path_factory.mktemp("original")
    shutil.copy(share("models", "tiny", "anchors.npz"), made)
    write(made, None)
    torch.manual_seed(5)
    checkpoints.save(OccupancyEncoder(load_preset(str(made)).occupancy), made / "occupancy.safetensors")
    digest = hashlib.sha256((made / "occupancy.safetensors").read_bytes()).hexdigest()
    write(made, {"occupancy": {"file": "occupancy.safetensors", "sha256": digest}})
    return made


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path, dirs_exist_ok=True))


def write(folder: Path, weights: dict | None) -> None:
    content = {"format_version": 1, "name": "small", "occupancy": SMALL, "weights": weights}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def test_one_stage_is_trained_and_the_others_are_not(folder: Path) -> None:
    preset = load_preset(str(folder))
    assert preset.untrained == ("reasoning", "planning")
    assert not preset.trained
    encoder = build_occupancy(preset)
    assert encoder.trained
    assert not build_planning(preset).trained
    torch.manual_seed(5)
    want = OccupancyEncoder(preset.occupancy)
    for (name, a), b in zip(want.state_dict().items(), encoder.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_without_weights_nothing_is_trained(folder: Path) -> None:
    write(folder, None)
    preset = load_preset(str(folder))
    assert preset.untrained == ("occupancy", "reasoning", "planning")
    assert not build_occupancy(preset).trained


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"vision": {"file": "occupancy.safetensors"}}, r"weights\.vision: is no stage"),
        ({"occupancy": {"file": "nothing.safetensors"}}, r"weights\.occupancy: .*is missing"),
        ({"occupancy": {"file": "anchors.npz"}}, r"weights\.occupancy: .*not safetensors"),
        ({"occupancy": {"file": "occupancy.safetensors", "sha256": "0"}}, r"weights\.occupancy: .*the config says 0"),
        ({"file": "occupancy.safetensors"}, "want a file and its sha256 for each stage"),
    ],
)
def test_wrong_entries_are_named(folder: Path, weights: dict, message: str) -> None:
    write(folder, weights)
    with pytest.raises(InvalidInput, match=message):
        load_preset(str(folder))


def test_weights_of_another_stage_do_not_load(folder: Path) -> None:
    digest = hashlib.sha256((folder / "occupancy.safetensors").read_bytes()).hexdigest()
    write(folder, {"planning": {"file": "occupancy.safetensors", "sha256": digest}})
    with pytest.raises(InvalidInput, match=r"weights\.planning: occupancy.safetensors"):
        build_planning(load_preset(str(folder)))


def test_a_run_is_shipped_into_a_preset(folder: Path) -> None:
    before = build_occupancy(load_preset(str(folder)))
    (folder / "occupancy.safetensors").rename(folder / "best.safetensors")
    (folder / "config.yaml").write_text("# A comment stays.\n" + (folder / "config.yaml").read_text())
    target = ship(folder / "best.safetensors", folder, "occupancy")
    assert target.stat().st_size < 0.7 * (folder / "best.safetensors").stat().st_size
    assert (folder / "config.yaml").read_text().startswith("# A comment stays.\n")
    after = build_occupancy(load_preset(str(folder)))
    assert after.trained
    for (name, a), b in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6, msg=name)
    with pytest.raises(InvalidInput, match="not of planning"):
        ship(target, folder, "planning")
