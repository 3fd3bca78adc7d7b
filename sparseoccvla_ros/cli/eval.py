"""The verb eval: evaluation of a preset, with a report. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from sparseoccvla_ros.cli.console import Workers, one_line_errors, wide_console, worker_count

if TYPE_CHECKING:
    from sparseoccvla_ros.eval.closed_loop.evaluation import DriveProgress
    from sparseoccvla_ros.eval.closed_loop.rollout import Rollout
    from sparseoccvla_ros.eval.closed_loop.scores import DriveScores
    from sparseoccvla_ros.eval.tasks.evaluator import EvaluationReport

app = typer.Typer(help="Evaluate a preset.", no_args_is_help=True)

Tasks = Annotated[str, typer.Option(help="which ones, separated by commas")]
Preset = Annotated[str, typer.Option(help="model preset: a name, or a folder with config.yaml")]
Untrained = Annotated[bool, typer.Option("--untrained", help="also run stages that have no weights")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the numbers to this file")]
Threads = Annotated[int, typer.Option(min=0, help="threads of torch; 0: all cores")]


@app.callback()
def group() -> None:
    """Evaluate a preset."""


class Split(StrEnum):
    """Splits of the world's seeds that are not used for training."""

    TEST = "test"
    VALIDATION = "validation"


@app.command()
def world(
    split: Annotated[Split, typer.Option(help="seeds to judge: the first 24 of this split")] = Split.TEST,
    seeds: Annotated[str, typer.Option(help="other seeds, A:B for A to B - 1")] = "",
    tasks: Tasks = "occupancy,forecast,planning,language",
    preset: Preset = "tiny",
    samples: Annotated[int, typer.Option(min=0, help="moments that are asked questions, over all scenes")] = 48,
    untrained: Untrained = False,
    out: Annotated[Path | None, typer.Option(help="folder of page and pictures; out/eval/world-SPLIT")] = None,
    json_file: Json = None,
    threads: Threads = 0,
) -> None:
    """Evaluate a preset on drives of the synthetic world: occupancy, forecasts, plans, answers, latency.

    Writes report.md, plots, pictures, report.json and plans.csv to a folder. The default takes about a quarter of an
    hour on two idle cores; scenes that were rendered before are taken from the cache.
    """
    with one_line_errors():
        import torch

        from sparseoccvla_ros.data.synthetic.dataset import SPLITS
        from sparseoccvla_ros.eval.tasks.evaluator import EvalConfig
        from sparseoccvla_ros.eval.world.evaluation import SCENES, Request, evaluate_world
        from sparseoccvla_ros.eval.world.seeds import seed_range

        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        torch.set_num_threads(threads or os.cpu_count() or 1)
        chosen = tuple(seed_range(seeds)) if seeds else tuple(SPLITS[split][:SCENES])
        folder = out or Path("out/eval") / (f"world-{seeds.replace(':', '-')}" if seeds else f"world-{split}")
        words = _tasks(tasks)
        wanted = EvalConfig(words, samples, csv=folder / "plans.csv" if "planning" in words else None)
        request = Request(preset, chosen, wanted, untrained)
        folder.mkdir(parents=True, exist_ok=True)
        console = wide_console(stderr=True)
        with Bars(console) as bars:
            report = evaluate_world(request, bars.show)
        _leave(report, folder, json_file, console)


