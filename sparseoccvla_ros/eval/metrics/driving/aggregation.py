"""EPDMS over a set of scenes: one stage (EC for the later frame of a pair) and two stages (navhard)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from . import comfort
from .pdm_score import weighted_mean

COLUMNS = ("NC", "DAC", "DDC", "TLC", "EP", "TTC", "LK", "HC", "EC", "EPDMS")
_PAIR_SECONDS = 0.55
_SIGMA = 0.2


@dataclass(frozen=True)
class Frame:
    """One scored frame.

    scores: NC, DAC, DDC, TLC, EP, TTC, LK, HC; log: name of the recording; start: s; synthetic: whether it has no
    recorded drive; motion: [41, 3] = heading, ax, ay of the tracked drive; endpoint: planned position (x, y) after
    4 s; start_point: position (x, y) at which the frame begins.
    """

    token: str
    scores: Mapping[str, float]
    log: str
    start: float
    motion: np.ndarray
    synthetic: bool = False
    endpoint: tuple[float, float] = (0.0, 0.0)
    start_point: tuple[float, float] = (0.0, 0.0)

    def row(self, ec: float | None) -> dict[str, float | None]:
        """Returns all columns, including EPDMS."""
        row: dict[str, float | None] = {**self.scores, "EC": ec}
        multiplier = np.prod([self.scores[name] for name in ("NC", "DAC", "DDC", "TLC")])
        row["EPDMS"] = float(multiplier * weighted_mean(row))
        return row


def pairs(frames: Sequence[Frame]) -> dict[str, str]:
    """Pairs consecutive frames: later token -> earlier token, at most 0.55 s apart in one log."""
    original = sorted((f for f in frames if not f.synthetic), key=lambda f: (f.log, f.start))
    return {b.token: a.token for a, b in pairwise(original) if a.log == b.log and b.start - a.start <= _PAIR_SECONDS}


def ec_of(now: Frame, before: Frame) -> float:
    """Returns EC of two consecutive frames."""
    return comfort.extended_comfort(now.motion, before.motion, now.start - before.start)


def one_stage(frames: Sequence[Frame]) -> tuple[dict[str, dict[str, float | None]], dict[str, float]]:
    """Returns (row per token, mean per column); only the later frame of each pair has EC."""
    named = {f.token: f for f in frames}
    earlier = pairs(frames)
    rows = {f.token: f.row(ec_of(f, named[earlier[f.token]]) if f.token in earlier else None) for f in frames}
    return rows, _means(list(rows.values()))


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    out = {}
    for column in COLUMNS:
        values = [row[column] for row in rows if row[column] is not None]
        out[column] = float(np.mean(np.array(values, np.float64))) if values else float("nan")
    return out


Group = tuple[tuple[str, str], Sequence[tuple[str, str]]]
"""A pair of tokens (t, t - 0.5 s) and its follow-up pairs in stage two."""


@dataclass(frozen=True)
class TwoStages:
    """EC, weight and EPDMS per token; means per column of both stages and of their product."""

    ec: dict[str, float]
    weight: dict[str, float]
    epdms: dict[str, float]
    stage_one: dict[str, float]
    stage_two: dict[str, float]
    combined: dict[str, float]


def weights(frame: Frame, following: Sequence[Frame]) -> np.ndarray:
    """Returns weights [J] of the follow-up scenes by the distance of their start from the end of the frame's plan."""
    squared = np.array([np.sum((np.array(frame.endpoint) - f.start_point) ** 2) for f in following])
    share = np.exp(-squared / _SIGMA)
    total = share.sum()
    return share / total if total > 0 else np.full(len(share), 1.0 / len(share))


def two_stages(frames: Sequence[Frame], groups: Sequence[Group]) -> TwoStages:
    """Scores two stages: both frames of a pair get its EC; stage two is weighted by the end of each stage-one plan."""
    named = {f.token: f for f in frames}
    ec: dict[str, float] = {}
    for pair, followers in groups:
        for now, before in (pair, *followers):
            ec[now] = ec[before] = ec_of(named[now], named[before])
    rows = {token: named[token].row(value) for token, value in ec.items()}
    weight = {token: 1.0 for pair, _ in groups for token in pair}
    ones, twos, products = [], [], []
    for pair, followers in groups:
        one, two = [], []
        for side, token in enumerate(pair):
            later = [follower[side] for follower in followers]
            share = weights(named[token], [named[t] for t in later])
            weight.update(zip(later, share.tolist(), strict=True))
            one.append(_table([rows[token]])[0])
            two.append(share @ _table([rows[t] for t in later]))
        ones.append(np.mean(one, 0))
        twos.append(np.mean(two, 0))
        products.append(np.mean(np.array(one) * np.array(two), 0))
    means = [dict(zip(COLUMNS, np.mean(x, 0).tolist(), strict=True)) for x in (ones, twos, products)]
    return TwoStages(ec, weight, {t: float(r["EPDMS"] or 0.0) for t, r in rows.items()}, *means)


def _table(rows: Sequence[Mapping[str, float | None]]) -> np.ndarray:
    return np.array([[float(row[c] or 0.0) for c in COLUMNS] for row in rows])
