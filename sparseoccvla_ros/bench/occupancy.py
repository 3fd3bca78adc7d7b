"""./run bench occupancy: the sparse occupancy encoder by stages, sampling paths, precision and device.

Compared variants are measured alternately within one process, because these machines are noisy: trust the ratios.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sparseoccvla_ros.core.types import CameraFrames
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder, padded_size
from sparseoccvla_ros.occupancy.sampling.point_sampling import pick_path
from sparseoccvla_ros.occupancy.sampling.views import SceneViews
from sparseoccvla_ros.runtime.factory import build_occupancy
from sparseoccvla_ros.runtime.presets import Preset, load_preset
from sparseoccvla_ros.runtime.warm_up import made_up_drive

from .timing import Work, wall_times


def bench_occupancy(console: Console, preset: str, seconds: float = 3.0) -> dict[str, Any]:
    """Measure on the CPU (one and two threads) and, if available, on the GPU; print tables, return numbers."""
    loaded = load_preset(preset)
    numbers: dict[str, Any] = {"preset": preset, "cpu": {}}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        numbers["cpu"][str(threads)] = _on_device(console, loaded, "cpu", f"{threads} CPU thread(s)", seconds)
    if torch.cuda.is_available():
        numbers["cuda"] = _on_device(console, loaded, "cuda", torch.cuda.get_device_name(), seconds)
    return numbers


def take_path(encoder: OccupancyEncoder, path: str) -> None:
    """Set the sampling path of every decoder layer."""
    for layer in encoder.decoder.layers:
        layer.sampling.path = path


@contextmanager
def stage_times(encoder: OccupancyEncoder, synchronise: Callable[[], None]) -> Iterator[dict[str, float]]:
    """Sum up milliseconds by stage inside the context; all decoder layers add to the same rows."""
    spent: dict[str, float] = defaultdict(float)
    parts: dict[str, list[nn.Module]] = {"backbone": [encoder.backbone], "neck": [encoder.neck]}
    names = {
        "position encoding": ("position_encoder",), "sampling": ("sampling",), "adaptive mixing": ("mixing",),
        "self-attention": ("self_attn",), "feed-forward": ("ffn",), "heads": ("cls_branch", "reg_branch"),
    }  # fmt: skip
    if encoder.densifiers is not None:
        parts["densifier"] = list(encoder.densifiers)
    for title, head in (("voxel head", encoder.voxel_head), ("traffic lights", encoder.traffic_light_head)):
        if head is not None:
            parts[title] = [head]
    for title, attributes in names.items():
        parts[title] = [getattr(layer, name) for layer in encoder.decoder.layers for name in attributes]
    began: dict[int, float] = {}
    hooks = []
    for title, modules in parts.items():
        for module in modules:

            def start(module: nn.Module, _inputs: Any) -> None:
                synchronise()
                began[id(module)] = time.perf_counter()

            def stop(module: nn.Module, _inputs: Any, _output: Any, title: str = title) -> None:
                synchronise()
                spent[title] += 1e3 * (time.perf_counter() - began[id(module)])

            hooks += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def _on_device(console: Console, preset: Preset, device: str, title: str, seconds: float) -> dict[str, Any]:
    encoder = build_occupancy(preset, device)
    frames = made_up_drive(preset)
    cuda = device == "cuda"
    synchronise = torch.cuda.synchronize if cuda else (lambda: None)
    fast = pick_path("auto", torch.device(device))

    def encode(path: str) -> Work:
        def work() -> None:
            take_path(encoder, path)
            encoder.encode(next(frames))

        return work

    whole = wall_times({path: encode(path) for path in dict.fromkeys((fast, "plain"))}, seconds, synchronise)
    queries = encoder.encode(next(frames))
    post = wall_times({"voxels": lambda: encoder.voxels(queries)}, seconds / 3, lambda: None)["voxels"]

    scene = encoder.memory.views(padded_size((preset.image.height, preset.image.width)))
    layer, config = encoder.decoder.layers[-1], preset.occupancy
    query = torch.randn(1, config.queries, config.embed_dims, device=device)
    centres = (torch.rand(1, config.queries, 3, device=device) - 0.5) * torch.tensor([80.0, 80.0, 3.0], device=device)

    def sample(path: str) -> Work:
        def work() -> None:
            layer.sampling.path = path
            with torch.inference_mode():
                layer.sampling(query, centres, torch.ones_like(centres), scene)

        return work

    sampling = wall_times({path: sample(path) for path in dict.fromkeys((fast, "plain"))}, seconds / 2, synchronise)
    take_path(encoder, "auto")
    rounds = max(3, int(seconds / (1e-3 * whole[fast])))
    with stage_times(encoder, synchronise) as spent:
        began = time.perf_counter()
        for _ in range(rounds):
            encoder.encode(next(frames))
        total = 1e3 * (time.perf_counter() - began) / rounds
    stages = {name: value / rounds for name, value in spent.items()}
    stages["the rest (pose, memory, copies)"] = total - sum(stages.values())

    table = Table("stage", "ms", "share", title=f"Occupancy encoder, preset {preset.name}, {title}, {fast} sampling")
    for name, value in sorted(stages.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{value:.1f}", f"{value / total:.0%}")
    table.add_row("encode, with a clock at every stage", f"{total:.1f}", "100%")
    table.add_row("encode, without", f"{whole[fast]:.1f}", f"{1e3 / whole[fast]:.1f} Hz")
    table.add_row("occupied voxels from queries", f"{post:.1f}", "")
    console.print(table)
    numbers: dict[str, Any] = {"encode_ms": whole, "sampling_ms": sampling, "stages_ms": stages, "voxels_ms": post}
    numbers["memory_mb"] = _memory(encoder, scene, cuda)
    numbers["ratio"] = {"encode": whole["plain"] / whole[fast], "sampling": sampling["plain"] / sampling[fast]}
    console.print(
        f"  {fast} against plain sampling in the same run: one layer {sampling[fast]:.2f} against "
        f"{sampling['plain']:.2f} ms ({numbers['ratio']['sampling']:.1f}x), whole encoder {whole[fast]:.1f} against "
        f"{whole['plain']:.1f} ms ({numbers['ratio']['encode']:.2f}x)\n  memory (MB): "
        + ", ".join(f"{k} {v:.0f}" for k, v in numbers["memory_mb"].items()),
        highlight=False,
    )
    floor = _sampling_floor(preset, scene, sampling[fast], device)
    numbers["floor"] = floor
    console.print(
        f"  one layer's sampling moves {floor['megabytes']:.1f} MB; at the {floor['copy_gb_s']:.0f} GB/s a plain copy "
        f"reaches here that takes {floor['floor_ms']:.3f} ms: {floor['share']:.0%} of the bandwidth limit is used\n",
        highlight=False,
    )
    numbers["precision"] = _precisions(console, preset, device, seconds, synchronise)
    return numbers


def _memory(encoder: OccupancyEncoder, scene: SceneViews, cuda: bool) -> dict[str, float]:
    weights = sum(p.numel() * p.element_size() for p in encoder.parameters())
    table = scene.table.numel() * scene.table.element_size()
    memory = {"weights": weights / 1e6, "feature table": table / 1e6}
    if cuda:
        return {**memory, "peak on the GPU": torch.cuda.max_memory_allocated() / 1e6}
    return {**memory, "peak of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def _sampling_floor(preset: Preset, scene: SceneViews, measured: float, device: str) -> dict[str, float]:
    """Time of a plain copy of the bytes of one layer's sampling (four corners per level in, one vector out)."""
    config = preset.occupancy
    reads = config.queries * config.groups * config.frames * config.points_per_group
    width = config.embed_dims // config.groups
    moved = reads * width * (4 * len(config.strides) * scene.table.element_size() + 4)
    source = torch.empty(16_000_000 if device == "cpu" else 128_000_000, device=device)
    target = torch.empty_like(source)
    synchronise = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    copy = wall_times({"copy": lambda: target.copy_(source)}, 0.5, synchronise)["copy"]
    rate = 2 * source.numel() * 4 / (1e-3 * copy)
    floor = 1e3 * moved / rate
    return {"megabytes": moved / 1e6, "copy_gb_s": rate / 1e9, "floor_ms": floor, "share": floor / measured}


