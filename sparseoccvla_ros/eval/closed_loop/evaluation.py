"""Policies side by side on seeds of the varied world: every drive's scores, means with intervals, a page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ...data.synthetic.dataset import SPLITS
from ...pipeline import SparseOccVLA
from ...world.sim.scenarios import FAMILIES
from ..metrics.driving.bench2drive import abilities
from ..metrics.intervals import Estimate, estimates, resampled
from .policies import BlindLaneKeeping, ChainPolicy, ConstantVelocity, EgoOnly, ExpertPolicy, Policy
from .rollout import Rollout, drive
from .scores import DriveScores, score

log = logging.getLogger(__name__)

POLICIES = ("expert", "chain", "ego", "lane", "coast")
"""expert; chain of a preset; ego-only MLP; blind lane keeping; constant velocity."""
EGO_SEEDS = tuple(SPLITS["varied_train"][:24])
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
"""Of a drive that is too short for them these are not defined; every other score of a failed drive is 0."""


def policy_of(name: str, preset: str) -> Policy:
    """One of POLICIES. Raises InvalidInput("policies") for others and for a preset that cannot plan."""
    if name == "expert":
        return ExpertPolicy()
    if name == "coast":
        return ConstantVelocity()
    if name == "lane":
        return BlindLaneKeeping()
    if name == "ego":
        return EgoOnly(EGO_SEEDS)
    if name == "chain":
        model = SparseOccVLA.from_preset(preset, untrained=True)
        if model.encoder is None or model.planner is None:
            raise InvalidInput("preset", f"{preset} has no planner to drive with")
        return ChainPolicy(model, f"chain ({preset})")
    raise InvalidInput("policies", f"{name!r} is none of {', '.join(POLICIES)}")


def failed(policy: str, seed: int, scenario: str | None, why: str) -> DriveScores:
    """A drive that broke off: it counts 0."""
    values: dict[str, Any] = {f.name: 0.0 for f in fields(DriveScores)}
    values.update(
        policy=policy, seed=seed, scenario=scenario, maneuver="", end=f"failed: {why}", infractions=(), success=False
    )
    values.update({name: None for name in _LOWEST}, missing_plans=0)
    return DriveScores(**values)


def evaluate_drives(
    seeds: Sequence[int],
    names: Sequence[str],
    preset: str,
    families: Sequence[str] = (),
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[DriveScores]:
    """Every policy on every seed, and the expert always, since scores compare with its drive.

    families: scenario families that take turns over the seeds; none for the seeds' own traffic. Raises InvalidInput for
    unknown policies or families and for seeds that do not step.
    """
    if not seeds or not names:
        raise InvalidInput("seeds" if not seeds else "policies", "there are none")
    policies = [policy_of(name, preset) for name in names if name != "expert"]
    out: list[DriveScores] = []
    for done, seed in enumerate(seeds):
        on_progress("drives", done, len(seeds))
        scenario = families[done % len(families)] if families else None
        recorded = drive(ExpertPolicy(), seed, scenario)
        if "expert" in names:
            out.append(score(recorded, recorded))
        out += [_attempt(policy, seed, scenario, recorded) for policy in policies]
    on_progress("drives", len(seeds), len(seeds))
    return out


def _attempt(policy: Policy, seed: int, scenario: str | None, recorded: Rollout) -> DriveScores:
    try:
        return score(drive(policy, seed, scenario), recorded)
    except (InvalidInput, FloatingPointError, IndexError, ValueError) as error:
        log.warning("%s on seed %d: %s", policy.name, seed, error)
        return failed(policy.name, seed, scenario, str(error))


def means(rows: Sequence[DriveScores]) -> dict[str, Estimate]:
    """Mean of every column with its bootstrap interval over drives."""
    out = {}
    for title, name in COLUMNS.items():
        values = [(float(v), 1.0) for r in rows if (v := getattr(r, name)) is not None]
        if not values:
            out[title] = Estimate(float("nan"))
            continue
        counts = np.array(values)
        scale = 100.0 if name in _IN_PERCENT else 1.0

        def mean(sums: np.ndarray, scale: float = scale) -> np.ndarray:
            return scale * sums[:1] / max(float(sums[1]), 1.0)

        out[title] = estimates(mean(counts.sum(0)), resampled(counts, mean))[0]
    return out


def table(rows: Sequence[DriveScores]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of policies."""
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


def families_table(rows: Sequence[DriveScores]) -> tuple[list[str], list[list[str]]]:
    """Successes per scenario family and ability, a column per policy."""
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


def page(rows: Sequence[DriveScores], command: str) -> str:
    """A Markdown page: the table, every drive, and how the numbers were made."""
    head, lines = table(rows)
    parts = ["# Closed loop in the synthetic world", "", f"`{command}`", "", _markdown(head, lines), ""]
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
        parts[-2:-2] = ["## Successes by family", "", _markdown(head, lines), ""]
    head = ["policy", "seed", "scenario", "maneuver", "end", "s", "completion %", "driving score", "infractions"]
    drives = [
        [r.policy, str(r.seed), r.scenario or "", r.maneuver, r.end, f"{r.seconds:.1f}", f"{r.route_completion:.1f}",
         f"{r.driving_score:.1f}", ", ".join(r.infractions)]
        for r in sorted(rows, key=lambda r: (r.policy, r.driving_score))
    ]  # fmt: skip
    return "\n".join([*parts, _markdown(head, drives), ""])


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *lines))
