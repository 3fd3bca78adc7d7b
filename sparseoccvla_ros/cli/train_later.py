"""The verb train beyond stage 1: feature cache, anchors, stages 2 and 3, roll-outs, voxel head and recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from sparseoccvla_ros.cli.console import Workers, one_line_errors, worker_count

if TYPE_CHECKING:
    from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
    from sparseoccvla_ros.planning.anchors import AnchorSet
    from sparseoccvla_ros.runtime.presets import Preset
    from sparseoccvla_ros.train.build import Source
    from sparseoccvla_ros.train.features.bags import Recording
    from sparseoccvla_ros.train.settings import TrainSettings
    from sparseoccvla_ros.train.trainer import Report

Progressed = Callable[[str, int, int], None]
"""Progress callback: (name of the work, done, total)."""
Bags = Annotated[list[Path] | None, typer.Option(help="recorded drive to learn from (--data bag); once for each")]
ProfileOption = Annotated[str, typer.Option(help="profile of the bags: a name in config/profiles, or a .yaml file")]
Reasoning_ = Annotated[Path | None, typer.Option(help="weights of the frozen reasoner; the preset's if not given")]
Encoder = Annotated[Path | None, typer.Option(help="weights of the frozen encoder; the preset's if not given")]
DEFAULTS = {"occupancy": (2, 8e-4), "planning": (32, 1e-3), "forecast": (8, 4e-4), "language": (4, 4e-4)}
"""Samples per step and peak learning rate by trained part; for language HERMES's rate of its LoRA stage."""
SHOWN = (
    "l2_avg", "l2_constant_velocity_avg", "l2_swapped_avg", "score_accuracy", "drivable", "iou_1s", "iou_2s", "iou_3s",
    "copy_iou_1s", "copy_iou_2s", "copy_iou_3s", "accuracy", "accuracy_shuffled",
)  # fmt: skip
"""Validation metrics that are printed."""


def cache(
    scenes: Annotated[int, typer.Option(min=1, help="seeds of a split to look at; those rendered are taken")] = 10_000,
    split: Annotated[str, typer.Option(help="train, validation or both")] = "both",
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    encoder: Encoder = None,
    reasoning: Reasoning_ = None,
    readings: Annotated[bool, typer.Option(help="also let a trained reasoner read the features")] = False,
    futures: Annotated[bool, typer.Option(help="also simulate what the forecast learns from")] = True,
    questions: Annotated[bool, typer.Option(help="also make the questions that language learns from")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="threads of torch; 0: all cores")] = 0,
) -> None:
    """Cache the frozen encoder's features of rendered scenes, for stages 2 and 3. Ctrl-C ends; finished scenes stay."""
    with one_line_errors():
        import torch

        from sparseoccvla_ros.data.synthetic.qa_cache import QuestionCache, question_rows
        from sparseoccvla_ros.runtime.factory import pick_device
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train import build as later
        from sparseoccvla_ros.train.features.future_labels import FutureLabels
        from sparseoccvla_ros.train.features.reasoning import ReasoningFeatures
        from sparseoccvla_ros.train.features.synthetic import prepare_features

        torch.set_num_threads(threads or os.cpu_count() or 1)
        found = load_preset(preset)
        network, weights = later.frozen_encoder(found, encoder, pick_device(device))
        if readings:
            reasoner, files = later.frozen_reasoner(found, reasoning, pick_device(device))
        console = Console(stderr=True)
        with bar(console) as shown:
            for name in ("validation", "train") if split == "both" else (split,):
                place = later.feature_cache(network, weights, found, name)
                seeds = later.rendered(place, name, scenes)
                follow(shown, f"encoding {name}", len(seeds), prepare_features(network, place, seeds))
                if readings:
                    read = ReasoningFeatures(place, files)
                    follow(shown, f"reading {name}", len(seeds), (read.prepare(reasoner, seed) for seed in seeds))
                labels = FutureLabels(place.world, present=name == "train")
                if futures:
                    follow(shown, f"futures of {name}", len(seeds), map(labels.prepare, seeds))
                if questions:
                    asked = QuestionCache(place.world, question_rows(place.world, name))
                    follow(shown, f"questions of {name}", len(seeds), map(asked.prepare, seeds))
                console.print(f"{name}: {len(seeds)} scenes lie in {place.folder()}")


