"""./run bench: end to end, the message path, the encoder alone, and its runtimes side by side."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from rich.console import Console

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


def _messages(console: Console, bag: Path | None, rate: float, preset: str) -> dict[str, Any]:
    """Building, reading and delivering the large messages, next to the plain way of doing it in the same run."""
    from .bench_messages import bench_messages

    isolated_domain()
    return bench_messages(console)


def _occupancy(console: Console, bag: Path | None, rate: float, preset: str) -> dict[str, Any]:
    """The sparse occupancy encoder by stages, paths, precision and device."""
    from .bench_occupancy import bench_occupancy

    return bench_occupancy(console, preset)


def _runtimes(console: Console, bag: Path | None, rate: float, preset: str) -> dict[str, Any]:
    """The encoder in torch, ONNX Runtime and OpenVINO, in turns."""
    from .bench_runtimes import bench_runtimes

    return bench_runtimes(console, preset, bag)
