"""Starts and stops the nodes of the graph without launch_ros: one process per node."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparseoccvla_ros.core.paths import share

from . import launch_config
from .launch_config import NodeEntry

STOP_SECONDS = 10.0
"""Seconds from SIGTERM to SIGKILL: more than the longest `end_seconds` of a node."""
RESPAWN_SECONDS = 1.0


def big_message_environment() -> dict[str, str]:
    """Returns the variable that selects the Fast DDS profile for images; a value set by the user is kept."""
    profile = str(share("config", "fastdds_big_messages.xml"))
    old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    name = "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
    return {name: os.environ.get(name, profile)}


def ros_arguments(values: Mapping[str, str], parameters: Mapping[str, str]) -> list[str]:
    """Returns the --ros-args of a node process."""
    out = ["--ros-args", "-r", f"__ns:={values['namespace']}", "--log-level", values["log_level"]]
    out += ["--params-file", values["params_file"] or str(share("config", "params.yaml"))]
    for name, value in parameters.items():
        out += ["-p", f"{name}:={_yaml_text(value)}"]
    return out


def _yaml_text(value: str) -> str:
    """Quote a value so that YAML reads a string, unless it is a number, a boolean or a list."""
    if value.startswith("["):
        return value
    return "'" + value.replace("'", "''") + "'" if isinstance(launch_config.typed(value), str) else value


@dataclass
class Process:
    """A running node process."""

    entry: NodeEntry
    command: list[str]
    environment: dict[str, str]
    popen: subprocess.Popen[bytes]
    log: Path | None = None
    deaths: int = 0
    ended: int | None = None
    died_at: float = field(default=0.0)


class Supervisor:
    """Starts, respawns and stops the processes of the graph.

    values: resolved launch arguments; log_folder: where each node's output goes (None = this terminal); on_event:
    called with a text on deaths and respawns; prefix: put before each command, as launch_ros's `prefix`. As a context
    manager, it stops every process on exit.
    """

    def __init__(
        self,
        values: Mapping[str, str],
        log_folder: Path | None = None,
        on_event: Callable[[str], None] = lambda text: None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._values = dict(values)
        self._prefix = tuple(prefix)
        self._logs = log_folder
        self._on_event = on_event
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, entry: NodeEntry, parameters: Mapping[str, str] | None = None) -> Process:
        """Start a node; `parameters` are added to those from the launch arguments."""
        chosen = launch_config.parameters_of(entry, self._values) | dict(parameters or {})
        command = [*self._prefix, sys.executable, "-m", entry.module, *ros_arguments(self._values, chosen)]
        environment = {**os.environ, **(big_message_environment() if entry.big_messages else {})}
        log = None
        if self._logs is not None:
            self._logs.mkdir(parents=True, exist_ok=True)
            log = self._logs / f"{entry.name}.log"
            log.unlink(missing_ok=True)
        process = Process(entry, command, environment, self._spawn(command, environment, log), log)
        self.processes[entry.name] = process
        return process

    def start_all(self, with_bag: bool) -> None:
        """Start the processes that the launch arguments select."""
        for entry in launch_config.process_entries(self._values, with_bag):
            self.start(entry)

    def poll(self) -> list[Process]:
        """Returns the processes that ended since the last call; respawns all but sources and exit codes 0 and 2."""
        ended = []
        for process in self.processes.values():
            code = process.popen.poll()
            if code is None:
                continue
            if process.ended is None:
                process.ended, process.died_at = code, time.monotonic()
                ended.append(process)
                if code:
                    self._on_event(f"{process.entry.name} died with code {code}{_tail(process.log)}")
            source = process.entry in launch_config.SOURCES
            respawns = self._values["respawn"] == "true" and not source and code not in (0, 2)
            if respawns and time.monotonic() - process.died_at > RESPAWN_SECONDS:
                process.deaths += 1
                process.ended = None
                process.popen = self._spawn(process.command, process.environment, process.log)
                self._on_event(f"{process.entry.name} started again")
        return ended

    def stop(self, names: Sequence[str] | None = None) -> None:
        """Stop processes: SIGTERM, then SIGKILL.

        SIGINT would stop a node as well, but an interpreter that is still starting would print a traceback.
        """
        chosen = [p for n, p in self.processes.items() if names is None or n in names]
        for kind, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
            alive = [p for p in chosen if p.popen.poll() is None]
            if not alive:
                break
            for process in alive:
                if kind is signal.SIGKILL:
                    self._on_event(f"{process.entry.name} did not end in time: sending {kind.name}")
                process.popen.send_signal(kind)
            until = time.monotonic() + patience
            while time.monotonic() < until and any(p.popen.poll() is None for p in alive):
                time.sleep(0.05)
        for process in chosen:
            process.ended = process.popen.poll()
            self.processes.pop(process.entry.name, None)

    def _spawn(self, command: list[str], environment: dict[str, str], log: Path | None) -> subprocess.Popen[bytes]:
        # A process group, not a new session: Ctrl-C reaches only the launcher, and the nodes' niceness, which Linux
        # applies only within a session (autogroups, sched(7)), still lets plans go before text.
        common = {"env": environment, "process_group": 0, "preexec_fn": _end_with_parent}
        if log is None:
            return subprocess.Popen(command, **common)
        with log.open("ab") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, **common)


_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Make Linux send SIGTERM to the child when its parent dies, so that no node drives on unsupervised."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _tail(log: Path | None, lines: int = 4) -> str:
    if log is None or not log.is_file():
        return ""
    return ":\n    " + "\n    ".join(log.read_text(errors="replace").splitlines()[-lines:])
