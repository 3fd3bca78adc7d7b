"""./run bench: benchmarks of the whole stack, the message path, the encoder, its runtimes, rendering and training."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sparseoccvla_ros.core.errors import InvalidInput

from ..bringup.run_on_bag import isolated_domain


@dataclass(frozen=True)
class Choices:
    """Options of ./run bench. hz: frame sets per second of additional runs; for the others see `./run bench --help`."""

    bag: Path | None = None
    rate: float = 1.0
    preset: str = "tiny"
    hz: tuple[float, ...] = ()
    variants: bool = False
    minutes: float = 20.0
    reduced: bool = False
    against: str = ""


def run_bench(what: str, choices: Choices, file: Path | None) -> int:
    """Run one benchmark, print its table and write its numbers to `file`. Raises InvalidInput("bench") if unknown."""
    if what not in BENCHES:
        raise InvalidInput("bench", f"'{what}' is not one of {', '.join(BENCHES)}")
    console = Console()
    numbers = BENCHES[what](console, choices)
    numbers = {"bench": what, "machine": _machine(), **numbers}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(numbers, indent=2) + "\n")
        console.print(f"wrote {file}")
    return 0


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0]
    return {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)), "load": load}


def _end_to_end(console: Console, choices: Choices) -> dict[str, Any]:
    """The whole stack on a bag, without the viewer: latency from camera to path and its parts, at several rates."""
    from ..bench.end_to_end import bench_end_to_end

    isolated_domain()
    return bench_end_to_end(console, choices.preset, choices.bag, choices.rate, choices.hz, variants=choices.variants)


def _messages(console: Console, choices: Choices) -> dict[str, Any]:
    """Building, reading and delivering large messages, compared with the straightforward way in the same run."""
    from ..bench.messages import bench_messages

    isolated_domain()
    return bench_messages(console)


def _occupancy(console: Console, choices: Choices) -> dict[str, Any]:
    """The sparse occupancy encoder by stages, paths, precision and device."""
    from ..bench.occupancy import bench_occupancy

    if choices.against:
        from ..bench.densifier import bench_against

        return bench_against(console, choices.preset, choices.against)
    return bench_occupancy(console, choices.preset)


def _runtimes(console: Console, choices: Choices) -> dict[str, Any]:
    """The encoder in torch, ONNX Runtime and OpenVINO, interleaved."""
    from ..bench.runtimes import bench_runtimes

    return bench_runtimes(console, choices.preset, choices.bag)


def _world(console: Console, choices: Choices) -> dict[str, Any]:
    """Rendering of the synthetic world as for training, with labels and visibility."""
    from ..bench.world import bench_world

    return bench_world(console, choices.preset)


def _soak(console: Console, choices: Choices) -> dict[str, Any]:
    """All nodes for a long time: memory, threads, shared memory."""
    from ..bench.soak import bench_soak

    isolated_domain()
    return bench_soak(console, choices.preset, choices.minutes)


def _training(console: Console, choices: Choices) -> dict[str, Any]:
    """Training steps of stage 1 by phase, from cached features and from images."""
    from ..bench.training import bench_training

    return bench_training(console, choices.preset)


def _growth(console: Console, choices: Choices) -> dict[str, Any]:
    """Time and memory as queries, cameras, frames, pixels and tokens grow."""
    from ..bench.growth import bench_growth

    return bench_growth(console, choices.preset)


def _hardware(console: Console, choices: Choices) -> dict[str, Any]:
    """A preset of the paper's size on this machine's device."""
    from ..bench.hardware import bench_hardware

    return bench_hardware(console, choices.preset, choices.reduced)


BENCHES: dict[str, Callable[[Console, Choices], dict[str, Any]]] = {
    "end_to_end": _end_to_end,
    "messages": _messages,
    "occupancy": _occupancy,
    "runtimes": _runtimes,
    "world": _world,
    "soak": _soak,
    "training": _training,
    "growth": _growth,
    "hardware": _hardware,
}
