"""Step-by-step simulation of all actors except the ego.

Vehicles and cyclists follow the Intelligent Driver Model along their own path behind any vehicle on it, including the
ego wherever it is; they stop at red and yield to crossing pedestrians. Pedestrians wait at the kerb as in
pedestrians.People and stop if the ego blocks their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..agents.pedestrians import Crossing, People
from ..agents.traffic import AMBER, GREEN, STEP, Mover, Paths, Phases
from .vehicle import EgoVehicleState

if TYPE_CHECKING:
    from .scenarios import Script

_HEADWAY, _GAP, _BRAKE, _HARD_BRAKE, _GENTLE, _LATERAL = 1.3, 2.2, 1.8, 5.0, 2.6, 2.0
_SCAN, _SCAN_STEP = 45.0, 1.0
_BESIDE = 1.7
"""Distance in m between a path and a vehicle's centre line below which the vehicle blocks the path."""
_JERK_UP, _JERK_DOWN, _JERK_ALARM = 6.0, 7.0, 20.0
_STANDING_ROOM = 0.7
"""Distance in m ahead of a pedestrian at which the ego blocks the way."""
_PATIENCE, _RETREAT, _BACK = 20, 1.6, 0.5
"""Steps after which a pedestrian whom the standing ego blocks steps back, until so many m from it, at so many m/s: each
would wait for the other for ever."""


def _comfortable(mover: Mover, s: np.ndarray) -> np.ndarray:
    """Return the highest speed m/s at arc lengths that keeps bends and the braking before them comfortable."""
    bend = np.maximum(np.abs(mover.path.curvature_at(s)), 1e-4)
    limit = np.minimum(mover.desired, np.sqrt(_LATERAL / bend))
    for i in range(len(limit) - 2, -1, -1):
        limit[i] = min(limit[i], np.sqrt(limit[i + 1] ** 2 + 2 * 1.3 * Paths.CELL))
    return limit


