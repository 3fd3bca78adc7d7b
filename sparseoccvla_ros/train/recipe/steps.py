"""The steps of a recipe. Each takes a Context, writes its files to context.folder and returns the content of done.json.

Every step can be interrupted at any point: data are in the shared cache file by file, training resumes from its
checkpoint, everything else is redone. All random numbers come from fixed seeds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...core.classes import LABEL
from ...core.errors import InvalidInput
from ...core.files import written
from ...core.onednn import fast_precision
from ...data.dataset import DrivingSamples
from ...data.processes import in_processes
from ...data.shared_work import share
from ...data.synthetic.dataset import SPLITS, WorldSamples, world_settings
from ...data.synthetic.drives import prepare_drives, trajectories
from ...data.synthetic.qa_cache import QuestionCache, question_rows
from ...data.synthetic.scenes import WorldSettings, prepare_scenes
from ...eval.tasks.evaluator import EvalConfig
from ...eval.world.evaluation import Request, evaluate_world
from ...occupancy import checkpoints
from ...occupancy.encoder import OccupancyEncoder
from ...occupancy.losses import LossWeights
from ...planning.anchors import AnchorSet
from ...runtime.presets import ADAPTER, Preset
from ...world.scene import Scene
from ...world.sim.scenarios import FAMILIES
from .. import build
from ..anchors import fit
from ..checkpoint import init_from
from ..features.backbone_cache import BackboneCache, Variants
from ..features.cached_frames import CachedFrames
from ..features.future_labels import FutureLabels
from ..features.reasoning import ReasoningFeatures
from ..features.speed_variants import SpeedVariants
from ..features.synthetic import prepare_features
from ..rollouts import Rollouts
from ..settings import TrainSettings
from ..stages.cells import CellStage
from ..stages.clips import ClipStage
from ..stages.language import LanguageStage
from ..stages.occupancy import OccupancyStageSettings
from ..task import Stage
from ..traffic_light_head import (
    TrafficLightLabels,
    TrafficLightSamples,
    TrafficLightSettings,
    fit_traffic_light_head,
    score_traffic_light_head,
)
from ..trainer import BEST, LAST, Report, Trainer
from ..voxel_head import VoxelHeadSettings, calibrate_voxel_head, fit_voxel_head
from .export import ANCHORS, encoder_weights, export_preset, trained_preset
from .report import write_report
from .run import Context, write_json

_SETTINGS = {f.name for f in dataclasses.fields(TrainSettings)} - {"seed", "minutes"}


def render(context: Context) -> dict[str, Any]:
    """Render world scenes into the shared cache."""
    done = {}
    for split in ("validation", "train"):
        seeds = _seeds(context, split)
        scenes = prepare_scenes(seeds, _world(context, split), workers=context.workers)
        done[split] = _consume(context, f"scenes of {split}", scenes, len(seeds))
    return {"scenes": done}


def cache(context: Context) -> dict[str, Any]:
    """Cache the output of the frozen first blocks of the backbone. Options: blocks, variants."""
    done = {}
    for split in ("validation", "train"):
        seeds = _seeds(context, split)
        work = share(_backbone_cache(context, split), seeds, context.workers)
        done[split] = _consume(context, f"features of {split}", work, len(seeds))
    return {"scenes": done}


def cells(context: Context) -> dict[str, Any]:
    """Train the first phase of stage 1, the image cells. Options: those of TrainSettings."""
    encoder = _encoder(context)
    stage = CellStage(encoder, _blocks(context), depthwise=context.device != "cpu")
    data = [CachedFrames(_backbone_cache(context, split), _seeds(context, split), clips=False) for split in _SPLITS]
    return _train(context, stage, *data)


def whole(context: Context) -> dict[str, Any]:
    """Train the second phase of stage 1, the whole encoder, from the result of `cells`. Options: TrainSettings."""
    encoder = _encoder(context)
    cell_weights = context.result("cells", BEST)
    if cell_weights is not None:
        checkpoints.load(encoder, cell_weights)
    settings = OccupancyStageSettings(
        frozen=_blocks(context), depthwise=context.device != "cpu",
        initial_points="random" if "occupancy" in context.recipe.init else "data",
    )  # fmt: skip
    objects = tuple(range(LABEL["driveable_surface"]))
    stage = ClipStage(encoder, settings, LossWeights(alpha=0.6, gamma=1.0, rare_classes=objects))
    train_data = CachedFrames(_backbone_cache(context, "train"), _seeds(context, "train"), clips=True)
    validation_data = WorldSamples(
        _seeds(context, "validation"), _world(context, "validation"), context.recipe.preset.occupancy.frames
    )
    return _train(context, stage, train_data, validation_data)


def voxel_head(context: Context) -> dict[str, Any]:
    """Fit the voxel head to the frozen encoder, on other scenes than its own. Options: scenes, VoxelHeadSettings."""
    recipe, step, options = context.recipe, context.step, dict(context.step.options)
    count, frames = int(options.pop("scenes")), recipe.preset.occupancy.frames
    settings = VoxelHeadSettings(**options)
    if step.minutes:
        part = min(1.0, step.minutes / (60.0 * step.hours))
        settings = dataclasses.replace(settings, steps=max(1, int(part * settings.steps)))
        count = max(1, int(part * count))
    seeds = _split(context, "train")[recipe.scenes : recipe.scenes + count]
    world = _world(context, "train")
    _consume(context, "scenes", prepare_scenes(seeds, world, workers=context.workers), len(seeds))
    weights = _required(context.result("whole", BEST), "voxel_head", "whole")
    encoder, _ = build.frozen_encoder(recipe.preset, weights, "cpu")
    if encoder.voxel_head is not None:
        encoder.voxel_head.requires_grad_(True)
    fit_voxel_head(encoder, WorldSamples(seeds, world, frames), settings, recipe.seed, context.progress.say)
    validation_data = WorldSamples(_seeds(context, "validation"), _world(context, "validation"), frames)
    samples = (validation_data[i] for i in range(len(validation_data)))
    scores = calibrate_voxel_head(encoder, samples, report=context.progress.say)
    _save(context, encoder)
    return {"miou": scores.miou, "iou": scores.iou}


def traffic_lights(context: Context) -> dict[str, Any]:
    """Fit the traffic-light head on the recipe's scenes. Options: those of TrafficLightSettings."""
    settings = TrafficLightSettings(**context.step.options)
    samples = {}
    for split in _SPLITS:
        labels, seeds = TrafficLightLabels(_world(context, split)), _seeds(context, split)
        _consume(context, f"lamps of {split}", share(labels, seeds, context.workers), len(seeds))
        samples[split] = TrafficLightSamples.of(labels, [s for s in seeds if labels.file(s).is_file()])
    weights = _required(encoder_weights(context), "traffic_lights", "whole")
    encoder, _ = build.frozen_encoder(context.recipe.preset, weights, "cpu")
    fit_traffic_light_head(encoder, samples["train"], settings, context.recipe.seed, context.progress.say)
    _save(context, encoder)
    return dataclasses.asdict(score_traffic_light_head(encoder, samples["validation"]))


