"""./run bench occupancy --against: two encoders alternately, and an OPUS-V2 densifier against dense convolutions.

Times are the least CPU times of the process with one thread, which other work on the machine disturbs least.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.occupancy.densifier.network import Densifier
from sparseoccvla_ros.runtime.factory import build_occupancy
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.runtime.warm_up import made_up_drive

from .timing import cpu_times

SPREADS_M = (0.15, 0.3, 0.6)
"""Standard deviations of a query's points in m; they determine the number of voxels."""


def bench_against(console: Console, name: str, other: str, rounds: int = 3) -> dict[str, Any]:
    """Measure encoding with two presets: CPU time, alternately, and peak memory, each in its own process; also the
    densifier alone if the first preset has one."""
    memory = {preset: _peak_mb(preset) for preset in (other, name)}
    torch.set_num_threads(1)
    works: dict[str, Callable[[], object]] = {}
    weights = {}
    for preset in memory:
        encoder, frames = build_occupancy(load_preset(preset)), made_up_drive(load_preset(preset))
        works[preset] = lambda encoder=encoder, frames=frames: encoder.encode(next(frames))
        weights[preset] = sum(p.numel() * p.element_size() for p in encoder.parameters()) / 1e6
    times = cpu_times(works, rounds)
    table = Table("preset", "encode", "weights", "peak of the process", title="Side by side, one CPU thread")
    for preset in memory:
        table.add_row(preset, f"{times[preset]:.0f} ms", f"{weights[preset]:.0f} MB", f"{memory[preset]:.0f} MB")
    console.print(table)
    numbers: dict[str, Any] = {
        "preset": name,
        "against": other,
        "encode_cpu_ms": times,
        "weights_mb": weights,
        "peak_mb": memory,
    }
    if load_preset(name).occupancy.decoder == "opus_v2":
        numbers["densifier"] = bench_densifier(console, name)
    return numbers


def _peak_mb(name: str) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_encode_once, name).result()


def _encode_once(name: str) -> float:
    torch.set_num_threads(1)
    preset = load_preset(name)
    build_occupancy(preset).encode(next(made_up_drive(preset)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def spread_points(queries: int, points: int, spread: float) -> Tensor:
    """Normalised points float32 [1, Q, R, 3] of queries in the grid's lowest 3 m, scattered by `spread` metres."""
    generator = torch.Generator().manual_seed(0)
    lower, upper = torch.tensor(OCC3D_GRID.lower), torch.tensor(OCC3D_GRID.upper)
    centres = torch.rand(1, queries, 1, 3, generator=generator) * torch.tensor([80.0, 80.0, 3.0])
    offsets = spread * torch.randn(1, queries, points, 3, generator=generator)
    return (centres + offsets) / (upper - lower)


@torch.inference_mode()
def bench_densifier(console: Console, name: str, rounds: int = 5) -> list[dict[str, float]]:
    """Measure a preset's densifier on points of several spreads, and its two convolutions densely over all voxels."""
    config = load_preset(name).occupancy
    torch.set_num_threads(1)
    torch.manual_seed(0)
    densifier = Densifier(OCC3D_GRID, config.point_features, config.densifier_dims).eval()
    first, act, second = densifier.cls_branch
    features = torch.randn(1, config.queries, config.points_per_layer[-1], config.point_features)
    kernels = [m.weight.permute(0, 4, 1, 2, 3).contiguous() for m in (first, second)]

    def dense(volume: Tensor) -> Tensor:
        return F.conv3d(F.conv3d(volume, kernels[0], first.bias, padding=1).relu(), kernels[1], second.bias, padding=1)

    table = Table(
        "points spread by", "voxels with points", "voxels out", "pooling", "first conv.", "second conv.", "densifier",
        "us per voxel with points", "us per voxel out", "dense conv.", "dense / sparse conv.",
        title=f"Densifier of {name}, one CPU thread",
    )  # fmt: skip
    rows = []
    volume = torch.zeros(1, config.densifier_dims, *OCC3D_GRID.shape)
    dense_ms = cpu_times({"dense": lambda: dense(volume)}, 2)["dense"]
    for spread in SPREADS_M:
        points = spread_points(config.queries, config.points_per_layer[-1], spread)
        sites, _, pooled = densifier.pool(points, features)
        grown = sites.dilated()
        hidden = act(first(pooled, sites, grown))
        times = cpu_times(
            {
                "pool": lambda points=points: densifier.pool(points, features),
                "first": lambda pooled=pooled, sites=sites, grown=grown: first(pooled, sites, grown),
                "second": lambda hidden=hidden, grown=grown: second(hidden, grown, grown),
                "all": lambda points=points: densifier(points, features),
            },
            rounds,
        )
        row = {"spread_m": spread, "sites": len(sites), "voxels": len(grown), "dense_ms": dense_ms, **times}
        rows.append(row)
        table.add_row(
            f"{spread} m",
            f"{len(sites):,}",
            f"{len(grown):,}",
            *(f"{times[part]:.0f} ms" for part in ("pool", "first", "second", "all")),
            f"{1e3 * times['all'] / len(sites):.1f}",
            f"{1e3 * times['all'] / len(grown):.2f}",
            f"{dense_ms:.0f} ms",
            f"{dense_ms / (times['first'] + times['second']):.0f}x",
        )
    console.print(table)
    console.print(
        f"  dense: two torch conv3d over all {OCC3D_GRID.shape} voxels, {config.densifier_dims} to "
        f"{config.densifier_dims} to 17 channels, {1e3 * dense_ms / 640_000:.2f} us per voxel",
        highlight=False,
    )
    return rows
