"""Bootstrap over scenes for statistics that are not means, such as the IoU of counts summed over scenes.

Draws are those of eval.report.planning_tables.scene_interval, identical for all rows of the same scenes, so that
differences of two rows are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ..report.planning_tables import LEVEL, RESAMPLES, SEED

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


def mean_of(values: Sequence[float], scale: float = 1.0) -> Estimate:
    """Estimates `scale` times the mean of one value per drive or scene; NaN if empty."""
    if not len(values):
        return Estimate(float("nan"))
    counts = np.array([(float(value), 1.0) for value in values])

    def mean(sums: np.ndarray) -> np.ndarray:
        return scale * sums[:1] / max(float(sums[1]), 1.0)

    return estimates(mean(counts.sum(0)), resampled(counts, mean))[0]


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
