"""Bench2Drive: driving score, success, efficiency, smoothness and abilities (rules of version 0.0.4, own code).

The world has no stop signs, emergency vehicles or scenario time-outs: their factors are always 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from .comfort import LIMITS, smooth
from .polygons import hulls_touch


class Infraction(Enum):
    """Events that each multiply the score by a factor."""

    COLLISION_PEDESTRIAN = "collision_pedestrian"
    COLLISION_VEHICLE = "collision_vehicle"
    COLLISION_STATIC = "collision_static"
    RED_LIGHT = "red_light"


FACTORS = {
    Infraction.COLLISION_PEDESTRIAN: 0.5,
    Infraction.COLLISION_VEHICLE: 0.6,
    Infraction.COLLISION_STATIC: 0.65,
    Infraction.RED_LIGHT: 0.7,
}


class End(Enum):
    """Why a drive ended."""

    DONE = "done"
    OFF_ROUTE = "off route"
    BLOCKED = "blocked"
    TIMEOUT = "time-out"


def driving_score(completion: float, infractions: Sequence[Infraction], outside: float = 0.0) -> float:
    """Returns the score of one route in percent.

    completion: percent; infractions: each occurrence; outside: share 0..1 of the driven distance outside route lanes.
    """
    return completion * float(np.prod([FACTORS[i] for i in infractions])) * (1.0 - outside)


def success(end: End, infractions: Sequence[Infraction], outside: float = 0.0) -> bool:
    """Whether a route was finished without any infraction."""
    return end is End.DONE and not infractions and outside == 0.0


@dataclass
class CollisionCounter:
    """Filters contacts: none below 0.1 m/s, with the same actor within 5 s, or within 5 m of the last counted one."""

    last: dict[int, float] = field(default_factory=dict)
    place: np.ndarray | None = None

    def counts(self, actor: int, time: float, position: np.ndarray, speed: float) -> bool:
        """Whether a contact with an actor at a time (s) counts; position: the ego's [2] m, speed: its m/s."""
        if speed < 0.1:
            return False
        if actor in self.last and time - self.last[actor] < 5.0:
            return False
        if self.place is not None and np.hypot(*(position - self.place)) < 5.0:
            return False
        self.last[actor], self.place = time, np.array(position, np.float64)
        return True


@dataclass
class RedLightCounter:
    """Detects red-light violations, when the ego's tail crosses the stop line."""

    last: int = -1

    def counts(self, light: int, line: np.ndarray, direction: float, centre: np.ndarray, length: float) -> bool:
        """Whether the ego is running a light that is currently red.

        line: stop line [2, 2] of one lane; direction: heading of its traffic, rad; centre: x, y, heading of the ego's
        box; length: of the box, m. The same light does not count twice in a row.
        """
        forward = np.array([np.cos(centre[2]), np.sin(centre[2])])
        near = np.hypot(*(line.mean(0) - centre[:2])) <= 15.0
        if light == self.last or not near or np.cos(centre[2] - direction) <= 0:
            return False
        half = 0.5 * length
        tail = centre[:2] - np.outer([0.8 * half, half + 1.0], forward)
        widened = line.mean(0) + 1.2 * (line - line.mean(0))
        if not hulls_touch(tail, widened):
            return False
        self.last = light
        return True


