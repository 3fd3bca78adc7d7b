"""Traffic simulation: signals, vehicles including the ego, and pedestrians on the sidewalk.

Vehicles keep their lane and follow the Intelligent Driver Model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000)
behind any vehicle ahead on their own path, stop at red, slow down for bends, yield to crossing pedestrians, and limit
their jerk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..roads.curves import Curve

if TYPE_CHECKING:
    from .pedestrians import People

STEP = 0.1
"""Simulation step in seconds."""
GREEN, AMBER, RED = "green", "amber", "red"
_HEADWAY, _GAP, _BRAKE, _HARD_BRAKE, _LATERAL = 1.3, 2.2, 1.8, 5.0, 2.0
_SCAN, _SCAN_STEP = 45.0, 1.0
_GENTLE = 2.6
"""m/s^2; a vehicle that would have to brake harder than this for an amber light drives on."""
_JERK_UP, _JERK_OFF, _JERK_DOWN, _JERK_ALARM = 4.0, 8.0, 7.0, 20.0
"""m/s^3; jerk limits of accelerating, releasing the brake, braking, and emergency braking."""


@dataclass(frozen=True)
class Phases:
    """Signal plan: green intervals of both streets (start and end, s), amber after each, red otherwise.

    amber: duration, s; held: approaches that stay red (traffic that would conflict with a turning ego).
    """

    main: tuple[tuple[float, float], ...]
    cross: tuple[tuple[float, float], ...]
    amber: float = 3.0
    held: frozenset[str] = frozenset()

    def colour(self, approach: str, time: float) -> str:
        """Return green, amber or red for approach main_east, main_west or cross at `time` in s."""
        if approach in self.held:
            return RED
        for start, end in self.cross if approach == "cross" else self.main:
            if start <= time < end + self.amber:
                return GREEN if time < end else AMBER
        return RED


@dataclass(eq=False)
class Mover:
    """A vehicle or pedestrian moving along a path.

    path: of its reference point; length, width, centre: footprint as in objects.Shape; start: arc length at the
    first time; speed: m/s then; desired: m/s on a free straight road; acceleration: m/s^2; stops: (arc length of a
    stop line, approach). After the simulation, times [T] s, travelled [T] m, speeds [T] m/s and forces [T] m/s^2
    (accelerations) hold its motion; yields int [T] is the index of the crossing pedestrian it waits for, -1 for none;
    held_by: the pedestrians that `yields` indexes, set for the ego only.
    """

    path: Curve
    length: float
    width: float
    start: float
    speed: float
    desired: float
    acceleration: float = 1.6
    centre: float = 0.0
    stops: tuple[tuple[float, str], ...] = ()
    times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    travelled: np.ndarray = field(default_factory=lambda: np.zeros(0))
    speeds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    forces: np.ndarray = field(default_factory=lambda: np.zeros(0))
    yields: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    held_by: tuple[Mover, ...] = ()

    @property
    def front(self) -> float:
        """Distance from the reference point to the front bumper, m."""
        return self.centre + 0.5 * self.length

    def motion(self, time: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return arc length and speed at `time`; the acceleration is constant between samples, as simulated."""
        time = np.clip(time, self.times[0], self.times[-1])
        i = np.clip(np.searchsorted(self.times, time, side="right") - 1, 0, len(self.times) - 2)
        d = time - self.times[i]
        speed = self.speeds[i] + self.forces[i] * d
        return self.travelled[i] + (self.speeds[i] + 0.5 * self.forces[i] * d) * d, speed

    def pose(self, time: float | np.ndarray) -> np.ndarray:
        """Return x, y, yaw float64 [..., 3] of the reference point at `time`."""
        return self.path.at(self.motion(time)[0])

    def rectangle(self, time: float | np.ndarray) -> np.ndarray:
        """Return the footprint at `time`: [..., 5] = centre x, centre y, yaw, length, width."""
        return rectangle(self.pose(time), self.length, self.width, self.centre)

    def rectangle_at(self, s: float | np.ndarray) -> np.ndarray:
        """Return the footprint [..., 5] at arc lengths s."""
        return rectangle(self.path.at(s), self.length, self.width, self.centre)


def rectangle(pose: np.ndarray, length: float, width: float, centre: float = 0.0) -> np.ndarray:
    """Return the footprint [..., 5] = centre x, centre y, yaw, length, width of an object at x, y, yaw [..., 3]."""
    pose = np.asarray(pose, np.float64)
    x = pose[..., 0] + centre * np.cos(pose[..., 2])
    y = pose[..., 1] + centre * np.sin(pose[..., 2])
    size = np.broadcast_to([length, width], (*x.shape, 2))
    return np.concatenate([x[..., None], y[..., None], pose[..., 2:], size], -1)


