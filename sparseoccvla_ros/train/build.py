"""Construction of stages 2 and 3 from a preset: frozen and trained networks, and their cached features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.errors import InvalidInput
from ..core.paths import cache_folder
from ..core.voxels import SparseVoxels
from ..data.nuscenes.dataset import NuscenesImages
from ..data.nuscenes.index import NuscenesIndex
from ..data.nuscenes.labels import occ3d_folder
from ..data.synthetic.dataset import SPLITS, world_settings
from ..data.synthetic.drives import load_drive
from ..data.synthetic.qa_cache import QuestionCache, question_rows
from ..data.synthetic.scenes import cached_seeds
from ..occupancy import checkpoints
from ..occupancy.encoder import OccupancyEncoder
from ..planning.anchors import AnchorSet
from ..planning.config import ValidatorConfig
from ..planning.ego_history import FEATURE_NAMES
from ..planning.obstacles.grid import ObstacleMemory
from ..planning.obstacles.stop_line import StopLine
from ..planning.planner import Planner
from ..planning.route_command import target_points
from ..reasoning.llm.language_model import load_language_model
from ..reasoning.llm.lora import merge
from ..reasoning.model.reasoner import Reasoner
from ..runtime.factory import load_weights, parts_of
from ..runtime.presets import ADAPTER, Preset
from .checkpoint import adapter_beside
from .features import speed_variants
from .features.dataset import Cache, FeatureSamples
from .features.future_labels import FutureLabels
from .features.nuscenes import NuscenesFeatures, NuscenesFutures, NuscenesQuestions
from .features.reasoning import ReasoningFeatures
from .features.rollouts import RolloutFeatures
from .features.synthetic import QUERY_FIELDS, FeatureCache, movable_voxels, read_arrays, traffic_lights
from .stages.forecast import ForecastStage
from .stages.language import LanguageStage
from .stages.planning import REASONING_FIELDS, PlanningStage
from .task import Stage

if TYPE_CHECKING:  # a training server lacks the bag library
    from .features.bags import BagFeatures, Recording

log = logging.getLogger(__name__)
PARTS = ("language", "planning", "forecast")
"""Parts trained after stage 1, one at a time: with the encoder frozen, no weight is trained by two of them."""


MOST_LATE = 1.0
"""s; maximum time between two frame sets for the first one's reasoning to be used at the second."""


def frozen_encoder(preset: Preset, weights: Path | None, device: torch.device | str) -> tuple[OccupancyEncoder, Path]:
    """Returns (encoder, its weights file): the given one, else the preset's; raises InvalidInput("encoder") if none."""
    file = weights or preset.weights.get("occupancy")
    if file is None:
        raise InvalidInput("encoder", f"preset {preset.name} has no occupancy weights: give --encoder FILE")
    encoder = OccupancyEncoder(preset.occupancy)
    checkpoints.load(encoder, file)
    return encoder.to(device).eval().requires_grad_(False), file


def feature_cache(encoder: OccupancyEncoder, weights: Path, preset: Preset, split: str) -> FeatureCache:
    """Returns the feature cache of a split."""
    return FeatureCache.of(
        encoder, weights, world_settings(split, preset.image.height, preset.image.width, preset.occupancy.frames)
    )


def rendered(cache: FeatureCache, split: str, count: int) -> list[int]:
    """Returns the first `count` rendered seeds of a split; raises InvalidInput("data") if none are."""
    there = set(cached_seeds(cache.world))
    seeds = [s for s in SPLITS[split] if s in there][:count]
    if not seeds:
        raise InvalidInput("data", f"no scene is in {cache.world.folder()}: run ./run train prepare first")
    return seeds


Rows = Sequence[int] | Callable[[int], Sequence[int]]
"""Frame sets of a scene: the same for every scene, or a function of its number."""
Extra = Callable[[int], dict[str, np.ndarray] | None]
"""Function from a scene's number to further arrays, or None if they are not cached."""


@dataclass(frozen=True, eq=False)
class Source:
    """Cached features of a split with their labels.

    cache: the features; seeds: scenes; planned: frame sets for the planner, all if None; ahead: those with future
    labels, the rows of `futures`; asked: those with questions, the rows of `questions`.
    """

    cache: FeatureCache | RolloutFeatures | NuscenesFeatures | BagFeatures
    seeds: Sequence[int]
    planned: Rows | None
    ahead: Rows
    futures: Extra
    asked: Rows
    questions: Extra

    def samples(self, fields: Sequence[str], rows: Rows | None, extra: Extra | None) -> FeatureSamples:
        """Returns the cached samples; raises InvalidInput("data") if there are none."""
        found = FeatureSamples(self.cache, self.seeds, fields, rows, extra)
        if not len(found):
            raise InvalidInput("data", f"no features are in {self.cache.folder()}: run ./run train cache first")
        return found