def follow(shown: Progress, text: str, total: int, work: Iterable[Any]) -> None:
    """Iterate over the work, one item per scene, and show its rate and time left."""
    task = shown.add_task(text, total=total, note="")
    for done, _ in enumerate(work, 1):
        speed = shown.tasks[task].speed
        shown.update(task, completed=done, note=f"{3600 * speed:.0f} scenes/h" if speed else "")


def anchors(
    seeds: Annotated[int, typer.Option(min=10, help="seeds of the world's training split to take drives from")] = 400,
    preset: Annotated[str, typer.Option(help="model preset whose anchors are replaced")] = "tiny",
    data: Annotated[str, typer.Option(help="world: the synthetic world; bag: recorded drives")] = "world",
    bag: Bags = None,
    profile: ProfileOption = "",
    workers: Annotated[int, typer.Option(min=1, max=256, help="processes that simulate drives")] = 1,
) -> None:
    """Fit the preset's trajectory anchors to drives and write them. Planner and language model then need retraining."""
    with one_line_errors():
        from sparseoccvla_ros.core.errors import InvalidInput
        from sparseoccvla_ros.data.synthetic.dataset import SPLITS
        from sparseoccvla_ros.data.synthetic.drives import prepare_drives, trajectories
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train.anchors import describe, fit

        if data not in ("world", "bag"):
            raise InvalidInput("data", f"{data!r} has no drives to fit anchors to; want world or bag")
        found = load_preset(preset)
        found.need("planning")
        assert found.planning is not None
        assert found.anchors is not None
        console = Console(stderr=True)
        if data == "bag":
            fitted = _anchors_of_bags(recordings(bag, profile), found, console)
        else:
            with bar(console) as shown:
                task = shown.add_task("driving", total=seeds, note="")
                drives = []
                for drive in prepare_drives(SPLITS["train"][:seeds], workers=workers):
                    drives.append(drive)
                    shown.update(task, completed=len(drives))
            fitted = fit(*trajectories(drives), found.planning)
        fitted.save(found.anchors)
        console.print(f"{found.anchors}\n{describe(fitted)}", soft_wrap=True)


def recordings(bags: list[Path] | None, profile: str, calibration_file: str = "") -> tuple[Recording, ...]:
    """Recordings of the --bag options. Raises InvalidInput("bag") if there are none or one does not exist."""
    from sparseoccvla_ros.core.errors import InvalidInput
    from sparseoccvla_ros.train.features.bags import Recording

    if not bags:
        raise InvalidInput("bag", "--data bag needs --bag DRIVE, once or several times")
    for path in bags:
        if not path.exists():
            raise InvalidInput("bag", f"{path} is not there")
    return tuple(Recording(path, profile, calibration_file) for path in bags)


def _anchors_of_bags(drives: Sequence[Recording], preset: Preset, console: Console) -> AnchorSet:
    """Fit anchors to recorded drives; a command with too few moments keeps the preset's anchors."""
    import numpy as np

    from sparseoccvla_ros.planning.anchors import COMMAND_ORDER, AnchorSet
    from sparseoccvla_ros.train.anchors import fit, too_few
    from sparseoccvla_ros.train.features.bags import trajectories

    assert preset.planning is not None
    assert preset.anchors is not None
    paths, commands = trajectories(drives)
    for index in too_few(paths, commands):
        driven = commands == index
        console.print(f"{COMMAND_ORDER[index].value}: {int(driven.sum())} moments are too few; its anchors stay")
        known = AnchorSet.load(preset.anchors).array[index]
        paths = np.concatenate([paths[~driven], known])
        commands = np.concatenate([commands[~driven], np.full(len(known), index)])
    return fit(paths, commands, preset.planning)


