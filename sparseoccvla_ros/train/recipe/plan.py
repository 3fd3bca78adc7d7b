"""Recipes: the steps that produce a preset's weights, from models/<preset>/recipe.yaml, and their dependencies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import InvalidInput
from ...core.files import file_sha256, read_yaml
from ...data.synthetic.dataset import SPLITS
from ...runtime.presets import ADAPTER, Preset, load_preset

FORMAT_VERSION = 1
NEEDS: dict[str, tuple[str, ...]] = {
    "render": (),
    "cache": ("render",),
    "cells": ("cache",),
    "whole": ("cache", "cells"),
    "voxel_head": ("render", "whole"),
    "traffic_lights": ("render", "whole", "voxel_head"),
    "anchors": (),
    "features": ("render", "whole", "voxel_head", "traffic_lights", "anchors"),
    "language": ("features", "anchors"),
    "reasoning_features": ("features", "language"),
    "planning": ("features", "anchors", "reasoning_features"),
    "rollouts": ("features", "anchors", "language", "planning"),
    "dagger": ("features", "anchors", "reasoning_features", "planning", "rollouts"),
    "forecast": ("features", "anchors", "reasoning_features"),
    "export": ("whole", "voxel_head", "traffic_lights", "anchors", "language", "planning", "dagger", "forecast"),
    "validation": ("export",),
    "report": ("cells", "whole", "language", "planning", "dagger", "forecast", "export", "validation"),
}
"""All steps a recipe can have, in execution order, with the steps whose results each uses."""
_VERSIONS = {"cells": 2, "whole": 2, "voxel_head": 3, "features": 4, "reasoning_features": 2, "planning": 4}
"""Version of steps whose output for the same options has changed; results of older versions are not reused."""
_LATER = ("language", "reasoning_features", "planning", "rollouts", "dagger", "forecast", "export")
"""Steps whose result also depends on the configuration of reasoning and planning."""
_FROM_INIT = ("cache", "cells", "whole", "language")
"""Steps that begin with the weights of `init`; the others depend on it through these."""


@dataclass(frozen=True)
class Step:
    """A step. hours: its budget; minutes: its time limit, None without --minutes; options: specific to the step, see
    steps.py."""

    name: str
    hours: float
    options: dict[str, Any]
    minutes: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe.

    preset: preset to train, without weights and with `changes` applied; changes: configuration values by section;
    seed: of initial weights, sample order and augmentation; scenes, validation: number of world seeds for training and
    validation; first_scene: first world seed for training; init: weights files that encoder and reasoner start from, by
    stage, none to start from random and ImageNet weights; init_digests: their sha256; steps: in execution order.
    """

    preset: Preset
    changes: dict[str, dict[str, Any]]
    seed: int
    scenes: int
    validation: int
    steps: tuple[Step, ...]
    first_scene: int = 0
    init: dict[str, Path] = field(default_factory=dict)
    init_digests: dict[str, str] = field(default_factory=dict)

    def step(self, name: str) -> Step:
        """Returns a step by name; raises InvalidInput("step", ...) if the recipe does not have it."""
        for step in self.steps:
            if step.name == name:
                return step
        raise InvalidInput("step", f"{name!r} is not one of {', '.join(s.name for s in self.steps)}")

    def needs(self, name: str) -> tuple[str, ...]:
        """Returns the steps of this recipe whose results a step uses; steps missing from the recipe are skipped."""
        there = {step.name for step in self.steps}
        return tuple(need for need in NEEDS[name] if need in there)

    def key(self, name: str) -> str:
        """Returns a hash of everything a step's result depends on: options, data, configuration, and prior steps.

        The budget in hours is excluded; `minutes` is included, because a time limit changes the result.
        """
        step = self.step(name)
        configs = [dataclasses.asdict(c) for c in (self.preset.image, self.preset.occupancy) if c is not None]
        later = [dataclasses.asdict(c) for c in (self.preset.reasoning, self.preset.planning) if c is not None]
        text = json.dumps([
            FORMAT_VERSION, name, step.options, step.minutes, self.seed, self.first_scene, self.scenes, self.validation,
            self.init_digests if name in _FROM_INIT else {},
            configs, later if name in _LATER else [],
            [self.key(need) for need in self.needs(name)], *([_VERSIONS[name]] if name in _VERSIONS else []),
        ], sort_keys=True)  # fmt: skip
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def folder(self, out: Path, name: str) -> Path:
        """Returns the output folder of a step."""
        return out / f"{name}-{self.key(name)}"

    def within(self, minutes: float, names: tuple[str, ...]) -> Recipe:
        """Returns the recipe limited to `minutes`, divided among the named steps in proportion to their budgets."""
        total = sum(s.hours for s in self.steps if s.name in names)
        if not total > 0:
            raise InvalidInput("minutes", "the steps to run have no budget in hours")
        steps = tuple(
            dataclasses.replace(s, minutes=minutes * s.hours / total) if s.name in names else s for s in self.steps
        )
        return dataclasses.replace(self, steps=steps)


def load_recipe(name: str) -> Recipe:
    """Loads the recipe of a preset, by name or folder. Raises InvalidInput naming what is wrong."""
    preset = load_preset(name)
    file = preset.folder / "recipe.yaml"
    if not file.is_file():
        raise InvalidInput("recipe", f"preset {preset.name} has no recipe: {file} is missing")
    content = read_yaml(file, "recipe")
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise InvalidInput("format_version", f"want {FORMAT_VERSION} in {file}")
    unknown = sorted(set(content) - {"format_version", "seed", "init_from", "data", "config", "steps"})
    if unknown:
        raise InvalidInput(unknown[0], f"is no section of {file}")
    data = content.get("data") or {}
    if not {"scenes", "validation"} <= set(data) <= {"first_scene", "scenes", "validation"}:
        raise InvalidInput("data", "want scenes and validation, and optionally first_scene")
    first, count = int(data.get("first_scene", 0)), int(data["scenes"])
    if not 0 <= first <= first + count <= len(SPLITS["train"]):
        raise InvalidInput("data.first_scene", f"want {count} scenes within the {len(SPLITS['train'])} for training")
    init = _init(content["init_from"]) if "init_from" in content else {}
    if init and "first_scene" not in data:
        raise InvalidInput(
            "data.first_scene", "is needed with init_from: scenes that those weights were not trained on"
        )
    changes = content.get("config") or {}
    for section, values in changes.items():
        config = getattr(preset, section, None)
        if not dataclasses.is_dataclass(config) or set(values) - {f.name for f in dataclasses.fields(config)}:
            raise InvalidInput(f"config.{section}", f"is no section of a preset, or has no such option: {values}")
        preset = dataclasses.replace(preset, **{section: dataclasses.replace(config, **values)})
    return Recipe(
        dataclasses.replace(preset, weights={}), changes, int(content.get("seed", 1)),
        count, int(data["validation"]), _steps(content.get("steps") or {}), first, init,
        {stage: file_sha256(file) for stage, file in init.items()},
    )  # fmt: skip


def _init(name: str) -> dict[str, Path]:
    """Returns the weights of a preset that a run can start from; raises InvalidInput("init_from") if it has none."""
    found = {s: f for s, f in load_preset(name).weights.items() if s in ("occupancy", "reasoning", ADAPTER)}
    if not found:
        raise InvalidInput("init_from", f"preset {name} has no weights to start from")
    return found


def _steps(found: dict[str, dict[str, Any]]) -> tuple[Step, ...]:
    unknown = sorted(set(found) - set(NEEDS))
    if unknown:
        raise InvalidInput(f"steps.{unknown[0]}", f"is not one of {', '.join(NEEDS)}")
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
