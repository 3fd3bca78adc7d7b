"""./run drive: lets the stack drive through the world over ROS topics and prints the result."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.run_on_bag import isolated_domain
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.world.sim.scenarios import FAMILIES

SAY_EVERY = 5.0
"""Seconds between two lines of progress."""


def run_drive(out: Path, given: Mapping[str, str], simulator: Mapping[str, str]) -> int:
    """Start the graph of launch/closed_loop.launch.py and wait for the end of the drive.

    given: launch arguments; simulator: further parameters of that node. Returns 0 when the drive ended by itself or by
    Ctrl-C, 1 when the simulator ended or could not be configured before the drive was complete.
    """
    scenario = given.get("scenario", "")
    if scenario and scenario not in FAMILIES:
        raise InvalidInput("scenario", f"{scenario!r} is not one of {', '.join(FAMILIES)}")
    isolated_domain()
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    out.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", "log.csv"):
        (out / name).unlink(missing_ok=True)
    console = Console()
    arguments = {**launch_config.CLOSED_LOOP, "out": str(out), "drive_out": str(out), **given}
    values = launch_config.resolve(arguments, with_bag=False)
    console.print("starting the nodes")
    with (
        TopicMonitor((), namespace=values["namespace"]) as observer,
        Supervisor(values, out / "logs", lambda text: console.print(f"[yellow]{text}[/]")) as supervisor,
    ):
        for entry in launch_config.process_entries(values, with_bag=False):
            supervisor.start(entry, simulator if entry is launch_config.SIMULATOR else None)
        if values["serve"] == "true":
            console.print("live view: http://127.0.0.1:9090")
        if values["cockpit"] == "true":
            console.print(f"cockpit: http://{values['cockpit_host']}:{values['cockpit_port']}/", highlight=False)
        _wait(console, supervisor, observer, ended)
        if not ended.is_set():  # the viewer first, to finish picture and recording
            supervisor.stop([n for n in ("viewer",) if n in supervisor.processes])
    if ended.is_set() and not (out / "summary.json").is_file():
        console.print("broken off")
        return 0
    return _tell(console, out)


def _wait(console: Console, supervisor: Supervisor, observer: TopicMonitor, ended: threading.Event) -> None:
    """Wait until the simulator ends or cannot be configured; prints progress every SAY_EVERY seconds."""
    said = time.monotonic()
    while not ended.wait(0.2):
        if any(p.entry is launch_config.SIMULATOR for p in supervisor.poll()):
            return
        if time.monotonic() - said < SAY_EVERY:
            continue
        said = time.monotonic()
        details, state = observer.details.get("simulator", {}), observer.states.get("simulator", "")
        if details.get("last_error") and state.startswith("UNCONFIGURED"):
            console.print(f"[bold red]problem:[/] {details['last_error']}")
            return
        if "time_s" not in details:
            console.print(f"waiting for {details.get('waiting_for') or 'the simulator'}", highlight=False)
            continue
        console.print(
            f"{float(details['time_s']):.1f} s: {float(details['route_completion']):.0f} % of the route, "
            f"{float(details['speed_mps']):.1f} m/s{state.removeprefix('OK').removeprefix('DEGRADED')}",
            highlight=False,
        )


def _tell(console: Console, out: Path) -> int:
    """Print the summary; returns 1 if it is missing, else 0."""
    file = out / "summary.json"
    if not file.is_file():
        console.print(f"no whole drive; what the nodes said: {out / 'logs'}", highlight=False)
        return 1
    summary = json.loads(file.read_text(encoding="utf-8"))
    happened = ", ".join(f"{what} at {second} s" for second, what in summary["infractions"]) or "none"
    console.print(
        f"{summary['end']} after {summary['seconds']:.1f} s: {summary['route_completion']:.0f} % of the route "
        f"({summary['maneuver']}), driving score {summary['driving_score']:.0f}; infractions: {happened}",
        highlight=False,
    )
    for name, what in (
        ("scene.png", "six images, occupancy, path"),
        ("recording.rrd", "open with: .venv/bin/rerun FILE"),
        ("log.csv", "what the vehicle did, step by step"),
        ("summary.json", "these numbers"),
    ):
        if (out / name).exists():
            console.print(f"  {out / name}  ({what})", highlight=False)
    return 0