@app.command()
def nuscenes(
    dataroot: Annotated[Path, typer.Option(help="nuScenes folder, prepared by ./run data prepare")],
    tasks: Tasks = "occupancy,forecast,planning,language",
    preset: Preset = "tiny",
    version: Annotated[str, typer.Option(help="tables; auto: v1.0-trainval, else v1.0-mini")] = "auto",
    split: Annotated[str, typer.Option(help="val, or train, whose numbers are no result")] = "val",
    scenes: Annotated[int | None, typer.Option(min=1, help="at most this many scenes, evenly spread; all")] = None,
    samples: Annotated[int, typer.Option(min=0, help="moments that are asked closed questions, over all scenes")] = 24,
    captions: Annotated[int, typer.Option(min=0, help="of these, moments that are described in words too")] = 6,
    caption_tokens: Annotated[int, typer.Option(min=1, help="limit of a description; OmniDrive allows 320")] = 320,
    ray_origins: Annotated[int, typer.Option(min=1, help="places RayIoU looks from, 8 as published")] = 8,
    untrained: Untrained = False,
    index: Annotated[Path | None, typer.Option(help="prepared index; in the cache if not given")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of page and plots; out/eval/nuscenes-SPLIT")] = None,
    json_file: Json = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Threads = 0,
) -> None:
    """Evaluate a preset on nuScenes: occupancy, forecasts, plans in every public protocol, answers, latency.

    Writes report.md, plots, pictures, report.json and plans.csv to a folder. Tasks whose data are missing are named and
    skipped. Several processes share the scenes: ./run env torchrun --nproc_per_node 4 -m sparseoccvla_ros.cli eval
    nuscenes --dataroot D ...; the numbers stay the same.
    """
    with one_line_errors():
        import torch
        from accelerate import PartialState
        from accelerate.utils import gather_object

        from sparseoccvla_ros.eval.nuscenes.evaluation import Request, evaluate_nuscenes
        from sparseoccvla_ros.eval.tasks.evaluator import EvalConfig
        from sparseoccvla_ros.runtime.factory import pick_device

        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        torch.set_num_threads(threads or os.cpu_count() or 1)
        folder = out or Path("out/eval") / f"nuscenes-{split}"
        words = _tasks(tasks)
        csv = folder / "plans.csv" if "planning" in words else None
        wanted = EvalConfig(words, samples, min(captions, samples), caption_tokens, csv)
        chosen, share, gather = str(pick_device(device)), (0, 1), list
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            state = PartialState(cpu=chosen == "cpu")
            chosen, share, gather = str(state.device), (state.process_index, state.num_processes), gather_object
        request = Request(
            preset, dataroot, version, index, split, scenes, wanted, untrained, ray_origins, chosen
        )  # fmt: skip
        console = wide_console(stderr=True, quiet=share[0] > 0)
        with Bars(console) as bars:
            report = evaluate_nuscenes(
                request, bars.show, share, gather, lambda: folder.mkdir(parents=True, exist_ok=True)
            )  # fmt: skip
        if report is not None:
            _leave(report, folder, json_file, console)


@app.command()
def drive(
    seeds: Annotated[str, typer.Option(help="A:B for A to B - 1; the first 20 of the test split")] = "",
    policies: Annotated[str, typer.Option(help="which ones, separated by commas")] = "expert,chain,ego,lane,coast",
    scenario: Annotated[str, typer.Option(help="families that take turns over the seeds, with commas, or all")] = "",
    preset: Preset = "tiny",
    vary: Annotated[
        str, typer.Option(help="the chain disturbed as well: lost, noise, pose, latency, reasoning, or all")
    ] = "",
    bags: Annotated[bool, typer.Option("--bags", help="also leave each drive as a bag, for ./run eval bag")] = False,
    ros: Annotated[bool, typer.Option("--ros", help="the chain drives as nodes, over topics, in lockstep")] = False,
    out: Annotated[Path, typer.Option(help="folder of page and numbers")] = Path("out/eval/drive"),
    workers: Workers = 0,
) -> None:
    """Let policies drive in closed loop and report driving score, PDMS, EPDMS, HD score, AlpaSim and nuPlan scores.

    All other traffic reacts to the ego's actual motion. Writes report.md and report.json. Each result is added to
    drives.jsonl at once: the same command in the same folder runs only the missing drives.
    """
    with one_line_errors():
        import torch

        from sparseoccvla_ros.data.synthetic.dataset import SPLITS
        from sparseoccvla_ros.eval.closed_loop.drive_log import DriveLog
        from sparseoccvla_ros.eval.closed_loop.drive_record import replay
        from sparseoccvla_ros.eval.closed_loop.evaluation import evaluate_drives, page, table
        from sparseoccvla_ros.eval.closed_loop.robustness import groups_of, section
        from sparseoccvla_ros.eval.world.seeds import seed_range
        from sparseoccvla_ros.world.sim.scenarios import FAMILIES

        torch.set_num_threads(1)  # the same arithmetic whatever the number of workers
        film = partial(_film, out, bags)
        chosen = tuple(seed_range(seeds)) if seeds else tuple(SPLITS["test"][:20])
        families = tuple(FAMILIES) if scenario == "all" else _tasks(scenario)
        console = wide_console(stderr=True)

        tell = partial(_tell, console)
        names, log = (*_tasks(policies), *groups_of(_tasks(vary))), DriveLog(out / "drives.jsonl")
        if ros:
            from sparseoccvla_ros.bringup.lockstep import LockstepStack

            names = tuple("nodes" if name == "chain" else name for name in names)
            with LockstepStack(preset, out / "nodes", families, on_event=console.print) as stack:
                nodes = {"nodes": lambda seed, family: replay(stack.drive(seed, family), seed, family)}
                rows = evaluate_drives(chosen, names, preset, families, log, tell, nodes, film)
        else:
            rows = evaluate_drives(
                chosen, names, preset, families, log, tell, on_drive=film, workers=worker_count(workers)
            )
        text = page(rows, "./run " + shlex.join(a for a in sys.argv[1:] if a), out) + section(rows, out)
        (out / "report.md").write_text(text, encoding="utf-8")
        numbers = json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False) + "\n"
        (out / "report.json").write_text(numbers, encoding="utf-8")
        head, lines = table(rows)
        shown = Table(*head)
        for line in lines:
            shown.add_row(*line)
        console.print(shown)
        console.print(f"page and numbers: {out}")


