"""Running a recipe: finished steps are kept, interrupted ones resumed, and those with changed inputs redone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import InvalidInput
from ...core.files import written
from .plan import Recipe, Step

DONE, STATUS = "done.json", "status.json"
_SAY_SECONDS = 30.0


@dataclass
class ProgressReporter:
    """Reports a run's progress every half minute: a line through `say`, and OUT/status.json."""

    recipe: Recipe
    out: Path
    steps: tuple[str, ...]
    say: Callable[[str], None]
    _began: float = field(default_factory=time.monotonic)
    _said: float = float("-inf")
    _step: str = ""

    def begin(self, step: str) -> None:
        """Start (or resume) a step."""
        self._step, self._began, self._said = step, time.monotonic(), float("-inf")

    def report(self, share: float, note: str = "", left: float | None = None) -> None:
        """Report progress. share: done fraction of the step, 0..1; left: its remaining seconds, estimated if None."""
        now = time.monotonic()
        if now - self._said < _SAY_SECONDS and share < 1.0:
            return
        self._said = now
        if left is None:
            left = (now - self._began) * (1.0 - share) / share if share > 0 else 0.0
        place = self.steps.index(self._step)
        later = sum(3600.0 * self.recipe.step(s).hours for s in self.steps[place + 1 :])
        status = {
            "step": self._step, "number": place + 1, "of": len(self.steps), "share": round(share, 4), "note": note,
            "step_seconds_left": round(left), "seconds_left": round(left + later),
        }  # fmt: skip
        write_json(self.out / STATUS, status)
        self.say(
            f"[{place + 1}/{len(self.steps)} {self._step}] {100 * share:5.1f} %  {note}  "
            f"{_duration(left)} left of it, about {_duration(left + later)} in all"
        )


@dataclass(frozen=True)
class Context:
    """Environment of a step.

    folder: the step's output folder; device: cpu or cuda; workers: number of processes that render and encode.
    """

    recipe: Recipe
    step: Step
    out: Path
    folder: Path
    device: str
    workers: int
    progress: ProgressReporter

    def result(self, step: str, file: str) -> Path | None:
        """Returns a file written by an earlier step; None if the recipe lacks the step or the file is missing."""
        if all(step != s.name for s in self.recipe.steps):
            return None
        path = self.recipe.folder(self.out, step) / file
        return path if path.is_file() else None


def run_recipe(
    recipe: Recipe, works: Mapping[str, Callable[[Context], dict[str, Any]]], out: Path, only: Sequence[str] = (),
    device: str = "cpu", workers: int = 1, minutes: float | None = None, say: Callable[[str], None] = print,
) -> Recipe:  # fmt: skip
    """Run the steps that are not done, of all or of those named by `only`; returns the recipe as it was run.

    works: function of each step (steps.STEPS); minutes: total time limit, divided in proportion to the budgets.
    Raises InvalidInput if a required step is not done.
    """
    names = tuple(only) or tuple(step.name for step in recipe.steps)
    for name in names:
        recipe.step(name)
    names = tuple(step.name for step in recipe.steps if step.name in names)
    if minutes is not None:
        recipe = recipe.within(minutes, names)
    out.mkdir(parents=True, exist_ok=True)
    progress = ProgressReporter(recipe, out, names, say)
    for name in names:
        folder = recipe.folder(out, name)
        if (folder / DONE).is_file():
            say(f"[{name}] is done: {folder}")
            continue
        for need in recipe.needs(name):
            if not (recipe.folder(out, need) / DONE).is_file():
                raise InvalidInput("only", f"{name} needs {need}, which is not done in {out}")
        folder.mkdir(parents=True, exist_ok=True)
        progress.begin(name)
        spent = _spent(folder)
        began = time.monotonic()
        context = Context(recipe, recipe.step(name), out, folder, device, workers, progress)
        try:
            found = works[name](context)
        finally:
            write_json(folder / "spent.json", {"seconds": spent + time.monotonic() - began})
        write_json(folder / DONE, {"step": name, "seconds": round(_spent(folder), 1), **found})
        say(f"[{name}] done in {_duration(_spent(folder))}: {folder}")
    return recipe


def _spent(folder: Path) -> float:
    try:
        return float(json.loads((folder / "spent.json").read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with written(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _duration(seconds: float) -> str:
    minutes = seconds / 60.0
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
