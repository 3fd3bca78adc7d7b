"""The verb train: training and the preparation of its data. Heavy imports happen inside the commands."""

from __future__ import annotations

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sparseoccvla_ros.cli.console import one_line_errors
from sparseoccvla_ros.core.errors import InvalidInput

from .train_later import (
    DEFAULTS,
    Bags,
    Encoder,
    ProfileOption,
    Reasoning_,
    anchors,
    bar,
    cache,
    follow,
    recipe,
    recordings,
    rollouts,
    run,
    traffic_lights,
    voxel_head,
)  # fmt: skip

if TYPE_CHECKING:
    from sparseoccvla_ros.data.augment import ImageAugmentation
    from sparseoccvla_ros.data.dataset import Augmentation, DrivingSamples
    from sparseoccvla_ros.data.nuscenes.dataset import NuscenesSamples
    from sparseoccvla_ros.data.synthetic.dataset import WorldSamples
    from sparseoccvla_ros.occupancy.losses import LossWeights
    from sparseoccvla_ros.runtime.presets import Preset
    from sparseoccvla_ros.train.stages.occupancy import OccupancyStage, OccupancyStageSettings
    from sparseoccvla_ros.train.trainer import Report

app = typer.Typer(help="Train a stage of a preset, or prepare the data for it.")
app.command()(cache)
app.command()(anchors)
app.command()(recipe)
app.command()(voxel_head)
app.command()(traffic_lights)
app.command("rollouts")(rollouts)