class RouteMonitor:
    """Tracks completion of a dense route [N, 2] (points about 1 m apart) and detects the end of the drive."""

    WINDOW = 2
    """Route points that may be passed per tick."""

    def __init__(self, route: np.ndarray) -> None:
        self.route = np.asarray(route, np.float64)
        steps = np.hypot(*np.diff(self.route, axis=0).T)
        self.metres = np.concatenate([[0.0], np.cumsum(steps)])
        direction = np.diff(self.route, axis=0)
        self.direction = np.concatenate([direction, direction[-1:]])
        self.index = 0
        self.slow_since: float | None = None
        self.time_limit = 300.0
        self._far = 0.0

    @property
    def completion(self) -> float:
        """Completed share of the route length, percent with two decimals; 100 when done."""
        return round(100.0 * float(self.metres[self.index] / self.metres[-1]), 2)

    def update(self, time: float, position: np.ndarray, speed: float, limit: float) -> End | None:
        """Takes the ego's position [2] (m), speed and speed limit (m/s) at `time` (s); returns the end or None."""
        before = self.index
        for _ in range(self.WINDOW):
            following = self.index + 1
            if following < len(self.route) and (position - self.route[following]) @ self.direction[following] > 0:
                self.index = following
        gained = float(self.metres[self.index] - self.metres[before])
        self.time_limit += gained / (0.1 * limit)
        left = np.hypot(*(self.route[self.index :] - position).T)
        if self.completion > 99.0 and left[-1] < 10.0:
            self.index = len(self.route) - 1
            return End.DONE
        nearest = float(left[:100].min())
        self._far += gained if nearest > 15.0 else 0.0
        if nearest > 30.0 or self._far > 0.3 * self.metres[-1]:
            return End.OFF_ROUTE
        if speed >= 0.1:
            self.slow_since = None
        elif self.slow_since is None:
            self.slow_since = time
        if self.slow_since is not None and time - self.slow_since >= 60.0:
            return End.BLOCKED
        return End.TIMEOUT if time >= self.time_limit else None


def outside_share(
    centres: np.ndarray, lane_distance: np.ndarray, lane_width: float, wrong_way: np.ndarray, junction: np.ndarray
) -> float:
    """Returns the share of the driven distance outside route lanes.

    centres: [T, 2] of the ego; lane_distance: [T] m to the nearest centre of a driving or parking lane; wrong_way: bool
    [T], in a lane of opposite direction, ignored where junction (bool [T]) is set.
    """
    off = (lane_distance > 0.5 * lane_width + 0.5) | (wrong_way & ~junction)
    moved = np.hypot(*np.diff(centres, axis=0).T)
    total = float(moved.sum())
    return float((moved * off[1:]).sum() / total) if total > 0 else 0.0


def efficiency(completion: np.ndarray, speed: np.ndarray, others: Sequence[np.ndarray]) -> float | None:
    """Returns the ego's mean speed as a percentage of all background vehicles', averaged over 20 parts of the route.

    completion: [T] percent, non-decreasing; speed: [T] m/s; others: per step, speeds of the surrounding vehicles. None
    if no part counts (values above 1000 % are dropped).
    """
    values = []
    part = np.minimum((completion / 5.0).astype(int), 19)
    for k in range(20):
        rows = np.flatnonzero(part == k)
        if not len(rows):
            continue
        around = np.concatenate([others[i] for i in rows])
        if not len(around):
            values.append(100.0)
            continue
        value = 100.0 * float(speed[rows].mean()) / max(float(around.mean()), 1e-9)
        if value <= 1000.0:
            values.append(value)
    return float(np.mean(values)) if values else None


def smoothness(acceleration: np.ndarray, yaw_rate: np.ndarray) -> float | None:
    """Returns the share of 2 s segments (20 samples at 10 Hz, remainder dropped) within all six comfort bounds.

    acceleration: [T, 2] longitudinal, lateral m/s^2; yaw_rate: [T] rad/s. As in the official code, the yaw acceleration
    bound is applied to the smoothed yaw rate, and the rate is unwrapped like an angle. None below 2 s.
    """
    good = []
    for start in range(0, len(acceleration) - 19, 20):
        piece, rate = acceleration[start : start + 20], np.unwrap(yaw_rate[start : start + 20])
        along, magnitude, turning = piece[:, 0], np.hypot(piece[:, 0], piece[:, 1]), smooth(rate, 7)
        series = [
            smooth(along, 7),
            smooth(piece[:, 1], 7),
            smooth(smooth(magnitude, 7), 7, 2, 1),
            smooth(smooth(along, 7), 7, 2, 1),
            turning,
            turning,
        ]
        values = np.stack(series)
        good.append(bool(((values > LIMITS[:, :1]) & (values < LIMITS[:, 1:])).all()))
    return float(np.mean(good)) if good else None


def abilities(successes: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """Returns the success rate per ability, and their mean under "mean"."""
    shares = {name: float(np.mean(results)) for name, results in successes.items() if len(results)}
    return {**shares, "mean": float(np.mean(list(shares.values()))) if shares else float("nan")}
