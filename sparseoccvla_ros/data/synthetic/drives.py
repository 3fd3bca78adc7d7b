"""Ego trajectories and commands of world seeds, without rendering.

A drive takes about a second to simulate and is cached in a small file, so trajectories are available for many more
seeds than rendered scenes. Inputs of inference at a given time use only records at or before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.files import written
from ...core.paths import cache_folder
from ...core.types import NANOSECONDS
from ...planning.ego_history import EgoHistory
from ...world.agents.actors import LEAD_SECONDS
from ...world.scene import Scene
from ..dataset import COMMANDS, FUTURE_SECONDS
from ..processes import in_processes, one_thread
from .scenes import WORLD_VERSION

STEP = 0.05
"""Seconds between the records of a drive; the error of linear interpolation is at most a millimetre."""
RECORDED = 0.2
"""Seconds between the poses added to an ego history, about the period of online frame sets."""
ROUTE_BEYOND = 60.0
"""m of the route behind the end of a drive."""
START = 1_700_000_000 * NANOSECONDS
"""Stamp of the start of every drive, ns."""
FIXED_FRAME = "map"


@dataclass(frozen=True, eq=False)
class Drive:
    """The ego's motion in one seed.

    time: float64 [T] s of the drive, from -2 s on; pose: float64 [T, 3], x, y m and yaw rad (continuous) in the map;
    motion: float64 [T, 2], speed m/s and yaw rate rad/s; command: uint8 [T], index into COMMANDS; route: float64
    [M, 2] m in the map, every 2 m from the start to 60 m behind the end, if the street is that long.
    """

    seed: int
    time: np.ndarray
    pose: np.ndarray
    motion: np.ndarray
    command: np.ndarray
    route: np.ndarray

    @property
    def last(self) -> float:
        """The last time, in s, with a complete future."""
        return float(self.time[-1]) - FUTURE_SECONDS[-1]

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ego2map float64 [4, 4], twist float64 [6] in base_link). Raises InvalidInput outside the drive."""
        if not self.time[0] <= time <= self.time[-1]:
            raise InvalidInput("time", f"{time} s is outside the drive")
        x, y, yaw = (float(np.interp(time, self.time, column)) for column in self.pose.T)
        twist = np.zeros(6)
        twist[0], twist[5] = (float(np.interp(time, self.time, column)) for column in self.motion.T)
        return geometry.planar(x, y, yaw), twist

    def features(self, time: float) -> np.ndarray:
        """Features float32 [FEATURE_NAMES] of planning.ego_history, from poses at or before `time`."""
        history = EgoHistory()
        for age in np.arange(round(2.4 / RECORDED), -1, -1) * RECORDED:
            if time - age >= self.time[0]:
                history.add(round((time - age) * NANOSECONDS), *self.at(time - age))
        return history.features(round(time * NANOSECONDS))

    def waypoints(self, time: float) -> np.ndarray:
        """float32 [6, 2] m: future positions of the ego at FUTURE_SECONDS, in base_link at `time`."""
        back = geometry.inverse(self.at(time)[0])
        return np.array([(back @ self.at(time + t)[0])[:2, 3] for t in FUTURE_SECONDS], np.float32)

    def commanded(self, time: float) -> int:
        """The command of the route at `time`, index into COMMANDS."""
        return int(self.command[np.searchsorted(self.time, time + 1e-9, side="right") - 1])


def record(scene: Scene) -> Drive:
    """Record the drive of a scene, from LEAD_SECONDS before its start to FUTURE_SECONDS[-1] after its end."""
    time = np.arange(round(-LEAD_SECONDS / STEP), round((scene.duration + FUTURE_SECONDS[-1]) / STEP) + 1) * STEP
    states = [scene.ego.at(float(t)) for t in time]
    yaw = np.unwrap([geometry.yaw_of(p) for p, _ in states])
    pose = np.column_stack([[p[0, 3] for p, _ in states], [p[1, 3] for p, _ in states], yaw])
    motion = np.array([(twist[0], twist[5]) for _, twist in states])
    command = np.array([COMMANDS.index(scene.ego.command(float(t))) for t in time], np.uint8)
    mover = scene.ego.mover
    begin, end = (float(mover.motion(float(t))[0]) for t in (time[0], time[-1]))
    route = mover.path.at(np.arange(begin, min(end + ROUTE_BEYOND, mover.path.length), 2.0))[:, :2]
    return Drive(scene.seed, time, pose, motion, command, np.ascontiguousarray(route))


def drive_file(seed: int, seconds: float) -> Path:
    """Path of a drive in the cache."""
    return cache_folder() / "drives" / f"{WORLD_VERSION}-{seconds:g}" / f"{seed:08d}.safetensors"


def load_drive(seed: int, seconds: float = 20.0, scene: Scene | None = None) -> Drive:
    """Load the drive of a seed from the cache; if missing or damaged, simulate it (or use `scene`) and cache it."""
    path = drive_file(seed, seconds)
    if path.is_file():
        try:
            return Drive(seed, **load_file(path))
        except (SafetensorError, OSError, TypeError):
            path.unlink(missing_ok=True)
    drive = record(scene or Scene.generate(seed, seconds))
    with written(path) as part:
        save_file({n: getattr(drive, n) for n in ("time", "pose", "motion", "command", "route")}, part)
    return drive


def prepare_drives(seeds: Sequence[int], seconds: float = 20.0, workers: int = 1) -> Iterator[Drive]:
    """The drives of the seeds, in their order; missing ones are simulated, `workers` processes at a time."""
    missing = [s for s in seeds if not drive_file(s, seconds).is_file()]
    if workers == 1 or not missing:
        yield from (load_drive(s, seconds) for s in seeds)
        return
    yield from in_processes(workers, load_drive, seeds, [seconds] * len(seeds), initializer=one_thread)


def trajectories(drives: Iterable[Drive], every: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Waypoints float32 [N, 6, 2] m and commands int64 [N] of drives, sampled every `every` seconds."""
    paths, commands = [], []
    for drive in drives:
        for time in np.arange(0.0, drive.last, every):
            paths.append(drive.waypoints(float(time)))
            commands.append(drive.commanded(float(time)))
    return np.array(paths, np.float32).reshape(-1, len(FUTURE_SECONDS), 2), np.array(commands, np.int64)
