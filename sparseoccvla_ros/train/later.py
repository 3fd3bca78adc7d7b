"""Stages 2 and 3 put together from a preset: what is frozen, what trains, on which cached features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import InvalidInput
from ..core.paths import cache_folder
from ..data.feature_samples import FeatureSamples
from ..data.future_labels import FutureLabels
from ..data.question_cache import QuestionCache
from ..data.scene_features import FeatureCache
from ..data.world_cache import cached_seeds
from ..data.world_samples import SPLITS, world_settings
from ..occupancy import checkpoints
from ..occupancy.encoder import OccupancyEncoder
from ..planning.anchors import AnchorSet
from ..planning.planner import Planner
from ..reasoning.language_model import load_language_model
from ..reasoning.reasoner import Reasoner
from ..runtime.presets import Preset
from ..runtime.stages import load_weights, parts_of
from .forecast_stage import ForecastStage
from .language_stage import LanguageStage
from .planning_stage import PlanningStage
from .stage import Stage

log = logging.getLogger(__name__)
PARTS = ("language", "planning", "forecast")
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
    rows: Sequence[int] | None = None,
    extra: Callable[[int], dict[str, np.ndarray] | None] | None = None,
) -> FeatureSamples:
    """The cached samples of a split's first `count` seeds. Raises InvalidInput("data") where nothing is cached."""
    found = FeatureSamples(cache, SPLITS[split][:count], fields, rows, extra)
    if not len(found):
        raise InvalidInput("data", f"no features are in {cache.folder()}: run ./run train cache first")
    return found


def reasoner_of(preset: Preset, init: Path | None) -> tuple[Reasoner, tuple[str, ...]]:
    """(the reasoner of a preset, which of its parts are trained), from its seed or from exported weights.

    An adapter.safetensors beside the exported weights belongs to them and is left unmerged, to be trained on.
    """
    preset.need("reasoning")
    config = preset.reasoning
    model = load_language_model(config.language_model, cache_folder(), config.dtype)
    torch.manual_seed(preset.seed + 1)
    reasoner = Reasoner(config, model, AnchorSet.load(preset.anchors).flat)
    if init is None:
        return reasoner, ()
    load_weights(reasoner, "reasoning", init)
    adapter = init.with_name("adapter.safetensors")
    if adapter.is_file():
        reasoner.load_adapter(adapter, merge=False)
    return reasoner, parts_of(init)


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
    trained: Stage[Any]
    if part == "planning":
        trained = planning_stage(preset, init)
        return (
            trained,
            samples(caches["train"], "train", scenes, ("features", "centres")),
            samples(caches["validation"], "validation", validation, ("features", "centres", "points", "scores")),
        )
    reasoner, done = reasoner_of(preset, init)
    fields: tuple[str, ...] = ("features", "centres", "points", "labels", "scores", "view_features")
    found = []
    for split, count in (("train", scenes), ("validation", validation)):
        extra: FutureLabels | QuestionCache = FutureLabels(caches[split].world, present=split == "train")
        if part == "language":
            extra = QuestionCache(caches[split].world, extra.rows)
        found.append(samples(caches[split], split, count, fields, extra.rows, extra.read))
    trained = LanguageStage(reasoner, done) if part == "language" else ForecastStage(reasoner, preset.occupancy, done)
    return trained, found[0], found[1]
