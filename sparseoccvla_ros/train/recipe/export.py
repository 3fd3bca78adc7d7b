"""Export of a recipe run to a preset folder, and installation of that folder into the preset."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from ...core.errors import InvalidInput
from ...runtime.presets import Preset
from ..checkpoint import ADAPTER_FILE
from ..export_weights import ship
from ..trainer import BEST
from .plan import Recipe
from .run import DONE, Context

ANCHORS = "anchors.npz"


def trained_preset(context: Context) -> Preset:
    """Returns the recipe's preset with the newly fitted anchors, if any."""
    preset = context.recipe.preset
    return dataclasses.replace(preset, anchors=context.result("anchors", ANCHORS) or preset.anchors)


def encoder_weights(context: Context) -> Path | None:
    """Returns the weights of the trained encoder, with the heads fitted so far; None before the step whole."""
    return next(filter(None, (context.result(s, BEST) for s in ("traffic_lights", "voxel_head", "whole"))), None)


def export_preset(context: Context) -> dict[str, Any]:
    """Write a preset folder with all trained weights."""
    recipe, folder = context.recipe, context.folder / "preset"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text = (recipe.preset.folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(changed(text, recipe.changes), encoding="utf-8")
    anchors = trained_preset(context).anchors
    if anchors is not None and recipe.preset.anchors is not None:
        shutil.copyfile(anchors, folder / recipe.preset.anchors.name)
    found = {
        "occupancy": encoder_weights(context) or context.result("cells", BEST),
        "reasoning": context.result("forecast", BEST) or context.result("language", BEST),
        "planning": context.result("dagger", BEST) or context.result("planning", BEST),
        "adapter": context.result("language", ADAPTER_FILE),
    }
    for stage, file in found.items():
        if file is not None:
            ship(file, folder, stage)
    return {"preset": str(folder), "weights": [stage for stage, file in found.items() if file is not None]}


def install(recipe: Recipe, out: Path) -> list[str]:
    """Copy the exported preset's files into the preset itself; returns their names, config.yaml last.

    Raises InvalidInput("export") if the run has not exported yet.
    """
    source = recipe.folder(out, "export")
    if not (source / DONE).is_file():
        raise InvalidInput("export", f"{out} has exported nothing yet")
    names = sorted((p.name for p in (source / "preset").iterdir()), key=lambda name: name == "config.yaml")
    for name in names:
        shutil.copyfile(source / "preset" / name, recipe.preset.folder / name)
    return names


def changed(text: str, changes: dict[str, dict[str, Any]]) -> str:
    """Returns the text of config.yaml without its weights and with the recipe's changes; comments are kept."""
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if line and not line.startswith((" ", "\t", "#")):
            section = line.split(":")[0]
        name = line.split(":")[0].strip()
        if section == "weights" and not line.startswith("#"):
            continue
        if line.startswith(" ") and name in changes.get(section, {}):
            continue
        lines.append(line)
        if line == f"{section}:":
            lines += [f"  {option}: {value}" for option, value in changes.get(section, {}).items()]
    present = {line.removesuffix(":") for line in lines if not line.startswith(" ")}
    for section in set(changes) - present:
        lines += [f"{section}:", *(f"  {name}: {value}" for name, value in changes[section].items())]
    return "\n".join(lines) + "\n"
