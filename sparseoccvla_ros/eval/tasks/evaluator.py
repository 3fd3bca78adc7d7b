"""Runs drives through the chain and all tasks, in one or several processes with identical numbers.

Each drive yields a `PartialResult`; they are merged in the order of the drives, whichever process made them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ...core.errors import InvalidInput
from ...core.types import HORIZONS, STEP_SECONDS, CameraFrames, Plan
from ...core.voxels import SparseVoxels
from ...pipeline import SparseOccVLA, StepResult
from ...planning.anchors import AnchorSet
from ...planning.plan_words import plan_action
from ...runtime.presets import STAGES, Preset
from ..metrics.intervals import Estimate
from ..metrics.moving_voxels import moving_plans
from ..metrics.plan_reactions import reaction_sums
from ..report.tables import Block
from . import captions, forecast, language, occupancy, planning
from .ablations import run_ablations
from .drive import Drive
from .forecast import ForecastTask
from .language import LanguageTask
from .occupancy import OccupancyTask
from .plan_agreement import Driven
from .planning import PlanningTask
from .priors import TrainingPriors

TASKS = ("occupancy", "forecast", "planning", "language")
PICTURED = 3
"""Number of drives with a picture."""
Progress = Callable[[str, int, int], None]
"""Called with (activity, done, total)."""
T = TypeVar("T")
Gather = Callable[[list[T]], list[T]]
"""Concatenates the lists of all processes, in every process."""
_AHEAD = [round(h / STEP_SECONDS) - 1 for h in HORIZONS]

BLACK = 1
"""Grey level (of 255) of images for the blind model: at 0 the encoder would treat the cameras as broken."""


def blinded(frames: CameraFrames) -> CameraFrames:
    """Returns the set with black images."""
    return replace(frames, images=np.full_like(frames.images, BLACK))


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation settings. tasks: some of TASKS; samples: moments with closed questions, spread over the drives;
    captions: number of these moments that also get captions; caption_tokens: maximum per caption; csv: file for all
    plans; rays_from: description of the RayIoU ray origins. Raises InvalidInput naming the field."""

    tasks: tuple[str, ...] = TASKS
    samples: int = 24
    captions: int = 0
    caption_tokens: int = language.CAPTION_TOKENS
    csv: Path | None = None
    rays_from: str = "the lidar's place at the moment itself; published numbers use up to eight places"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown or not self.tasks:
            raise InvalidInput("tasks", f"want some of {', '.join(TASKS)}, got {', '.join(unknown) or 'none'}")
        for name in ("samples", "captions"):
            if getattr(self, name) < 0:
                raise InvalidInput(name, f"want 0 or more, got {getattr(self, name)}")
        if self.caption_tokens < 1:
            raise InvalidInput("caption_tokens", f"want 1 or more, got {self.caption_tokens}")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages required by the tasks."""
        if {"forecast", "planning"} & set(self.tasks):
            return STAGES
        return STAGES[:2] if "language" in self.tasks else STAGES[:1]


@dataclass(frozen=True, eq=False)
class Visualization:
    """Content of one picture. images: uint8 [6, H, W, 3] in order of CAMERAS; seen: uint8 [X, Y, Z], true labels that a
    camera sees (the rest free), None without labels; waypoints: float64 [6, 2] m, driven; future: uint8 [3, X, Y, Z]
    true labels at +1, +2, +3 s, or None; predicted, forecasts, plan: None without their stage. Forecasts are in the
    ego frames of their own times, like `future`."""

    name: str
    images: np.ndarray
    seen: np.ndarray | None
    waypoints: np.ndarray
    future: np.ndarray | None
    predicted: SparseVoxels | None
    forecasts: tuple[SparseVoxels, ...] | None
    plan: Plan | None


@dataclass(frozen=True, eq=False)
class Section:
    """A task's section of the page: tables, followed by ready Markdown."""

    title: str
    blocks: list[Block]
    markdown: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """Result of an evaluation. title, facts: what was evaluated, for the head of the page; numbers: plain, for
    json.dump; warnings: why the numbers must not be quoted; shown: pictures."""

    title: str
    facts: list[str]
    numbers: dict[str, Any]
    sections: list[Section]
    warnings: list[str]
    shown: list[Visualization]


