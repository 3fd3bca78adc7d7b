"""./run bench: end to end, the message path, and the encoder alone."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
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
    benches = {"end_to_end": _end_to_end, "messages": _messages, "occupancy": _occupancy}
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
    """Each stage of a preset alone, on one and on two threads."""
    import numpy as np
    import torch

    from sparseoccvla_ros.core import geometry
    from sparseoccvla_ros.core.occ3d import CAMERAS
    from sparseoccvla_ros.core.types import CameraFrames, EgoState
    from sparseoccvla_ros.occupancy.postprocess import occupied_voxels
    from sparseoccvla_ros.runtime.presets import load_preset
    from sparseoccvla_ros.runtime.stages import build_occupancy
    from sparseoccvla_ros.world.rig import load_rig

    loaded = load_preset(preset)
    encoder = build_occupancy(loaded)
    height, width = loaded.image.height, loaded.image.width
    rig = {camera.name: camera for camera in load_rig("n015")}
    scale = width / 1600
    matrices = []
    for name in CAMERAS:
        camera = rig[name]
        intrinsics = camera.intrinsics.copy()
        intrinsics[:2] *= scale
        intrinsics[1, 2] -= 900 * scale - height
        matrices.append(geometry.camera_matrix(intrinsics, geometry.inverse(camera.camera2ego)))
    images = np.random.default_rng(0).integers(0, 255, (6, height, width, 3), dtype=np.uint8)
    step = 0

    def frames() -> CameraFrames:
        nonlocal step
        step += 1
        stamp = step * 400_000_000
        ego = EgoState(geometry.planar(2.0 * step, 0, 0), np.zeros(6), "map")
        return CameraFrames(stamp, 0, CAMERAS, np.full(6, stamp), np.ones(6, bool), images, np.stack(matrices), ego)

    table = Table("threads", "encode ms", "voxels ms", title=f"Occupancy encoder, preset {preset}")
    numbers = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        encode = _clock(lambda: encoder.encode(frames()), 4.0)
        post = _clock(partial(occupied_voxels, encoder.encode(frames()), config=loaded.occupancy))
        numbers[str(threads)] = {"encode_ms": encode, "voxels_ms": post}
        table.add_row(str(threads), f"{encode:.0f}", f"{post:.1f}")
    console.print(table)
    return {"rows": numbers}
