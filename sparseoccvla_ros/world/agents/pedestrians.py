"""Pedestrians who cross the road, and the right of way between them and vehicles.

A pedestrian walks up to the kerb, waits there until the signal (if any) and the traffic allow it, crosses at constant
speed and walks on. Vehicles whose path leads over the crossing wait for every pedestrian on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..roads.curves import Curve
from .traffic import STEP, Mover

BODY = 0.3
"""Radius of a pedestrian, m."""
ROOM = 0.6
"""Lateral clearance of vehicles to a pedestrian, m."""
_CELL = 0.5
_EXPECTED = 2.2
"""Braking in m/s^2 that a pedestrian expects of a driver before stepping onto the road."""
_REACTION = 0.9
"""Reaction time in s that a pedestrian expects of a driver."""


@dataclass(eq=False)
class Crossing:
    """One pedestrian crossing the road.

    mover: path over the sidewalk, straight across the road and on, with the walking speed as `desired`; kerb, beyond:
    arc lengths of the near and far kerb on it; wish: earliest time at the kerb, s; windows: intervals in s during
    which the signal permits starting to cross, None without a signal.
    """

    mover: Mover
    kerb: float
    beyond: float
    wish: float
    windows: tuple[tuple[float, float], ...] | None = None

    @property
    def ends(self) -> np.ndarray:
        """Both ends of the crossing, float64 [2, 2] m."""
        return self.mover.path.at(np.array([self.kerb, self.beyond]))[:, :2]


def crossing(
    points: np.ndarray, speed: float, wish: float, windows: tuple[tuple[float, float], ...] | None = None
) -> Crossing:
    """Create a pedestrian who walks at `speed` m/s along points [4, 2] m: sidewalk, near kerb, far kerb, sidewalk."""
    pieces, lengths = [], []
    for a, b in pairwise(points):
        length = float(np.linalg.norm(b - a))
        share = np.linspace(0.0, 1.0, max(int(length / 0.2), 1) + 1)[:, None]
        yaw = np.full(len(share), np.arctan2(*(b - a)[::-1]))
        pieces.append((a + share * (b - a), yaw))
        lengths.append(length)
    # Each piece omits its last point, which makes the heading change within one step at corners.
    path = Curve(
        np.concatenate([*(p[:-1] for p, _ in pieces), pieces[-1][0][-1:]]),
        np.concatenate([*(y[:-1] for _, y in pieces), pieces[-1][1][-1:]]),
    )
    mover = Mover(path, 2 * BODY, 2 * BODY, max(0.0, lengths[0] - speed * max(wish + 2.0, 0.0)), 0.0, speed)
    return Crossing(mover, lengths[0], lengths[0] + lengths[1], wish, windows)


class People:
    """All crossing pedestrians, for traffic.simulate; afterwards each mover holds its motion.

    positions: arc length [P] m of each pedestrian on its own path.
    """

    def __init__(self, crossings: Sequence[Crossing]) -> None:
        self.crossings = tuple(crossings)

    def prepare(self, movers: list[Mover], times: np.ndarray) -> None:
        """Compute per vehicle and pedestrian the arc lengths at which each is in the other's path; before any step."""
        self._times = times
        self.positions = np.array([c.mover.start for c in self.crossings])
        self._speed = np.array([c.mover.desired for c in self.crossings])
        self._kerb = np.array([c.kerb for c in self.crossings])
        self._log = np.zeros((len(times), len(self.crossings)))
        self._front = np.array([m.front for m in movers])
        self._rear = np.array([m.centre - 0.5 * m.length for m in movers])
        shape = (len(movers), len(self.crossings))
        self._first, self._last = np.full(shape, np.inf), np.full(shape, np.inf)
        self._enter, self._leave = np.full(shape, np.inf), np.full(shape, -np.inf)
        for i, mover in enumerate(movers):
            s = np.arange(0.0, mover.path.length, _CELL)
            points = mover.path.at(s)[:, :2]
            beside = 0.5 * mover.width + BODY + ROOM
            for p, one in enumerate(self.crossings):
                a, b = one.ends
                length = one.beyond - one.kerb
                along = np.clip((points - a) @ (b - a) / length**2, 0.0, 1.0)
                near = np.linalg.norm(points - a - along[:, None] * (b - a), axis=1) < beside
                hits = np.flatnonzero(near & (s > mover.start - 5.0))
                if not len(hits):
                    continue
                # Only the first pass counts: no path of this world leads over a crossing twice.
                hits = hits[: int(np.flatnonzero(np.diff(hits, append=hits[-1] + 9) > 1)[0]) + 1]
                self._first[i, p], self._last[i, p] = s[hits[0]], s[hits[-1]]
                met = one.kerb + along[hits] * length
                self._enter[i, p], self._leave[i, p] = met.min() - beside, met.max() + beside

    def step(
        self, k: int, s: np.ndarray, v: np.ndarray, held: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Move the pedestrians at times[k], given arc lengths and speeds [N] of the vehicles.

        Returns the distance [N] m from each bumper to where it has to wait (inf: no need) and the pedestrian's index
        int [N] (-1: none). held: bool [P], pedestrians who stand still in this step.
        """
        if not self.crossings:
            return np.full(len(s), np.inf), np.full(len(s), -1)
        room = self._first - (s + self._front)[:, None]
        left = (s + self._rear)[:, None] > self._last
        time = float(self._times[k])
        at_kerb = self.positions >= self._kerb - 1e-6
        crossing = at_kerb & (self.positions > self._kerb + 1e-6)
        speed = np.broadcast_to(v[:, None], room.shape)
        stops = room > speed**2 / (2 * _EXPECTED) + _REACTION * speed + 1.5
        stands = (speed < 0.3) & (room > 0.4)
        until = (self._enter - self.positions) / self._speed
        passing = (self._last + 0.5 - (s + self._rear)[:, None]) / np.maximum(speed, 2.0)
        # A fast enough vehicle has passed before the pedestrian gets that far.
        passes = (passing + 2.5 < until) & (speed > 4.0)
        clear = (left | stops | stands | passes | ~np.isfinite(self._first)).all(0)
        moved = self.positions + self._speed * STEP
        for p, one in enumerate(self.crossings):
            if crossing[p]:
                continue
            if not at_kerb[p]:
                # Walk to the kerb to arrive there at `wish`, and no further.
                starts = one.wish - (self._kerb[p] - self.positions[p]) / self._speed[p] <= time
                moved[p] = min(moved[p], self._kerb[p]) if starts else self.positions[p]
            elif clear[p] and time >= one.wish and (one.windows is None or any(a <= time < b for a, b in one.windows)):
                crossing[p] = True
            else:
                moved[p] = self.positions[p]
        over = self.positions > self._leave
        waits = crossing & ~over & (room > -0.3) & (passing + 1.5 > until)
        gap = np.where(waits, room - 0.5, np.inf)
        self._log[k] = self.positions
        ends = np.array([c.mover.path.length for c in self.crossings])
        moved = np.minimum(moved, ends)
        self.positions = moved if held is None else np.where(held, self.positions, moved)
        if k == len(self._times) - 1:
            self._finish()
        return gap.min(1), np.where(waits.any(1), gap.argmin(1), -1)

    def _finish(self) -> None:
        for p, one in enumerate(self.crossings):
            mover = one.mover
            mover.times, mover.travelled = self._times, self._log[:, p].copy()
            mover.speeds = np.diff(mover.travelled, append=mover.travelled[-1]) / STEP
            mover.forces = np.zeros_like(mover.speeds)
