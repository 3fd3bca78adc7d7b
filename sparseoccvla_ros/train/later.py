"""Stages 2 and 3 put together from a preset: what is frozen, what trains, on which cached features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import InvalidInput
from ..core.paths import cache_folder
from ..data.feature_samples import FeatureSamples
from ..data.future_labels import FutureLabels
from ..data.question_cache import QuestionCache
from ..data.readings import Readings
from ..data.scene_features import FeatureCache
from ..data.world_cache import cached_seeds
from ..data.world_samples import SPLITS, world_settings
from ..occupancy import checkpoints
from ..occupancy.encoder import OccupancyEncoder
from ..planning.anchors import AnchorSet
from ..planning.planner import Planner
from ..reasoning.adapters import merge
from ..reasoning.language_model import load_language_model
from ..reasoning.reasoner import Reasoner
from ..runtime.presets import ADAPTER, Preset
from ..runtime.stages import load_weights, parts_of
from .forecast_stage import ForecastStage
from .language_stage import LanguageStage
from .planning_stage import PlanningStage
from .reasoner_files import adapter_beside
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


def reasoner_of(preset: Preset, weights: Path | None, adapter: Sequence[Path] = ()) -> tuple[Reasoner, tuple[str, ...]]:
    """(the reasoner of a preset, which of its parts are trained), from its seed or from exported weights.

    adapter: file of the adapters that belong to the weights, if any; they are left unmerged, to be trained on.
    """
    preset.need("reasoning")
    config = preset.reasoning
    model = load_language_model(config.language_model, cache_folder(), config.dtype)
    torch.manual_seed(preset.seed + 1)
    reasoner = Reasoner(config, model, AnchorSet.load(preset.anchors).flat)
    if weights is None:
        return reasoner, ()
    for file in adapter:
        reasoner.load_adapter(file, merge=False)
    load_weights(reasoner, "reasoning", weights)
    return reasoner, parts_of(weights)


def planning_stage(preset: Preset, init: Path | None, listens: bool) -> PlanningStage:
    """The planner of a preset, from its seed or from exported weights. listens: it gets reasoning tokens."""
    preset.need("planning")
    torch.manual_seed(preset.seed + 2)
    planner = Planner(preset.planning, AnchorSet.load(preset.anchors))
    if init is not None:
        load_weights(planner, "planning", init)
    return PlanningStage(planner, listens=listens)


def reading_files(preset: Preset, weights: Path | None) -> list[Path]:
    """Files of a trained reasoner, its adapter last: those given, else the preset's; none where there are none."""
    if weights is None:
        return [preset.weights[name] for name in ("reasoning", ADAPTER) if name in preset.weights]
    return [weights, *adapter_beside(weights)]


def frozen_reasoner(preset: Preset, weights: Path | None, device: torch.device | str) -> tuple[Reasoner, list[Path]]:
    """(reasoner with its adapter merged, its files). Raises InvalidInput("reasoning") where there are no weights."""
    files = reading_files(preset, weights)
    if not files:
        raise InvalidInput("reasoning", f"preset {preset.name} has no reasoning weights: give --reasoning FILE")
    reasoner, _ = reasoner_of(preset, files[0], files[1:])
    reasoner.use(merge(reasoner.language_model))
    return reasoner.to(device).eval().requires_grad_(False), files


def build(
    part: str,
    preset: Preset,
    encoder: Path | None,
    reasoning: Path | None,
    init: Path | None,
    scenes: int,
    validation: int,
) -> tuple[Stage[Any], FeatureSamples, FeatureSamples]:
    """(stage to train, samples to learn, samples to validate on). part: one of PARTS.

    encoder, reasoning: weights of what is frozen, the preset's where None; init: exported weights to start from (the
    forecaster starts from `reasoning` without). Planner and forecaster see the reasoner's readings where it has learnt
    to speak, and nothing of it otherwise. Raises InvalidInput naming what is missing.
    """
    if part not in PARTS:
        raise InvalidInput("parts", f"{part!r} is none of {', '.join(PARTS)}")
    network, file = frozen_encoder(preset, encoder, "cpu")
    caches = {split: feature_cache(network, file, preset, split) for split in ("train", "validation")}
    files = reading_files(preset, reasoning) if part != "language" else []
    speaks = bool(files) and "language" in parts_of(files[0])
    counts = {"train": scenes, "validation": validation}
    if part == "planning":
        found = {}
        for split, count in counts.items():
            fields = ("features", "centres", *(("points", "scores") if split == "validation" else ()))
            extra = partial(Readings(caches[split], files).read, fields=("token", "anchor_scores")) if speaks else None
            found[split] = samples(caches[split], split, count, fields, None, extra)
        return planning_stage(preset, init, speaks), found["train"], found["validation"]
    fields = ("features", "centres", "points", "labels", "scores", "view_features")
    start = init or (files[0] if files else None)
    reasoner, done = reasoner_of(preset, start, files[1:] if start in files else adapter_beside(start))
    found = {}
    for split, count in counts.items():
        futures = FutureLabels(caches[split].world, present=split == "train")
        if part == "language":
            asked = QuestionCache(caches[split].world, futures.rows)
            found[split] = samples(caches[split], split, count, fields, futures.rows, asked.read)
            continue
        sources: list[Callable[[int], dict[str, np.ndarray] | None]] = [futures.read]
        if speaks:
            readings = Readings(caches[split], files)
            sources.append(partial(readings.read, fields=("occupancy", "chosen"), rows=futures.rows))
        found[split] = samples(caches[split], split, count, fields, futures.rows, partial(_together, sources))
    trained = LanguageStage(reasoner, done) if part == "language" else ForecastStage(reasoner, preset.occupancy, done)
    return trained, found["train"], found["validation"]


def _together(
    sources: Sequence[Callable[[int], dict[str, np.ndarray] | None]], seed: int
) -> dict[str, np.ndarray] | None:
    """What all sources have of a seed; None where one has nothing."""
    found = [source(seed) for source in sources]
    return None if any(part is None for part in found) else {k: v for part in found for k, v in (part or {}).items()}
