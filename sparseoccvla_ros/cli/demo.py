"""./run demo: plays a bag through every node and reports the results."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.runtime.presets import load_preset

from ..bringup.run_on_bag import Outcome, isolated_domain, run_on_bag
from ..bringup.tables import latency_table, node_table, state_lines


def run_demo(
    out: Path,
    bag: Path | None,
    rate: float,
    preset: str,
    profile: str,
    duration: float,
    composed: bool,
    min_paths: int,
) -> int:
    """Run the demo; returns 1 for too few paths, wrong stamps, inactive nodes or missing files, else (or Ctrl-C) 0."""
    isolated_domain()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.default_int_handler)
    console = Console()
    loaded = load_preset(preset)
    bag = bag or bundled_bag()
    out.mkdir(parents=True, exist_ok=True)
    try:
        outcome = _play(console, out, bag, rate, preset, profile, duration, composed)
    except KeyboardInterrupt:  # all started processes have ended
        console.print("broken off")
        return 0
    summary = {"preset": preset, "trained": loaded.trained, "untrained": loaded.untrained, **outcome.as_dict()}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(latency_table(outcome), node_table(outcome))
    for line in state_lines(outcome):
        console.print(f"  {line}", highlight=False)
    for event in outcome.events:
        console.print(f"[yellow]{event}[/]")
    problems = [f"{n} was not active" for n, active in sorted(outcome.active.items()) if not active]
    if outcome.paths < min_paths:
        problems.append(f"{outcome.paths} paths came out, want {min_paths}")
    if outcome.stamps_matched < outcome.paths:
        problems.append(f"{outcome.paths - outcome.stamps_matched} paths carry a stamp that no camera image has")
    console.print(
        f"{outcome.paths} paths, {outcome.stamps_matched} with the stamp of a camera image; "
        f"{outcome.camera_sets} images of the reference camera in {outcome.bag_seconds:.1f} s of bag"
    )
    if outcome.paused_seconds >= 1.0:
        real = outcome.bag_seconds / outcome.wall_seconds
        console.print(
            f"This machine is slower than the bag: playback waited {outcome.paused_seconds:.0f} s for it and ran at "
            f"{real:.2f} of real time. Times above are of this machine.",
            highlight=False,
        )
    for name, what in (
        ("scene.png", "six images, occupancy, path"),
        ("recording.rrd", "open with: .venv/bin/rerun FILE"),
        ("outputs", "rosbag2 bag of all outputs"),
        ("summary.json", "these numbers"),
    ):
        path = out / name
        if path.exists():
            console.print(f"  {path}  ({what})", highlight=False)
        else:
            problems.append(f"{path} was not written")
    if loaded.untrained:
        stages = ", ".join(loaded.untrained)
        console.print(
            f"[bold yellow]UNTRAINED[/]: preset {preset} has no weights yet for {stages}. What comes from there is "
            "random and shows the wiring, not understanding."
        )
    for problem in problems:
        console.print(f"[bold red]problem:[/] {problem}")
    return 1 if problems else 0


def _play(
    console: Console, out: Path, bag: Path, rate: float, preset: str, profile: str, duration: float, composed: bool
) -> Outcome:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=1.0)

        told = ""

        def show(text: str, fraction: float) -> None:
            nonlocal told
            progress.update(task, description=text, completed=fraction)
            step = text.split(":")[0] if fraction else text
            if step != told and not console.is_terminal:
                told = step
                console.print(step, highlight=False)

        arguments = {"preset": preset, "profile": profile, "composed": str(composed).lower()}
        return run_on_bag(
            bag, rate=rate, keep_pace=True, duration=duration, arguments=arguments, out=out, on_progress=show
        )
