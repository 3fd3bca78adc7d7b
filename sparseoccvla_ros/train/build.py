"""Stages 2 and 3 put together from a preset: what is frozen, what trains, on which cached features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.errors import InvalidInput
from ..core.paths import cache_folder
from ..data.nuscenes.dataset import NuscenesImages
from ..data.nuscenes.index import NuscenesIndex
from ..data.nuscenes.labels import occ3d_folder
from ..data.synthetic.dataset import SPLITS, world_settings
from ..data.synthetic.qa_cache import QuestionCache, asked_rows
from ..data.synthetic.scenes import cached_seeds
from ..occupancy import checkpoints
from ..occupancy.encoder import OccupancyEncoder
from ..planning.anchors import AnchorSet
from ..planning.planner import Planner
from ..reasoning.llm.language_model import load_language_model
from ..reasoning.llm.lora import merge
from ..reasoning.model.reasoner import Reasoner
from ..runtime.factory import load_weights, parts_of
from ..runtime.presets import ADAPTER, Preset
from .checkpoint import adapter_beside
from .features.dataset import FeatureSamples
from .features.future_labels import FutureLabels
from .features.nuscenes import NuscenesFeatures, NuscenesFutures, NuscenesQuestions
from .features.reasoning import ReasoningFeatures
from .features.rollouts import RolloutFeatures
from .features.synthetic import QUERY_FIELDS, FeatureCache, movable_voxels, read_arrays
from .stages.forecast import ForecastStage
from .stages.language import LanguageStage
from .stages.planning import HEARD, PlanningStage
from .task import Stage

if TYPE_CHECKING:  # a training server has no library that reads bags
    from .features.bags import BagFeatures, Recording

log = logging.getLogger(__name__)
PARTS = ("language", "planning", "forecast")
"""What trains beyond stage 1, one at a time: with the encoder frozen they share no weights that both would train."""


MOST_LATE = 1.0
"""Seconds between two frame sets up to which the reasoning of the first may be heard at the second."""


def fast_precision(device: str) -> str:
    """bfloat16 for backbone and neck where the machine multiplies it faster than float32, else float32."""
    if device == "cuda":
        return "bfloat16"
    try:
        known = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        known = False
    return "bfloat16" if known and torch.backends.mkldnn.is_available() else "float32"


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
    there = set(cached_seeds(cache.world))
    seeds = [s for s in SPLITS[split] if s in there][:count]
    if not seeds:
        raise InvalidInput("data", f"no scene is in {cache.world.folder()}: run ./run train prepare first")
    return seeds


Rows = Sequence[int] | Callable[[int], Sequence[int]]
"""Frame sets of a scene, the same of every scene or by its number."""
Extra = Callable[[int], dict[str, np.ndarray] | None]
"""Arrays of a scene by its number, None where they are not cached."""


@dataclass(frozen=True, eq=False)
class Source:
    """The cached features of a split and what belongs to them.

    cache: the features; seeds: scenes; planned: frame sets that the planner learns from, all where None; ahead: those
    with a future, which futures is about; asked: those with questions, which questions is about.
    """

    cache: FeatureCache | RolloutFeatures | NuscenesFeatures | BagFeatures
    seeds: Sequence[int]
    planned: Rows | None
    ahead: Rows
    futures: Extra
    asked: Rows
    questions: Extra

    def samples(self, fields: Sequence[str], rows: Rows | None, extra: Extra | None) -> FeatureSamples:
        """The cached samples. Raises InvalidInput("data") where nothing is cached."""
        found = FeatureSamples(self.cache, self.seeds, fields, rows, extra)
        if not len(found):
            raise InvalidInput("data", f"no features are in {self.cache.folder()}: run ./run train cache first")
        return found


def world_sources(
    network: OccupancyEncoder, weights: Path, preset: Preset, scenes: int, validation: int
) -> dict[str, Source]:
    """By split: what `./run train cache` left of the first seeds of one of WORLDS."""
    out = {}
    for split, count in (("train", scenes), ("validation", validation)):
        cache = feature_cache(network, weights, preset, split)
        futures = FutureLabels(cache.world, present=split == "train")
        asked = QuestionCache(cache.world, asked_rows(cache.world, split))
        seeds = SPLITS[split][:count]
        out[split] = Source(cache, seeds, None, futures.rows, futures.read, asked.rows, asked.read)
    return out


def with_rollouts(source: Source, folders: Sequence[Path], part: str) -> Source:
    """The training split of the world with roll-outs beside it.

    Raises InvalidInput("rollouts") for other parts than planning and what RolloutFeatures refuses.
    """
    if part != "planning":
        raise InvalidInput("rollouts", f"{part} learns nothing from them; want planning")
    assert isinstance(source.cache, FeatureCache)
    cache = RolloutFeatures.of(source.cache, folders)
    return replace(source, cache=cache, seeds=[*source.seeds, *sorted(cache.files)])


def nuscenes_sources(
    network: OccupancyEncoder,
    weights: Path,
    preset: Preset,
    root: Path,
    index: NuscenesIndex,
    part: str,
    scenes: int,
    validation: int,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, Source]:
    """By split: features and what `part` needs beside them, encoded and moved now where they are not cached.

    scenes, validation: at most so many scenes. Raises InvalidInput naming the split, or what is missing of the root.
    """
    images = NuscenesImages(root, index, preset.image)
    cache = NuscenesFeatures.of(network, weights, images)
    labels = occ3d_folder(root)
    if part == "forecast" and labels is None:
        raise InvalidInput("occ3d", f"{root} has no label folder; the Occ3D gts archive goes to {root / 'gts'}")
    out = {}
    for split, folder, count in (("train", "train", scenes), ("validation", "val", validation)):
        seeds = np.unique(index.scene[index.rows(folder)]).tolist()[:count]
        futures = NuscenesFutures(cache, labels or root, present=split == "train")
        questions = NuscenesQuestions(cache, folder)
        for done, scene in enumerate(cache.prepare(network, seeds), 1):
            if part == "forecast":
                futures.prepare(scene)
            on_progress(f"encoding {folder}", done, len(seeds))
        if part == "language" and not any(questions.asked(scene) for scene in seeds):
            raise InvalidInput("questions", f"no question of {folder} is below {root}; OmniDrive's data go there")
        whole = cache.complete
        out[split] = Source(cache, seeds, whole, whole, futures.read, questions.asked, questions.read)
    return out


def bag_sources(
    network: OccupancyEncoder,
    weights: Path,
    preset: Preset,
    part: str,
    learned: Sequence[Recording],
    checked: Sequence[Recording],
    on_progress: Callable[[str, int, int], None],
) -> dict[str, Source]:
    """By split: features of recorded drives, encoded now where they are not cached.

    checked: drives to validate on; without any, the end of each drive that is learnt from is held out. Raises
    InvalidInput for what cannot be learnt from a bag, or a drive with nothing to learn from.
    """
    from .features.bags import BagFeatures, BagQuestions

    if part == "forecast":
        raise InvalidInput(
            "parts", "a bag holds no occupancy of later moments, which forecast learns from; want planning"
        )
    cache = BagFeatures.of(network, weights, preset.image, (*learned, *checked))
    scenes = range(len(learned) + len(checked))
    for done, _ in enumerate(cache.prepare(network, scenes), 1):
        on_progress("encoding bags", done, len(scenes))
    own, other = scenes[: len(learned)], scenes[len(learned) :]
    out = {}
    for split, seeds, last in (
        ("train", own, None if other else False),
        ("validation", other or own, None if other else True),
    ):
        rows = partial(cache.rows, last=last)
        if not any(rows(scene) for scene in seeds):
            raise InvalidInput("bag", f"too short: no frame set is left for {split}; give --check-bag another drive")
        asked = BagQuestions(cache, rows)
        out[split] = Source(cache, list(seeds), rows, rows, lambda scene: None, rows, asked.read)
    return out


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


def reasoning_files(preset: Preset, weights: Path | None) -> list[Path]:
    """Files of a trained reasoner, its adapter last: those given, else the preset's; none where there are none."""
    if weights is None:
        return [preset.weights[name] for name in ("reasoning", ADAPTER) if name in preset.weights]
    return [weights, *adapter_beside(weights)]


