"""./run bench runtimes: the occupancy encoder in every runtime of this machine, alternately within one process.

The machines are noisy: trust the ratios. Each runtime encodes the same real frame sets with its own memory; images and
decoder are also timed alone, and differences from torch in float32 are listed beside the times.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Column, Table

from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.core.types import CameraFrames
from sparseoccvla_ros.data.bags.offline_sync import bag_frames
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder, padded_size
from sparseoccvla_ros.runtime.backend_swap import use_runtime
from sparseoccvla_ros.runtime.backends.base import CannotBuild
from sparseoccvla_ros.runtime.presets import Preset, load_preset

from ..runtime.export_jobs import FRAMES, build_encoder, build_engines
from ..runtime.onnx_graphs import record
from .timing import interleaved

VARIANTS = (
    ("torch float32", "torch", "float32"),
    ("torch bfloat16", "torch", "bfloat16"),
    ("torch compiled", "compiled", "float32"),
    ("ONNX Runtime float32", "onnx", "float32"),
    ("OpenVINO float32", "openvino", "float32"),
    ("OpenVINO bfloat16", "openvino", "bfloat16"),
)
"""Title, runtime, and precision of backbone and neck; the decoder is float32 everywhere."""


def bench_runtimes(
    console: Console, preset_name: str, bag: Path | None = None, threads: tuple[int, ...] = (1, 2), seconds: float = 2.0
) -> dict[str, Any]:
    """Time every variant on the CPU; print tables, return numbers. Missing engines are built first."""
    preset = load_preset(preset_name)
    frames = list(islice(bag_frames(bag or bundled_bag(), preset.image), 12))
    numbers: dict[str, Any] = {"preset": preset.name, "load": os.getloadavg()[0], "cpu": {}}
    for count in threads:
        torch.set_num_threads(count)
        numbers["cpu"][str(count)] = _measure(console, preset, frames, bag, count, seconds)
    return numbers


def _ready(preset: Preset, runtime: str, precision: str, bag: Path | None, threads: int) -> OccupancyEncoder | str:
    """Returns an encoder on this runtime, or why it is not available."""
    if runtime == "torch" and precision != "float32" and not torch.cpu._is_avx512_bf16_supported():
        return "this processor has no instructions for it, and torch is thirty times slower without"
    encoder = build_encoder(preset, precision)
    try:
        if runtime not in ("torch", "compiled"):
            frames = islice(bag_frames(bag or bundled_bag(), preset.image), FRAMES)
            build_engines(encoder, preset, runtime, record(encoder, list(frames)))
    except CannotBuild as error:
        return str(error)
    return use_runtime(encoder, preset, runtime, threads) or encoder


def _measure(
    console: Console, preset: Preset, frames: list[CameraFrames], bag: Path | None, threads: int, seconds: float
) -> dict[str, Any]:
    encoders: dict[str, OccupancyEncoder] = {}
    skipped: dict[str, str] = {}
    for title, runtime, precision in VARIANTS:
        found = _ready(preset, runtime, precision, bag, threads)
        if isinstance(found, str):
            skipped[title] = found
        else:
            encoders[title] = found
    results = {title: [encoder.encode(item) for item in frames][-1] for title, encoder in encoders.items()}
    whole: dict[str, Callable[[], Any]] = {}
    images: dict[str, Callable[[], Any]] = {}
    decoder: dict[str, Callable[[], Any]] = {}
    pixels = torch.from_numpy(frames[-1].images)
    for title, encoder in encoders.items():
        scene = encoder.memory.views(padded_size(frames[-1].images.shape[1:3]))
        sets = (replace(item, epoch=epoch) for epoch in itertools.count() for item in frames)  # endless
        whole[title] = lambda encoder=encoder, sets=sets: encoder.encode(next(sets))
        images[title] = lambda encoder=encoder: encoder.image_features(pixels)
        decoder[title] = lambda encoder=encoder, scene=scene: encoder.decode(scene)
    with torch.inference_mode():
        parts = [interleaved(works, seconds) for works in (whole, images, decoder)]
    first = next(iter(encoders))
    names = ("encode", "images", "decoder")
    columns = [f"{name} {kind}" for kind in ("wall", "cpu") for name in names]
    table = Table(
        Column("runtime", no_wrap=True), *columns, "speed", "points off",
        title=f"Occupancy encoder, preset {preset.name}, {threads} CPU thread(s), in turns",
        caption="ms; wall: median, cpu: least processor time; speed: by encode cpu; off: m, from the first row",
    )  # fmt: skip
    rows: dict[str, Any] = {}
    for title in encoders:
        off = float(np.abs(results[title].points - results[first].points).max())
        times = [part[title][kind] for kind in (0, 1) for part in parts]
        ratio = parts[0][first][1] / parts[0][title][1]
        table.add_row(title, *(f"{value:.0f}" for value in times), f"{ratio:.2f}x", f"{off:.0e}")
        rows[title] = {**dict(zip(columns, times, strict=True)), "speed": ratio, "points_off_m": off}
    console.print(table)
    for title, reason in skipped.items():
        console.print(f"  {title}: not measured: {reason}", highlight=False)
    return {"rows": rows, "skipped": skipped}
