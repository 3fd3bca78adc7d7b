"""The loop over samples, methods and protocols, and the CSV file with their scores."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import STEPS, WAYPOINT_TIMES, Command, CommandSource
from ..metrics.comfort import Comfort, comfort, on_road
from ..protocols.planning import PROTOCOLS, Protocol, SampleScorer, Score
from .planning_samples import GROUND_TRUTH, Method, Prediction, Sample

STANDING = 0.5
"""Speed below which a vehicle counts as standing, m/s."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One method under one protocol, over all S samples.

    counted: bool [S], the protocol scores the sample; missing: bool [S], counted but without a usable prediction; l2:
    float64 [S, 6] m, NaN where not scored; collision, truth_hit: bool [S, 6]; road: float64 [S, 6], 1 for a counted
    road violation, NaN where not scored or without a map.
    """

    counted: np.ndarray
    missing: np.ndarray
    l2: np.ndarray
    collision: np.ndarray
    truth_hit: np.ndarray
    road: np.ndarray

    @classmethod
    def empty(cls, samples: int) -> Cell:
        """Creates a cell with nothing counted."""
        steps = (samples, STEPS)
        flags = (np.zeros(samples, bool), np.zeros(samples, bool))
        return cls(*flags, np.full(steps, np.nan), np.zeros(steps, bool), np.zeros(steps, bool), np.full(steps, np.nan))

    @property
    def scored(self) -> np.ndarray:
        """bool [S]: counted and not missing."""
        return self.counted & ~self.missing


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Input of the report; per-sample lists are in the order of the samples.

    mask: bool [S, 6], steps with a truth; standing_l2: float64 [S, 6] m, error of standing still, assumed for missing
    plans; off_road: by method float64 [S], 1 if any corner leaves the drivable area, NaN without map or plan; comfort:
    by method.
    """

    tokens: list[str]
    scenes: list[str]
    tags: list[frozenset[str]]
    commands: list[Command]
    methods: tuple[Method, ...]
    protocols: tuple[Protocol, ...]
    mask: np.ndarray
    standing_l2: np.ndarray
    cells: dict[tuple[str, str], Cell]
    answers: dict[str, list[Prediction | None]]
    off_road: dict[str, np.ndarray]
    comfort: dict[str, list[Comfort | None]]

    def oracle(self, method: Method) -> bool:
        """Whether the method uses the future, as declared or because a command was derived from it."""
        return method.oracle or any(
            a is not None and a.source is CommandSource.ORACLE for a in self.answers[method.name]
        )


def evaluate(
    samples: Iterable[Sample], methods: Sequence[Method], protocols: Sequence[Protocol] = PROTOCOLS
) -> Evaluation:
    """Scores every method on every sample, and the ground truth as a self-test.

    Samples are read once and not kept, so a generator works. An exception in a method ends the evaluation, because
    silently skipped samples would improve its score. Raises InvalidInput for no samples and repeated names or tokens.
    """
    methods = (GROUND_TRUTH, *methods)
    _refuse_repeats("methods", [m.name for m in methods])
    _refuse_repeats("protocols", [p.name for p in protocols])
    tokens, scenes, tags, commands, masks, standing = [], [], [], [], [], []
    answers: dict[str, list[Prediction | None]] = {m.name: [] for m in methods}
    off_road: dict[str, list[float]] = {m.name: [] for m in methods}
    felt: dict[str, list[Comfort | None]] = {m.name: [] for m in methods}
    scores: dict[tuple[str, str], list[tuple[bool, Score | None]]] = {
        (p.name, m.name): [] for p in protocols for m in methods
    }
    for sample in samples:
        tokens.append(sample.token)
        scenes.append(sample.scene)
        tags.append(sample.tags | situations(sample))
        commands.append(sample.command)
        masks.append(sample.mask)
        standing.append(np.linalg.norm(sample.truth, axis=1) * sample.mask)
        paths: dict[str, np.ndarray | None] = {}
        for method in methods:
            answer = method.predict(sample)
            answers[method.name].append(answer)
            path = paths[method.name] = answer.waypoints if answer is not None and answer.usable else None
            # the truth past the end of a recording is meaningless and has no comfort
            driven = path if method is not GROUND_TRUTH or sample.complete else None
            felt[method.name].append(None if driven is None else comfort(driven, sample.speed))
            if driven is None or sample.drivable is None:
                off_road[method.name].append(np.nan)
            else:
                off_road[method.name].append(float(not on_road(driven, sample.drivable, sample.ego).all()))
        for protocol in protocols:
            scorer = SampleScorer(protocol, sample) if protocol.counts(sample) else None
            for name, path in paths.items():
                score = None if scorer is None or path is None else scorer.score(path)
                scores[protocol.name, name].append((scorer is not None, score))
    if not tokens:
        raise InvalidInput("samples", "there are none")
    _refuse_repeats("samples", tokens)
    return Evaluation(
        tokens, scenes, tags, commands, methods, tuple(protocols), np.stack(masks), np.stack(standing),
        {key: _cell(column) for key, column in scores.items()}, answers,
        {name: np.array(column, np.float64) for name, column in off_road.items()}, felt,
    )  # fmt: skip