def frozen_reasoner(preset: Preset, weights: Path | None, device: torch.device | str) -> tuple[Reasoner, list[Path]]:
    """(reasoner with its adapter merged, its files). Raises InvalidInput("reasoning") where there are no weights."""
    files = reasoning_files(preset, weights)
    if not files:
        raise InvalidInput("reasoning", f"preset {preset.name} has no reasoning weights: give --reasoning FILE")
    reasoner, _ = reasoner_of(preset, files[0], files[1:])
    reasoner.use(merge(reasoner.language_model))
    reasoner.to(device).eval().requires_grad_(False)
    reasoner.use(reasoner.language_model.for_inference())
    return reasoner, files


def build(
    part: str,
    preset: Preset,
    reasoning: Path | None,
    init: Path | None,
    sources: dict[str, Source],
    learned: Collection[int] = (),
) -> tuple[Stage[Any], FeatureSamples, FeatureSamples]:
    """(stage to train, samples to learn, samples to validate on). part: one of PARTS.

    reasoning: weights of what is frozen beside the encoder, the preset's where None; init: exported weights to start
    from (the forecaster starts from `reasoning` without); sources: of "train" and "validation"; learned: scenes that
    the language half was trained on: there it is surer and more often right than it will ever be again, so the planner
    hears nothing of them. Planner and forecaster see the reasoner's readings where it has learnt to speak, and nothing
    of it otherwise. Raises InvalidInput naming what is missing.
    """
    if part not in PARTS:
        raise InvalidInput("parts", f"{part!r} is none of {', '.join(PARTS)}")
    files = reasoning_files(preset, reasoning) if part != "language" else []
    has_language = bool(files) and "language" in parts_of(files[0])
    if part == "planning":
        found = {}
        for split, source in sources.items():
            fields = ("features", "centres", *(("points", "scores") if split == "validation" else ()))
            read = partial(_heard, source, ReasoningFeatures(source.cache, files), learned) if has_language else None
            found[split] = source.samples(fields, source.planned, read)
        return planning_stage(preset, init, has_language), found["train"], found["validation"]
    start = init or (files[0] if files else None)
    reasoner, done = reasoner_of(preset, start, files[1:] if start in files else adapter_beside(start))
    found = {}
    for split, source in sources.items():
        fields = QUERY_FIELDS
        if part == "language":
            # Validation makes whole queries of them; what is learnt from has no points.
            fields = tuple(f for f in fields if split == "validation" or f != "points")
            found[split] = source.samples(fields, source.asked, source.questions)
            continue
        extras: list[Extra] = [source.futures, partial(_voxels, source)]
        if has_language:
            extras.append(_readings(source, files, ("occupancy", "chosen"), source.ahead))
        found[split] = source.samples(fields, source.ahead, partial(_together, extras))
    trained = LanguageStage(reasoner, done) if part == "language" else ForecastStage(reasoner, preset.occupancy, done)
    return trained, found["train"], found["validation"]


