"""A preset's reasoning comes with the adapter it was trained with."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.reasoning.llm.lora import adapter_parameters, has_adapter
from sparseoccvla_ros.runtime.factory import build_reasoning
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train.export_weights import ship

REASONING = {"language_model": "random-tiny", "dtype": "float32", "lora_r": 2}


def write(folder: Path, names: tuple[str, ...]) -> None:
    files = {n: folder / f"{n}.safetensors" for n in names}
    weights = {n: {"file": f.name, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for n, f in files.items()}
    content = {"format_version": 1, "name": "small", "reasoning": REASONING, "weights": weights}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset whose bridge and adapter are known."""
    made = tmp_path_factory.mktemp("original")
    shutil.copy(share("models", "tiny", "anchors.npz"), made)
    write(made, ())
    reasoner = build_reasoning(load_preset(str(made)))
    reasoner.add_adapter()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in [p for _, p in adapter_parameters(reasoner.language_model)]:
            parameter.normal_(0, 0.1)
    save_file(reasoner.state_dict(), made / "reasoning.safetensors")
    reasoner.save_adapter(made / "adapter.safetensors")
    return made


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path, dirs_exist_ok=True))


def test_the_adapter_is_merged(folder: Path) -> None:
    tokens = []
    for names in (("reasoning",), ("reasoning", "adapter")):
        write(folder, names)
        preset = load_preset(str(folder))
        assert preset.untrained == ("occupancy", "planning")
        reasoner = build_reasoning(preset)
        assert reasoner.trained
        assert not has_adapter(reasoner.language_model)
        model = reasoner.language_model
        with torch.inference_mode():
            tokens.append(model.forward(model.embed([5, 6, 7]))[0])
    assert (tokens[0] - tokens[1]).abs().max() > 1e-2


def test_an_adapter_ships_beside_its_bridge(folder: Path) -> None:
    write(folder, ())
    for stage in ("reasoning", "adapter", "reasoning"):
        source = folder / f"{stage}.safetensors"
        ship(source.rename(folder / "source.safetensors"), folder, stage)
    preset = load_preset(str(folder))
    assert set(preset.weights) == {"reasoning", "adapter"}
    assert build_reasoning(preset).trained


def test_an_adapter_needs_its_bridge_and_must_be_whole(folder: Path) -> None:
    write(folder, ("adapter",))
    with pytest.raises(InvalidInput) as error:
        load_preset(str(folder))
    assert error.value.field == "weights.adapter"
    file = folder / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    write(folder, ("reasoning", "adapter"))
    preset = load_preset(str(folder))
    with pytest.raises(InvalidInput, match=r"adapter\.safetensors cannot be read") as error:
        build_reasoning(preset)
    assert error.value.field == "adapter"
