"""./run bench: end to end, the message path, the encoder alone, and its runtimes side by side."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import bundled_bag

from .play_through import isolated_domain, play_through
from .tables import latency_table, node_table, state_lines


def run_bench(what: str, bag: Path | None, rate: float, preset: str, file: Path | None) -> int:
    """Run one bench, print its table, write its numbers."""
    benches = {"end_to_end": _end_to_end, "messages": _messages, "occupancy": _occupancy, "runtimes": _runtimes}
    if what not in benches:
        raise InvalidInput("bench", f"'{what}' is none of {', '.join(benches)}")
    console = Console()
    numbers = benches[what](console, bag, rate, preset)
    numbers = {"bench": what, "machine": _machine(), **numbers}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(numbers, indent=2) + "\n")
        console.print(f"wrote {file}")
    return 0


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0]
    return {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)), "load": load}


def _end_to_end(console: Console, bag: Path | None, rate: float, preset: str) -> dict[str, Any]:
    """The whole stack on a bag, without the viewer: camera stamp to path and its parts."""
    isolated_domain()
    outcome = play_through(
        bag or bundled_bag(),
        rate=rate,
        view=False,
        arguments={"preset": preset},
        out=Path("out/bench"),
        on_progress=lambda text, fraction: None,
    )
    console.print(latency_table(outcome), node_table(outcome))
    for line in state_lines(outcome):
        console.print(f"  {line}", highlight=False)
    return outcome.as_dict()


def _clock(work: Callable[[], Any], seconds: float = 1.5) -> float:
    """Median milliseconds of a call, after one warm-up."""
    work()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 5:
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def _messages(console: Console, bag: Path | None, rate: float, preset: str) -> dict[str, Any]:
    """Building and reading the large messages, next to the plain way of doing it in the same run."""
    from sparseoccvla_ros.ros.message_cases import message_cases

    table = Table("message", "ours ms", "typed fields ms", "ratio", title="Message path, median of one process")
    numbers: dict[str, Any] = {}
    for name, (ours, plain) in message_cases().items():
        fast = _clock(ours)
        slow = _clock(plain) if plain else None
        numbers[name] = {"ours_ms": fast, "plain_ms": slow}
        table.add_row(name, f"{fast:.2f}", f"{slow:.1f}" if slow else "", f"{slow / fast:.0f}x" if slow else "")
    console.print(table)
    return {"rows": numbers}


def _occupancy(console: Console, bag: Path | None, rate: float, preset: str) -> dict[str, Any]:
    """The sparse occupancy encoder by stages, paths, precision and device."""
    from .bench_occupancy import bench_occupancy

    return bench_occupancy(console, preset)


def _runtimes(console: Console, bag: Path | None, rate: float, preset: str) -> dict[str, Any]:
    """The encoder in torch, ONNX Runtime and OpenVINO, in turns."""
    from .bench_runtimes import bench_runtimes

    return bench_runtimes(console, preset, bag)