def run(
    part: str, preset: Preset, settings: TrainSettings, out: Path | None, resume: bool,
    encoder: Path | None, reasoning: Path | None, init: Path | None, scenes: int, validation: int, device: str,
    dataroot: Path | None = None, index: Path | None = None,
    drives: Sequence[Recording] = (), checks: Sequence[Recording] = (), rollouts: Sequence[Path] = (),
) -> None:  # fmt: skip
    """Train stage 2 or a part of stage 3 on cached features: of the world plus the stack's own drives in it (folders
    `rollouts`), of the nuScenes folder `dataroot`, or of the recordings `drives`, with `checks` for validation.
    """
    from sparseoccvla_ros.data.nuscenes.index import open_index
    from sparseoccvla_ros.train import build as later
    from sparseoccvla_ros.train.features.bags import missing_of
    from sparseoccvla_ros.train.trainer import Trainer

    if drives:
        for line in (line for drive in (*drives, *checks) for line in missing_of(drive)):
            Console(stderr=True).print(f"note: {line}", highlight=False, soft_wrap=True)
        init = init or preset.weights.get({"language": "reasoning"}.get(part, part))

        def from_bags(network: OccupancyEncoder, file: Path, report: Progressed) -> dict[str, Source]:
            return later.bag_sources(network, file, preset, part, drives, checks, report)

        sources = _encoded(part, preset, encoder, reasoning, device, from_bags)
    elif dataroot is not None:
        opened, root = open_index(dataroot, path=index), dataroot

        def from_nuscenes(network: OccupancyEncoder, file: Path, report: Progressed) -> dict[str, Source]:
            return later.nuscenes_sources(network, file, preset, root, opened, part, scenes, validation, report)

        sources = _encoded(part, preset, encoder, reasoning, device, from_nuscenes)
    else:
        from sparseoccvla_ros.data.synthetic.dataset import SPLITS

        network, file = later.frozen_encoder(preset, encoder, "cpu")
        seeds, held_out = SPLITS["train"][:scenes], SPLITS["validation"][:validation]
        sources = later.world_sources(network, file, preset, seeds, held_out)
        if rollouts:
            sources = later.with_rollouts(sources, rollouts, part)
            with bar(Console(stderr=True)) as shown:
                read = later.read_rollouts(sources, preset, reasoning, device)
                follow(shown, "reading roll-outs", len(later.rollouts_of(sources)), read)
    trained, learned, checked = later.build(part, preset, reasoning, init, sources)
    console = Console(stderr=True)
    folder = out or Path("out/train") / trained.name
    with bar(console) as shown:
        task = shown.add_task("training", total=1000, note="")

        def show(report: Report) -> None:
            _show(shown, task, console, report)

        trainer = Trainer(trained, learned, checked, settings, folder, resume, trained.augment, device, show)
        console.print(f"{len(learned)} samples to learn, {len(checked)} to validate")
        trainer.run()
    console.print(f"{folder}: best.safetensors has validation {trainer.progress.best:.4f}")


def _encoded(
    part: str, preset: Preset, encoder: Path | None, reasoning: Path | None, device: str,
    made: Callable[[OccupancyEncoder, Path, Progressed], dict[str, Source]],
) -> dict[str, Source]:  # fmt: skip
    """Compute encoder features and, if the reasoner is trained, its reasoning features; cached ones are reused."""
    from sparseoccvla_ros.runtime.factory import parts_of
    from sparseoccvla_ros.train import build as later
    from sparseoccvla_ros.train.features.reasoning import ReasoningFeatures

    network, file = later.frozen_encoder(preset, encoder, device)
    with bar(Console(stderr=True)) as shown:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total, note="")
            shown.update(tasks[what], completed=done)

        sources = made(network, file, report)
        files = later.reasoning_files(preset, reasoning) if part != "language" else []
        if files and "language" in parts_of(files[0]):
            reasoner, files = later.frozen_reasoner(preset, reasoning, device)
            for split, source in sources.items():
                readings = ReasoningFeatures(source.cache, files)
                follow(
                    shown, f"reading {split}", len(source.seeds),
                    (readings.prepare(reasoner, scene) for scene in source.seeds),
                )  # fmt: skip
    return sources


def _show(shown: Progress, task: Any, console: Console, report: Report) -> None:
    note = f"step {report.step} loss {report.loss:.3f} {report.samples_per_second:.0f} samples/s"
    shown.update(task, completed=round(1000 * report.share), note=f"{note} {report.eta / 60:.0f} min left")
    if report.validation is not None:
        numbers = report.validation.numbers
        text = " ".join(f"{k} {numbers[k]:.3f}" for k in SHOWN if k in numbers)
        console.print(f"step {report.step}: {text}", soft_wrap=True)


