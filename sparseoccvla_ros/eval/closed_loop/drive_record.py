"""What a drive over the topics leaves behind: its summary, and what the vehicle did step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...world.sim.vehicle import Action
from .rollout import Episode, Rollout
from .scores import summary


class DriveRecord:
    """Notes every step of an Episode.

    Attributes: rows: one per step, (time s, x m, y m, yaw rad, speed m/s, acceleration m/s^2 and steering rad that were
    asked for, why the vehicle was braked or "").
    """

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self.rows: list[tuple[float, float, float, float, float, float, float, str]] = []

    def step(self, action: Action, why: str) -> None:
        """Before the world steps."""
        simulator = self._episode.simulator
        s = simulator.state
        self.rows.append((simulator.time, s.x, s.y, s.yaw, s.speed, action.acceleration, action.steering, why))

    def rollout(self) -> Rollout:
        """For the scores, once the drive has ended."""
        return self._episode.finish()

    def summary(self) -> dict[str, Any]:
        """As scores.summary."""
        return summary(self.rollout())

    def write(self, folder: Path, summary: dict[str, Any]) -> None:
        """summary.json, as `summary` gives it, and log.csv in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        head = "time,x,y,yaw,speed,acceleration,steering,why"
        lines = [",".join(str(v).replace(",", ";") for v in row) for row in self.rows]
        (folder / "log.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
