"""./run launch: starts the ROS graph without launch_ros."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.ros.parameters import as_yaml


def parse_arguments(words: Sequence[str]) -> dict[str, str]:
    """Parse name:=value words as in `ros2 launch`. Raises InvalidInput("argument") for anything else."""
    given = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            raise InvalidInput("argument", f"'{word}' is not NAME:=VALUE")
        given[name] = value
    return given


def run_launch(words: Sequence[str], show_args: bool, print_params: bool) -> int:
    """Start the nodes and wait until the bag ends, Ctrl-C, or no process is left; returns the exit code."""
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    console = Console(stderr=True)
    if print_params:
        print(as_yaml(), end="")
        return 0
    if show_args:
        _show_arguments()
        return 0
    given = parse_arguments(words)
    with_bag = "bag" in given
    values = launch_config.resolve_checked(given, with_bag)
    if values["rviz"] == "true":
        raise InvalidInput("rviz", "RViz is started by `ros2 launch`, on a ROS install; with the wheels use ./run view")
    with Supervisor(values, on_event=lambda text: console.print(f"[yellow]{text}[/]")) as supervisor:
        supervisor.start_all(with_bag)
        while not ended.wait(0.2):
            for process in supervisor.poll():
                if process.entry in launch_config.SOURCES:
                    ended.wait(2.0)
                    return process.ended or 0
            running = [p for p in supervisor.processes.values() if p.popen.poll() is None]
            if not running and values["respawn"] == "false":
                return 1
    return 0


def _show_arguments() -> None:
    table = Table("argument", "default", "choices", "meaning", title="./run launch NAME:=VALUE ...")
    for argument in launch_config.ARGUMENTS + launch_config.BAG_ARGUMENTS:
        table.add_row(argument.name, argument.default or "''", " ".join(argument.choices), argument.what)
    Console().print(table)