def anchors(context: Context) -> dict[str, Any]:
    """Fit the planner's anchors to drives of the training seeds. Options: drives."""
    planning = context.recipe.preset.planning
    if planning is None:
        raise InvalidInput("steps.anchors", f"preset {context.recipe.preset.name} plans nothing")
    seeds = _split(context, "train")[: int(context.step.options["drives"])]
    drives: list[Any] = []
    prepared = prepare_drives(seeds, workers=context.workers)
    _consume(context, "drives", (drives.append(drive) for drive in prepared), len(seeds))
    fitted = fit(*trajectories(drives), planning)
    fitted.save(context.folder / ANCHORS)
    return {"sha256": AnchorSet.load(context.folder / ANCHORS).sha256}


def features(context: Context) -> dict[str, Any]:
    """Cache the frozen encoder's features, labels of forecasts, questions and answers, and the expert's plans
    at other speeds."""
    encoder, weights = _frozen_encoder(context)
    for split in ("validation", "train"):
        seeds = _feature_seeds(context, split)
        feature_cache = build.feature_cache(encoder, weights, context.recipe.preset, split)
        futures = FutureLabels(feature_cache.world, present=split == "train")
        questions = QuestionCache(feature_cache.world, question_rows(feature_cache.world, split))
        workers = context.workers if context.device == "cpu" else 1
        _consume(context, f"features of {split}", prepare_features(encoder, feature_cache, seeds, workers), len(seeds))
        _consume(context, f"labels of {split}", _label_scenes(futures, questions, seeds, context.workers), len(seeds))
        if split == "train" and context.recipe.preset.planning is not None:
            variants = share(SpeedVariants(feature_cache.world), seeds, context.workers)
            _consume(context, "plans at other speeds", variants, len(seeds))
    return {}