def world_sources(
    network: OccupancyEncoder, weights: Path, preset: Preset, train: Sequence[int], validation: Sequence[int]
) -> dict[str, Source]:
    """Returns by split the features that `./run train cache` wrote for these seeds of the synthetic world."""
    out = {}
    for split, seeds in (("train", train), ("validation", validation)):
        cache = feature_cache(network, weights, preset, split)
        futures = FutureLabels(cache.world, present=split == "train")
        asked = QuestionCache(cache.world, question_rows(cache.world, split))
        out[split] = Source(cache, seeds, None, futures.rows, futures.read, asked.rows, asked.read)
    return out


HELD_OUT = 10
"""One of so many seeds of roll-outs is for validation, in every round the same."""


def with_rollouts(sources: dict[str, Source], folders: Sequence[Path], part: str) -> dict[str, Source]:
    """Returns the world's sources with the training split extended by roll-outs.

    Those of one in HELD_OUT seeds replace the recorded drives of validation, if there are any: how well recorded drives
    are continued says little about the states that a planner reaches by itself.

    Raises InvalidInput("rollouts") for parts other than planning and folders that RolloutFeatures refuses.
    """
    if part != "planning":
        raise InvalidInput("rollouts", f"{part} learns nothing from them; want planning")
    source = sources["train"]
    assert isinstance(source.cache, FeatureCache)
    cache = RolloutFeatures.of(source.cache, folders)
    spared = {number: seed % HELD_OUT == HELD_OUT - 1 for number, seed in sorted(cache.seeds.items())}
    learned, held = ([number for number, spare in spared.items() if spare is wanted] for wanted in (False, True))
    out = sources | {"train": replace(source, cache=cache, seeds=[*source.seeds, *learned])}
    return out | ({"validation": replace(source, cache=cache, seeds=held)} if held else {})


def rollouts_of(sources: dict[str, Source]) -> list[tuple[RolloutFeatures, int]]:
    """Returns the roll-outs among the sources, their cache and number; those of validation, which needs all, first."""
    found = ((sources[split].cache, seed) for split in ("validation", "train") for seed in sources[split].seeds)
    return [(cache, seed) for cache, seed in found if isinstance(cache, RolloutFeatures) and seed in cache.files]


def read_rollouts(
    sources: dict[str, Source], preset: Preset, weights: Path | None, device: torch.device | str
) -> Iterator[int]:
    """Cache a trained reasoner's features of the roll-outs; yields the number of each, nothing if it is untrained."""
    files = reasoning_files(preset, weights)
    if files and "language" in parts_of(files[0]):
        reasoner, files = frozen_reasoner(preset, weights, device)
        found = rollouts_of(sources)
        readings = {id(cache): ReasoningFeatures(cache, files) for cache, _ in found}
        for cache, number in found:
            readings[id(cache)].prepare(reasoner, number)
            yield number


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
    """Returns by split the features and the labels that `part` needs; computes those that are not cached.

    scenes, validation: maximum number of scenes. Raises InvalidInput for an empty split or data missing below the root.
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
    """Returns by split the features of recorded drives; encodes those that are not cached.

    learned, checked: drives for training and validation; without `checked`, the end of each training drive is held
    out. Raises InvalidInput for a part that cannot be trained from bags, or a drive without usable frame sets.
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
    """Builds (reasoner of a preset, its trained parts) from the preset's seed or from exported weights.

    adapter: file of the adapters that belong to the weights, if any; they are left unmerged for further training.
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


def reasoning_files(preset: Preset, weights: Path | None) -> list[Path]:
    """Returns the files of a trained reasoner, the adapter last: the given ones, else the preset's, possibly none."""
    if weights is None:
        return [preset.weights[name] for name in ("reasoning", ADAPTER) if name in preset.weights]
    return [weights, *adapter_beside(weights)]


def frozen_reasoner(preset: Preset, weights: Path | None, device: torch.device | str) -> tuple[Reasoner, list[Path]]:
    """Loads (reasoner with merged adapter, its files); raises InvalidInput("reasoning") without weights."""
    files = reasoning_files(preset, weights)
    if not files:
        raise InvalidInput("reasoning", f"preset {preset.name} has no reasoning weights: give --reasoning FILE")
    reasoner, _ = reasoner_of(preset, files[0], files[1:])
    reasoner.set_language_model(merge(reasoner.language_model))
    reasoner.to(device).eval().requires_grad_(False)
    reasoner.set_language_model(reasoner.language_model.for_inference())
    return reasoner, files


