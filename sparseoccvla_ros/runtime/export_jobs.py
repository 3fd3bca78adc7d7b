"""The graphs of a preset that are exported to engines, and their precisions."""

from __future__ import annotations

import torch

from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.runtime.backend_swap import graphs_of, precisions
from sparseoccvla_ros.runtime.export import Built, build
from sparseoccvla_ros.runtime.factory import build_occupancy
from sparseoccvla_ros.runtime.onnx_graphs import Graph, Recording, Sample
from sparseoccvla_ros.runtime.presets import Preset

FRAMES = 8
"""Frame sets of the bag that are encoded to verify parity; the newest three of them are compared."""


def build_encoder(preset: Preset, precision: str = "preset") -> OccupancyEncoder:
    """Build the preset's encoder on the CPU. precision: of the backbone; float32, bfloat16 or "preset" (its own)."""
    encoder = build_occupancy(preset)
    if precision != "preset":
        encoder.config = encoder.config.replace(backbone_dtype=precision)
    return encoder


def build_engines(encoder: OccupancyEncoder, preset: Preset, runtime: str, seen: Recording) -> list[Built]:
    """Build or load the image and decoder engines of an encoder. Raises CannotBuild."""
    return [
        build(preset.name, graph, runtime, samples, precision, torch.get_num_threads())
        for graph, samples, precision in occupancy_jobs(encoder, preset, runtime, seen)
    ]


def occupancy_jobs(
    encoder: OccupancyEncoder, preset: Preset, runtime: str, seen: Recording
) -> list[tuple[Graph, list[Sample], str]]:
    """Returns graph, real inputs and the engine's precision of image network and decoder; the node needs both."""
    samples = (seen.images, seen.decoder)
    return list(zip(graphs_of(encoder, preset, runtime), samples, precisions(encoder, runtime), strict=True))