def overlap(a: np.ndarray, b: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Return whether rectangles [..., 5] and [..., 5] (broadcast) are closer than `margin` metres (separating axes)."""
    # Most pairs are far apart and need no angles: half the sum of both sides bounds the reach from the centre.
    reach = 0.5 * (a[..., 3] + a[..., 4] + b[..., 3] + b[..., 4]) + 1.5 * max(margin, 0.0) + 1e-6
    near = np.asarray(~((b[..., 0] - a[..., 0]) ** 2 + (b[..., 1] - a[..., 1]) ** 2 > reach**2))
    if near.any():
        one, two = np.broadcast_arrays(a, b)
        near[near] = _overlap(one[near], two[near], margin)
    return near


def _overlap(a: np.ndarray, b: np.ndarray, margin: float) -> np.ndarray:
    delta = b[..., :2] - a[..., :2]
    turn = b[..., 2] - a[..., 2]
    c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    apart = np.zeros(delta.shape[:-1], bool)
    for one, two in ((a, b), (b, a)):
        cos, sin = np.cos(one[..., 2]), np.sin(one[..., 2])
        along = np.abs(delta[..., 0] * cos + delta[..., 1] * sin)
        across = np.abs(delta[..., 1] * cos - delta[..., 0] * sin)
        half_l = 0.5 * (one[..., 3] + two[..., 3] * c + two[..., 4] * s)
        half_w = 0.5 * (one[..., 4] + two[..., 3] * s + two[..., 4] * c)
        apart |= (along > half_l + margin) | (across > half_w + margin)
    return ~apart


def _comfortable(mover: Mover, s: np.ndarray) -> np.ndarray:
    """Return the highest speed [N] m/s at arc lengths that keeps bends and the braking before them comfortable."""
    path = mover.path
    limit = np.minimum(mover.desired, np.sqrt(_LATERAL / np.maximum(np.abs(path.curvature), 1e-4)))
    # A plain list: element access of an array is ten times slower.
    speeds, gaps = limit.tolist(), np.diff(path.s).tolist()
    for i in range(len(speeds) - 2, -1, -1):
        speeds[i] = min(speeds[i], math.sqrt(speeds[i + 1] ** 2 + 2 * 1.3 * gaps[i]))
    return np.interp(s, path.s, np.array(speeds))


class Paths:
    """Paths of movers as one table sampled every 0.5 m, for one vectorised lookup.

    comfortable: function of a mover and arc lengths [N] that returns the highest comfortable speeds [N] m/s there.
    """

    CELL = 0.5

    def __init__(self, movers: Sequence[Mover], comfortable: Callable[[Mover, np.ndarray], np.ndarray]) -> None:
        longest = max((m.path.length for m in movers), default=0.0) + 2 * _SCAN
        s = np.arange(0.0, longest, self.CELL)
        rows = [np.concatenate([m.path.at(s), comfortable(m, s)[:, None]], -1) for m in movers]
        self._table = np.stack(rows) if rows else np.zeros((0, len(s), 4))

    def at(self, s: np.ndarray) -> np.ndarray:
        """Return x, y, yaw, comfortable speed [N, ..., 4] at arc lengths [N, ...]."""
        cell = np.clip(s / self.CELL, 0, self._table.shape[1] - 1.001)
        low = cell.astype(np.int64)
        share = (cell - low)[..., None]
        mover = np.arange(len(s)).reshape(-1, *[1] * (s.ndim - 1))
        return self._table[mover, low] * (1 - share) + self._table[mover, low + 1] * share


def walk(path: Curve, speed: float, start_time: float, start: float, end_time: float) -> Mover:
    """Create a pedestrian at constant speed who stands before start_time and at the path's end; times -2..end_time."""
    mover = Mover(path, 0.6, 0.6, start, speed, speed)
    mover.times = np.arange(-2.0, end_time + STEP, STEP)
    mover.travelled = np.clip(start + speed * (mover.times - start_time), min(start, path.length), path.length)
    steps = np.diff(mover.travelled, append=mover.travelled[-1]) / STEP
    mover.speeds, mover.forces = steps, np.zeros_like(steps)
    return mover


def simulate(
    movers: list[Mover], signals: Phases, end_time: float, start_time: float = -2.0, people: People | None = None
) -> None:
    """Simulate all vehicles from start_time to end_time (s) and store the motion in each mover.

    people: crossing pedestrians. If given, vehicles also yield to them, pass an amber light rather than brake hard,
    and limit their jerk.
    """
    count = len(movers)
    times = np.arange(start_time, end_time + STEP, STEP)
    s = np.array([m.start for m in movers])
    v = np.array([m.speed for m in movers])
    front = np.array([m.front for m in movers])
    centre = np.array([m.centre for m in movers])
    half = 0.5 * np.array([m.length for m in movers])
    rate = np.array([m.acceleration for m in movers])
    tracks = Paths(movers, _comfortable)
    reach = np.arange(2.0, _SCAN, _SCAN_STEP)
    everyone = np.arange(count)
    log = np.zeros((3, len(times), count))
    held_by = np.full((len(times), count), -1, np.int64)
    force = np.zeros(count)
    if people is not None:
        people.prepare(movers, times)
    for k, time in enumerate(times):
        middle = tracks.at(s + centre)
        wanted = tracks.at(s)[:, 3]
        ahead = tracks.at((s + centre)[:, None] + reach)
        # Each vehicle's path ahead against every other vehicle: the path point nearest to it gives the gap.
        flat = ahead[..., :2].reshape(-1, 2)
        squared = (flat**2).sum(-1)[:, None] + (middle[:, :2] ** 2).sum(-1) - 2.0 * flat @ middle[:, :2].T
        squared = squared.reshape(count, len(reach), count)
        squared[everyone, :, everyone] = np.inf
        first = squared.argmin(1)
        delta = middle[None, :, :2] - ahead[everyone[:, None], first, :2]
        yaw = ahead[everyone[:, None], first, 2]
        along = delta[..., 0] * np.cos(yaw) + delta[..., 1] * np.sin(yaw)
        gap = np.where(squared.min(1) < 1.7**2, reach[first] + along - half[:, None] - half, np.inf)
        leader = gap.argmin(1)
        gap = gap[everyone, leader]
        closing = v - v[leader] * np.cos(middle[leader, 2] - middle[:, 2])
        fixed = np.zeros(count, bool)
        for i, mover in enumerate(movers):
            for line, approach in mover.stops:
                room = line - s[i] - front[i]
                colour = signals.colour(approach, time)
                limit = _GENTLE if people is not None and colour == AMBER else _HARD_BRAKE
                stops = colour != GREEN and room > 0 and v[i] ** 2 < 2 * limit * room
                if stops and room + _GAP - 0.7 < gap[i]:
                    gap[i], closing[i], fixed[i] = room + _GAP - 0.7, v[i], True
        if people is not None:
            room, walker = people.step(k, s, v)
            waits = room + _GAP - 0.7 < gap
            gap, closing = np.where(waits, room + _GAP - 0.7, gap), np.where(waits, v, closing)
            fixed |= waits
            held_by[k] = np.where(waits, walker, -1)
        desired_gap = _GAP + np.maximum(0.0, v * _HEADWAY + v * closing / (2 * np.sqrt(rate * _BRAKE)))
        before = force
        force = rate * (1 - (v / np.maximum(wanted, 0.5)) ** 4 - (desired_gap / np.maximum(gap, 0.3)) ** 2)
        force = np.clip(force, -6.0, rate)
        if people is not None:
            force = _smooth(force, before, v, np.where(fixed, gap, np.nan))
        force = np.maximum(force, -v / STEP)
        log[:, k] = s, v, force
        s = s + v * STEP + 0.5 * force * STEP**2
        v = np.maximum(v + force * STEP, 0.0)
    for i, mover in enumerate(movers):
        mover.times = times
        mover.travelled, mover.speeds, mover.forces = log[:, :, i].copy()
        mover.yields = held_by[:, i].copy()


def _smooth(force: np.ndarray, before: np.ndarray, v: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Limit jerk and braking of the model's acceleration [N]; gap: m to a fixed obstacle, NaN without one.

    The model brakes harder than necessary for a fixed obstacle, to restore its time gap; a driver who approaches a
    stop line or a pedestrian spreads the braking evenly.
    """
    needed = 0.4 + 1.2 * v**2 / (2 * np.maximum(gap - _GAP + 0.2, 0.3))
    force = np.where(np.isnan(gap), force, np.maximum(force, -needed))
    down = np.where(force < -4.0, _JERK_ALARM, _JERK_DOWN)
    up = np.where(before < 0.0, _JERK_OFF, _JERK_UP)
    return np.clip(force, before - down * STEP, before + up * STEP)
