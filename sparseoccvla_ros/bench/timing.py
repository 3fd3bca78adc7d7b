"""Times of several ways to do the same, measured alternately in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], Any]


def interleaved(
    works: dict[str, Work], seconds: float, synchronise: Callable[[], None] = lambda: None, rounds: int = 5
) -> dict[str, tuple[float, float]]:
    """Returns the median wall time and the least CPU time per work in ms, measured alternately.

    seconds: per work, but at least `rounds` rounds; synchronise: waits for the device. On a shared machine only the CPU
    time is stable; with one thread it is what an idle core would need.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for work in works.values():
        work()
    until = time.perf_counter() + seconds * len(works)
    while time.perf_counter() < until or len(next(iter(times.values()))) < rounds:
        for name, work in works.items():
            synchronise()
            wall, processor = time.perf_counter(), time.process_time()
            work()
            synchronise()
            times[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)))
    return {n: (statistics.median(w for w, _ in row), min(c for _, c in row)) for n, row in times.items()}


def wall_times(works: dict[str, Work], seconds: float, synchronise: Callable[[], None]) -> dict[str, float]:
    """Returns the median wall times of `interleaved`, for works of seconds each: of three rounds at least."""
    return {name: wall for name, (wall, _) in interleaved(works, seconds, synchronise, rounds=3).items()}


def cpu_times(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Returns the least CPU times, not the medians, of `rounds` rounds of `interleaved`."""
    return {name: cpu for name, (_, cpu) in interleaved(works, 0.0, rounds=rounds).items()}