class Split(StrEnum):
    """Splits of the world's seeds."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


Preset_ = Annotated[str, typer.Option(help="model preset: decides the image size and the number of frames")]


@app.command()
def prepare(
    scenes: Annotated[int, typer.Option(min=1, help="scenes to have in the cache: the first seeds of the split")] = 200,
    split: Annotated[Split, typer.Option(help="which seeds")] = Split.TRAIN,
    preset: Preset_ = "tiny",
    workers: Annotated[int, typer.Option(min=1, max=256, help="processes that render")] = 1,
) -> None:
    """Render scenes of the synthetic world into the cache. Ctrl-C ends; finished scenes stay."""
    with one_line_errors():
        from sparseoccvla_ros.data.synthetic.dataset import SPLITS, world_settings
        from sparseoccvla_ros.data.synthetic.scenes import prepare_scenes
        from sparseoccvla_ros.runtime.presets import load_preset

        found = load_preset(preset)
        settings = world_settings(split, found.image.height, found.image.width, found.occupancy.frames)
        seeds = SPLITS[split][:scenes]
        console = Console(stderr=True)
        with bar(console) as shown:
            follow(shown, f"rendering {split}", len(seeds), prepare_scenes(seeds, settings, workers))
        console.print(f"{len(seeds)} scenes lie in {settings.folder()}")


@app.command()
def ship(
    weights: Annotated[Path, typer.Argument(help="best.safetensors of a run")],
    stage: Annotated[str, typer.Option(help="occupancy, reasoning, adapter or planning")] = "occupancy",
    preset: Preset_ = "tiny",
    train_seeds: Annotated[
        str | None, typer.Option(help="A:B: seeds of the world that it was trained on; the whole split if not given")
    ] = None,
) -> None:
    """Put the weights of a run into a preset: float16, with their sha256 in its config.yaml."""
    with one_line_errors():
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train.export_weights import ship as put

        target = put(weights, load_preset(preset).folder, stage, train_seeds)
        Console(stderr=True).print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    stage: Annotated[int, typer.Option(min=1, max=3, help="1: occupancy encoder; 2: language; 3: --parts")] = 1,
    parts: Annotated[str, typer.Option(help="what stage 3 trains: planning or forecast")] = "planning",
    preset: Preset_ = "tiny",
    data: Annotated[
        str, typer.Option(help="world: synthetic; nuscenes: the folder DATAROOT; bag: drives of --bag")
    ] = "world",
    dataroot: Annotated[Path | None, typer.Option(help="nuScenes folder, prepared by ./run data prepare")] = None,
    index: Annotated[Path | None, typer.Option(help="prepared index of nuScenes; in the cache if not given")] = None,
    bag: Bags = None,
    check_bag: Annotated[
        list[Path] | None, typer.Option(help="recorded drive to validate on; without: the end of each --bag")
    ] = None,
    own_drives: Annotated[
        list[Path] | None, typer.Option("--rollouts", help="folder of ./run train rollouts, once or several times")
    ] = None,
    profile: ProfileOption = "",
    calibration_file: Annotated[str, typer.Option(help="for bags: intrinsics and mounts that are on no topic")] = "",
    out: Annotated[Path | None, typer.Option(help="folder of checkpoints, logs and pictures; out/train/STAGE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in OUT")] = False,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="minutes of training in all")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="optimizer steps in all")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="samples per step and process; by stage: 2")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="peak learning rate; by stage: 8e-4")] = None,
    alpha: Annotated[float, typer.Option(min=0.0, max=1.0, help="focal loss: weight of positives; OPUS 0.25")] = 0.6,
    gamma: Annotated[float, typer.Option(min=0.0, help="focal loss: exponent; OPUS 2")] = 1.0,
    rare: Annotated[str, typer.Option(help="classes that weigh most: things (0..10), or opus (four)")] = "things",
    density_aware: Annotated[
        bool,
        typer.Option("--density-aware", help="OPUS-V2's density-aware point loss"),
    ] = False,
    scenes: Annotated[int, typer.Option(min=1, help="seeds of the world to train on; stages 2, 3: scenes")] = 80_000,
    validation: Annotated[int, typer.Option(min=1, help="seeds, or samples of nuScenes, to validate on")] = 20,
    validate_every: Annotated[int, typer.Option(min=1, help="steps between validations")] = 400,
    frozen: Annotated[int, typer.Option(min=-1, help="first blocks of the backbone that stay frozen; -1: all")] = 5,
    truth: Annotated[str, typer.Option(help="voxels to learn: visible or all")] = "visible",
    history_gradient: Annotated[bool, typer.Option("--history-gradient", help="learn from past images too")] = False,
    precision: Annotated[str, typer.Option(help="precision of backbone and neck: auto, float32 or bfloat16")] = "auto",
    render: Annotated[
        bool, typer.Option("--render", help="render missing scenes on the way (meant for a GPU)")
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="start from these exported weights; --data bag: the preset's if not given")
    ] = None,
    encoder: Encoder = None,
    reasoning: Reasoning_ = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="threads of torch; 0: all cores")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="seed of weights, order and augmentation")] = 1,
) -> None:
    """Train a stage. --resume continues a run that was stopped or killed."""
    if context.invoked_subcommand is not None:
        return
    with one_line_errors():
        import torch

        from sparseoccvla_ros.core.classes import LABEL
        from sparseoccvla_ros.data.dataset import Augmentation
        from sparseoccvla_ros.occupancy.losses import LossWeights
        from sparseoccvla_ros.runtime.factory import pick_device
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train.settings import TrainSettings
        from sparseoccvla_ros.train.stages.occupancy import OccupancyStageSettings
        from sparseoccvla_ros.train.trainer import Trainer

        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        # Show what stages log before their first step.
        logging.getLogger("sparseoccvla_ros.train").setLevel(logging.INFO)
        torch.set_num_threads(threads or os.cpu_count() or 1)
        name = {1: "occupancy", 2: "language"}.get(stage, parts)
        if name not in DEFAULTS:
            raise InvalidInput("parts", f"{parts!r} is not one of planning, forecast")
        settings = TrainSettings(
            steps=steps, minutes=minutes, batch_size=batch_size or DEFAULTS[name][0],
            learning_rate=learning_rate or DEFAULTS[name][1], seed=seed, validate_every=validate_every,
            num_workers=1 if (os.cpu_count() or 1) < 8 else 8,
            **({"save_every": 20, "warmup_steps": 30} if name == "language" else {"save_every": 100}),
        )  # fmt: skip
        if data not in ("world", "nuscenes", "bag"):
            raise InvalidInput("data", f"{data!r} is not known; want world, nuscenes or bag")
        if (data == "nuscenes") != (dataroot is not None):
            raise InvalidInput("dataroot", "--data nuscenes and --dataroot go together")
        if (data == "bag") != bool(bag):
            raise InvalidInput("bag", "--data bag and --bag go together")
        if stage == 1 and data == "bag":
            raise InvalidInput("stage", "a bag holds no occupancy to learn from; stages 2 and 3 learn from its drive")
        if own_drives and (stage == 1 or data != "world"):
            raise InvalidInput("rollouts", "stage 3 learns from them beside --data world")
        if stage != 1:
            drives = recordings(bag, profile, calibration_file) if bag else ()
            checks = recordings(check_bag, profile, calibration_file) if check_bag else ()
            kind = pick_device(device).type
            run(
                name, load_preset(preset), settings, out, resume, encoder, reasoning, init, scenes, validation, kind,
                dataroot, index, drives, checks, own_drives or (),
            )  # fmt: skip
            return
        found = load_preset(preset)
        kind = pick_device(device).type
        torch.manual_seed(seed)
        start = "random" if init else "data"
        choices = OccupancyStageSettings(truth, frozen, history_gradient, start, depthwise=kind != "cpu")
        if rare not in ("things", "opus"):
            raise InvalidInput("rare", f"{rare!r} is neither things nor opus")
        things = {"rare_classes": tuple(range(LABEL["driveable_surface"]))} if rare == "things" else {}
        points = {"density_aware": True, "points": 0.25} if density_aware else {}
        weights = LossWeights(alpha=alpha, gamma=gamma, **things, **points)
        trained = _occupancy_stage(found, kind, precision, choices, weights, init)
        console = Console(stderr=True)
        folder = out or Path("out/train/occupancy")
        with bar(console) as shown:
            task = shown.add_task("training", total=1000, note="")

            def show(report: Report) -> None:
                note = f"step {report.step} loss {report.loss:.3f} {report.samples_per_second:.2f} samples/s"
                shown.update(task, completed=round(1000 * report.share), note=f"{note} {report.eta / 60:.0f} min left")
                if report.validation is not None:
                    numbers = report.validation.numbers
                    text = " ".join(f"{k} {numbers[k]:.3f}" for k in ("miou", "iou", "loss") if k in numbers)
                    console.print(f"step {report.step}: validation {text}")

            learned: DrivingSamples
            checked: DrivingSamples
            augment: Augmentation | ImageAugmentation
            if dataroot is not None:
                learned, checked, augment = _nuscenes(dataroot, index, validation, found)
            else:
                learned, augment = _world("train", scenes, found, not render), Augmentation()
                checked = _world("validation", validation, found)
            trainer = Trainer(trained, learned, checked, settings, folder, resume, augment, kind, show)
            trainer.run()
        console.print(f"{folder}: best.safetensors has validation {trainer.progress.best:.4f}")


def _occupancy_stage(
    preset: Preset,
    device: str,
    precision: str,
    choices: OccupancyStageSettings,
    weights: LossWeights,
    init: Path | None,
) -> OccupancyStage:
    from sparseoccvla_ros.core.onednn import fast_precision
    from sparseoccvla_ros.occupancy import checkpoints
    from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
    from sparseoccvla_ros.train.stages.occupancy import OccupancyStage

    chosen = fast_precision(device) if precision == "auto" else precision
    encoder = OccupancyEncoder(preset.occupancy.replace(backbone_dtype=chosen))
    if init is not None:
        checkpoints.load(encoder, init)
    return OccupancyStage(encoder, choices, weights)


def _world(split: str, count: int, preset: Preset, cached_only: bool = False) -> WorldSamples:
    from sparseoccvla_ros.data.synthetic.dataset import SPLITS, WorldSamples, world_settings

    frames = preset.occupancy.frames
    settings = world_settings(split, preset.image.height, preset.image.width, frames)
    found = WorldSamples(SPLITS[split][:count], settings, frames, cached_only)
    if not len(found):
        raise InvalidInput("data", f"no scene is in {settings.folder()}: run ./run train prepare first, or --render")
    return found


def _nuscenes(
    root: Path, index: Path | None, validation: int, preset: Preset
) -> tuple[NuscenesSamples, NuscenesSamples, ImageAugmentation]:
    """Training samples with whole images, validation samples, and the augmentation that crops the former to size."""
    from sparseoccvla_ros.data.augment import ImageAugmentation
    from sparseoccvla_ros.data.nuscenes.dataset import NuscenesSamples, whole_images
    from sparseoccvla_ros.data.nuscenes.index import open_index

    opened, frames = open_index(root, path=index), preset.occupancy.frames
    augment = ImageAugmentation(
        height=preset.image.height,
        width=preset.image.width,
        flip_scene=0.5 if preset.occupancy.decoder == "opus_v2" else 0.0,
    )
    whole = whole_images(preset.image, augment.largest)
    checked = NuscenesSamples(root, opened, "val", preset.image, frames, most=validation)
    return NuscenesSamples(root, opened, "train", whole, frames), checked, augment
