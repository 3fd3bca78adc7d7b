"""./run bench messages: cost and delivery of the message path, against a plain implementation in the same run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.bench.dds_delivery import measure_delivery
from sparseoccvla_ros.bench.message_cases import message_cases, voxel_publisher

from .timing import interleaved

VOXELS = 10_000


def bench_messages(console: Console, seconds: float = 4.0) -> dict[str, Any]:
    """Print both tables, return their numbers. seconds: per kind of image and transport."""
    table = Table("step", "ours ms", "plain ms", "ratio", title="Message path, median of one process, in turns")
    numbers: dict[str, Any] = {}
    with voxel_publisher(VOXELS) as publish:
        cases = {f"{VOXELS} voxels published as cloud and markers": (publish, None), **message_cases(VOXELS)}
        for name, (ours, plain) in cases.items():
            times = interleaved({"ours": ours, **({"plain": plain} if plain else {})}, 1.0)
            fast, slow = times["ours"][0], times["plain"][0] if plain else None
            numbers[name] = {"ours_ms": fast, "plain_ms": slow}
            table.add_row(name, f"{fast:.2f}", f"{slow:.1f}" if slow else "", f"{slow / fast:.1f}x" if slow else "")
    console.print(table)
    return {"rows": numbers, "delivery": _delivery(console, seconds)}


def _delivery(console: Console, seconds: float) -> dict[str, Any]:
    columns = ("images", "transport", "delivered", "median ms", "p95 ms", "MB/s", "cores")
    table = Table(*columns, title="Six 1600x900 cameras at 12 Hz, one process to another")
    numbers: dict[str, Any] = {}
    for title, profile in (("our profile", True), ("default", False)):
        for kind, found in measure_delivery(profile, seconds).items():
            numbers[f"{kind}, {title}"] = {**asdict(found), "share": found.share}
            values = (found.latency_ms, found.latency_p95_ms, found.mb_per_s)
            row = (f"{found.share:.1%}", *(f"{v:.1f}" for v in values), f"{found.cores:.2f}")
            table.add_row(f"{kind}", title, *row)
    console.print(table)
    return numbers
