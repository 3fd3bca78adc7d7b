"""./run bench soak: all nodes at a low rate for a long time; memory, threads and shared memory must not grow."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.ros.parameters import STAGES

from ..bringup.run_on_bag import wait_active

EVERY = 1.0
"""Seconds between two samples of the processes."""
OWN_EVERY = 10
"""Samples between two reads of the shared memory that the processes have mapped."""
TELL_EVERY = 120.0
"""Seconds between two lines of progress."""


@dataclass
class Series:
    """Samples of one process: seconds since the start, MB resident, threads."""

    at: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def slope(self, settle: float) -> float:
        """MB per minute after the first `settle` seconds, by Theil-Sen, which a single allocator jump does not tilt."""
        keep = [i for i, t in enumerate(self.at) if t >= settle]
        step = max(1, len(keep) // 200)
        t, mb = (np.array([values[i] for i in keep[::step]]) for values in (self.at, self.mb))
        first, second = np.triu_indices(len(t), 1)
        return 60 * float(np.median((mb[second] - mb[first]) / (t[second] - t[first])))


def segments() -> set[str]:
    """Shared-memory segments of Fast DDS that hold data (its mutexes of 4 KB stay by design)."""
    return {p.name for p in Path("/dev/shm").glob("fast*_????????????????")}


def shared_mb() -> float:
    """MB of shared memory in use on this machine, by all processes."""
    blocks = 0
    for path in Path("/dev/shm").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed by its owner meanwhile
            blocks += path.stat().st_blocks
    return 512 * blocks / 1e6


def mapped(processes: Iterable[psutil.Process]) -> set[str]:
    """Names of the shared memory that processes have mapped."""
    used = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            used |= {Path(area.path).name for area in process.memory_maps() if area.path.startswith("/dev/shm/")}
    return used


def unused(names: set[str]) -> list[str]:
    """Returns the segments that no running process has mapped: left behind by their owner."""
    return sorted(names - mapped(psutil.process_iter()))


def soak(
    preset: str,
    minutes: float,
    hz: float = 2.0,
    bag: Path | None = None,
    settle: float | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run all nodes on a looping bag at `hz` frame sets per second; every loop is a jump of the clock.

    settle: seconds at the start that are not evaluated (default a fifth of the time, at most two minutes). Returns MB
    per minute and threads per node, plans per second, and the segments left after every process has ended.
    """
    bag = bag or bundled_bag()
    with BagReader(bag) as reader:
        images = reader.topics[profile().reference_topic].count
        rate = hz * reader.duration / images
    settle = min(120.0, 12 * minutes) if settle is None else settle
    values = launch_config.resolve({"preset": preset, "respawn": "false", "bag": str(bag)}, with_bag=True)
    found: dict[str, Series] = defaultdict(Series)
    shared: list[float] = []
    own: set[str] = set()
    with (
        TopicMonitor(("planning/path",), namespace=values["namespace"]) as observer,
        Supervisor(values, Path("out/bench/soak")) as supervisor,
    ):
        for entry in launch_config.process_entries(values, with_bag=False):
            supervisor.start(entry)
        wait_active(supervisor, observer, set(STAGES), lambda text, fraction: None)
        supervisor.start(launch_config.BAG_PLAYER, {"rate": f"{rate:.4f}", "loop": "true"})
        processes = {name: psutil.Process(p.popen.pid) for name, p in supervisor.processes.items()}
        began, told, first, at = time.monotonic(), 0.0, 0, 0.0
        while (now := time.monotonic() - began) < 60 * minutes:
            for ended in supervisor.poll():
                raise RuntimeError(f"{ended.entry.name} ended with code {ended.ended} after {now:.0f} s")
            for name, process in processes.items():
                series = found[name]
                series.at.append(now)
                series.mb.append(process.memory_info().rss / 1e6)
                series.threads.append(process.num_threads())
            shared.append(shared_mb())
            if len(shared) % OWN_EVERY == 1:  # other programs of this machine may leave segments behind, too
                own |= mapped(processes.values())
            if now >= told + TELL_EVERY:
                told = now
                on_progress(f"{now / 60:.0f} min: " + ", ".join(f"{n} {x.mb[-1]:.0f} MB" for n, x in found.items()))
            time.sleep(EVERY)
            if now < settle:
                first, at = observer.count("planning/path"), now
        plans = (observer.count("planning/path") - first) / (time.monotonic() - began - at)
    nodes = {}
    for name, series in found.items():
        tail = [n for t, n in zip(series.at, series.threads, strict=True) if t >= settle]
        nodes[name] = {
            "mb_per_minute": series.slope(settle),
            "mb": statistics.median(series.mb[-10:]),
            "threads_least": min(tail),
            "threads_most": max(tail),
            "threads_end": tail[-1],
            "threads_begin": tail[0],
        }
    return {
        "preset": preset,
        "minutes": minutes,
        "hz": hz,
        "nodes": nodes,
        "plans_per_s": plans,
        "shared_memory_mb": {"first": shared[0], "last": shared[-1], "most": max(shared)},
        "segments_left": unused(segments() & own),
    }


def bench_soak(console: Console, preset: str, minutes: float) -> dict[str, Any]:
    """Run the soak test, print a table, return the numbers."""
    console.print(
        f"all nodes at 2 frame sets a second for {minutes:g} minutes; the load now is {os.getloadavg()[0]:.1f}"
    )
    numbers = soak(preset, minutes, on_progress=lambda text: console.print(f"  {text}", highlight=False))
    table = Table("node", "MB", "MB/min", "threads", title=f"{minutes:g} minutes, {numbers['plans_per_s']:.2f} plans/s")
    for name, row in numbers["nodes"].items():
        threads = f"{row['threads_begin']} -> {row['threads_end']} ({row['threads_least']}..{row['threads_most']})"
        table.add_row(name, f"{row['mb']:.0f}", f"{row['mb_per_minute']:+.2f}", threads)
    console.print(table)
    memory = numbers["shared_memory_mb"]
    console.print(
        f"  /dev/shm {memory['first']:.0f} MB at the start, {memory['last']:.0f} MB at the end; segments left behind: "
        f"{', '.join(numbers['segments_left']) or 'none'}",
        highlight=False,
    )
    return numbers
