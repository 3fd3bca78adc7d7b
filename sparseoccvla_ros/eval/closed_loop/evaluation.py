"""Compares policies on seeds of the world: scores per drive, means with intervals, and a report page."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ...data.processes import one_thread
from ...data.synthetic.dataset import SPLITS
from ...data.synthetic.scenes import WORLD_VERSION
from ...pipeline import SparseOccVLA
from ...runtime.presets import load_preset
from ...world.sim.scenarios import FAMILIES
from ..metrics.driving.bench2drive import abilities
from ..metrics.intervals import Estimate, mean_of
from ..report.tables import markdown_table
from .drive_log import DriveLog
from .language_ablations import CHANGED, change
from .policies import BlindLaneKeeping, ChainPolicy, ConstantVelocity, EgoOnly, ExpertPolicy, Policy
from .robustness import DISTURBED, DisturbedChain
from .rollout import Rollout, drive
from .scores import DriveScores, score

logger = logging.getLogger(__name__)

POLICIES = ("expert", "chain", *CHANGED, "ego", "lane", "coast")
"""expert; chain of a preset, and its language ablations; ego-only MLP; blind lane keeping; constant velocity."""
RULES = "4"
"""Version of the expert and the trajectory follower, on which every result depends; raise it when they change."""
Driver = Callable[[int, str | None], Rollout]
"""Drives a seed, or a scenario family on that seed, to its end."""
OnDrive = Callable[[DriveScores, Rollout], None]
EGO_SEEDS = tuple(SPLITS["train"][:24])
COLUMNS = {
    "route completion %": "route_completion",
    "driving score": "driving_score",
    "success %": "success",
    "efficiency %": "efficiency",
    "smoothness %": "smoothness",
    "PDMS": "pdms",
    "EPDMS": "epdms",
    "HD score": "hd_score",
    "AlpaSim": "alpasim",
    "nuPlan CLS-R": "cls",
}
_IN_PERCENT = ("success", "smoothness", "pdms", "epdms", "hd_score", "alpasim", "cls")
_LOWEST = ("efficiency", "smoothness")
"""Undefined for drives that are too short, so None for a failed drive, whose other scores are 0."""


def _model(preset: str) -> SparseOccVLA:
    model = SparseOccVLA.from_preset(preset, untrained=True)
    if model.encoder is None or model.planner is None:
        raise InvalidInput("preset", f"{preset} has no planner to drive with")
    return model


_shared_model = cache(_model)
"""One model shared by the chain and all disturbances, which drive one after another."""


def policy_of(name: str, preset: str) -> Policy:
    """Creates one of POLICIES or DISTURBED. Raises InvalidInput: "policies" if unknown, "preset" if it cannot plan."""
    if name == "expert":
        return ExpertPolicy()
    if name == "coast":
        return ConstantVelocity()
    if name == "lane":
        return BlindLaneKeeping()
    if name == "ego":
        return EgoOnly(EGO_SEEDS)
    if name in ("chain", *CHANGED):
        # An ablation modifies the model, so it gets its own.
        model = _model(preset) if name in CHANGED else _shared_model(preset)
        if name in CHANGED:
            change(model, name)
        return ChainPolicy(model, f"{name} ({preset})")
    if name in DISTURBED:
        return DisturbedChain(_shared_model(preset), f"{name} ({preset})", DISTURBED[name])
    raise InvalidInput("policies", f"{name!r} is not one of {', '.join(POLICIES)}")


def failed(policy: str, seed: int, scenario: str | None, why: str) -> DriveScores:
    """Returns the scores of a drive aborted by an error: 0, or None for those in _LOWEST."""
    values: dict[str, Any] = {f.name: 0.0 for f in fields(DriveScores)}
    values.update(
        policy=policy, seed=seed, scenario=scenario, maneuver="", end=f"failed: {why}", infractions=(), success=False
    )
    values.update({name: None for name in _LOWEST}, missing_plans=0)
    return DriveScores(**values)


@dataclass(frozen=True)
class DriveProgress:
    """Progress of an evaluation: drives done, drives in total, the scores of the drive that just ended (None if it came
    from the log or none has ended), seconds left from mean durations (None until every pending policy has driven)."""

    done: int
    total: int
    ended: DriveScores | None = None
    seconds_left: float | None = None


def version_of(name: str, preset: str) -> str:
    """Hash of what affects a policy's drives: world version, RULES; for the chain, preset (with sha256 of weights)."""
    parts = [str(WORLD_VERSION), RULES]
    if name in ("chain", "nodes", *CHANGED, *DISTURBED):
        parts.append((load_preset(preset).folder / "config.yaml").read_text(encoding="utf-8"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _ignore(scores: DriveScores, rollout: Rollout) -> None:
    """Does nothing; unlike a lambda it can be sent to a worker."""


def evaluate_drives(
    seeds: Sequence[int],
    names: Sequence[str],
    preset: str,
    families: Sequence[str] = (),
    log: DriveLog | None = None,
    on_progress: Callable[[DriveProgress], None] = lambda progress: None,
    others: Mapping[str, Driver] | None = None,
    on_drive: OnDrive = _ignore,
    workers: int = 1,
) -> list[DriveScores]:
    """Drives every policy on every seed; scores compare with the expert's drive, which is run only where needed.

    families: scenario families, alternating over the seeds; empty for the seeds' own traffic. log: receives every
    result as its drive ends (with workers, as its seed ends); logged drives are not repeated. others: additional
    drivers by name, with one worker. on_drive: called for every new drive that was not aborted. workers: processes of
    one thread each, which share the seeds; 1 drives in this process, and more need a picklable `on_drive`. Raises
    InvalidInput for unknown policies or families and negative seeds.
    """
    others = others or {}
    if not seeds or not names:
        raise InvalidInput("seeds" if not seeds else "policies", "there are none")
    for name in (n for n in names if n not in (*POLICIES, *DISTURBED, *others)):
        raise InvalidInput("policies", f"{name!r} is not one of {', '.join(POLICIES)}")
    names = tuple(sorted(dict.fromkeys(names), key=lambda n: n != "expert"))
    log = DriveLog() if log is None else log
    versions = {name: version_of(name, preset) for name in names}
    found: dict[tuple[int, str], DriveScores] = {}
    left = dict.fromkeys(names, len(seeds))
    total = len(seeds) * len(names)

    def take(index: int, name: str, scores: DriveScores, known: bool) -> None:
        left[name] -= 1
        found[index, name] = scores
        times = [(log.seconds(n), count) for n, count in left.items() if count]
        seconds = None if any(t is None for t, _ in times) else sum((t or 0.0) * count for t, count in times) / workers
        on_progress(DriveProgress(len(found), total, None if known else scores, seconds))

    on_progress(DriveProgress(0, total))
    pending = []
    for index, seed in enumerate(seeds):
        scenario = families[index % len(families)] if families else None
        missing = []
        for name in names:
            before = log.find(name, versions[name], seed, scenario)
            if before is None:
                missing.append(name)
            else:
                take(index, name, before, known=True)
        if missing:
            pending.append((index, _Drives(seed, scenario, tuple(missing), preset)))
    for index, name, scores, seconds in _driven(pending, others, on_drive, workers):
        log.add(name, versions[name], scores, seconds)
        take(index, name, scores, known=False)
    return [found[index, name] for index in range(len(seeds)) for name in names]


@dataclass(frozen=True)
class _Drives:
    """Drives of several policies on one seed."""

    seed: int
    scenario: str | None
    names: tuple[str, ...]
    preset: str

    def run(self, others: Mapping[str, Driver], on_drive: OnDrive) -> Iterator[tuple[str, DriveScores, float]]:
        """Yields name, scores and seconds of each policy; the expert's drive, if missing, counts with the first."""
        recorded: Rollout | None = None
        for name in self.names:
            title, driver = (name, others[name]) if name in others else _driver(name, self.preset)
            began = time.perf_counter()
            if recorded is None:
                recorded = drive(ExpertPolicy(), self.seed, self.scenario)
            try:
                rollout = recorded if name == "expert" else driver(self.seed, self.scenario)
                scores = score(rollout, recorded)
                on_drive(scores, rollout)
            except (InvalidInput, FloatingPointError, IndexError, ValueError) as error:
                if name == "expert":
                    raise
                logger.warning("%s on seed %d: %s", title, self.seed, error)
                scores = failed(title, self.seed, self.scenario, str(error))
            yield name, scores, time.perf_counter() - began


@cache
def _driver(name: str, preset: str) -> tuple[str, Driver]:
    """Returns the title and the driver of a policy; the same in every seed, as networks take seconds to load."""
    policy = policy_of(name, preset)
    return policy.name, partial(drive, policy, latency=DISTURBED[name].latency if name in DISTURBED else 0.0)


def _driven(
    pending: Sequence[tuple[int, _Drives]], others: Mapping[str, Driver], on_drive: OnDrive, workers: int
) -> Iterator[tuple[int, str, DriveScores, float]]:
    """Yields (index of the seed, name, scores, seconds) as drives end."""
    if workers == 1:
        for index, drives in pending:
            for name, scores, seconds in drives.run(others, on_drive):
                yield index, name, scores, seconds
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=one_thread)
    try:
        running = {pool.submit(_run, drives, on_drive): index for index, drives in pending}
        for future in as_completed(running):
            for name, scores, seconds in future.result():
                yield running[future], name, scores, seconds
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run(drives: _Drives, on_drive: OnDrive) -> list[tuple[str, DriveScores, float]]:
    return list(drives.run({}, on_drive))


def means(rows: Sequence[DriveScores]) -> dict[str, Estimate]:
    """Returns the mean of every column with its bootstrap interval over drives."""
    out = {}
    for title, name in COLUMNS.items():
        values = [float(v) for r in rows if (v := getattr(r, name)) is not None]
        out[title] = mean_of(values, 100.0 if name in _IN_PERCENT else 1.0)
    return out


def table(rows: Sequence[DriveScores]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of the table of policies."""
    head = ["policy", "drives", *COLUMNS, "collisions", "red lights", "outside %", "plans missing"]
    lines = []
    for policy in dict.fromkeys(r.policy for r in rows):
        own = [r for r in rows if r.policy == policy]
        happened = [i for r in own for i in r.infractions]
        lines.append(
            [
                policy,
                str(len(own)),
                *(estimate.text(1.0) for estimate in means(own).values()),
                str(sum(i.startswith("collision") for i in happened)),
                str(sum(i == "red_light" for i in happened)),
                f"{100 * float(np.mean([r.outside for r in own])):.1f}",
                str(sum(r.missing_plans for r in own)),
            ]
        )
    return head, lines


def language_gain_table(rows: Sequence[DriveScores]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: the chain's scores minus those of each of CHANGED, paired by drive."""
    lines = []
    by_drive = {(r.policy.split()[0], r.seed, r.scenario): r for r in rows}
    titles = [t for t, name in COLUMNS.items() if name not in _LOWEST]
    for name in CHANGED:
        pairs = [
            (by_drive["chain", r.seed, r.scenario], r)
            for r in rows
            if r.policy.split()[0] == name and ("chain", r.seed, r.scenario) in by_drive
        ]
        if not pairs:
            continue
        cells = []
        for title in titles:
            field, scale = COLUMNS[title], 100.0 if COLUMNS[title] in _IN_PERCENT else 1.0
            # A drive shorter than 5 s, or without a plan, has no PDMS.
            told = [(x, y) for x, y in ((getattr(a, field), getattr(b, field)) for a, b in pairs) if None not in (x, y)]
            cells.append(mean_of([scale * (float(x) - float(y)) for x, y in told]).text(1.0))
        lines.append([f"chain minus {name}", str(len(pairs)), *cells])
    return ["", "drives", *titles], lines


def families_table(rows: Sequence[DriveScores]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: successes per scenario family with its ability, one column per policy."""
    policies = list(dict.fromkeys(r.policy for r in rows))
    lines = []
    for family in [f for f in FAMILIES if any(r.scenario == f for r in rows)]:
        cells = []
        for policy in policies:
            own = [r.success for r in rows if r.policy == policy and r.scenario == family]
            cells.append(f"{sum(own)} of {len(own)}")
        lines.append([family, FAMILIES[family].ability, *cells])
    if lines:
        cells = []
        for policy in policies:
            groups: dict[str, list[bool]] = {}
            for row in rows:
                if row.policy == policy and row.scenario:
                    groups.setdefault(FAMILIES[row.scenario].ability, []).append(row.success)
            cells.append(f"{100 * abilities(groups)['mean']:.1f} %")
        lines.append(["mean of abilities", "", *cells])
    return ["family", "ability", *policies], lines


def film_of(row: DriveScores) -> str:
    """Returns the path of a drive's film, relative to the page."""
    who = "".join(c if c.isalnum() else "_" for c in row.policy)
    return f"films/{who}-{row.seed}{'-' + row.scenario if row.scenario else ''}.webp"


def films_table(rows: Sequence[DriveScores], folder: Path) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: per policy, the worst and the best drive that have a film in the page's folder."""
    lines = []
    for policy in dict.fromkeys(r.policy for r in rows):
        own = sorted((r for r in rows if r.policy == policy), key=lambda r: r.driving_score)
        own = [r for r in own if (folder / film_of(r)).is_file()]
        if own:
            cells = [f"![{r.driving_score:.0f}]({film_of(r)}) {r.seed}, {r.driving_score:.0f}" for r in own]
            lines.append([policy, cells[0], cells[-1]])
    return ["policy", "worst", "best"], lines


def page(rows: Sequence[DriveScores], command: str, folder: Path | None = None) -> str:
    """Returns a Markdown page: tables, films found in `folder`, every drive, and how the numbers were computed."""
    head, lines = table(rows)
    parts = ["# Closed loop in the synthetic world", "", f"`{command}`", "", markdown_table(head, lines), ""]
    parts += [
        "Traffic reacts to the ego (IDM, signals, people). PDMS and EPDMS: navsim v1.1 and v2, once a second, others",
        "replayed as they truly moved, reference: the expert from the same state, no human filter, EPDMS without EC,",
        "the world's own vehicle. AlpaSim, nuPlan and HUGSIM compare with the expert's drive. There are no stop signs,",
        "emergency vehicles or scenario time-outs. Failed drives count 0. Intervals: 95 %, bootstrap over drives.",
        "",
        "## Drives",
        "",
    ]
    head, lines = families_table(rows)
    if lines:
        parts[-2:-2] = ["## Successes by family", "", markdown_table(head, lines), ""]
    head, lines = language_gain_table(rows)
    if lines:
        notes = [f"- {name}: {about}" for name, about in CHANGED.items()]
        parts[-2:-2] = ["## What language is worth", "", markdown_table(head, lines), "", *notes, ""]
    head, lines = films_table(rows, folder) if folder is not None else ([], [])
    if lines:
        parts[-2:-2] = ["## From above, at twice the speed", "", markdown_table(head, lines), ""]
    head = ["policy", "seed", "scenario", "maneuver", "end", "s", "completion %", "driving score", "infractions"]
    drives = [
        [r.policy, str(r.seed), r.scenario or "", r.maneuver, r.end, f"{r.seconds:.1f}", f"{r.route_completion:.1f}",
         f"{r.driving_score:.1f}", ", ".join(r.infractions)]
        for r in sorted(rows, key=lambda r: (r.policy, r.driving_score))
    ]  # fmt: skip
    return "\n".join([*parts, markdown_table(head, drives), ""])