@dataclass(eq=False)
class PartialResult:
    """Result of one drive, or of several merged, from which everything reported is computed. Picklable.

    seconds: wall-clock time by stage of every step except blind ones; windowed: forecasts of SparseWorld's moments.
    """

    place: int = 0
    occupancy: OccupancyTask = field(default_factory=OccupancyTask)
    forecast: ForecastTask = field(default_factory=ForecastTask)
    windowed: ForecastTask = field(default_factory=ForecastTask)
    planning: PlanningTask = field(default_factory=PlanningTask)
    language: LanguageTask = field(default_factory=LanguageTask)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    shown: list[Visualization] = field(default_factory=list)


def together(parts: Iterable[PartialResult]) -> PartialResult:
    """Merges all parts in the order of their drives, independent of the order given."""
    whole = PartialResult()
    for part in sorted(parts, key=lambda p: p.place):
        for name in ("occupancy", "forecast", "windowed", "planning", "language"):
            getattr(whole, name).merge(getattr(part, name))
        whole.shown += part.shown
        for stage, values in part.seconds.items():
            whole.seconds.setdefault(stage, []).extend(values)
    return whole


class Evaluator:
    """Evaluates the model of a preset on drives. known: training data of the baselines, or None without."""

    def __init__(
        self, preset: Preset, model: SparseOccVLA, wanted: EvalConfig, known: TrainingPriors | None, drives: int
    ) -> None:
        self.preset, self.model, self.wanted, self.known = preset, model, wanted, known
        self._drives = drives
        driven = bool({"forecast", "planning"} & set(wanted.tasks))
        self._chain = None if model.encoder is None else model if driven else model.perception()

    def judge(self, place: int, drive: Drive) -> PartialResult:
        """Runs one drive through every task; place: its index among all drives."""
        part, presents = PartialResult(place), list(drive.presents)
        steps, blind = self._steps(drive, 2 * place * len(drive.clips), part)
        asked = self._spread(self.wanted.samples, place, presents) if "language" in self.wanted.tasks else []
        told = self._spread(min(self.wanted.captions, self.wanted.samples), place, asked)
        middle = presents[len(presents) // 2] if place < PICTURED and presents else None
        for index in presents:
            self._present(part, drive, index, steps.get(index), blind.get(index), index == middle)
            if index in asked:
                self._ask(part, drive, index, steps.get(index), blind.get(index), index in told)
        return part

    def _spread(self, count: int, place: int, among: Sequence[int]) -> list[int]:
        """Returns this drive's share of `count` moments in total, evenly spread."""
        own = min(count // self._drives + (place < count % self._drives), len(among))
        return [among[int((k + 0.5) * len(among) / own)] for k in range(own)]

    def _steps(
        self, drive: Drive, epoch: int, part: PartialResult
    ) -> tuple[dict[int, StepResult], dict[int, StepResult]]:
        """Runs the chain on every set, with its images and blind; empty without an encoder."""
        found: tuple[dict[int, StepResult], dict[int, StepResult]] = {}, {}
        if self._chain is None:
            return found
        # The blind chain needs all stages only if its plans are evaluated; otherwise its queries suffice.
        blind = self._chain if "planning" in self.wanted.tasks else self.model.perception()
        for number, clip in enumerate(drive.clips):
            for steps, chain, seeing in zip(found, (self._chain, blind), (True, False), strict=True):
                for index in clip:
                    frames = drive.frames(index, epoch + 2 * number + (not seeing))
                    frames = frames if seeing else blinded(frames)
                    step = chain.step(frames, *drive.command(index), drive.history(index))
                    steps[index] = step
                    for stage, value in step.seconds.items() if seeing else ():
                        part.seconds.setdefault(stage, []).append(value)
        return found

    def _present(
        self,
        part: PartialResult,
        drive: Drive,
        index: int,
        step: StepResult | None,
        blind: StepResult | None,
        pictured: bool,
    ) -> None:
        tasks, truth = self.wanted.tasks, drive.semantics(index)
        future = told = None
        if "occupancy" in tasks:
            self._occupancy(part.occupancy, drive, index, truth, step, blind)
        if "forecast" in tasks:
            future = None if truth is None else drive.future_semantics(index)
            told = None if future is None else self._forecasts(drive, index, step)
            if step is not None and step.reasoning is not None and self.model.reasoner is not None:
                plans = drive.two_plans(index)
                if plans is not None:
                    sums = reaction_sums(self.model.reasoner, step.queries, step.reasoning, step.voxels, plans)
                    part.forecast.add_reactions(drive.name, sums)
            for task in (part.forecast, *((part.windowed,) if drive.in_window(index) else ())):
                if truth is None or future is None:
                    task.unlabelled += 1
                else:
                    voxels = None if step is None else step.voxels
                    agents = drive.sample(index).agents
                    moving = moving_plans(agents.centres, agents.yaws, agents.present, agents.sizes)
                    close = self.model.reasoner is None or self.model.reasoner.config.padding
                    task.add(drive.name, truth[0], drive.future(index)[_AHEAD], future, voxels, told, moving, close)
        if "planning" in tasks:
            self._plan(part.planning, drive, index, step, blind)
        if pictured:
            images = drive.frames(index, 0).images
            seen = None if truth is None else np.where(truth[1], truth[0], np.uint8(17)).astype(np.uint8)
            part.shown.append(
                Visualization(
                    drive.token(index), images, seen, drive.future(index)[:, :2, 3], future,
                    None if step is None else step.voxels, told[forecast.PLANNED] if told else None,
                    None if step is None else step.plan,
                )
            )  # fmt: skip

    def _occupancy(
        self, task: OccupancyTask, drive: Drive, index: int, truth: tuple[np.ndarray, np.ndarray] | None,
        step: StepResult | None, blind: StepResult | None,
    ) -> None:  # fmt: skip
        if truth is None:
            task.unlabelled += 1
            return
        grids = {occupancy.MODEL: step, occupancy.BLIND: blind}
        found = {row: s.voxels.dense() for row, s in grids.items() if s is not None}
        if self.known is not None and self.known.prior is not None:
            found[occupancy.PRIOR] = self.known.prior
        for row, grid in found.items():
            task.add(row, drive.name, grid, *truth, drive.ray_origins(index))

    def _forecasts(
        self, drive: Drive, index: int, step: StepResult | None
    ) -> dict[str, tuple[SparseVoxels, ...]] | None:
        reasoner = self.model.reasoner
        if step is None or reasoner is None or step.reasoning is None:
            return None
        future = drive.future(index)
        motions = forecast.told_motions(step.motion, step.queries.ego.twist, future)
        return forecast.forecasts(reasoner, step.queries, step.reasoning, motions, future[_AHEAD])

    def _plan(
        self, task: PlanningTask, drive: Drive, index: int, step: StepResult | None, blind: StepResult | None
    ) -> None:
        token, planner, sample = drive.token(index), self.model.planner, drive.sample(index)
        task.add(sample)
        if planner is None or step is None or blind is None:
            return
        task.answer(planning.CHAIN, token, step)
        task.answer(planning.BLIND, token, blind)
        inputs = planning.planner_inputs(token, step, drive.history(index), planner, *drive.command(index))
        task.add_ablations(token, run_ablations(planner, inputs, sample.future_command))

    def _ask(
        self,
        part: PartialResult,
        drive: Drive,
        index: int,
        step: StepResult | None,
        blind: StepResult | None,
        captioned: bool,
    ) -> None:
        found = drive.questions(index)
        action = None if step is None or step.plan is None else plan_action(step.plan, step.queries.ego.speed)
        part.language.add(
            language.QuestionedMoment(
                drive.name, drive.token(index), language.closed(found),
                None if step is None else step.queries, None if blind is None else blind.queries,
                captions.captions_of(found) if captioned else (),
                None if action is None else Driven(action, drive.surroundings(index)),
            )
        )  # fmt: skip

    def finish(
        self,
        parts: list[PartialResult],
        on_progress: Progress,
        share: tuple[int, int] = (0, 1),
        gather: Gather[Any] = list,
    ) -> tuple[dict[str, Any], list[Section], list[Visualization]] | None:
        """Computes numbers, tables and pictures; returns None except in process 0.

        parts: of this process's drives; share: (rank, number of processes); gather: concatenates the lists of all
        processes.
        """
        whole = together(gather(parts))
        wanted, absent, number = self.wanted, self.model.absent, share[0]
        tasks = wanted.tasks
        if "language" in tasks:
            own = range(number, len(whole.language.asked), share[1])
            answers = whole.language.ask(
                self.model.reasoner, own, wanted.caption_tokens,
                lambda done, total: on_progress("asking questions", done, total),
            )  # fmt: skip
            for found in gather([answers]):
                whole.language.take(found)
        if number:
            return None
        numbers: dict[str, Any] = {}
        sections = []
        if "occupancy" in tasks:
            numbers["occupancy"], blocks = whole.occupancy.result(wanted.rays_from)
            sections.append(Section("Occupancy", blocks + _absent(absent, "occupancy")))
        if "forecast" in tasks:
            numbers["forecast"], blocks = whole.forecast.result()
            if whole.windowed.frames:
                numbers["forecast_window"], more = whole.windowed.result(
                    f"Forecasts, SparseWorld's keyframes ({forecast.SPARSEWORLD_PAST} to length - "
                    f"{forecast.SPARSEWORLD_MARGIN} of every scene)"
                )
                blocks += more
            sections.append(Section("Forecast", blocks + _absent(absent, "reasoning")))
        if "planning" in tasks:
            on_progress("scoring plans", 0, 1)
            if self.model.planner is not None:
                whole.planning.swap(self.model.planner)
            anchors = None if self.preset.anchors is None else AnchorSet.load(self.preset.anchors).flat
            numbers["planning"], blocks, markdown = whole.planning.result(self.known, anchors, wanted.csv)
            sections.append(Section("Planning", blocks + _absent(absent, "planning"), markdown))
        if "language" in tasks:
            numbers["language"], blocks = whole.language.result(self.known, wanted.caption_tokens)
            sections.append(Section("Language", blocks + _absent(absent, "reasoning")))
        numbers["latency"], block = _latency(whole.seconds)
        sections.append(Section("Latency", [block]))
        return numbers, sections, whole.shown


def _absent(absent: dict[str, str], stage: str) -> list[Block]:
    return [Block("Not run", notes=[f"{absent[stage]}: baselines only."])] if stage in absent else []


def _latency(seconds: dict[str, list[float]]) -> tuple[dict[str, Any], Block]:
    """Returns milliseconds per stage of the chain (not blind), including the first set of every clip."""
    rows, numbers = [], {}
    total = np.array([sum(v) for v in zip(*seconds.values(), strict=True)]) if seconds else np.zeros(0)
    for stage, values in [*seconds.items(), ("together", total)] if seconds else []:
        spread = 1e3 * np.quantile(np.asarray(values), (0.5, 0.95))
        numbers[stage] = {"n": len(values), "median_ms": float(spread[0]), "p95_ms": float(spread[1])}
        rows.append([stage, str(len(values)), *(f"{v:.0f}" for v in spread)])
    numbers |= {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
    note = f"Wall time on {numbers['cores']} cores with {numbers['threads']} threads, while others may work too."
    return numbers, Block("Milliseconds per frame set", ["stage", "n", "median", "p95"], rows, [note])


def plain(value: Any) -> Any:
    """Converts to numbers, strings, lists and dicts for json.dump; NaN and infinity become None."""
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
