"""Breakdown of the latency from image to path, from the traces that plans carry (core/trace.py)."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sparseoccvla_ros.core.trace import KINDS, Trace

FIRST, LAST = "image arrives", "path arrives"


@dataclass(frozen=True)
class Hop:
    """Time from the previous event to `event`, in milliseconds over all plans."""

    event: str
    kind: str
    mean: float
    p95: float


def latency_budget(
    plans: Iterable[tuple[int, Trace]], images: Mapping[int, float], paths: Mapping[int, float]
) -> list[Hop]:
    """Returns the hops in order; their means add up to the mean latency from image to path of the same stamps.

    plans: stamp and trace; images, paths: arrival at the observer by stamp, seconds of CLOCK_MONOTONIC. Skips stamps
    without image, path or trace, and those whose events differ from the most frequent sequence.
    """
    ways: dict[tuple[str, ...], list[list[float]]] = {}
    for stamp, trace in plans:
        if not trace or stamp not in images or stamp not in paths:
            continue
        events = [(FIRST, 1e3 * images[stamp]), *((n, t / 1e6) for n, t in trace), (LAST, 1e3 * paths[stamp])]
        times = [at for _, at in events]
        steps = [after - before for before, after in itertools.pairwise(times)]
        ways.setdefault(tuple(n for n, _ in events[1:]), []).append(steps)
    if not ways:
        return []
    names, rows = max(ways.items(), key=lambda way: len(way[1]))
    hops = []
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        ordered = sorted(column)
        kind = KINDS.get(name.rsplit("/", 1)[-1], "DDS")
        hops.append(Hop(name, kind, statistics.fmean(ordered), ordered[round(0.95 * (len(ordered) - 1))]))
    return hops


def by_kind(hops: Iterable[Hop]) -> dict[str, float]:
    """Returns the summed mean milliseconds of the hops of each kind, largest first."""
    total: dict[str, float] = {}
    for hop in hops:
        total[hop.kind] = total.get(hop.kind, 0.0) + hop.mean
    return dict(sorted(total.items(), key=lambda item: -item[1]))
