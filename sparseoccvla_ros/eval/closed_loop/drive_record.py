"""Files recorded for a drive over the topics: its summary, the vehicle's state per step, and the plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ...planning.trajectory_follower import TimedPath
from ...world.agents.traffic import STEP
from ...world.sim.vehicle import Action
from .rollout import Episode, Rollout
from .scores import summary

LOG, PLANS, SUMMARY = "log.csv", "plans.csv", "summary.json"
HEAD = "time,x,y,yaw,speed,acceleration,steering,why"


class DriveRecord:
    """Records every step of an Episode.

    Attributes: rows: one per step, (time s, x m, y m, yaw rad, speed m/s, commanded acceleration m/s^2 and steering
    rad, reason for braking the vehicle or ""); plans: (time s, path, or None if the plan had no path).
    """

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self.rows: list[tuple[float, float, float, float, float, float, float, str]] = []
        self.plans: list[tuple[float, TimedPath | None]] = []

    def plan(self, path: TimedPath | None) -> None:
        """Records the path planned at the current step."""
        self._episode.note(path)
        self.plans.append((self._episode.simulator.time, path))

    def step(self, action: Action, why: str) -> None:
        """Records a step; call before the world steps."""
        simulator = self._episode.simulator
        s = simulator.state
        self.rows.append((simulator.time, s.x, s.y, s.yaw, s.speed, action.acceleration, action.steering, why))

    def rollout(self) -> Rollout:
        """Returns the rollout for scoring, once the drive has ended."""
        return self._episode.finish()

    def summary(self) -> dict[str, Any]:
        """Returns scores.summary of the rollout."""
        return summary(self.rollout())

    def write(self, folder: Path, summary: dict[str, Any]) -> None:
        """Writes log.csv, plans.csv and, last, `summary` as summary.json to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [",".join(str(v).replace(",", ";") for v in row) for row in self.rows]
        (folder / LOG).write_text("\n".join([HEAD, *lines]) + "\n", encoding="utf-8")
        lines = [
            ",".join(map(str, [time, *([] if p is None else np.column_stack([p.times, p.points]).ravel().tolist())]))
            for time, p in self.plans
        ]
        (folder / PLANS).write_text("\n".join(["time, then seconds and x, y of each point", *lines]) + "\n", "utf-8")
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def replay(folder: Path, seed: int, scenario: str | None) -> Rollout:
    """Reconstructs a recorded drive by stepping the world again with its logged actions.

    Raises InvalidInput("drive") if the files are not a drive record, or the world deviates from the log.
    """
    try:
        rows = [line.split(",", 7) for line in (folder / LOG).read_text("utf-8").splitlines()[1:]]
        known = [[float(v) for v in line.split(",")] for line in (folder / PLANS).read_text("utf-8").splitlines()[1:]]
        plans = {line[0]: np.array(line[1:]).reshape(-1, 3) for line in known}
        log = np.array([[float(v) for v in row[:7]] for row in rows])
        longest = float(json.loads((folder / SUMMARY).read_text("utf-8"))["seconds"]) + STEP
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput("drive", f"{folder} holds none: {error}") from None
    episode = Episode(seed, scenario, "nodes", longest=longest)
    for time, x, y, yaw, speed, acceleration, steering in log.tolist():
        if episode.observe() is not None:
            break
        state = episode.simulator.state
        if np.abs(np.array([x, y, yaw, speed]) - [state.x, state.y, state.yaw, state.speed]).max() > 1e-9:
            raise InvalidInput("drive", f"the world of seed {seed} goes another way than {folder} from {time:.1f} s on")
        plan = plans.get(time)
        if plan is not None:
            episode.note(TimedPath(time, plan[:, 0], plan[:, 1:]) if len(plan) else None)
        episode.simulator.step(Action(acceleration, steering))
    episode.observe()
    return episode.finish()
