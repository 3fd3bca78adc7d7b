"""Stages 2 and 3 put together from a preset: what is frozen, what trains, on which cached features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.errors import InvalidInput
from ..data.feature_samples import FeatureSamples
from ..data.scene_features import FeatureCache
from ..data.world_cache import cached_seeds
from ..data.world_samples import SPLITS, world_settings
from ..occupancy import checkpoints
from ..occupancy.encoder import OccupancyEncoder
from ..planning.anchors import AnchorSet
from ..planning.planner import Planner
from ..runtime.presets import Preset
from ..runtime.stages import load_weights
from .planning_stage import PlanningStage
from .stage import Stage

log = logging.getLogger(__name__)
PARTS = ("planning",)
"""What trains beyond stage 1, one at a time: with the encoder frozen they share no weights that both would train."""


def frozen_encoder(preset: Preset, weights: Path | None, device: torch.device | str) -> tuple[OccupancyEncoder, Path]:
    """(encoder, its file of weights): those given, else the preset's. Raises InvalidInput("encoder") without any."""
    file = weights or preset.weights.get("occupancy")
    if file is None:
        raise InvalidInput("encoder", f"preset {preset.name} has no occupancy weights: give --encoder FILE")
    encoder = OccupancyEncoder(preset.occupancy)
    checkpoints.load(encoder, file)
    return encoder.to(device).eval().requires_grad_(False), file


def feature_cache(encoder: OccupancyEncoder, weights: Path, preset: Preset, split: str) -> FeatureCache:
    """Where the features of a split lie."""
    return FeatureCache.of(
        encoder, weights, world_settings(split, preset.image.height, preset.image.width, preset.occupancy.frames)
    )


def rendered(cache: FeatureCache, split: str, count: int) -> list[int]:
    """The first `count` seeds of a split that are rendered. Raises InvalidInput("data") without any."""
    seeds = [s for s in cached_seeds(cache.world) if s in SPLITS[split]][:count]
    if not seeds:
        raise InvalidInput("data", f"no scene is in {cache.world.folder()}: run ./run train prepare first")
    return seeds


def samples(
    cache: FeatureCache,
    split: str,
    count: int,
    fields: Sequence[str],
    extra: Callable[[int], dict | None] | None = None,
) -> FeatureSamples:
    """The cached samples of a split's first `count` seeds. Raises InvalidInput("data") where nothing is cached."""
    found = FeatureSamples(cache, SPLITS[split][:count], fields, extra)
    if not len(found):
        raise InvalidInput("data", f"no features are in {cache.folder()}: run ./run train cache first")
    return found


def planning_stage(preset: Preset, init: Path | None) -> PlanningStage:
    """The planner of a preset, from its seed or from exported weights."""
    preset.need("planning")
    torch.manual_seed(preset.seed + 2)
    planner = Planner(preset.planning, AnchorSet.load(preset.anchors))
    if init is not None:
        load_weights(planner, "planning", init)
    return PlanningStage(planner)


def build(
    part: str,
    preset: Preset,
    encoder: Path | None,
    init: Path | None,
    scenes: int,
    validation: int,
    device: str,
) -> tuple[Stage[Any], FeatureSamples, FeatureSamples]:
    """(stage to train, samples to learn, samples to validate on). part: one of PARTS.

    encoder: weights of the frozen encoder, the preset's where None; init: exported weights to start from. Raises
    InvalidInput naming what is missing.
    """
    if part not in PARTS:
        raise InvalidInput("parts", f"{part!r} is none of {', '.join(PARTS)}")
    network, file = frozen_encoder(preset, encoder, "cpu")
    caches = {split: feature_cache(network, file, preset, split) for split in ("train", "validation")}
    return (
        planning_stage(preset, init),
        samples(caches["train"], "train", scenes, ("features", "centres")),
        samples(caches["validation"], "validation", validation, ("features", "centres", "points", "scores")),
    )