def build(
    part: str,
    preset: Preset,
    reasoning: Path | None,
    init: Path | None,
    sources: dict[str, Source],
    learned: Collection[int] = (),
) -> tuple[Stage[Any], FeatureSamples, FeatureSamples]:
    """Builds (stage, training samples, validation samples). part: one of PARTS.

    reasoning: weights of the frozen reasoner, the preset's if None; init: exported weights to start from (if None, the
    forecaster starts from `reasoning`); sources: of "train" and "validation"; learned: scenes that language was trained
    on: its output is more accurate and confident there than on new scenes, so the planner gets none of it. Planner and
    forecaster use cached reasoning only if the reasoner's language part is trained. Raises InvalidInput naming what is
    missing.
    """
    if part not in PARTS:
        raise InvalidInput("parts", f"{part!r} is not one of {', '.join(PARTS)}")
    files = reasoning_files(preset, reasoning) if part != "language" else []
    has_language = bool(files) and "language" in parts_of(files[0])
    if part == "planning":
        found = {}
        for split, source in sources.items():
            fields = ("features", "centres", *(("points", "scores") if split == "validation" else ()))
            planning_extras: list[Extra] = []
            if has_language:
                planning_extras.append(partial(_heard, source, ReasoningFeatures(source.cache, files), learned))
            if preset.planning is not None and preset.planning.target_points:
                planning_extras.append(partial(_routed, source, preset.planning.target_points))
            others = partial(_at_other_speeds, source.cache) if split == "train" else None
            if preset.planning is not None and preset.planning.obstacle_grid:
                planning_extras.append(partial(_obstacles, source, others))
            elif others is not None:
                planning_extras.append(others)
            read = partial(_together, planning_extras) if planning_extras else None
            found[split] = source.samples(fields, source.planned, read)
        preset.need("planning")
        torch.manual_seed(preset.seed + 2)
        planner = Planner(preset.planning, AnchorSet.load(preset.anchors))
        if init is not None:
            load_weights(planner, "planning", init)
        stage = PlanningStage(planner, uses_reasoning=has_language)
        return stage, found["train"], found["validation"]
    start = init or (files[0] if files else None)
    reasoner, done = reasoner_of(preset, start, files[1:] if start in files else adapter_beside(start))
    found = {}
    for split, source in sources.items():
        fields = QUERY_FIELDS
        if part == "language":
            # Only validation builds SceneQueries, which need points.
            fields = tuple(f for f in fields if split == "validation" or f != "points")
            found[split] = source.samples(fields, source.asked, source.questions)
            continue
        extras: list[Extra] = [source.futures, partial(_voxels, source)]
        if has_language:
            extras.append(_readings(source, files, ("occupancy", "chosen"), source.ahead))
        found[split] = source.samples(fields, source.ahead, partial(_together, extras))
    trained = LanguageStage(reasoner, done) if part == "language" else ForecastStage(reasoner, preset.occupancy, done)
    return trained, found["train"], found["validation"]


def _rows(rows: Rows | None, seed: int, count: int) -> np.ndarray:
    """Returns the indices of a scene's frame sets that `rows` names, of `count` in all."""
    named = rows(seed) if callable(rows) else rows
    return np.arange(count) if named is None else np.asarray(named, np.int64)


def _readings(source: Source, files: Sequence[Path], fields: Sequence[str], rows: Rows | None) -> Extra:
    readings = ReasoningFeatures(source.cache, files)

    def read(seed: int) -> dict[str, np.ndarray] | None:
        return readings.read(seed, fields, rows(seed) if callable(rows) else rows)

    return read


def _heard(
    source: Source, readings: ReasoningFeatures, learned: Collection[int], seed: int
) -> dict[str, np.ndarray] | None:
    """Returns the planner's reasoning input at a scene's frame sets, and that of the set before each (`_before`).

    Missing reasoning (NaN and 0, see PlanningBatch) for scenes of `learned`. A set without a predecessor within
    MOST_LATE uses its own as `_before`.
    """
    found = readings.read(seed, REASONING_FIELDS)
    if found is None:
        return None
    time = read_arrays(source.cache.file(seed), ("time",))["time"]
    rows = np.arange(len(time))
    near = np.diff(time, prepend=np.inf)
    before = np.where((near > 0) & (near <= MOST_LATE), rows - 1, rows)
    if seed in learned:
        found = {"token": np.full_like(found["token"], np.nan), "anchor_scores": np.zeros_like(found["anchor_scores"])}
    chosen = _rows(source.planned, seed, len(time))
    return {k: v[chosen] for k, v in found.items()} | {f"{k}_before": v[before[chosen]] for k, v in found.items()}


