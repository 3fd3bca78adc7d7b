"""./run export: exports the networks of a preset to verified ONNX files and engines."""

from __future__ import annotations

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.data.bags.offline_sync import bag_frames
from sparseoccvla_ros.runtime.backends.base import CannotBuild
from sparseoccvla_ros.runtime.backends.registry import backend
from sparseoccvla_ros.runtime.export import Built, build
from sparseoccvla_ros.runtime.onnx_graphs import record
from sparseoccvla_ros.runtime.presets import load_preset

from ..runtime.export_jobs import FRAMES, build_encoder, occupancy_jobs

_CAPTION = "off: difference from torch in float32, as a share of the largest value; of the decoder the median set"


def run_export(preset: str, runtime: str, out: Path | None, bag: Path | None, precision: str) -> int:
    """Export, verify, build and cache; copies to `out` if given. Returns 0 if the encoder could be built, else 1."""
    console = Console()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    loaded = load_preset(preset)
    problem = backend(runtime).missing()
    if problem:
        console.print(f"[bold yellow]{runtime} cannot be used here:[/] {problem}. The nodes go on with torch.")
        return 1
    built: list[Built] = []
    refused: list[tuple[str, str]] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("reading frames", total=None)
        encoder = build_encoder(loaded, precision)
        frames = list(islice(bag_frames(bag or bundled_bag(), loaded.image), FRAMES))
        jobs = occupancy_jobs(encoder, loaded, runtime, record(encoder, frames))
        bar.update(task, total=len(jobs))
        for number, (graph, samples, kind) in enumerate(jobs):

            def told(text: str, share: float, number: int = number) -> None:
                bar.update(task, description=text, completed=number + share)

            try:
                threads = torch.get_num_threads()
                built.append(build(loaded.name, graph, runtime, samples, kind, threads, told))
            except CannotBuild as error:
                refused.append((graph.name, str(error)))
            bar.update(task, completed=number + 1)
        bar.update(task, description="done")
    console.print(_table(built, runtime, loaded.name))
    unproven = {item.record["verified"] for item in built if "difference" not in item.record}
    for reason in sorted(unproven):
        console.print(f"[bold yellow]built, not run:[/] {reason}", highlight=False)
    for name, reason in refused:
        console.print(f"[bold yellow]{name}: torch stays in place:[/] {reason}", highlight=False)
    if out is not None and built:
        _copy(built, out)
        console.print(f"copied to {out}", highlight=False)
    if not refused and not unproven:
        console.print(f"The occupancy node takes them with the parameter runtime:={runtime}", highlight=False)
    return 1 if refused else 0


def _table(built: list[Built], runtime: str, preset: str) -> Table:
    title = f"Preset {preset} for {built[0].record['binding']}" if built else f"Preset {preset} for {runtime}"
    table = Table("graph", "in", "nodes", "ONNX off", "engine off", "MB", "", title=title, caption=_CAPTION)
    for item in built:
        record = item.record
        ours = _worst(record["difference"]) if "difference" in record else "not run"
        table.add_row(
            item.graph,
            record["precision"],
            str(sum(record["operators"].values())),
            _worst(record["onnx_difference"]),
            ours,
            f"{record['size'] / 1e6:.1f}",
            f"built in {record['seconds']} s" if item.fresh else "from the cache",
        )
    return table


def _worst(found: dict[str, float] | str) -> str:
    return found if isinstance(found, str) else f"{max(found.values()):.1e}"


def _copy(built: list[Built], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    manifest = {}
    for item in built:
        engine = out / f"{item.graph}{item.engine.suffix}"
        shutil.copyfile(item.engine, engine)
        if item.onnx.is_file():
            shutil.copyfile(item.onnx, out / f"{item.graph}.onnx")
        manifest[item.graph] = {**item.record, "file": engine.name}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