def reasoning_features(context: Context) -> dict[str, Any]:
    """Cache the trained reasoner's output on the features, as input of planner and forecaster."""
    encoder, weights = _frozen_encoder(context)
    reasoner, files = build.frozen_reasoner(trained_preset(context), context.result("language", BEST), context.device)
    language_seeds = _language_seeds(context)
    for split in ("validation", "train"):
        seeds = _feature_seeds(context, split)
        feature_cache = build.feature_cache(encoder, weights, context.recipe.preset, split)
        readings = ReasoningFeatures(feature_cache, files)
        # On the language stage's scenes only the forecaster uses reasoning, at the frame sets with future labels.
        rows = FutureLabels(feature_cache.world, present=split == "train").rows
        work = (readings.prepare(reasoner, seed, rows if seed in language_seeds else None) for seed in seeds)
        _consume(context, f"reasoning of {split}", work, len(seeds))
    return {}


def rollouts(context: Context) -> dict[str, Any]:
    """Let the trained stack drive in closed loop, with the expert's plans as labels. Options: drives, first_seed,
    expert_share."""
    options, folder = context.step.options, context.folder / "drives"
    first = int(options["first_seed"])
    seeds = SPLITS["train"][first : first + int(options["drives"])]
    preset = _driving_preset(context)
    made = Rollouts.of(preset, seeds, tuple(FAMILIES), float(options["expert_share"]), folder)
    return {"drives": _consume(context, "drives", share(made, seeds, context.workers), len(seeds))}


def _driving_preset(context: Context) -> Preset:
    """Returns the preset with the weights of encoder, language and planning as they were trained."""
    preset = trained_preset(context)
    _, weights = _frozen_encoder(context)
    planning = _required(context.result("planning", BEST), context.step.name, "planning")
    language = context.result("language", BEST)
    found = {"occupancy": weights, "planning": planning}
    if language is not None:
        files = build.reasoning_files(preset, language)
        found |= dict(zip(("reasoning", ADAPTER), files, strict=False))
    return dataclasses.replace(preset, weights=found)


def train_part(context: Context, part: str) -> dict[str, Any]:
    """Train language, planning or forecast on the features. Options: those of TrainSettings; for language also
    pretraining (LanguageStageSettings.question_steps).

    The planner is trained on the scenes of the voxel head too, and gets reasoning only on scenes that language was not
    trained on. Step `dagger` goes on with the planner, with the roll-outs as further scenes.
    """
    recipe, preset = context.recipe, trained_preset(context)
    encoder, weights = _frozen_encoder(context)
    seeds, language_seeds = _feature_seeds(context, "train"), _language_seeds(context)
    trained_on = {"language": language_seeds, "planning": seeds, "forecast": _seeds(context, "train")}
    sources = build.world_sources(encoder, weights, preset, trained_on[part], _seeds(context, "validation"))
    reasoning = context.result("language", BEST) if part != "language" else None
    init = None
    if context.step.name == "dagger":
        init = context.result("planning", BEST)
        sources = _with_rollouts(context, sources, preset, reasoning)
    torch.manual_seed(recipe.seed)
    stage, train_data, validation_data = build.build(part, preset, reasoning, init, sources, language_seeds)
    if isinstance(stage, LanguageStage):
        _configure_language(context, stage)
    return _train(context, stage, train_data, validation_data)