class Traffic:
    """Vehicles, cyclists, walkers and crossing pedestrians, simulated from row `first` of their recorded motion on.

    Each mover's log (times, travelled, speeds, forces) is truncated after that row and extended by each step.
    """

    def __init__(
        self,
        driven: Sequence[Mover],
        walkers: Sequence[Mover],
        crossings: Sequence[Crossing],
        ego: Mover,
        signals: Phases,
        first: int,
        last: int,
        scripts: Sequence[Script] = (),
    ) -> None:
        self.driven, self.walkers, self.signals = tuple(driven), tuple(walkers), signals
        self.crossings = tuple(crossings)
        self._scripts = {id(script.mover): script for script in scripts}
        times = -2.0 + STEP * np.arange(last + 1)
        self.people = People(self.crossings)
        self.people.prepare([ego, *self.driven], times)
        recorded = [(m.travelled[: first + 1].copy(), m.speeds[: first + 1].copy()) for m in (ego, *self.driven)]
        for k in range(first):
            s, v = (np.array([r[i][k] for r in recorded]) for i in (0, 1))
            self.people.step(k, s, v)
        self.k = first
        self._s = np.array([s[-1] for s, _ in recorded[1:]])
        self._v = np.array([v[-1] for _, v in recorded[1:]])
        self._force = np.array([m.forces[max(first - 1, 0)] for m in self.driven])
        self._walked = np.array([m.travelled[first] for m in self.walkers])
        on_foot = len(self.crossings) + len(self.walkers)
        self._held, self._back = np.zeros(on_foot, np.int64), np.zeros(on_foot, bool)
        self._front = np.array([m.front for m in self.driven])
        self._centre = np.array([m.centre for m in self.driven])
        self._half = 0.5 * np.array([m.length for m in self.driven])
        self._rate = np.array([m.acceleration for m in self.driven])
        self._paths = Paths(self.driven, _comfortable)
        for mover in (*self.driven, *self.walkers, *(c.mover for c in self.crossings)):
            for name in ("travelled", "speeds", "forces"):
                kept = getattr(mover, name)[: first + 1]
                setattr(
                    mover, name, np.concatenate([kept, np.full(last - first, kept[-1] if name == "travelled" else 0)])
                )
            mover.times = times
        self._write()

    def step(self, ego: EgoVehicleState, along: float, body: np.ndarray) -> None:
        """Advance all actors by one step.

        along: the ego's arc length on its route, m; body: its footprint [5], as traffic.rectangle.
        """
        blocked, gap = self._blocked(body)
        stands = ego.speed < 0.1
        self._held = np.where(blocked & stands, self._held + 1, 0)
        self._back = (self._back | (self._held > _PATIENCE)) & (gap < _RETREAT) & stands
        count, back = len(self.crossings), np.where(self._back, _BACK * STEP, 0.0)
        blocked |= self._back
        s, v = np.concatenate([[along], self._s]), np.concatenate([[ego.speed], self._v])
        room, _ = self.people.step(self.k, s, v, blocked[:count])
        self.people.positions = np.maximum(self.people.positions - back[:count], 0.0)
        force = self._forces(ego, body, room[1:])
        time = -2.0 + STEP * self.k
        for i, mover in enumerate(self.driven):
            script = self._scripts.get(id(mover))
            told = script.force(along, time) if script else None
            if told is not None:
                force[i] = max(told, -self._v[i] / STEP)
            mover.forces[self.k] = force[i]
        self._s = self._s + self._v * STEP + 0.5 * force * STEP**2
        self._v = np.maximum(self._v + force * STEP, 0.0)
        self._force = force
        if self.walkers:
            ends = np.array([m.path.length for m in self.walkers])
            waits = [(w := self._scripts.get(id(m))) is not None and w.waits(along, time) for m in self.walkers]
            pace = np.array([m.desired for m in self.walkers]) * ~(blocked[count:] | np.array(waits))
            self._walked = np.minimum(self._walked + pace * STEP, np.maximum(ends, self._walked))
            self._walked = np.maximum(self._walked - back[count:], 0.0)
        self.k += 1
        self._write()

    def _write(self) -> None:
        k = self.k
        for mover, s, v in zip(self.driven, self._s, self._v, strict=True):
            mover.travelled[k], mover.speeds[k], mover.forces[k] = s, v, 0.0
        on_foot = (*self.walkers, *(c.mover for c in self.crossings))
        for mover, s in zip(on_foot, np.concatenate([self._walked, self.people.positions]), strict=True):
            mover.travelled[k] = s
            mover.speeds[k - 1] = (s - mover.travelled[k - 1]) / STEP

    def _blocked(self, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether the ego is directly in front of each crossing pedestrian, then walker, and its distance, m."""
        movers = (*(c.mover for c in self.crossings), *self.walkers)
        if not movers:
            return np.zeros(0, bool), np.zeros(0)
        at = np.concatenate([self.people.positions, self._walked])
        pose = np.stack([m.path.at(s) for m, s in zip(movers, at, strict=True)])
        cos, sin = np.cos(body[2]), np.sin(body[2])
        inside = []
        for ahead in (0.0, _STANDING_ROOM):
            dx = pose[:, 0] + ahead * np.cos(pose[:, 2]) - body[0]
            dy = pose[:, 1] + ahead * np.sin(pose[:, 2]) - body[1]
            along, across = np.abs(dx * cos + dy * sin), np.abs(dy * cos - dx * sin)
            inside.append(np.hypot(np.maximum(along - 0.5 * body[3], 0), np.maximum(across - 0.5 * body[4], 0)))
        return (inside[1] < 0.4) & (inside[1] < inside[0]), inside[0]

    def _forces(self, ego: EgoVehicleState, body: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Return accelerations m/s^2 of all vehicles; room: metres to where each has to wait for pedestrians."""
        count = len(self.driven)
        if not count:
            return np.zeros(0)
        middle = self._paths.at(self._s + self._centre)
        wanted = self._paths.at(self._s)[:, 3]
        reach = np.arange(2.0, _SCAN, _SCAN_STEP)
        ahead = self._paths.at((self._s + self._centre)[:, None] + reach)
        # Bodies as points on their centre line: the centre of each vehicle, and three points along the ego, because it
        # alone may stand across a path.
        spots = body[:2] + 0.5 * body[3] * np.array([[-0.8], [0.0], [0.8]]) * [np.cos(body[2]), np.sin(body[2])]
        points = np.concatenate([middle[:, :2], spots])
        yaw = np.concatenate([middle[:, 2], np.full(3, body[2])])
        speed = np.concatenate([self._v, np.full(3, ego.speed)])
        half = np.concatenate([self._half, np.full(3, 0.2 * body[3])])
        gap, leader = self._gaps(ahead, reach, points, half)
        closing = self._v - speed[leader] * np.cos(yaw[leader] - middle[:, 2])
        gap, closing, fixed = self._stops(gap, closing, room)
        desired = _GAP + np.maximum(0.0, self._v * (_HEADWAY + closing / (2 * np.sqrt(self._rate * _BRAKE))))
        force = self._rate * (1 - (self._v / np.maximum(wanted, 0.5)) ** 4 - (desired / np.maximum(gap, 0.3)) ** 2)
        needed = 0.4 + 1.2 * self._v**2 / (2 * np.maximum(gap - _GAP + 0.2, 0.3))
        force = np.clip(np.where(fixed, np.maximum(force, -needed), force), -7.0, self._rate)
        down = np.where(force < -4.0, _JERK_ALARM, _JERK_DOWN)
        force = np.clip(force, self._force - down * STEP, self._force + _JERK_UP * STEP)
        return np.maximum(force, -self._v / STEP)

    def _gaps(
        self, ahead: np.ndarray, reach: np.ndarray, points: np.ndarray, half: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return metres to the next body on each path (inf without one), and its index."""
        count = len(ahead)
        everyone = np.arange(count)
        squared = ((ahead[:, :, None, :2] - points) ** 2).sum(-1)
        squared[everyone, :, everyone] = np.inf
        first = squared.argmin(1)
        delta = points[None] - ahead[everyone[:, None], first, :2]
        yaw = ahead[everyone[:, None], first, 2]
        along = delta[..., 0] * np.cos(yaw) + delta[..., 1] * np.sin(yaw)
        near = squared.min(1) < _BESIDE**2
        gap = np.where(near, reach[first] + along - self._half[:, None] - half, np.inf)
        leader = gap.argmin(1)
        return gap[everyone, leader], leader

    def _stops(
        self, gap: np.ndarray, closing: np.ndarray, room: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return gaps and closing speeds with stop lines and pedestrians included, and which gaps are to those."""
        time = -2.0 + STEP * self.k
        for i, mover in enumerate(self.driven):
            for line, approach in mover.stops:
                left = line - self._s[i] - self._front[i]
                colour = self.signals.colour(approach, time)
                limit = _GENTLE if colour == AMBER else _HARD_BRAKE
                if colour != GREEN and left > 0 and self._v[i] ** 2 < 2 * limit * left:
                    room[i] = min(room[i], left)
        waits = room + _GAP - 0.7 < gap
        return np.where(waits, room + _GAP - 0.7, gap), np.where(waits, self._v, closing), waits
