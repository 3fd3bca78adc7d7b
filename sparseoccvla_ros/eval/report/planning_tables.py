"""Planning tables: protocols x methods with counts, scene-level intervals and command sources."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ..metrics.intervals import LEVEL, RESAMPLES, SEED, scene_interval
from ..protocols.planning import HORIZON_STEPS, Protocol
from ..tasks.planning_loop import Evaluation
from ..tasks.planning_samples import GROUND_TRUTH, Method
from .tables import markdown_table


@dataclass(frozen=True)
class Value:
    """A metric at 1, 2, 3 s and the mean of the three with its interval."""

    horizons: tuple[float, float, float]
    average: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, per_sample: np.ndarray, scenes: list[str]) -> Value:
        """Averages values [S, 3] at the horizons, ignoring rows with NaN."""
        known = ~np.isnan(per_sample).any(1)
        if not known.any():
            return cls((nan, nan, nan), nan, None)
        mean = per_sample[known].mean(0)
        interval = scene_interval(np.where(known, per_sample.mean(1), np.nan), scenes)
        return cls((float(mean[0]), float(mean[1]), float(mean[2])), float(mean.mean()), interval)


@dataclass(frozen=True)
class Row:
    """One method under one protocol. l2 in metres, collision and road as shares 0..1.

    n: scored; missing: counted by the protocol but without a usable prediction; worst_l2, worst_collision: averages
    with the missing ones scored as standing still and as colliding; truth_hits: share of samples in which the truth
    itself collides within 3 s, where collisions of the prediction do not count.
    """

    protocol: str
    method: str
    oracle: bool
    self_test: bool
    command_source: str
    n: int
    missing: int
    l2: Value
    collision: Value
    road: Value | None
    road_n: int
    worst_l2: float
    worst_collision: float
    truth_hits: float


@dataclass(frozen=True)
class Driving:
    """Measures beyond the protocols, per method: off_road share of samples with a map, its interval, and the 95th
    percentile over samples of the maximum acceleration, lateral acceleration (m/s^2), jerk (m/s^3), curvature (1/m)."""

    method: str
    oracle: bool
    n: int
    road_n: int
    off_road: float
    off_road_interval: tuple[float, float] | None
    acceleration: float
    lateral: float
    jerk: float
    curvature: float


@dataclass(frozen=True)
class Report:
    """The tables with their context. subset: the tag they are restricted to, None for all samples."""

    samples: int
    scenes: int
    subset: str | None
    commands: dict[str, int]
    rows: tuple[Row, ...]
    driving: tuple[Driving, ...]
    protocols: tuple[Protocol, ...]
    legend: dict[str, str]

    @property
    def self_test_passed(self) -> bool:
        """Whether the ground truth scores exactly 0 in L2 and collision under every protocol that scored a sample."""
        rows = [row for row in self.rows if row.self_test and row.n]
        return bool(rows) and all(row.l2.average == 0 and row.collision.average == 0 for row in rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings, sequences and dicts; unknown values are NaN or None."""
        return {
            "samples": self.samples,
            "scenes": self.scenes,
            "subset": self.subset,
            "commands": self.commands,
            "self_test_passed": self.self_test_passed,
            "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED},
            "protocols": {protocol.name: _conventions(protocol) for protocol in self.protocols},
            "methods": self.legend,
            "rows": [asdict(row) for row in self.rows],
            "driving": [asdict(row) for row in self.driving],
        }

    def _tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Returns (title, header, rows) of every table."""
        where = "all samples" if self.subset is None else f"subset {self.subset}"
        title = f"Open-loop planning, {where}: {self.samples} samples of {self.scenes} scenes"
        planning = [
            [
                row.protocol, _name(row.method, row.oracle, row.self_test), row.command_source, str(row.n),
                str(row.missing), _horizons(row.l2, 1), _average(row.l2, 1), _horizons(row.collision, 100),
                _average(row.collision, 100), "-" if row.road is None else _average(row.road, 100),
                f"{_text(row.worst_l2)} m, {_text(100 * row.worst_collision)} %" if row.missing else "-",
                _text(100 * row.truth_hits),
            ]
            for row in self.rows
        ]  # fmt: skip
        head = ["protocol", "method", "command", "n", "missing", "L2 1/2/3 s (m)", "L2 avg [95 %]",
                "collision 1/2/3 s (%)", "collision avg [95 %]", "road (%)", "with missing at worst",
                "truth collides (%)"]  # fmt: skip
        driving = [
            [
                _name(d.method, d.oracle, d.method == GROUND_TRUTH.name), str(d.n), str(d.road_n),
                _with_interval(100 * d.off_road, d.off_road_interval, 100),
                *(_text(v) for v in (d.acceleration, d.lateral, d.jerk, d.curvature)),
            ]
            for d in self.driving
        ]  # fmt: skip
        conventions = [[p.name, *_conventions(p).values()] for p in self.protocols]
        return [
            (title, head, planning),
            (
                "Road and comfort (95th percentile over samples of the largest value in 3 s)",
                ["method", "n", "with map", "off road (%)", "acceleration (m/s²)", "lateral (m/s²)", "jerk (m/s³)",
                 "curvature (1/m)"],
                driving,
            ),
            ("Protocols", ["protocol", *_conventions(self.protocols[0])], conventions),
            ("Methods", ["method", "what it is"], [[name, about] for name, about in self.legend.items()]),
        ]  # fmt: skip

    def _notes(self) -> list[str]:
        commands = ", ".join(f"{name} {count}" for name, count in sorted(self.commands.items()))
        return [
            f"Self-test (ground truth scores exactly 0): {'passed' if self.self_test_passed else 'FAILED'}.",
            f"Commands of the loader: {commands}.",
            f"Intervals: {LEVEL:.0%} bootstrap over scenes, {RESAMPLES} resamples, seed {SEED}.",
            "Rows marked oracle look at the future. Numbers of different protocols do not compare.",
        ]

    def to_markdown(self) -> str:
        """All tables and notes as Markdown."""
        parts = [f"### {title}\n\n{markdown_table(head, lines)}" for title, head, lines in self._tables()]
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self._notes())]) + "\n"


def report(evaluation: Evaluation, subset: str | None = None) -> Report:
    """Returns the tables of all samples, or of those with a tag. Raises InvalidInput("subset") if none has it."""
    keep = np.array([subset is None or subset in tags for tags in evaluation.tags])
    if not keep.any():
        raise InvalidInput("subset", f"no sample is tagged {subset!r}")
    scenes = [scene for scene, kept in zip(evaluation.scenes, keep, strict=True) if kept]
    commands = Counter(c.value for c, kept in zip(evaluation.commands, keep, strict=True) if kept)
    return Report(
        samples=len(scenes),
        scenes=len(set(scenes)),
        subset=subset,
        commands=dict(commands),
        rows=tuple(_row(evaluation, p, m, keep, scenes) for p in evaluation.protocols for m in evaluation.methods),
        driving=tuple(_driving(evaluation, method, keep, scenes) for method in evaluation.methods),
        protocols=evaluation.protocols,
        legend={method.name: method.about for method in evaluation.methods},
    )


def _row(evaluation: Evaluation, protocol: Protocol, method: Method, keep: np.ndarray, scenes: list[str]) -> Row:
    cell = evaluation.cells[protocol.name, method.name]
    counted, missing, scored = cell.counted[keep], cell.missing[keep], cell.scored[keep]
    l2 = protocol.l2(cell.l2[keep])
    collision = np.where(scored[:, None], protocol.collision(cell.collision[keep]), np.nan)
    # a road violation counts once per horizon, whatever the protocol's rule for collisions
    road = np.maximum.accumulate(cell.road[keep], axis=1)[:, HORIZON_STEPS - 1]
    worst_l2 = np.where(missing[:, None], protocol.l2(evaluation.standing_l2[keep]), l2)[counted]
    worst_collision = np.where(missing[:, None], 1.0, collision)[counted]
    # steps without truth are marked as hits (UniAD) but are not collisions
    hit = evaluation.cells[protocol.name, GROUND_TRUTH.name].truth_hit & evaluation.mask
    own = hit[keep][counted]
    told = Counter(
        answer.source.value
        for answer, kept in zip(evaluation.answers[method.name], keep, strict=True)
        if kept and answer is not None and answer.source is not None
    )
    return Row(
        protocol=protocol.name,
        method=method.name,
        oracle=evaluation.oracle(method),
        self_test=method.name == GROUND_TRUTH.name,
        command_source=_sources(told),
        n=int(scored.sum()),
        missing=int(missing.sum()),
        l2=Value.of(l2, scenes),
        collision=Value.of(collision, scenes),
        road=None if protocol.road is None else Value.of(road, scenes),
        road_n=int((~np.isnan(road).any(1)).sum()) if protocol.road else 0,
        worst_l2=float(worst_l2.mean()) if counted.any() else nan,
        worst_collision=float(worst_collision.mean()) if counted.any() else nan,
        truth_hits=float(own.any(1).mean()) if counted.any() else nan,
    )


def _driving(evaluation: Evaluation, method: Method, keep: np.ndarray, scenes: list[str]) -> Driving:
    off = evaluation.off_road[method.name][keep]
    felt = [c for c, kept in zip(evaluation.comfort[method.name], keep, strict=True) if kept and c is not None]
    known = ~np.isnan(off)
    names = ("acceleration", "lateral", "jerk", "curvature")
    return Driving(
        method=method.name,
        oracle=evaluation.oracle(method),
        n=len(felt),
        road_n=int(known.sum()),
        off_road=float(off[known].mean()) if known.any() else nan,
        off_road_interval=scene_interval(off, scenes),
        **{n: float(np.quantile([getattr(c, n) for c in felt], 0.95)) if felt else nan for n in names},
    )


def _sources(told: Counter[str]) -> str:
    """Returns the source of all commands, or each with its share; "none" for a method without commands."""
    if len(told) <= 1:
        return next(iter(told), "none")
    total = sum(told.values())
    return ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in told.most_common())


def _conventions(protocol: Protocol) -> dict[str, str]:
    return {
        "samples": "all, steps without truth count as 0" if protocol.masked else "six valid steps",
        "frame": protocol.frame,
        "grid": protocol.grid,
        "obstacles": protocol.boxes,
        "ego heading": protocol.heading,
        "L2": protocol.l2.value,
        "collision": protocol.collision.value,
        "road test": protocol.road or "-",
    }


def _name(method: str, oracle: bool, self_test: bool) -> str:
    return f"{method} ({'self-test' if self_test else 'oracle'})" if oracle else method


def _text(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "-"


def _horizons(value: Value, scale: float) -> str:
    return " / ".join(_text(scale * v) for v in value.horizons)


def _with_interval(value: float, interval: tuple[float, float] | None, scale: float) -> str:
    return _text(value) + (f" [{scale * interval[0]:.2f}, {scale * interval[1]:.2f}]" if interval else "")


def _average(value: Value, scale: float) -> str:
    return _with_interval(scale * value.average, value.interval, scale)
