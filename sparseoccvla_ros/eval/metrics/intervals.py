"""Bootstrap over scenes: of means, and of other statistics, such as the IoU of counts summed over scenes.

Draws are identical for all rows of the same scenes, so that differences of two rows are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ...core.errors import InvalidInput

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps summed counts to the reported numbers, float64 [K]."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (None with fewer than two scenes)."""

    value: float
    interval: tuple[float, float] | None = None

    def text(self, scale: float = 100.0) -> str:
        """Formats the number and interval times `scale` (default: percent) for the tables."""
        if not isfinite(self.value):
            return "-"
        span = f" [{scale * self.interval[0]:.2f}, {scale * self.interval[1]:.2f}]" if self.interval else ""
        return f"{scale * self.value:.2f}{span}"


def scene_interval(values: np.ndarray, scenes: Sequence[str] | Sequence[int]) -> tuple[float, float] | None:
    """Returns the percentile bootstrap interval of the mean of values [S], ignoring NaN; None below two scenes.

    Resamples whole scenes because samples of one drive are correlated. Deterministic.
    """
    if len(values) != len(scenes):
        raise InvalidInput("scenes", f"want {len(values)}, one per value, got {len(scenes)}")
    known = ~np.isnan(values)
    _, scene = np.unique(np.asarray(scenes)[known], return_inverse=True)
    count = int(scene.max()) + 1 if len(scene) else 0
    if count < 2:
        return None
    sums, sizes = np.bincount(scene, values[known]), np.bincount(scene)
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    means = (drawn @ sums) / (drawn @ sizes)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def over_scenes(values: np.ndarray, scenes: Sequence[str] | Sequence[int]) -> Estimate:
    """Estimates the mean of values [S], ignoring NaN; NaN if none is known."""
    if np.isnan(values).all():
        return Estimate(float("nan"))
    return Estimate(float(np.nanmean(values)), scene_interval(values, scenes))


def mean_of(values: Sequence[float], scale: float = 1.0) -> Estimate:
    """Estimates `scale` times the mean of one value per drive or scene, ignoring NaN; NaN if empty."""
    return over_scenes(scale * np.array(values, np.float64), range(len(values)))


def resampled(counts: np.ndarray, statistic: Statistic) -> np.ndarray:
    """Returns the bootstrap statistics float64 [RESAMPLES, K] of counts [S, ...] by scene; [0, K] below two scenes."""
    scenes = len(counts)
    if scenes < 2:
        return np.zeros((0, len(statistic(counts.sum(0)))))
    drawn = np.random.default_rng(SEED).multinomial(scenes, np.full(scenes, 1 / scenes), size=RESAMPLES)
    # With few scenes, many draws are identical.
    distinct, where = np.unique(drawn, axis=0, return_inverse=True)
    return np.stack([statistic(np.tensordot(row, counts, 1)) for row in distinct])[where.reshape(-1)]


def estimates(values: np.ndarray, draws: np.ndarray) -> list[Estimate]:
    """Returns estimates of numbers [K] with intervals from their resampled values [R, K]."""
    out: list[Estimate] = []
    for value, column in zip(values, draws.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            out.append(Estimate(float(value)))
            continue
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        out.append(Estimate(float(value), (float(low), float(high))))
    return out


def compared(
    rows: dict[str, np.ndarray], statistic: Statistic, against: Sequence[tuple[str, str]]
) -> tuple[dict[str, list[Estimate]], dict[tuple[str, str], list[Estimate]]]:
    """Estimates every row (counts [S, ...] of the same scenes) and the paired differences, first minus second."""
    values = {name: statistic(counts.sum(0)) for name, counts in rows.items()}
    draws = {name: resampled(counts, statistic) for name, counts in rows.items()}
    return (
        {name: estimates(values[name], draws[name]) for name in rows},
        {
            (a, b): estimates(values[a] - values[b], draws[a] - draws[b])
            for a, b in against
            if a in rows and b in rows
        },
    )  # fmt: skip
