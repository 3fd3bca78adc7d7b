"""The graphs of a preset that are worth an engine, with what to compute in."""

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
"""Frame sets of the bag that parity is verified on; the newest three of them are compared."""


@dataclass(frozen=True)
class Job:
    """A graph with real inputs, what to compute in, and whether the stack needs its engine."""

    graph: Graph
    samples: list[Sample]
    precision: str = "float32"
    needed: bool = False


def build_encoder(preset: Preset, precision: str = "preset") -> OccupancyEncoder:
    """The preset's encoder on the CPU; precision: float32 or bfloat16 of the backbone, or the preset's own."""
    encoder = build_occupancy(preset)
    if precision != "preset":
        encoder.config = encoder.config.replace(backbone_dtype=precision)
    return encoder


def build_engines(encoder: OccupancyEncoder, preset: Preset, runtime: str, seen: Recording) -> list[Built]:
    """Image and decoder engine of an encoder. Raises CannotBuild."""
    return [
        build(preset.name, job.graph, runtime, job.samples, job.precision, torch.get_num_threads())
        for job in occupancy_jobs(encoder, preset, runtime, seen)
    ]


def occupancy_jobs(encoder: OccupancyEncoder, preset: Preset, runtime: str, seen: Recording) -> list[Job]:
    """Graphs of the image network and of the decoder, which the occupancy node needs."""
    graphs, kinds = graphs_of(encoder, preset, runtime), precisions(encoder, runtime)
    return [Job(graphs[0], seen.images, kinds[0], True), Job(graphs[1], seen.decoder, kinds[1], True)]
