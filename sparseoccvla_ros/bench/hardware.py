"""./run bench hardware: a paper-size preset with random weights on this machine's device, while a question is answered.

The stages run as in the composed nodes, without ROS: one thread prepares and encodes images and plans with the newest
reasoning, another reasons on the newest queries, a third generates answers all the time. `reduced` runs the same at a
size that any CPU computes in seconds; its times do not apply to the preset.
"""

from __future__ import annotations

import itertools
import os
import resource
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.bench.message_cases import image_sources
from sparseoccvla_ros.camera_sync.images import ImagePreparer
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.core.types import CameraFrames, Command, CommandSource, SceneQueries
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels
from sparseoccvla_ros.planning.ego_history import EgoHistory
from sparseoccvla_ros.reasoning.llm import dummy_llm
from sparseoccvla_ros.ros.latest_worker import Worker
from sparseoccvla_ros.runtime.factory import build_occupancy, build_planning, build_reasoning, pick_device
from sparseoccvla_ros.runtime.presets import Preset, load_preset
from sparseoccvla_ros.runtime.warm_up import made_up_drive

from .roofline import physical_floor

GOAL_P99_MS, GOAL_HZ = 50.0, 10.0
"""Targets of issue "Fast" for r50_600q on an H200-class GPU."""


def bench_hardware(
    console: Console, preset_name: str, reduced: bool, seconds: float = 20.0, rate: float = GOAL_HZ
) -> dict[str, Any]:
    """Print a table, return the numbers. rate: frame sets offered per second."""
    device = str(pick_device("auto"))
    preset = with_random_language(load_preset(preset_name), reduced)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    console.print(f"{preset.name}{' reduced' if reduced else ''} on {where}, {preset.reasoning.language_model}")
    numbers = run_pipeline(preset, device, seconds, rate)
    numbers |= {"preset": preset_name, "reduced": reduced, "device": where}
    table = Table("what", "value", "goal", title="Random weights, a question being answered all the time")
    goal = not reduced and device == "cuda"
    for name, value, wanted in (
        ("camera to path, median ms", numbers["camera_to_path_ms"]["p50"], ""),
        ("camera to path, p99 ms", numbers["camera_to_path_ms"]["p99"], f"<= {GOAL_P99_MS:.0f}"),
        ("plans per second", numbers["plans_per_s"], f">= {GOAL_HZ:.0f}"),
        ("reasoning states per second", numbers["states_per_s"], ""),
        ("prefill, median ms", numbers["prefill_ms"], ""),
        ("answer tokens per second", numbers["tokens_per_s"], ""),
        ("memory, GB", numbers["memory_gb"], ""),
    ):
        table.add_row(name, f"{value:.1f}", wanted if goal else "")
    console.print(table)
    numbers["floor"] = floor = physical_floor(preset, bundled_bag(), device)
    console.print(
        f"  floor: encode {floor['encode_gflop']:.0f} GFLOP {floor['encode_ms']:.1f} ms in float32, prefill "
        f"{floor['prefill_gflop']:.0f} GFLOP {floor['prefill_ms']:.1f} ms, token {floor['token_mb']:.0f} MB "
        f"{floor['token_ms']:.1f} ms",
        highlight=False,
    )
    return numbers


def with_random_language(preset: Preset, reduced: bool) -> Preset:
    """Returns the preset with a random language model of InternLM2-1.8B's shape; `reduced`: everything small."""
    for stage in ("reasoning", "planning"):
        preset.need(stage)
    if not reduced:
        return replace(preset, reasoning=replace(preset.reasoning, language_model=dummy_llm.LARGE))
    occupancy = preset.occupancy.replace(backbone_width=16, frames=2, queries=60, points_per_layer=(1, 4, 16))
    reasoning = replace(preset.reasoning, language_model=dummy_llm.REDUCED, occupancy_tokens=60, dtype="float32")
    return replace(
        preset,
        image=replace(preset.image, height=64, width=176),
        occupancy=occupancy,
        reasoning=reasoning,
        planning=replace(preset.planning, reasoning_dims=256),
    )


def _paced(rate: float, seconds: float) -> Iterator[float]:
    """Yield when each frame set arrives (steady clock); skips those that are overdue by more than one period."""
    began = time.monotonic()
    for tick in itertools.count():
        at = began + tick / rate
        if at - began > seconds:
            return
        wait = at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        elif wait < -1 / rate:
            continue
        yield at


def run_pipeline(preset: Preset, device: str, seconds: float, rate: float) -> dict[str, Any]:
    """Run frame sets at `rate` Hz through all stages for `seconds`; returns times in ms, memory in GB, rates in Hz."""
    encoder, reasoner, planner = (build(preset, device) for build in (build_occupancy, build_reasoning, build_planning))
    preparer, sources = ImagePreparer(preset.image), image_sources()
    states: list[tuple[float, Any]] = []
    prefills: list[float] = []

    def reason(queries: SceneQueries) -> None:
        result = reasoner.reason(queries)
        states.append((time.monotonic(), result))
        prefills.append(1e3 * reasoner.prefill_seconds)

    history = EgoHistory()
    ended = threading.Event()
    tokens: list[tuple[int, float]] = []

    def answer() -> None:
        while not ended.is_set():
            got = reasoner.ask("What is ahead?", cancel=ended, max_tokens=48, time_limit=60.0)
            tokens.append((got.tokens, got.seconds))

    def step(frames: CameraFrames) -> SceneQueries:
        preparer.prepare_all([(s, o, None) for s, o in zip(sources, frames.images, strict=True)])
        queries = encoder.encode(frames)
        worker.submit(queries)
        history.add(queries.stamp, queries.ego.pose, queries.ego.twist)
        known = states[-1][1] if states else None
        voxels = occupied_voxels(queries, config=preset.occupancy)
        planner.plan(queries, voxels, known, history, Command.STRAIGHT, CommandSource.DEFAULT)
        return queries

    drive = made_up_drive(preset)  # frame sets 0.4 s apart fill the memory
    worker: Worker[SceneQueries] = Worker("reasoning", reason)
    answering = threading.Thread(target=answer, daemon=True)
    try:
        for frames in itertools.islice(drive, preset.occupancy.frames + 1):
            reason(step(frames))
        states.clear()
        prefills.clear()
        answering.start()
        latencies = []
        began = time.monotonic()
        for arrived in _paced(rate, seconds):
            step(next(drive))
            latencies.append(1e3 * (time.monotonic() - arrived))
        took = time.monotonic() - began
        count = len(states)
    finally:
        ended.set()
        worker.stop()
        if answering.ident is not None:
            answering.join(30)
        preparer.close()
    ordered = sorted(latencies)
    written, writing = (sum(column) for column in zip(*tokens, strict=True))
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * resource.getrusage(0).ru_maxrss
    return {
        "camera_to_path_ms": {"p50": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))]},
        "plans_per_s": len(latencies) / took,
        "states_per_s": count / took,
        "prefill_ms": statistics.median(prefills) if prefills else float("nan"),
        "tokens_per_s": written / writing,
        "memory_gb": memory / 1e9,
        "load": os.getloadavg()[0],
    }
