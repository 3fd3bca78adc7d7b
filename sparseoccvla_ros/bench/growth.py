"""./run bench growth: time and memory of encoder and language model as queries, cameras, frames, pixels, tokens grow.

Every size runs in a process of its own, on synthetic frame sets; all but the language model's weights are random, which
does not change the arithmetic.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.types import CameraFrames
from sparseoccvla_ros.data.processes import end_with_parent
from sparseoccvla_ros.runtime.factory import build_occupancy, build_reasoning
from sparseoccvla_ros.runtime.presets import Preset, load_preset
from sparseoccvla_ros.runtime.warm_up import made_up_drive, made_up_queries

from .timing import interleaved

PICTURE = Path("out/bench/growth.svg")


@dataclass(frozen=True)
class Dimension:
    """A quantity that grows. usual: its value in the preset; sizes: those measured, the usual one among them; work:
    the stage whose time is measured; change: returns the preset with a size."""

    name: str
    usual: int
    sizes: tuple[int, ...]
    work: str
    change: Callable[[int], Preset]


@dataclass(frozen=True)
class Cost:
    """Measured cost of one size: median ms of a step, and MB of the process beyond its imports."""

    size: int
    ms: float
    mb: float


def dimensions(preset: Preset) -> tuple[Dimension, ...]:
    """Returns the dimensions of a preset with an image encoder and a language model."""
    preset.need("reasoning")
    occupancy, image, language = preset.occupancy, preset.image, preset.reasoning
    assert language is not None
    tokens = language.occupancy_tokens
    pixels = image.height * image.width

    def queries(size: int) -> Preset:
        picked = occupancy.image_queries * size // occupancy.queries
        return replace(preset, occupancy=occupancy.replace(queries=size, image_queries=picked))

    def frames(size: int) -> Preset:
        return replace(preset, occupancy=occupancy.replace(frames=size))

    def sides(size: int) -> dict[str, int]:
        scale = (size / pixels) ** 0.5
        return {name: round(getattr(image, name) * scale / 32) * 32 for name in ("height", "width")}

    def area(size: int) -> Preset:
        return replace(preset, image=replace(image, **sides(size)))

    areas = tuple(math.prod(sides(round(pixels * factor)).values()) for factor in (0.25, 1, 4))

    def scene_tokens(size: int) -> Preset:
        room = language.max_prefill_tokens + max(0, size - tokens)
        reasoning = replace(language, occupancy_tokens=size, max_prefill_tokens=room)
        # As many queries for every size: the largest has to choose its tokens among them.
        return replace(queries(max(4 * tokens, occupancy.queries)), reasoning=reasoning)

    def of(name: str, usual: int, factors: tuple[float, ...], work: str, change: Any) -> Dimension:
        return Dimension(name, usual, tuple(round(usual * f) for f in factors), work, change)

    return (
        of("queries", occupancy.queries, (0.5, 1, 2, 4), "encode", queries),
        Dimension("cameras", len(CAMERAS), (1, 2, 4, 6, 8), "encode", lambda size: preset),
        of("frames", occupancy.frames, (0.5, 1, 2, 4)[occupancy.frames == 1 :], "encode", frames),
        Dimension("pixels of an image", pixels, areas, "encode", area),
        of("scene tokens", tokens, (0.5, 1, 2, 4), "prefill", scene_tokens),
    )


def bench_growth(
    console: Console, preset_name: str, seconds: float = 2.0, picture: Path = PICTURE, names: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Print a table, draw `picture`, return the numbers. names: dimensions to measure, all if empty."""
    table = Table("what", "size", "ms", "MB", "time against usual", title=f"Growth, preset {preset_name}")
    found: dict[str, list[Cost]] = {}
    threads = len(os.sched_getaffinity(0))
    chosen = [d for d in dimensions(load_preset(preset_name)) if not names or d.name in names]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=end_with_parent, max_tasks_per_child=1) as pool:
        for dimension in chosen:
            costs = [pool.submit(cost_of, preset_name, dimension.name, s, seconds, threads) for s in dimension.sizes]
            found[dimension.name] = rows = [c.result() for c in costs]
            usual = next(c for c in rows if c.size == dimension.usual)
            for row in rows:
                what = f"{dimension.name} ({dimension.work})"
                table.add_row(what, str(row.size), f"{row.ms:.0f}", f"{row.mb:.0f}", f"{row.ms / usual.ms:.2f}")
    console.print(table)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(growth_picture({(d.name, d.usual): found[d.name] for d in chosen}), encoding="utf-8")
    console.print(f"wrote {picture}")
    return {"preset": preset_name, "threads": threads} | {n: [vars(c) for c in rows] for n, rows in found.items()}