def _with_rollouts(
    context: Context, sources: dict[str, build.Source], preset: Preset, reasoning: Path | None
) -> dict[str, build.Source]:
    """Returns the sources plus the drives of step `rollouts`, whose reasoning is then cached."""
    folder = context.recipe.folder(context.out, "rollouts") / "drives"
    driven = build.with_rollouts(sources, [folder], "planning")
    read = build.read_rollouts(driven, preset, reasoning, context.device)
    _consume(context, "reasoning of roll-outs", read, len(build.rollouts_of(driven)))
    return driven


def _configure_language(context: Context, stage: LanguageStage) -> None:
    """Apply the step's `pretraining` option and the recipe's `init`."""
    settings, init = stage.settings, context.recipe.init
    pretraining = int(context.step.options.get("pretraining", settings.question_steps))
    connector = settings.connector_steps
    if "reasoning" in init:
        init_from(stage.reasoner, init["reasoning"], init.get(ADAPTER))
        connector = 0  # it would pull the connector back to the words of single queries
    stage.settings = dataclasses.replace(settings, question_steps=pretraining, connector_steps=connector)


def validation(context: Context) -> dict[str, Any]:
    """Evaluate the exported preset on validation seeds, as ./run eval does. Options: scenes, tasks."""
    options = context.step.options
    folder = context.recipe.folder(context.out, "export") / "preset"
    seeds = tuple(_seeds(context, "validation")[: int(options.get("scenes", 10))])
    wanted = EvalConfig(**({"tasks": tuple(options["tasks"])} if "tasks" in options else {}))
    report = evaluate_world(
        Request(str(folder), seeds, wanted, untrained=True),
        lambda what, done, total: context.progress.report(done / max(total, 1), what),
    )
    write_json(context.folder / "numbers.json", report.numbers)
    return {}


def report(context: Context) -> dict[str, Any]:
    """Write curves and numbers of all steps to one page."""
    return {"page": str(write_report(context.recipe, context.out, context.folder))}


STEPS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "render": render, "cache": cache, "cells": cells, "whole": whole, "voxel_head": voxel_head,
    "traffic_lights": traffic_lights, "anchors": anchors, "features": features,
    "language": partial(train_part, part="language"), "reasoning_features": reasoning_features,
    "planning": partial(train_part, part="planning"), "rollouts": rollouts,
    "dagger": partial(train_part, part="planning"), "forecast": partial(train_part, part="forecast"),
    "export": export_preset, "validation": validation, "report": report,
}  # fmt: skip
_SPLITS = ("train", "validation")


def _save(context: Context, encoder: OccupancyEncoder) -> None:
    with written(context.folder / BEST) as part:
        checkpoints.save(encoder, part)


def _train(context: Context, stage: Stage[Any], train: DrivingSamples, validation: DrivingSamples) -> dict[str, Any]:
    """Train or resume a stage in the step's folder; returns best score, steps and number of training samples."""
    options, folder = dict(context.step.options), context.folder
    if context.step.name == "language":
        options.pop("pretraining", None)
    unknown = sorted(set(options) - _SETTINGS)
    if unknown:
        raise InvalidInput(f"steps.{context.step.name}.{unknown[0]}", f"is not one of {', '.join(sorted(_SETTINGS))}")
    settings = TrainSettings(**options, seed=context.recipe.seed, minutes=context.step.minutes)

    def on_report(report: Report) -> None:
        note = f"step {report.step} loss {report.loss:.3f} {report.samples_per_second:.2f} samples/s"
        if report.validation is not None:
            note += f" validation {report.validation.score:.3f}"
        context.progress.report(report.share, note, report.eta)

    resume = (folder / LAST).is_file()
    trainer = Trainer(stage, train, validation, settings, folder, resume, stage.augment, context.device, on_report)
    trainer.run()
    return {"best": trainer.progress.best, "steps": trainer.progress.step, "items": len(train)}