def _cell(column: list[tuple[bool, Score | None]]) -> Cell:
    cell = Cell.empty(len(column))
    for index, (counted, score) in enumerate(column):
        cell.counted[index] = counted
        cell.missing[index] = counted and score is None
        if score is not None:
            cell.l2[index], cell.collision[index], cell.truth_hit[index] = score.l2, score.collision, score.truth_hit
            if score.road is not None:
                cell.road[index] = score.road
    return cell


def situations(sample: Sample) -> frozenset[str]:
    """Returns subset tags from the truth: turning (2 m or more to a side at the end), starting, stopping."""
    found = set()
    if sample.future_command is not Command.STRAIGHT:
        found.add("turning")
    if sample.complete and sample.speed is not None:
        last = float(np.linalg.norm(sample.truth[-1] - sample.truth[-2])) / float(WAYPOINT_TIMES[0])
        if abs(sample.speed) < STANDING <= last:
            found.add("starting")
        if last < STANDING <= abs(sample.speed):
            found.add("stopping")
    return frozenset(found)


def write_csv(evaluation: Evaluation, path: Path | str) -> None:
    """Writes one line per sample, protocol and method, with the prediction's metadata and scores.

    Columns l2, collision, truth_hit and road are per step; empty if not scored.
    """
    times = [f"{t:.1f}s" for t in WAYPOINT_TIMES]
    columns = ["l2", "collision", "truth_hit", "road"]
    head = ["token", "scene", "tags", "protocol", "method", "oracle", "command", "source", "chosen", "counted",
            "missing", "reason"]  # fmt: skip
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head + [f"{column}_{time}" for column in columns for time in times])
        for index, token in enumerate(evaluation.tokens):
            for protocol in evaluation.protocols:
                for method in evaluation.methods:
                    answer = evaluation.answers[method.name][index]
                    cell = evaluation.cells[protocol.name, method.name]
                    scored = bool(cell.scored[index])
                    told = ("", "", "", "no answer") if answer is None else (
                        answer.command or "", answer.source or "", answer.chosen if answer.chosen >= 0 else "",
                        answer.reason,
                    )  # fmt: skip
                    steps = [
                        _number(value) if scored else "" for column in columns for value in getattr(cell, column)[index]
                    ]
                    writer.writerow([
                        token, evaluation.scenes[index], " ".join(sorted(evaluation.tags[index])), protocol.name,
                        method.name, int(evaluation.oracle(method)), *told[:3], int(cell.counted[index]),
                        int(cell.missing[index]), told[3], *steps,
                    ])  # fmt: skip


def _number(value: float) -> str:
    if np.isnan(value):
        return ""
    return str(int(value)) if value in (0, 1) else f"{value:.6g}"


def _refuse_repeats(field_name: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise InvalidInput(field_name, f"{repeated[0]!r} occurs more than once")