def cost_of(preset_name: str, name: str, size: int, seconds: float, threads: int) -> Cost:
    """Measure one size in this process."""
    torch.set_num_threads(threads)
    logging.getLogger("sparseoccvla_ros").setLevel(logging.ERROR)  # that the encoder is untrained is intended
    preset = load_preset(preset_name)
    dimension = next(d for d in dimensions(preset) if d.name == name)
    changed = replace(dimension.change(size), weights={})
    before = _peak_mb()
    if dimension.work == "prefill":
        reasoner, queries = build_reasoning(changed), made_up_queries(changed)
        times: list[float] = []
        until = time.monotonic() + seconds
        while len(times) < 4 or time.monotonic() < until:
            reasoner.reason(queries)
            times.append(1e3 * reasoner.prefill_seconds)
        return Cost(size, statistics.median(times[1:]), _peak_mb() - before)
    encoder = build_occupancy(changed)
    drive = endless(changed, size if name == "cameras" else len(CAMERAS))
    found = interleaved({"step": lambda: encoder.encode(next(drive))}, seconds, rounds=5 + changed.occupancy.frames)
    return Cost(size, found["step"][0], _peak_mb() - before)


def endless(preset: Preset, cameras: int) -> Iterator[CameraFrames]:
    """Yields the frame sets of made_up_drive from `cameras` cameras."""
    pick = np.arange(cameras) % len(CAMERAS)
    names = tuple(f"camera_{i}" for i in range(cameras))
    for frames in made_up_drive(preset):
        yield replace(
            frames, names=names, stamps=frames.stamps[pick], valid=frames.valid[pick], images=frames.images[pick],
            ego2img=frames.ego2img[pick],
        )  # fmt: skip


def _peak_mb() -> float:
    # Not ru_maxrss: a child inherits that of its parent.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split("VmHWM:")[1].split()[0]) / 1e3


_SIDE, _MARGIN, _LEAST, _MOST = 300, 46, -3.0, 2.0
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


def growth_picture(found: dict[tuple[str, int], list[Cost]]) -> str:
    """Returns an SVG with two panels, time and memory against size, each relative to the preset's, both axes base 2.

    found: costs by (name, usual size). The dashed line is proportional growth.
    """
    width, height = 2 * (_SIDE + _MARGIN) + 190, _SIDE + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for panel, (title, value) in enumerate((("time of a step", "ms"), ("memory", "mb"))):
        left = _MARGIN + panel * (_SIDE + _MARGIN)

        def at(size: float, cost: float, left: int = left) -> tuple[float, float]:
            scale = _SIDE / (_MOST - _LEAST)
            return left + scale * (np.log2(size) - _LEAST), _MARGIN + _SIDE - scale * (np.log2(cost) - _LEAST)

        parts.append(f'<text x="{left + _SIDE / 2}" y="24" text-anchor="middle">{title}</text>')
        for power in range(int(_LEAST), int(_MOST) + 1):
            x, y = at(2.0**power, 2.0**power)
            label = f"{2**power}x" if power >= 0 else f"1/{2**-power}"
            parts.append(f'<path d="M{x:.1f} {_MARGIN}v{_SIDE}M{left} {y:.1f}h{_SIDE}" stroke="#ddd" fill="none"/>')
            parts.append(f'<text x="{x:.1f}" y="{_MARGIN + _SIDE + 16}" text-anchor="middle">{label}</text>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        parts.append(
            f'<path d="M{left} {_MARGIN + _SIDE}L{left + _SIDE} {_MARGIN}" stroke="#888" stroke-dasharray="4"/>'
        )
        for colour, ((_, usual), costs) in zip(_COLOURS, found.items(), strict=False):
            least = next(getattr(c, value) for c in costs if c.size == usual)
            points = [at(c.size / usual, min(max(getattr(c, value) / least, 2.0**_LEAST), 2.0**_MOST)) for c in costs]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    parts.append(
        f'<text x="{_MARGIN + _SIDE}" y="{height - 8}" text-anchor="middle">size, relative to the preset\'s</text>'
    )
    for row, (colour, ((name, usual), costs)) in enumerate(zip(_COLOURS, found.items(), strict=False)):
        x, y = 2 * (_SIDE + _MARGIN) + 16, _MARGIN + 20 + 44 * row
        cost = next(c for c in costs if c.size == usual)
        parts.append(f'<path d="M{x} {y - 4}h20" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 26}" y="{y}">{name}</text>')
        parts.append(
            f'<text x="{x + 26}" y="{y + 16}" fill="#666">1x: {usual}, {cost.ms:.0f} ms, {cost.mb:.0f} MB</text>'
        )
    return "\n".join([*parts, "</svg>\n"])