def _consume(context: Context, what: str, work: Iterable[Any], total: int) -> int:
    """Consume `work` until it or the step's time is exhausted; returns the number of items done."""
    deadline, done = time.monotonic() + 60.0 * (context.step.minutes or float("inf")), 0
    for _ in work:
        done += 1
        context.progress.report(done / total, f"{what}: {done} of {total}")
        if time.monotonic() > deadline:
            break
    return done


def _split(context: Context, split: str) -> list[int]:
    """Returns all seeds of a split, in the order in which the recipe uses them."""
    return list(SPLITS[split][context.recipe.first_scene if split == "train" else 0 :])


def _seeds(context: Context, split: str) -> list[int]:
    recipe = context.recipe
    return _split(context, split)[: recipe.scenes if split == "train" else recipe.validation]


def _label_scenes(futures: FutureLabels, questions: QuestionCache, seeds: list[int], workers: int) -> Iterator[int]:
    """Cache future labels and questions of the seeds in `workers` processes; yields each seed when done."""
    missing = [s for s in seeds if not (futures.file(s).is_file() and questions.file(s).is_file())]
    yield from (s for s in seeds if s not in set(missing))
    if workers < 2 or len(missing) < 2:
        yield from (_label_scene(s, futures, questions) for s in missing)
        return
    yield from in_processes(workers, partial(_label_scene, futures=futures, questions=questions), missing)


def _label_scene(seed: int, futures: FutureLabels, questions: QuestionCache) -> int:
    scene = Scene.generate(seed, futures.world.seconds)
    futures.prepare(seed, scene)
    questions.prepare(seed, scene)
    return seed


def _feature_seeds(context: Context, split: str) -> list[int]:
    """Returns the seeds for the stages after the encoder: of the encoder's own and of those of the voxel head."""
    if split != "train":
        return _seeds(context, split)
    others = int(_options(context, "voxel_head").get("scenes", 0))
    return _split(context, split)[: context.recipe.scenes + others]


def _language_seeds(context: Context) -> list[int]:
    """Returns the seeds that the language part is trained on: those of the encoder."""
    return _seeds(context, "train") if any(step.name == "language" for step in context.recipe.steps) else []


def _options(context: Context, name: str) -> dict[str, Any]:
    """Returns the options of a step; none if the recipe does not have it."""
    return next((step.options for step in context.recipe.steps if step.name == name), {})


def _world(context: Context, split: str) -> WorldSettings:
    preset = context.recipe.preset
    return world_settings(split, preset.image.height, preset.image.width, preset.occupancy.frames)


def _blocks(context: Context) -> int:
    return int(context.recipe.step("cache").options["blocks"])


def _backbone_cache(context: Context, split: str) -> BackboneCache:
    options = context.recipe.step("cache").options
    variants = Variants(int(options["variants"]) if split == "train" else 0, seed=context.recipe.seed)
    return BackboneCache(_encoder(context), _world(context, split), _blocks(context), variants)


def _encoder(context: Context) -> OccupancyEncoder:
    """Returns the encoder as it is before training, from the recipe's seed and its `init`."""
    torch.manual_seed(context.recipe.seed)
    precision = fast_precision(context.device)
    encoder = OccupancyEncoder(context.recipe.preset.occupancy.replace(backbone_dtype=precision))
    if "occupancy" in context.recipe.init:
        init_from(encoder, context.recipe.init["occupancy"])
    return encoder


def _required(result: Path | None, step: str, needed: str) -> Path:
    """Returns the result of another step. Raises InvalidInput: `step` needs it, and it is not there."""
    if result is None:
        raise InvalidInput(f"steps.{step}", f"needs the step {needed}")
    return result


def _frozen_encoder(context: Context) -> tuple[OccupancyEncoder, Path]:
    weights = _required(encoder_weights(context), "features", "whole")
    return build.frozen_encoder(context.recipe.preset, weights, context.device)