def bar(console: Console) -> Progress:
    """Progress bar with rate and time left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
    )  # fmt: skip


Seeds = Annotated[str, typer.Option(help="seeds of the world, A:B for A to B - 1")]


def rollouts(
    out: Annotated[Path, typer.Argument(help="folder of one file per drive; drives that are there stay")],
    seeds: Seeds = "20000:20100",
    scenario: Annotated[str, typer.Option(help="families that take turns over the seeds, with commas, or all")] = "all",
    expert_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="of the plans that are followed")] = 0.3,
    preset: Annotated[str, typer.Option(help="model preset that drives")] = "tiny",
    workers: Workers = 0,
) -> None:
    """Let the stack drive training seeds, and label the states that it reaches with the expert's plans (DAgger).

    ./run train --stage 3 --rollouts OUT trains on them in addition to the world's drives.
    """
    with one_line_errors():
        import torch

        from sparseoccvla_ros.data.shared_work import share
        from sparseoccvla_ros.eval.world.seeds import seed_range
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train.features.rollouts import driven
        from sparseoccvla_ros.train.rollouts import Rollouts
        from sparseoccvla_ros.world.sim.scenarios import FAMILIES

        torch.set_num_threads(1)
        families = list(FAMILIES) if scenario == "all" else [s for s in scenario.split(",") if s]
        made = Rollouts.of(load_preset(preset), seed_range(seeds), families, expert_share, out)
        console = Console(stderr=True)
        for done, seed in enumerate(share(made, made.seeds, worker_count(workers)), 1):
            place = f"{done} of {len(made.seeds)}: {seed} {made.family(seed) or ''}"
            console.print(f"{place}: {driven(made.file(seed))}", highlight=False, soft_wrap=True)


def voxel_head(
    preset: Annotated[str, typer.Option(help="preset with occupancy.voxel_head, and weights of its encoder")] = "tiny",
    seeds: Seeds = "0:60",
    validation: Seeds = "80000:80008",
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps of the classes")] = 8_000,
    seed: Annotated[int, typer.Option(help="seed of the fit")] = 0,
    out: Annotated[Path, typer.Option(help="weights of the encoder with its new head")] = Path(
        "out/train/voxel_head/best.safetensors"
    ),
) -> None:
    """Fit the voxel head on scenes of the world, calibrate its logits on validation, and write the encoder's weights.

    The rest of the encoder is not changed. Use scenes that the encoder was not trained on. Takes a quarter of an hour
    on one core, and as long again to render sixty scenes; `./run train ship OUT` puts the result into the preset.
    """
    with one_line_errors():
        import torch

        from sparseoccvla_ros.data.synthetic.dataset import WorldSamples, world_settings
        from sparseoccvla_ros.eval.world.seeds import seed_range
        from sparseoccvla_ros.occupancy import checkpoints
        from sparseoccvla_ros.runtime.factory import build_occupancy
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train.voxel_head import VoxelHeadSettings, calibrate_voxel_head, fit_voxel_head

        console = Console()
        loaded = load_preset(preset)
        encoder = build_occupancy(loaded).requires_grad_(False)
        if encoder.voxel_head is not None:
            encoder.voxel_head.requires_grad_(True)
        size = (loaded.image.height, loaded.image.width, loaded.occupancy.frames)
        torch.set_num_threads(1)  # small matrices: a second thread is not faster
        learned = WorldSamples(list(seed_range(seeds)), world_settings("train", *size), loaded.occupancy.frames)
        fit_voxel_head(encoder, learned, VoxelHeadSettings(steps=steps), seed, console.print)
        checked = WorldSamples(
            list(seed_range(validation)), world_settings("validation", *size), loaded.occupancy.frames
        )
        scores = calibrate_voxel_head(encoder, (checked[i] for i in range(0, len(checked), 2)), report=console.print)
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save(encoder, out)
        console.print(f"{out}: validation mIoU {100 * scores.miou:.1f} %, IoU {100 * scores.iou:.1f} %")


def traffic_lights(
    preset: Annotated[
        str, typer.Option(help="preset with occupancy.traffic_lights, and weights of its encoder")
    ] = "tiny",
    seeds: Annotated[str, typer.Option(help="seeds of the world, A:B for A to B - 1; several with commas")] = "0:320",
    validation: Seeds = "80000:80020",
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps")] = 5_000,
    seed: Annotated[int, typer.Option(help="seed of the fit")] = 0,
    workers: Workers = 0,
    out: Annotated[Path, typer.Option(help="weights of the encoder with its new head")] = Path(
        "out/train/traffic_lights/best.safetensors"
    ),
) -> None:
    """Fit the traffic-light head on scenes of the world, score it on validation, and write the encoder's weights.

    The rest of the encoder is not changed, and its weights need not have the head yet. Takes a quarter of an hour, and
    as long again to render the scenes; `./run train ship OUT` puts the result into the preset.
    """
    with one_line_errors():
        from sparseoccvla_ros.core.errors import InvalidInput
        from sparseoccvla_ros.data.shared_work import share
        from sparseoccvla_ros.data.synthetic.dataset import world_settings
        from sparseoccvla_ros.data.synthetic.scenes import prepare_scenes
        from sparseoccvla_ros.eval.world.seeds import seed_range
        from sparseoccvla_ros.occupancy import checkpoints
        from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train.traffic_light_head import (
            TrafficLightLabels,
            TrafficLightSamples,
            TrafficLightSettings,
            fit_traffic_light_head,
            score_traffic_light_head,
        )

        console = Console()
        loaded = load_preset(preset)
        if not loaded.occupancy.traffic_lights or "occupancy" not in loaded.weights:
            lacks = "weights of its encoder" if loaded.occupancy.traffic_lights else "occupancy.traffic_lights"
            raise InvalidInput("preset", f"{preset} has no {lacks}")
        encoder, without = (
            OccupancyEncoder(c) for c in (loaded.occupancy, loaded.occupancy.replace(traffic_lights=False))
        )
        checkpoints.load(without, loaded.weights["occupancy"])
        encoder.load_state_dict(without.state_dict(), strict=False)
        samples = []
        for split, text in (("train", seeds), ("validation", validation)):
            chosen = [seed for part in text.split(",") for seed in seed_range(part)]
            labels = TrafficLightLabels(
                world_settings(split, loaded.image.height, loaded.image.width, loaded.occupancy.frames)
            )
            for _ in prepare_scenes(chosen, labels.world, workers=worker_count(workers)):
                pass
            for _ in share(labels, chosen, worker_count(workers)):
                pass
            samples.append(TrafficLightSamples.of(labels, chosen))
        fit_traffic_light_head(encoder, samples[0], TrafficLightSettings(steps=steps), seed, console.print)
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save(encoder, out)
        scores = score_traffic_light_head(encoder, samples[1])
        console.print(
            f"{out}: validation: red found {100 * scores.red_found:.0f} %, wrongly {100 * scores.red_wrong:.1f} %, "
            f"colour right {100 * scores.colour:.0f} %, line {scores.distance:.1f} m off"
        )


def recipe(
    preset: Annotated[str, typer.Argument(help="model preset, or folder, with a recipe.yaml")] = "tiny",
    out: Annotated[Path | None, typer.Option(help="folder of the run; out/recipe/PRESET")] = None,
    only: Annotated[list[str] | None, typer.Option(help="do only this step; may be given several times")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    minutes: Annotated[float | None, typer.Option(min=0.1, help="end in this time; steps share it as budgeted")] = None,
    workers: Annotated[int, typer.Option(min=0, help="processes that render and encode; 0: one a core")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="threads of torch; 0: all cores")] = 0,
    install: Annotated[bool, typer.Option("--install", help="put the exported weights into the preset")] = False,
) -> None:
    """Render, cache, train, export and report as in the preset's recipe. Continues a run that was stopped or killed."""
    with one_line_errors():
        import torch

        from sparseoccvla_ros.runtime.factory import pick_device
        from sparseoccvla_ros.train.recipe.export import install as put
        from sparseoccvla_ros.train.recipe.plan import load_recipe
        from sparseoccvla_ros.train.recipe.run import run_recipe
        from sparseoccvla_ros.train.recipe.steps import STEPS

        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(threads or cores)
        found = load_recipe(preset)
        folder = out or Path("out/recipe") / found.preset.name
        console = Console(stderr=True)

        def say(line: str) -> None:
            console.print(line, soft_wrap=True, highlight=False, markup=False)

        used = run_recipe(found, STEPS, folder, only or (), pick_device(device).type, workers or cores, minutes, say)
        if install:
            say(f"installed {', '.join(put(used, folder))} in {found.preset.folder}")