def _film(out: Path, bags: bool, scores: DriveScores, rollout: Rollout) -> None:
    from sparseoccvla_ros.eval.closed_loop.evaluation import film_of
    from sparseoccvla_ros.eval.closed_loop.film import save_film
    from sparseoccvla_ros.eval.closed_loop.to_bag import write_drive

    save_film(rollout, out / film_of(scores))
    if bags:
        write_drive(rollout, out / "bags" / Path(film_of(scores)).stem, force=True)


def _tell(console: Console, progress: DriveProgress) -> None:
    row, left = progress.ended, progress.seconds_left
    if row is not None:
        place = f"{row.seed} {row.scenario or row.maneuver}"
        scores = f"completion {row.route_completion:.0f} %, driving score {row.driving_score:.0f}, {row.end}"
        ends = f", about {left / 60:.0f} min left" if left else ""
        console.print(
            f"{progress.done} of {progress.total}: {row.policy} on {place}: {scores}"
            f"{''.join(f', {i}' for i in row.infractions)}{ends}",
            highlight=False,
        )


@app.command()
def bag(
    recording: Annotated[Path, typer.Argument(metavar="BAG", help="rosbag2 folder, or a single .mcap or .db3 file")],
    topic: Annotated[str, typer.Option(help="judge the plans of this topic; the stack plans if not given")] = "",
    preset: Preset = "tiny",
    profile: Annotated[str, typer.Option(help="a name in config/profiles, or a .yaml file")] = "nuscenes",
    calibration_file: Annotated[str, typer.Option(help="intrinsics and mounts that are on no topic")] = "",
    boxes: Annotated[str, typer.Option(help="MarkerArray of cubes; /markers/annotations where it is there")] = "",
    map_file: Annotated[Path | None, typer.Option("--map", help="Lanelet2 file; /map/areas where it is there")] = None,
    map_origin: Annotated[str, typer.Option(help="LAT,LON of the frame's origin, for a map without local_x")] = "",
    reference: Annotated[str, typer.Option(help="plans whose progress is EPDMS's measure; what was driven")] = "",
    seconds: Annotated[float, typer.Option(min=0.0, help="seconds of the bag to judge; 0: all")] = 0.0,
    untrained: Untrained = False,
    out: Annotated[Path | None, typer.Option(help="folder of page, numbers and result bag; out/eval/BAG")] = None,
    threads: Threads = 0,
) -> None:
    """Evaluate plans in a recording against the driven path: ADE, FDE, heading, comfort; with boxes also collisions and
    TTC, with boxes and a map also PDMS and EPDMS.

    Plans are read from nav_msgs/Path (with a stamp per pose), MultiDOFJointTrajectory or Autoware's Trajectory, or
    computed by the stack from the recorded images. Writes report.md, report.json and the bag `scores`.
    """
    with one_line_errors():
        import torch

        from sparseoccvla_ros.eval.bags.evaluation import Request, evaluate_bag, page, table, write_result_bag

        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        torch.set_num_threads(threads or os.cpu_count() or 1)
        request = Request(
            recording, topic, preset, profile, calibration_file, seconds, boxes, untrained, map_file, map_origin,
            reference,
        )  # fmt: skip
        console = wide_console(stderr=True)
        with console.status("planning") as status:
            report = evaluate_bag(request, lambda plans: status.update(f"{plans} plans"))
        folder = out or Path("out/eval") / recording.stem
        folder.mkdir(parents=True, exist_ok=True)
        text = page(report, "./run " + shlex.join(a for a in sys.argv[1:] if a))
        (folder / "report.md").write_text(text, encoding="utf-8")
        numbers: dict = {who: [asdict(row) for row in rows] for who, rows in report.rows.items()}
        numbers["without a plan"] = {"moments": report.missing, "count 0": dict(report.failed)}
        (folder / "report.json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if report.plans:
            write_result_bag(report, folder / "scores")
        block = table(report)
        shown = Table(*block.head, title=block.title)
        for line in block.rows:
            shown.add_row(*line)
        shown.caption = "\n".join(block.notes)
        console.print(shown)
        console.print(f"page, numbers and bag of scores: {folder}")
        if not report.plans:
            raise typer.Exit(1)


def _tasks(text: str) -> tuple[str, ...]:
    return tuple(t.strip() for t in text.split(",") if t.strip())


def _leave(report: EvaluationReport, folder: Path, json_file: Path | None, console: Console) -> None:
    """Write report page, pictures, plots and numbers to the folder, and print the tables."""
    from sparseoccvla_ros.eval.report.page import to_markdown
    from sparseoccvla_ros.eval.report.pictures import save_pictures
    from sparseoccvla_ros.eval.report.plots import save_plots

    pictures, plots = save_pictures(report.shown, folder), save_plots(report.numbers, folder)
    command = "./run " + shlex.join(a for a in sys.argv[1:] if a)
    (folder / "report.md").write_text(to_markdown(report, command, pictures, plots), encoding="utf-8")
    text = json.dumps(report.numbers, indent=1, allow_nan=False) + "\n"
    for target in (folder / "report.json", json_file):
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    for section in report.sections:
        for block in section.blocks:
            table = Table(*block.head, title=f"{section.title}: {block.title}")
            for row in block.rows:
                table.add_row(*row)
            table.caption = "\n".join(block.notes)
            console.print(table)
    for warning in report.warnings:
        console.print(f"[bold red]WARNING: {warning}. Do not quote these numbers.[/]")
    console.print(f"page, pictures and all numbers: {folder}")


class Bars:
    """One bar per kind of work, with rate and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"), console=console,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Show the progress of one kind of work."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, rate="")
        task = self._tasks[what]
        speed = self._progress.tasks[list(self._tasks).index(what)].speed
        self._progress.update(task, completed=done, total=total, rate=f"{60 * speed:.1f}/min" if speed else "")
