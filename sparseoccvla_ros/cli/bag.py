"""The verbs of `./run bag`. Heavy imports happen inside the commands, so that --help is fast."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from .console import one_line_errors, progress, wide_console

if TYPE_CHECKING:
    from ..data.bags.reader import BagSummary
    from ..data.nuscenes.to_bag import Conversion

app = typer.Typer(no_args_is_help=True, help="Make, convert and inspect bags.")

Force = Annotated[bool, typer.Option("--force", help="replace a bag that is at OUT already")]


@app.command()
def film(
    bag: Annotated[Path, typer.Argument(help="rosbag2 folder, or a single .mcap or .db3 file")],
    out: Annotated[Path, typer.Option(help="file to write: an animated WebP")] = Path("out/film.webp"),
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    profile: Annotated[str, typer.Option(help="a name in config/profiles, or a .yaml file")] = "nuscenes",
    seconds: Annotated[float, typer.Option(min=0.0, help="seconds of the bag to show; 0: all")] = 0.0,
    quality: Annotated[int, typer.Option(min=1, max=100, help="WebP quality, 1 to 100")] = 50,
) -> None:
    """Render an animation of a bag with the stack's output on it: cameras, path, occupancy. Without ROS."""
    with one_line_errors():
        from ..eval.bags.film import save_film

        with progress("planning") as report:
            count = save_film(bag, out, preset, profile, seconds, quality, lambda sets: report(sets, 0))
        typer.echo(f"{out}: {count} pictures, {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def make(
    out: Annotated[Path, typer.Argument(help="bag folder to write")],
    seed: Annotated[int, typer.Option(min=0, help="seed of the world: the same number gives the same bag")] = 1,
    seconds: Annotated[float, typer.Option(min=1.0, max=30.0, help="length in s")] = 20.0,
    rate: Annotated[float, typer.Option(min=0.5, max=30.0, help="images per camera, in Hz")] = 12.0,
    height: Annotated[int, typer.Option(min=32, max=2160, help="image height in px")] = 396,
    width: Annotated[int, typer.Option(min=32, max=3840, help="image width in px")] = 704,
    jpeg_quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality, 1 to 100")] = 90,
    rig: Annotated[str, typer.Option(help="camera rig: n015 (Singapore car) or n008 (Boston car)")] = "n015",
    samples: Annotated[int, typer.Option(min=1, max=8, help="rays along each side of a pixel")] = 1,
    pace: Annotated[float, typer.Option(min=0.1, max=1.0, help="below 1: a slow vehicle among slow traffic")] = 1.0,
    workers: Annotated[int, typer.Option(min=1, max=256, help="processes that render")] = 1,
    force: Force = False,
) -> None:
    """Record a drive through the synthetic world: six cameras, poses and labels."""
    with one_line_errors():
        from ..data.synthetic.to_bag import make_world_bag

        with progress(f"making {out.name}") as report:
            make_world_bag(
                out,
                seed=seed,
                seconds=seconds,
                rate=rate,
                height=height,
                width=width,
                jpeg_quality=jpeg_quality,
                rig=rig,
                samples=samples,
                pace=pace,
                workers=workers,
                force=force,
                on_progress=lambda share_done: report(round(100 * share_done), 100),
            )
        _print_written(out, {})


@app.command()
def nuscenes(
    dataroot: Annotated[Path, typer.Option(help="nuScenes folder: the one that holds v1.0-*, samples and sweeps")],
    scene: Annotated[
        str | None,
        typer.Option(help="scene name such as scene-0061; lists the scenes if not given", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="bag folder to write; ./SCENE if not given", show_default=False)
    ] = None,
    version: Annotated[
        str, typer.Option(help="table folder such as v1.0-mini; auto takes the one with the scene")
    ] = "auto",
    keyframes_only: Annotated[
        bool, typer.Option("--keyframes-only", help="leave out the sweeps (2 Hz remain)")
    ] = False,
    lidar: Annotated[bool, typer.Option("--lidar/--no-lidar", help="include LIDAR_TOP")] = True,
    annotations: Annotated[bool, typer.Option("--annotations/--no-annotations", help="include boxes")] = True,
    force: Force = False,
) -> None:
    """Convert a nuScenes scene; JPEG files are copied unchanged."""
    with one_line_errors():
        from ..data.nuscenes.to_bag import convert_scene, list_scenes

        if scene is None:
            _print_scenes(list_scenes(dataroot, version))
            return
        path = Path(scene) if out is None else out
        with progress(f"converting {scene}") as report:
            result = convert_scene(dataroot, scene, path, version, keyframes_only, report, lidar, force, annotations)
        _print_conversion(result)


