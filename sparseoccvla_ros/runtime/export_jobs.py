"""The graphs of a preset that are exported to engines, and their precisions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.runtime.backend_swap import graphs_of, precisions
from sparseoccvla_ros.runtime.export import Built, build
from sparseoccvla_ros.runtime.factory import build_occupancy
from sparseoccvla_ros.runtime.onnx_graphs import Graph, Recording, Sample
from sparseoccvla_ros.runtime.presets import Preset

FRAMES = 8
"""Frame sets of the bag that are encoded to verify parity; the newest three of them are compared."""


@dataclass(frozen=True)
class Job:
    """A graph to export with real inputs, the engine's precision, and whether the stack needs the engine."""

    graph: Graph
    samples: list[Sample]
    precision: str = "float32"
    needed: bool = False


def build_encoder(preset: Preset, precision: str = "preset") -> OccupancyEncoder:
    """Build the preset's encoder on the CPU. precision: of the backbone; float32, bfloat16 or "preset" (its own)."""
    encoder = build_occupancy(preset)
    if precision != "preset":
        encoder.config = encoder.config.replace(backbone_dtype=precision)
    return encoder


def build_engines(encoder: OccupancyEncoder, preset: Preset, runtime: str, seen: Recording) -> list[Built]:
    """Build or load the image and decoder engines of an encoder. Raises CannotBuild."""
    return [
        build(preset.name, job.graph, runtime, job.samples, job.precision, torch.get_num_threads())
        for job in occupancy_jobs(encoder, preset, runtime, seen)
    ]


def occupancy_jobs(encoder: OccupancyEncoder, preset: Preset, runtime: str, seen: Recording) -> list[Job]:
    """Returns the jobs of image network and decoder; the occupancy node needs both."""
    graphs, kinds = graphs_of(encoder, preset, runtime), precisions(encoder, runtime)
    return [Job(graphs[0], seen.images, kinds[0], True), Job(graphs[1], seen.decoder, kinds[1], True)]
