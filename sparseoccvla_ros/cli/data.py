"""The verb data: check and prepare a nuScenes folder. Heavy imports happen inside the commands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from sparseoccvla_ros.cli.console import one_line_errors, progress, wide_console

if TYPE_CHECKING:
    from sparseoccvla_ros.data.nuscenes.check import Check

app = typer.Typer(no_args_is_help=True, help="Check and prepare a nuScenes folder, or make one of the synthetic world.")

Root = Annotated[Path, typer.Argument(help="nuScenes folder: the one that holds v1.0-* and samples")]
Version = Annotated[str, typer.Option(help="table folder such as v1.0-mini; auto: v1.0-trainval, else v1.0-mini")]


@app.command()
def check(root: Root, version: Version = "auto") -> None:
    """Report what a nuScenes folder holds, what is missing and where it belongs, and which tasks it allows."""
    with one_line_errors():
        from sparseoccvla_ros.data.nuscenes.check import check as look
        from sparseoccvla_ros.data.nuscenes.index import pick_version

        version = pick_version(root, version)
        large = (root / version / f"{name}.json" for name in ("sample_data", "ego_pose"))
        total = sum(table.stat().st_size for table in large if table.is_file())
        with progress("reading tables") as report:
            read = 0

            def on_read(count: int) -> None:
                nonlocal read
                read += count
                report(min(read, total), total)

            found = look(root, version, on_read)
        _print_check(found)


@app.command()
def prepare(
    root: Root,
    version: Version = "auto",
    out: Annotated[Path | None, typer.Option(help="index file to write; in the cache if not given")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the anchors' clusters")] = 0,
) -> None:
    """Read the tables and write the index for training and evaluation, with anchors."""
    with one_line_errors():
        from sparseoccvla_ros.core.errors import InvalidInput
        from sparseoccvla_ros.data.nuscenes.index import index_path, pick_version
        from sparseoccvla_ros.data.nuscenes.prepare import prepare as derive
        from sparseoccvla_ros.data.nuscenes.prepare import summary, training_anchors

        version = pick_version(root, version)
        target = out or index_path(root, version)
        began = time.monotonic()
        with progress(f"reading {version}") as report:
            index = derive(root, version, report)
        index.save(target)
        typer.echo(f"{target}: {len(index)} samples in {time.monotonic() - began:.1f} s")
        for split, counts in summary(index).items():
            typer.echo(f"  {split}: " + "; ".join(f"{name} {_counted(value)}" for name, value in counts.items()))
        anchors = target.with_name(f"{target.stem}.anchors.npz")
        try:
            found = training_anchors(index, seed)
        except InvalidInput as error:
            anchors.unlink(missing_ok=True)
            typer.echo(f"  no anchors ({error}): a preset's own stay in use", err=True)
        else:
            found.save(anchors)
            typer.echo(f"{anchors}: sha256 {found.sha256}")


@app.command("world-root")
def world_root(
    out: Annotated[Path, typer.Argument(help="folder to write; must not exist")],
    scenes: Annotated[int, typer.Option(min=1, max=900, help="drives; the last and every fifth are held out")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="seed of the first drive")] = 1,
    seconds: Annotated[float, typer.Option(min=1.0, max=26.0, help="length of a drive in s")] = 20.0,
    height: Annotated[int, typer.Option(min=36, max=900, help="image height in px; 16:9")] = 450,
) -> None:
    """Write the synthetic world as a nuScenes folder with Occ3D, OmniDrive and CAN bus files."""
    with one_line_errors():
        from sparseoccvla_ros.data.nuscenes.writer import write_world_root

        with progress(f"driving into {out.name}") as report:
            write_world_root(out, range(seed, seed + scenes), seconds, height, round(height * 16 / 9), "n015", report)
        typer.echo(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


@app.command()
def speed(
    root: Root,
    version: Version = "auto",
    preset: Annotated[str, typer.Option(help="model preset: decides the image size and the number of frames")] = "tiny",
    split: Annotated[str, typer.Option(help="train or val")] = "train",
    workers: Annotated[int, typer.Option(min=1, max=256, help="threads that load")] = 1,
    seconds: Annotated[float, typer.Option(min=1.0, help="how long to measure")] = 10.0,
    index: Annotated[Path | None, typer.Option(help="prepared index; in the cache if not given")] = None,
) -> None:
    """Measure how fast training samples are loaded and augmented."""
    with one_line_errors():
        from sparseoccvla_ros.data.augment import ImageAugmentation
        from sparseoccvla_ros.data.nuscenes.dataset import NuscenesSamples, whole_images
        from sparseoccvla_ros.data.nuscenes.index import open_index
        from sparseoccvla_ros.data.nuscenes.labels import occ3d_folder
        from sparseoccvla_ros.runtime.presets import load_preset
        from sparseoccvla_ros.train.data_loader import BatchLoader

        found = load_preset(preset)
        augment = ImageAugmentation(height=found.image.height, width=found.image.width)
        frames, labels = found.occupancy.frames, occ3d_folder(root) is not None
        size = whole_images(found.image, augment.largest)
        opened = open_index(root, version, index)
        samples = NuscenesSamples(root, opened, split, size, frames, labels=labels, threads=workers)
        loader = BatchLoader(samples, len, augment, 1, 1, num_workers=workers)
        try:
            next(loader)
            began, count = time.monotonic(), 0
            while (took := time.monotonic() - began) < seconds:
                next(loader)
                count += 1
        finally:
            loader.close()
        images = 6 * frames * count / took
        typer.echo(
            f"{count / took:.2f} samples/s = {images:.0f} images/s, {workers} threads, {frames} frames of 6 images "
            f"{found.image.height} x {found.image.width}" + ("" if labels else ", no labels")
        )


def _counted(value: int | dict[str, int]) -> str:
    if isinstance(value, dict):
        return "/".join(f"{name} {count}" for name, count in value.items())
    return str(value)


def _print_check(found: Check) -> None:
    console = wide_console()
    splits = [s for s in ("train", "val", "test", "") if s in found.scenes]
    counts = (f"{s or 'no split'} {found.scenes[s]} scenes, {found.samples[s]} samples" for s in splits)
    console.print(Text(f"{found.root} {found.version}: {', '.join(counts)}"))
    table = Table("piece", *(s or "no split" for s in splits), "for")
    for piece in found.pieces:
        cells = (f"{piece.found.get(s, 0)}/{piece.wanted.get(s, 0)}" if s in piece.wanted else "-" for s in splits)
        table.add_row(piece.name, *cells, piece.needed_for)
    console.print(table)
    missing = [p for p in found.pieces if p.missing]
    if missing:
        console.print("missing:")
        for piece in missing:
            share = "optional; " if piece.optional else ""
            console.print(Text(f"  {piece.name}: {share}for {piece.needed_for}; goes to {piece.place}"))
    console.print("can be done:")
    for task in found.tasks:
        lacks = f": lacks {', '.join(task.lacks)}" if task.lacks else ""
        console.print(Text(f"  {'no ' if lacks else 'yes'} {task.name}{lacks}"))
    if found.prepared:
        console.print(Text(f"not prepared: {found.prepared}"))