def _readings(source: Source, files: Sequence[Path], fields: Sequence[str], rows: Rows | None) -> Extra:
    readings = ReasoningFeatures(source.cache, files)

    def read(seed: int) -> dict[str, np.ndarray] | None:
        return readings.read(seed, fields, rows(seed) if callable(rows) else rows)

    return read


def _heard(
    source: Source, readings: ReasoningFeatures, learned: Collection[int], seed: int
) -> dict[str, np.ndarray] | None:
    """What the planner hears at the frame sets of a scene, and what it heard at the set before each.

    Nothing (stages.planning.PlanningBatch) at scenes of `learned`; a set without another within a second before it
    repeats its own.
    """
    found = readings.read(seed, HEARD)
    if found is None:
        return None
    time = read_arrays(source.cache.file(seed), ("time",))["time"]
    rows = np.arange(len(time))
    near = np.diff(time, prepend=np.inf)
    before = np.where((near > 0) & (near <= MOST_LATE), rows - 1, rows)
    if seed in learned:
        found = {"token": np.full_like(found["token"], np.nan), "anchor_scores": np.zeros_like(found["anchor_scores"])}
    planned = source.planned(seed) if callable(source.planned) else source.planned
    chosen = rows if planned is None else np.asarray(planned, np.int64)
    return {k: v[chosen] for k, v in found.items()} | {f"{k}_before": v[before[chosen]] for k, v in found.items()}


def _voxels(source: Source, seed: int) -> dict[str, np.ndarray]:
    """What can move of what the encoder's voxel head saw, at the frame sets with a future."""
    rows = source.ahead(seed) if callable(source.ahead) else source.ahead
    file = source.cache.file(seed)
    return movable_voxels(file, rows) if isinstance(source.cache, FeatureCache) and file.is_file() else {}


def _together(sources: Sequence[Extra], seed: int) -> dict[str, np.ndarray] | None:
    """What all sources have of a seed; None where one has nothing."""
    found = [source(seed) for source in sources]
    return None if any(part is None for part in found) else {k: v for part in found for k, v in (part or {}).items()}
