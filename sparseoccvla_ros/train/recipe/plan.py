"""A recipe: the steps that make a preset's weights, from models/<preset>/recipe.yaml, and what each depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import InvalidInput
from ...core.files import read_yaml
from ...runtime.presets import Preset, load_preset

FORMAT_VERSION = 1
NEEDS: dict[str, tuple[str, ...]] = {
    "render": (),
    "cache": ("render",),
    "cells": ("cache",),
    "whole": ("cache", "cells"),
    "voxel_head": ("render", "whole"),
    "anchors": (),
    "features": ("render", "whole", "voxel_head", "anchors"),
    "language": ("features", "anchors"),
    "reasoning_features": ("features", "language"),
    "planning": ("features", "anchors", "reasoning_features"),
    "forecast": ("features", "anchors", "reasoning_features"),
    "export": ("whole", "voxel_head", "anchors", "language", "planning", "forecast"),
    "validation": ("export",),
    "report": ("cells", "whole", "language", "planning", "forecast", "export", "validation"),
}
"""Every step that a recipe can have, in the order in which they run, and the steps whose results it uses."""
_VERSIONS = {"features": 2, "reasoning_features": 2}
"""Of steps that make other things from the same options than they did: what an older version made is not taken."""
_LATER = ("language", "reasoning_features", "planning", "forecast", "export")


@dataclass(frozen=True)
class Step:
    """One step. hours: its budget; minutes: where it must end by, None without --minutes; options: by step, see
    steps.py."""

    name: str
    hours: float
    options: dict[str, Any]
    minutes: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe.

    preset: what is trained, with the changes of its configuration that the recipe asks for, and without weights;
    changes: those, by section; seed: of weights, order and augmentation; scenes, validation: how many seeds of the
    world are learnt from and validated on; steps: in the order in which they run.
    """

    preset: Preset
    changes: dict[str, dict[str, Any]]
    seed: int
    scenes: int
    validation: int
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """A step by name. Raises InvalidInput("step", ...) where the recipe has none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise InvalidInput("step", f"{name!r} is none of {', '.join(s.name for s in self.steps)}")

    def needs(self, name: str) -> tuple[str, ...]:
        """The steps of this recipe whose results a step uses; of what the recipe leaves out, nothing is used."""
        there = {step.name for step in self.steps}
        return tuple(need for need in NEEDS[name] if need in there)

    def key(self, name: str) -> str:
        """Hash of all that a step's result depends on: options, data, configuration, and the steps before it.

        The budget is no part of it, but for `minutes`: a step that had to end early is another one.
        """
        step = self.step(name)
        configs = [dataclasses.asdict(c) for c in (self.preset.image, self.preset.occupancy) if c is not None]
        later = [dataclasses.asdict(c) for c in (self.preset.reasoning, self.preset.planning) if c is not None]
        text = json.dumps([
            FORMAT_VERSION, name, step.options, step.minutes, self.seed, self.scenes, self.validation,
            configs, later if name in _LATER else [],
            [self.key(need) for need in self.needs(name)], *([_VERSIONS[name]] if name in _VERSIONS else []),
        ], sort_keys=True)  # fmt: skip
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def folder(self, out: Path, name: str) -> Path:
        """Where a step keeps what it made."""
        return out / f"{name}-{self.key(name)}"

    def within(self, minutes: float, names: tuple[str, ...]) -> Recipe:
        """The same in `minutes`, shared among the named steps in the proportion of their budgets."""
        total = sum(s.hours for s in self.steps if s.name in names)
        if not total > 0:
            raise InvalidInput("minutes", "the steps to run have no budget in hours")
        steps = tuple(
            dataclasses.replace(s, minutes=minutes * s.hours / total) if s.name in names else s for s in self.steps
        )
        return dataclasses.replace(self, steps=steps)


def load_recipe(name: str) -> Recipe:
    """The recipe of a preset, by name or folder. Raises InvalidInput naming what is wrong."""
    preset = load_preset(name)
    file = preset.folder / "recipe.yaml"
    if not file.is_file():
        raise InvalidInput("recipe", f"preset {preset.name} has no recipe: {file} is missing")
    content = read_yaml(file, "recipe")
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise InvalidInput("format_version", f"want {FORMAT_VERSION} in {file}")
    unknown = sorted(set(content) - {"format_version", "seed", "data", "config", "steps"})
    if unknown:
        raise InvalidInput(unknown[0], f"is no section of {file}")
    data = content.get("data") or {}
    if set(data) != {"scenes", "validation"}:
        raise InvalidInput("data", "want scenes and validation")
    changes = content.get("config") or {}
    for section, values in changes.items():
        config = getattr(preset, section, None)
        if not dataclasses.is_dataclass(config) or set(values) - {f.name for f in dataclasses.fields(config)}:
            raise InvalidInput(f"config.{section}", f"is no section of a preset, or has no such option: {values}")
        preset = dataclasses.replace(preset, **{section: dataclasses.replace(config, **values)})
    return Recipe(
        dataclasses.replace(preset, weights={}), changes, int(content.get("seed", 1)),
        int(data["scenes"]), int(data["validation"]), _steps(content.get("steps") or {}),
    )  # fmt: skip


def _steps(found: dict[str, dict[str, Any]]) -> tuple[Step, ...]:
    unknown = sorted(set(found) - set(NEEDS))
    if unknown:
        raise InvalidInput(f"steps.{unknown[0]}", f"is none of {', '.join(NEEDS)}")
    if list(found) != [name for name in NEEDS if name in found]:
        raise InvalidInput("steps", f"want them in the order in which they run: {', '.join(NEEDS)}")
    out = []
    for name, values in found.items():
        options = dict(values or {})
        hours = float(options.pop("hours", 0.0))
        if not 0.0 <= hours < float("inf"):
            raise InvalidInput(f"steps.{name}.hours", f"want a number from 0, got {hours}")
        out.append(Step(name, hours, options))
    return tuple(out)
