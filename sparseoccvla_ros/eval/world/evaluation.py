"""The loop over seeds: render, drive the chain through each clip, hand every task what it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.types import CommandSource, Plan
from ...core.voxels import SparseVoxels
from ...data.world_cache import WorldSettings, load_scene, prepare_scenes
from ...data.world_samples import world_settings
from ...planning.anchors import AnchorSet
from ...runtime.presets import STAGES, load_preset
from ...world.questions import questions
from . import forecast, language, occupancy, planning
from .chain import Chain, Stages, Step, blinded
from .drives import Drive
from .intervals import Estimate
from .known import SEEDS, Known, known
from .seeds import warnings_about, weight_files
from .tables import Block

TASKS = ("occupancy", "forecast", "planning", "language")
SCENES = 24
"""Scenes of a split that are judged unless seeds are given: with 24 questioned moments they take about a quarter of an
hour on two idle cores, the first time included."""
SAMPLES = 24
PICTURED = 3
"""Scenes that get a picture."""
Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Request:
    """What to evaluate. preset: name or folder; seeds: of the world; samples: moments that are asked questions, spread
    over the seeds; untrained: also run stages that have no weights; csv: file for every plan. Raises InvalidInput."""

    preset: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...] = TASKS
    samples: int = SAMPLES
    untrained: bool = False
    csv: Path | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown or not self.tasks:
            raise InvalidInput("tasks", f"want some of {', '.join(TASKS)}, got {', '.join(unknown) or 'none'}")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InvalidInput("seeds", "want distinct seeds from 0 on")
        if self.samples < 0:
            raise InvalidInput("samples", f"want 0 or more, got {self.samples}")


@dataclass(frozen=True, eq=False)
class Shown:
    """What one picture shows. images uint8 [6, H, W, 3] in order of CAMERAS; truth, seen: uint8 [X, Y, Z], all of it
    and what a camera sees (the rest free); waypoints float64 [6, 2] m, driven; future: uint8 [3, X, Y, Z] true labels
    at +1, +2, +3 s, or None; predicted, forecasts, plan: None without their stage. Forecasts lie in the ego frames of
    their own times, as `future` does."""

    name: str
    images: np.ndarray
    truth: np.ndarray
    seen: np.ndarray
    waypoints: np.ndarray
    future: np.ndarray | None
    predicted: SparseVoxels | None
    forecasts: tuple[SparseVoxels, ...] | None
    plan: Plan | None


@dataclass(frozen=True, eq=False)
class Section:
    """A task's part of the page: tables, ready Markdown behind them."""

    title: str
    blocks: list[Block]
    markdown: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class WorldReport:
    """Everything an evaluation found. numbers: plain, for json.dump; warnings: what forbids to quote the numbers."""

    request: Request
    numbers: dict[str, Any]
    sections: list[Section]
    warnings: list[str]
    shown: list[Shown]