def _routed(source: Source, distances: Sequence[float], seed: int) -> dict[str, np.ndarray]:
    """Returns {"target_points": float32 [rows, R, 2]} of a scene's route, NaN where none is known (nuScenes, bags)."""
    file, cache = source.cache.file(seed), source.cache
    poses = read_arrays(file, ("pose",))["pose"]
    route = None
    if isinstance(cache, RolloutFeatures) and seed in cache.files:
        route = read_arrays(file, ("route",))["route"]
    elif isinstance(cache, FeatureCache | RolloutFeatures):
        route = load_drive(seed, cache.world.seconds).route
    unknown = np.full((len(distances), 2), np.nan, np.float32)
    found = [None if route is None else target_points(route, pose, distances) for pose in poses]
    out = np.stack([unknown if points is None else points for points in found])
    return {"target_points": out[_rows(source.planned, seed, len(out))]}


def _obstacles(source: Source, others: Extra | None, seed: int) -> dict[str, np.ndarray]:
    """Returns {"obstacles": uint8 [rows, CHANNELS, *SHAPE]} of a scene's frame sets, as in Planner.plan.

    others: reads the speed variants, returned too, with {"other_stop_line": float32 [rows, VARIANTS]}, m to the line of
    a red light at their speeds, NaN without one. Raises InvalidInput("cache") if its features hold no voxels.
    """
    file = source.cache.file(seed)
    arrays = read_arrays(file, ("time", "pose", "twist"))
    voxels = movable_voxels(file, range(len(arrays["time"]))).get("voxels")
    if voxels is None:
        raise InvalidInput("cache", f"{file} holds no voxels for planning.obstacle_grid: the preset has no voxel head")
    limits = ValidatorConfig()
    memory, stop_line = ObstacleMemory(), StopLine(limits.max_deceleration_mps2)
    front, vx = limits.vehicle.front_m, FEATURE_NAMES.index("vx")
    other = {} if others is None else others(seed) or {}
    variants = other.get("other_ego", np.zeros((len(voxels), 0, vx + 1)))
    grids, lines = [], []
    rows = zip(arrays["time"], arrays["pose"], arrays["twist"], voxels, traffic_lights(file), variants, strict=True)
    for time, pose, twist, found, light, egos in rows:
        at = SparseVoxels(found[:, :3], found[:, 3].astype(np.uint8), np.ones(len(found), np.float32))
        moment = round(float(time) * 1e9), 0, pose
        grids.append(memory.grid(*moment, at, stop_line.ahead(*moment, float(twist[0]), light, front)))
        lines.append([stop_line.at_speed(pose, float(ego[vx]), front) for ego in egos])
    chosen = _rows(source.planned, seed, len(grids))
    out = other | {"obstacles": np.stack(grids)[chosen]}
    return out | ({"other_stop_line": np.array(lines, np.float32)[chosen]} if lines and lines[0] else {})


def _at_other_speeds(cache: Cache, seed: int) -> dict[str, np.ndarray]:
    """Returns the expert's plans from a scene's frame sets at other speeds (speed_variants.py), {} if not cached."""
    if isinstance(cache, RolloutFeatures) and seed in cache.files:
        return read_arrays(cache.file(seed), speed_variants.FIELDS)
    if isinstance(cache, FeatureCache | RolloutFeatures):
        return speed_variants.SpeedVariants(cache.world).read(seed)
    return {}


def _voxels(source: Source, seed: int) -> dict[str, np.ndarray]:
    """Returns the movable voxels of the encoder's voxel head at the frame sets with a future, {} without them."""
    file = source.cache.file(seed)
    rows = source.ahead(seed) if callable(source.ahead) else source.ahead
    return movable_voxels(file, rows) if isinstance(source.cache, FeatureCache) and file.is_file() else {}


def _together(sources: Sequence[Extra], seed: int) -> dict[str, np.ndarray] | None:
    """Returns the merged arrays of all sources for a seed; None if one has none."""
    found = [source(seed) for source in sources]
    return None if any(part is None for part in found) else {k: v for part in found for k, v in (part or {}).items()}