def _precisions(
    console: Console, preset: Preset, device: str, seconds: float, synchronise: Callable[[], None]
) -> dict[str, float]:
    """Compare float32 and bfloat16 in backbone and neck, and on CUDA the same as a CUDA graph."""
    works: dict[str, Work] = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(preset.seed)
        encoder = OccupancyEncoder(preset.occupancy.replace(backbone_dtype=dtype)).to(device)
        frames = made_up_drive(preset)
        works[dtype] = lambda encoder=encoder, frames=frames: encoder.encode(next(frames))
        if device == "cuda":
            works[f"{dtype}, backbone to decoder without copies to the host"] = step = _device_step(encoder, frames)
            works[f"{dtype}, the same as a CUDA graph"] = _graph(step)
    times = wall_times(works, seconds, synchronise)
    table = Table("backbone and neck in", "ms", "against float32", title=f"Precision, {device}")
    for name, value in times.items():
        table.add_row(name, f"{value:.2f}", f"{times['float32'] / value:.2f}x")
    console.print(table)
    return times


def _device_step(encoder: OccupancyEncoder, frames: Iterator[CameraFrames]) -> Work:
    """Returns a call from six new images to the last layer's output, entirely on the device."""
    newest = next(frames)
    encoder.encode(newest)
    scene = encoder.memory.views(padded_size(newest.images.shape[1:3]))
    images = torch.from_numpy(newest.images).to(scene.table.device)
    usable = np.ones(len(newest.names), bool)

    @torch.inference_mode()
    def step() -> None:
        encoder.memory.write(newest, usable, encoder.image_features(images))
        encoder.decode(scene)

    return step


def _graph(step: Work) -> Work:
    """Record the step as a CUDA graph and return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