class _Run:
    def __init__(self, request: Request, on_progress: Progress) -> None:
        self.request, self.progress = request, on_progress
        self.preset = load_preset(request.preset)
        self.warnings = warnings_about(self.preset, request.seeds, SEEDS)
        on_progress("building the stages", 0, 1)
        driven = bool({"forecast", "planning"} & set(request.tasks))
        wanted = STAGES if driven else STAGES[:2] if "language" in request.tasks else STAGES[:1]
        self.stages = Stages.build(self.preset, request.untrained, wanted)
        seeing = self.stages if driven else self.stages.only_encoder()
        self.chain = None if self.stages.encoder is None else Chain(seeing)
        self.known: Known | None = None
        if request.tasks != ("forecast",):
            self.known = known(
                SEEDS, on_progress=lambda done, total: on_progress("reading training seeds", done, total)
            )
        planner = self.stages.planner
        anchors = None if self.preset.anchors is None else AnchorSet.load(self.preset.anchors).flat
        self.occupancy = occupancy.OccupancyTask()
        self.forecast = forecast.ForecastTask()
        self.planning = planning.PlanningTask(planner, anchors)
        self.language = language.LanguageTask(self.stages.reasoner)
        self.seconds: dict[str, list[float]] = {}
        self.shown: list[Shown] = []

    def asked(self, place: int, presents: list[int]) -> set[int]:
        """Sets of the scene at `place` that are asked questions."""
        scenes, samples = len(self.request.seeds), self.request.samples
        count = min(samples // scenes + (place < samples % scenes), len(presents))
        return {presents[int((k + 0.5) * len(presents) / count)] for k in range(count)}

    def drive(self, place: int, drive: Drive) -> None:
        """One scene through every task."""
        steps, blind = self._steps(drive, 2 * place * len(drive.clips))
        asked = self.asked(place, drive.presents) if "language" in self.request.tasks else set()
        for index in drive.presents:
            pictured = place < PICTURED and index == drive.presents[len(drive.presents) // 2]
            self._judge(drive, index, steps.get(index), blind.get(index), index in asked, pictured)

    def _steps(self, drive: Drive, epoch: int) -> tuple[dict[int, Step], dict[int, Step]]:
        """What the chain makes of every set, with sight and blind; empty without an encoder."""
        found: tuple[dict[int, Step], dict[int, Step]] = {}, {}
        if self.chain is None:
            return found
        # Plans of the blind are judged; of everyone else who is blind, the queries are enough.
        blind = self.chain if "planning" in self.request.tasks else Chain(self.stages.only_encoder())
        for number, clip in enumerate(drive.clips):
            for steps, chain, seeing in zip(found, (self.chain, blind), (True, False), strict=True):
                for index in clip:
                    frames = drive.frames(index, epoch + 2 * number + (not seeing))
                    frames = frames if seeing else blinded(frames)
                    step = chain.step(frames, drive.history(index), drive.command(index), CommandSource.ROUTE)
                    steps[index] = step
                    for stage, value in step.seconds.items() if seeing else ():
                        self.seconds.setdefault(stage, []).append(value)
        return found

    def _judge(
        self, drive: Drive, index: int, step: Step | None, blind: Step | None, asked: bool, pictured: bool
    ) -> None:
        tasks = self.request.tasks
        truth, visible = drive.semantics(index)
        future = told = None
        if "occupancy" in tasks and self.known is not None:
            self.occupancy.add(occupancy.PRIOR, drive.name, self.known.prior, truth, visible)
            for row, found in ((occupancy.MODEL, step), (occupancy.BLIND, blind)):
                if found is not None:
                    self.occupancy.add(row, drive.name, found.voxels.dense(), truth, visible)
        if "forecast" in tasks:
            future = drive.future_semantics(index)
            told = self._forecasts(drive, index, step)
            self.forecast.add(
                drive.name, truth, drive.rendered.pose[index], drive.future_poses(index), future,
                None if step is None else step.voxels, told,
            )  # fmt: skip
        if "planning" in tasks:
            self._plan(drive, index, step, blind)
        if asked:
            self.language.add(
                language.Asked(
                    drive.name, drive.token(index), language.closed(questions(drive.view(index))),
                    None if step is None else step.queries, None if blind is None else blind.queries,
                )
            )  # fmt: skip
        if pictured:
            waypoints = (geometry.inverse(drive.rendered.pose[index]) @ drive.rendered.future[index])[:, :2, 3]
            self.shown.append(
                Shown(
                    drive.token(index), drive.rendered.images(index), truth,
                    np.where(visible, truth, np.uint8(17)).astype(np.uint8), waypoints, future,
                    None if step is None else step.voxels, told[forecast.PLANNED] if told else None,
                    None if step is None else step.plan,
                )
            )  # fmt: skip

    def _forecasts(self, drive: Drive, index: int, step: Step | None) -> dict[str, tuple[SparseVoxels, ...]] | None:
        reasoner = self.stages.reasoner
        if step is None or reasoner is None or step.reasoning is None:
            return None
        pose = drive.rendered.pose[index]
        where = geometry.inverse(pose) @ drive.future_poses(index)
        motions = forecast.told_motions(step.motion, step.queries.ego.twist, pose, drive.rendered.future[index])
        return {
            row: forecast.forecasts(reasoner, step.queries, step.reasoning, motion, where)
            for row, motion in motions.items()
        }

    def _plan(self, drive: Drive, index: int, step: Step | None, blind: Step | None) -> None:
        token, planner = drive.token(index), self.stages.planner
        self.planning.add(drive.sample(index))
        if planner is None or step is None or blind is None:
            return
        inputs = planning.planner_inputs(token, step, drive.history(index), planner, drive.command(index))
        self.planning.answer(planning.CHAIN, token, step, inputs)
        self.planning.answer(planning.BLIND, token, blind)

    def finish(self) -> WorldReport:
        """Numbers, tables and pictures of what was collected."""
        tasks, absent = self.request.tasks, self.stages.absent
        numbers: dict[str, Any] = {}
        sections = []
        if "occupancy" in tasks:
            numbers["occupancy"], blocks = self.occupancy.result()
            sections.append(Section("Occupancy", blocks + _absent(absent, "occupancy")))
        if "forecast" in tasks:
            numbers["forecast"], blocks = self.forecast.result()
            sections.append(Section("Forecast", blocks + _absent(absent, "reasoning")))
        if "planning" in tasks and self.known is not None:
            self.progress("scoring plans", 0, 1)
            numbers["planning"], blocks, markdown = self.planning.result(self.known, self.request.csv)
            sections.append(Section("Planning", blocks + _absent(absent, "planning"), markdown))
        if "language" in tasks and self.known is not None:
            numbers["language"], blocks = self.language.result(
                self.known, lambda done, total: self.progress("asking questions", done, total)
            )
            sections.append(Section("Language", blocks + _absent(absent, "reasoning")))
        numbers["latency"], block = _latency(self.seconds)
        sections.append(Section("Latency", [block]))
        head = {
            "preset": self.preset.name, "seeds": list(self.request.seeds), "tasks": list(tasks),
            "samples": self.request.samples, "random": [s for s in self.stages.running if s in self.preset.untrained],
            "weights": weight_files(self.preset), "absent": absent,
            "known_seeds": [] if self.known is None else list(self.known.seeds), "warnings": self.warnings,
        }  # fmt: skip
        return WorldReport(self.request, plain(head | numbers), sections, self.warnings, self.shown)


def evaluate_world(request: Request, on_progress: Progress = lambda what, done, total: None) -> WorldReport:
    """Evaluate a preset on seeds of the world; missing scenes are rendered by another process meanwhile.

    Uses the CPU with as many threads as torch is set to. Raises InvalidInput naming the field.
    """
    run = _Run(request, on_progress)
    settings = world_settings("test", run.preset.image.height, run.preset.image.width, run.preset.occupancy.frames)
    for place, drive in enumerate(_drives(request.seeds, settings, run.preset.occupancy.frames)):
        on_progress("driving", place, len(request.seeds))
        run.drive(place, drive)
    on_progress("driving", len(request.seeds), len(request.seeds))
    return run.finish()


def _drives(seeds: Sequence[int], settings: WorldSettings, frames: int) -> Iterator[Drive]:
    """Every seed in order as soon as it is there; rendering runs ahead in a process of its own."""
    there: set[int] = set()
    with closing(prepare_scenes(seeds, settings, workers=max(1, (os.cpu_count() or 2) - 1))) as ready:
        for seed in seeds:
            while seed not in there:
                there.add(next(ready))
            yield Drive(load_scene(seed, settings), frames)


def _absent(absent: dict[str, str], stage: str) -> list[Block]:
    return [Block("Not run", notes=[f"{absent[stage]}: baselines only."])] if stage in absent else []


def _latency(seconds: dict[str, list[float]]) -> tuple[dict[str, Any], Block]:
    """Milliseconds per stage of the sighted chain; the first set of every clip refills the memories and counts too."""
    rows, numbers = [], {}
    total = np.array([sum(v) for v in zip(*seconds.values(), strict=True)]) if seconds else np.zeros(0)
    for stage, values in [*seconds.items(), ("together", total)] if seconds else []:
        spread = 1e3 * np.quantile(np.asarray(values), (0.5, 0.95))
        numbers[stage] = {"n": len(values), "median_ms": float(spread[0]), "p95_ms": float(spread[1])}
        rows.append([stage, str(len(values)), *(f"{v:.0f}" for v in spread)])
    numbers |= {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
    note = f"Wall time on {numbers['cores']} cores with {numbers['threads']} threads, while another process may render."
    return numbers, Block("Milliseconds per frame set", ["stage", "n", "median", "p95"], rows, [note])


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts for json.dump; NaN becomes None."""
    if isinstance(value, Estimate):
        return plain({"value": value.value, "interval": value.interval})
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