@app.command()
def foxglove(
    file: Annotated[Path, typer.Argument(help="Foxglove's nuScenes file, such as NuScenes-v1.0-mini-scene-0061.mcap")],
    out: Annotated[
        Path | None, typer.Argument(help="bag folder to write; ./NAME of the file if not given", show_default=False)
    ] = None,
    force: Force = False,
) -> None:
    """Convert the public Foxglove nuScenes MCAP (protobuf), which `ros2 bag play` cannot play."""
    with one_line_errors():
        from ..data.bags.foxglove import convert_foxglove

        path = Path(file.stem) if out is None else out
        with progress(f"converting {file.name}") as report:
            result = convert_foxglove(file, path, report, force)
        _print_conversion(result)


@app.command("info")
def show(
    bag: Annotated[Path, typer.Argument(help="bag folder, or a single .mcap or .db3 file")],
) -> None:
    """Show what a bag holds: topics, types, counts, rates in Hz, sizes in MB and frames."""
    with one_line_errors():
        from ..data.bags.reader import BagReader

        with BagReader(bag) as reader:
            _print_summary(reader.summary())


def _print_conversion(result: Conversion) -> None:
    _print_written(result.path, result.counts)
    for topic, reason in sorted(result.skipped.items()):
        typer.echo(f"  left out {topic}: {reason}", err=True)


def _print_written(path: Path, counts: dict[str, int]) -> None:
    size = sum(f.stat().st_size for f in path.iterdir()) / 1e6
    messages = f"{sum(counts.values())} messages on {len(counts)} topics, " if counts else ""
    typer.echo(f"{path}: {messages}{size:.1f} MB")


def _print_scenes(scenes: list[tuple[str, str, int, str]]) -> None:
    table = Table("scene", "version", "keyframes", "description")
    for version, name, keyframes, description in scenes:
        table.add_row(name, version, str(keyframes), Text(description))
    wide_console().print(table)


def _print_summary(summary: BagSummary) -> None:
    begin = datetime.fromtimestamp(summary.start / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    typer.echo(
        f"{summary.path}: {summary.storage}, {summary.file_bytes / 1e6:.1f} MB, {summary.message_count} messages, "
        f"{summary.duration:.2f} s from {begin}"
    )
    table = Table()
    for name in ("topic", "type", "messages", "Hz", "MB", "latched", "frames"):
        table.add_column(name, overflow="fold", justify="right" if name in ("messages", "Hz", "MB") else "left")
    for row in summary.topics:
        table.add_row(
            row.topic.name,
            row.topic.type.replace("/msg/", "/"),
            str(row.topic.count),
            f"{row.rate:.1f}" if row.rate else "-",
            f"{row.bytes / 1e6:.2f}",
            "yes" if row.topic.latched else "",
            Text(_grouped(row.frames)),
        )
    wide_console().print(table)
    for name, problem in sorted(summary.left_out.items()):
        typer.echo(f"  left out {name}: {problem}", err=True)
    for note in summary.notes:
        typer.echo(f"  {note}", err=True)


def _grouped(frames: tuple[str, ...]) -> str:
    """Frame ids in one line, with transforms grouped by parent: "base_link -> CAM_BACK, CAM_FRONT"."""
    children: dict[str, list[str]] = {}
    for frame in frames:
        parent, arrow, child = frame.partition(" -> ")
        children.setdefault(parent + arrow, []).append(child)
    return "; ".join(parent + ", ".join(c for c in group if c) for parent, group in children.items())
