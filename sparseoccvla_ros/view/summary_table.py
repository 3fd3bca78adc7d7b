"""Rates and latencies of a run, and the tables that tell them at its end."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from rich.text import Text

from ..core.errors import InvalidInput

KEPT = 20_000
"""Newest messages per topic, and clock samples per run of the clock, that statistics are made of."""
REACH = 1_000_000_000
"""ns past the first or last clock sample up to which a stamp is still translated."""


@dataclass(frozen=True)
class StageStats:
    """One row: number of messages or runs, rate in Hz, and latency in ms; NaN where it is not known."""

    count: int
    rate: float
    p50: float
    p95: float
    maximum: float

    @classmethod
    def of(cls, latencies: np.ndarray, span: float, count: int | None = None) -> StageStats:
        """From latencies in ms (NaN = not known) and the seconds between the first and the last of `count` events.

        The rate is that of the gaps, (count - 1) / span, so a short run is not overstated.
        """
        latencies = np.asarray(latencies, np.float64).reshape(-1)
        count = len(latencies) if count is None else count
        if not span >= 0:
            raise InvalidInput("span", f"{span} s is no duration")
        rate = (count - 1) / span if count > 1 and span > 0 else float("nan")
        known = latencies[np.isfinite(latencies)]
        if not len(known):
            return cls(count, rate, float("nan"), float("nan"), float("nan"))
        p50, p95 = np.percentile(known, (50, 95))
        return cls(count, rate, float(p50), float(p95), float(known.max()))


class SimClock:
    """Wall time of a simulated stamp, learnt from (simulated, wall) pairs of /clock.

    Between two samples the translation is linear, so any playback rate and pauses are followed. A clock that jumps
    back (a bag that loops) starts a new run; a stamp belongs to the run in which its message came.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[deque[int], deque[int]]] = []

    @property
    def run(self) -> int:
        """Index of the current run, -1 before the first sample."""
        return len(self._runs) - 1

    def add(self, simulated: int, wall: int) -> None:
        """A sample, ns and ns; both clocks must be read at the same instant."""
        if not self._runs or simulated < self._runs[-1][0][-1]:
            self._runs.append((deque(maxlen=KEPT), deque(maxlen=KEPT)))
        stamps, walls = self._runs[-1]
        # While the clock stands still the first sample holds: it is when the stamp was reached.
        if not stamps or simulated > stamps[-1]:
            stamps.append(simulated)
            walls.append(wall)

    def wall_of(self, stamps: np.ndarray, run: int) -> np.ndarray:
        """Wall ns float64 of simulated stamps int64 [N] ns in a run; NaN where the samples do not reach."""
        out = np.full(len(stamps), np.nan)
        if not 0 <= run < len(self._runs) or len(self._runs[run][0]) < 2:
            return out
        known, walls = (np.array(values, np.int64) for values in self._runs[run])
        # Offsets from the first sample: ns since 1970 would lose 0.2 us in a float64.
        x, y = known - known[0], walls - walls[0]
        at = np.asarray(stamps, np.int64) - known[0]
        slope = y[-1] / x[-1]
        inner = np.interp(at, x, y)
        outer = np.where(at > x[-1], y[-1] + (at - x[-1]) * slope, at * slope)
        value = np.where((at >= 0) & (at <= x[-1]), inner, outer)
        reached = (at >= -REACH) & (at <= x[-1] + REACH)
        out[reached] = value[reached] + float(walls[0])
        return out


class Rates:
    """Collects when messages came and turns that into rates and latencies per topic.

    Latency is from the camera stamp that a message carries to its arrival, in wall time. With simulated time that
    needs clock samples (`add_clock`); without them it stays unknown, unless live=True says that stamps are wall time.
    """

    def __init__(self, live: bool = False) -> None:
        self._live = live
        self._clock = SimClock()
        self._events: dict[str, deque[tuple[int, int, int]]] = {}
        self._counts: dict[str, int] = {}

    def add(self, topic: str, stamp: int, received: int) -> None:
        """A message: its stamp in ns (simulated or wall) and the wall ns at which it came."""
        self._events.setdefault(topic, deque(maxlen=KEPT)).append((stamp, received, self._clock.run))
        self._counts[topic] = self._counts.get(topic, 0) + 1

    def add_clock(self, simulated: int, wall: int) -> None:
        """A /clock message, ns, and the wall ns at which it came."""
        self._clock.add(simulated, wall)

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics in the order in which they first came."""
        return tuple(self._events)

    def count(self, topic: str) -> int:
        """Messages received on a topic, also those too old to be kept."""
        return self._counts.get(topic, 0)

    def latencies(self, topic: str) -> np.ndarray:
        """float64 [N] ms from camera stamp to arrival, in order of arrival; NaN where it is not known."""
        events = np.array(self._events.get(topic, ()), np.int64).reshape(-1, 3)
        stamps, received, runs = events.T
        if self._live:
            return (received - stamps) / 1e6
        out = np.full(len(events), np.nan)
        for run in np.unique(runs):
            chosen = runs == run
            out[chosen] = (received[chosen] - self._clock.wall_of(stamps[chosen], int(run))) / 1e6
        return out

    def between(self, first: str, last: str) -> np.ndarray:
        """float64 [N] ms between the arrivals of the same stamp on two topics; needs no clock.

        Stamps that came on one of them only are left out; of a stamp that came again (a loop) the pairs of the same
        run of the clock are taken.
        """
        started = {(stamp, run): received for stamp, received, run in reversed(self._events.get(first, ()))}
        pairs = [
            (received, started[stamp, run])
            for stamp, received, run in self._events.get(last, ())
            if (stamp, run) in started
        ]
        array = np.array(pairs, np.int64).reshape(-1, 2)
        return (array[:, 0] - array[:, 1]) / 1e6

    def stats(self, topic: str) -> StageStats:
        """Count, rate and latency of a topic; NaN where it is not known."""
        events = self._events.get(topic, ())
        span = (events[-1][1] - events[0][1]) / 1e9 if events else 0.0
        kept = StageStats.of(self.latencies(topic), max(span, 0.0), len(events))
        return StageStats(self.count(topic), kept.rate, kept.p50, kept.p95, kept.maximum)

    def rate_at(self, topic: str, when: int, window: float = 5.0) -> float:
        """Hz on a topic over the `window` seconds before wall ns `when`; 0 where it is silent."""
        received = [event[1] for event in self._events.get(topic, ())]
        inside = bisect_right(received, when) - bisect_right(received, when - round(window * 1e9))
        return inside / window


def latency_table(
    stats: Mapping[str, StageStats],
    title: str = "Latency from camera stamp",
    budgets: Mapping[str, float] | None = None,
) -> Table:
    """Rich table, one row per stage or topic: n, rate, and p50 / p95 / max in ms; "-" for what is not known.

    budgets: ms per stage; a p95 above its budget is printed red, below it green.
    """
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("stage", no_wrap=True)
    for name in ("n", "rate, Hz", "p50, ms", "p95, ms", "max, ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in stats.items():
        budget = (budgets or {}).get(name)
        style = "" if budget is None or np.isnan(row.p95) else "green" if row.p95 <= budget else "red"
        cells = (_number(row.rate, 1), _number(row.p50), Text(_number(row.p95), style=style), _number(row.maximum))
        table.add_row(Text(name), f"{row.count:,}", *cells)
    return table


def _number(value: float, digits: int = 0) -> str:
    if not np.isfinite(value):
        return "-"
    # One decimal below 10 ms: the difference between 1 and 2 ms is worth seeing.
    return f"{value:,.{digits if digits or abs(value) >= 10 else 1}f}"
