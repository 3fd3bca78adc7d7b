"""The expert, a privileged planner: IDM along several proposals of the route, ranked by EPDMS's sub-scores.

It follows PDM-Closed (Dauner et al., CoRL 2023, arXiv 2306.07962): it has the true map, signals and intended paths of
all actors, and can plan from any state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...world.agents.actors import EGO
from ...world.agents.traffic import AMBER, GREEN, RED, STEP, overlap, rectangle
from ...world.roads.curves import Curve
from ...world.sim.simulator import Simulator
from ..metrics.driving import pdm_score, tracker
from ..metrics.driving.pdm_score import SubScores, Version
from ..metrics.driving.traffic_scene import ObjectKind, RedLights, TrafficScene
from ..metrics.driving.vehicle import Vehicle
from .forecast import StaticObjects, expect, objects_of
from .road_map import WorldMap, inside_junction

ZOE = Vehicle.of(EGO)
"""The ego's dimensions in the form the scores use."""
HORIZON = 4.0
_LOOK = 7.0
"""Prediction horizon for other actors, s."""
_PROPOSALS = ((0.0, 1.0), (0.0, 0.5), (0.0, 0.0), (1.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (-1.0, 0.5))
"""Lateral offset from the route (m, left positive) and share of the free-road speed; the first is kept if it passes."""
_HEADWAY, _GAP, _RATE, _BRAKE, _LATERAL = 1.3, 2.2, 1.5, 1.8, 2.0
_HARD, _GENTLE = 5.0, 2.6
_CELL, _AHEAD = 0.5, 110.0
_STEER_OUT = 6.0
"""Metres kept, in addition to the usual gap, behind an obstacle that the ego intends to pass."""
_JERK = 5.0
_BESIDE = 1.5
"""Lateral displacement (m) above which a manoeuvre counts as a lane change."""
_STUCK = 0.5
"""m of progress in HORIZON, and m/s, below which another proposal is looked for that leads past what is ahead."""
_STANDING = 0.1
"""m; who moves less within the prediction is taken to stand."""
_CUT_IN, _ROOM = 25, 2.0
"""Steps for which a target lane must be free of predicted vehicles (later they can brake); margin at both ends, m."""


def state_vector(simulator: Simulator) -> np.ndarray:
    """Returns the ego's state [11] in the layout of metrics.driving."""
    state = simulator.state
    rate = state.yaw_rate
    return np.array(
        [state.x, state.y, state.yaw, state.speed, 0.0, state.acceleration, 0.0, state.steering, state.steering_rate,
         rate, 0.0]
    )  # fmt: skip


def history(simulator: Simulator) -> np.ndarray:
    """Returns the ego's states [4, 11] at -1.5, -1, -0.5 and 0 s."""
    out = np.zeros((4, 11))
    for row, age in enumerate((1.5, 1.0, 0.5, 0.0)):
        time = simulator.time - age
        out[row, :3] = simulator.ego.pose(time)
        out[row, 3] = simulator.ego.at(time)[1][0]
        before = simulator.ego.at(max(time - STEP, -1.9))[1][0]
        out[row, 5] = (out[row, 3] - before) / STEP
    out[3] = state_vector(simulator)
    return out


@dataclass(frozen=True)
class _Way:
    """Path of a proposal from arc length `start` (m) of the route: poses [S, 3] and free speed [S] every _CELL m."""

    start: float
    poses: np.ndarray
    free: np.ndarray

    @classmethod
    def along(
        cls, route: Curve, start: float, lateral: float, offset: float, desired: float, slope: float = 0.0
    ) -> _Way:
        """Creates the path that leads from `lateral` to `offset` m left of the route, with initial lateral `slope`."""
        s = np.arange(start - 6.0, start + _AHEAD, _CELL)
        base = route.at(s)
        # Cubic Hermite: a plan continues in the direction of the previous one; otherwise every replan (at 2 Hz) would
        # start the lane change anew.
        length = 8.0 + 4.0 * abs(offset - lateral)
        u = np.clip((s - start) / length, 0.0, 1.0)
        shift = lateral + (offset - lateral) * u * u * (3 - 2 * u) + slope * length * u * (1 - u) ** 2
        normal = np.stack([-np.sin(base[:, 2]), np.cos(base[:, 2])], -1)
        poses = base.copy()
        poses[:, :2] += shift[:, None] * normal
        if offset or abs(lateral) > 0.02 or abs(slope) > 0.01:
            step = np.gradient(poses[:, :2], axis=0)
            poses[:, 2] = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        bend = np.abs(np.gradient(np.unwrap(poses[:, 2]), _CELL))
        free = np.minimum(desired, np.sqrt(_LATERAL / np.maximum(bend, 1e-4)))
        for i in range(len(free) - 2, -1, -1):
            free[i] = min(free[i], float(np.sqrt(free[i + 1] ** 2 + 2 * 1.3 * _CELL)))
        return cls(start - 6.0, poses, free)

    def at(self, s: float) -> np.ndarray:
        place = np.clip((s - self.start) / _CELL, 0, len(self.poses) - 1.001)
        low = int(place)
        share = place - low
        return self.poses[low] * (1 - share) + self.poses[low + 1] * share


@dataclass(frozen=True)
class _Corridor:
    """Occupation of a _Way over time: near, far [N, T] arc lengths (m) that an object covers (NaN while off the way),
    pace [N, T] m/s along it, along bool [N, T] whether it moves along the way."""

    near: np.ndarray
    far: np.ndarray
    pace: np.ndarray
    along: np.ndarray

    @classmethod
    def of(cls, way: _Way, kinds: np.ndarray, plans: np.ndarray) -> _Corridor:
        points = way.poses[::2, :2]
        gap = ((plans[:, :, None, :2] - points) ** 2).sum(-1)
        nearest = gap.argmin(-1) * 2
        pose = way.poses[nearest]
        delta = plans[..., :2] - pose[..., :2]
        cos, sin = np.cos(pose[..., 2]), np.sin(pose[..., 2])
        along, across = delta[..., 0] * cos + delta[..., 1] * sin, delta[..., 1] * cos - delta[..., 0] * sin
        turn = plans[..., 2] - pose[..., 2]
        c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
        reach = 0.5 * (plans[..., 3] * c + plans[..., 4] * s)
        side = 0.5 * (plans[..., 3] * s + plans[..., 4] * c)
        soft = (kinds == ObjectKind.PEDESTRIAN) | (kinds == ObjectKind.BICYCLE)
        # Who stands at the kerb of a tight turn must not hold the vehicle for ever.
        moves = np.hypot(*(plans[..., :2] - plans[:, :1, :2]).transpose(2, 0, 1)).max(1) > _STANDING
        margin = np.where(soft & moves, 0.7, 0.35)[:, None]
        on = (np.abs(across) < 0.5 * EGO.width_m + side + margin) & (np.abs(along) < 2.0)
        middle = way.start + nearest * _CELL + along
        pace = np.gradient(middle, STEP, axis=1)
        with_it = np.cos(turn) > 0.6
        with_it &= kinds[:, None] != ObjectKind.PEDESTRIAN
        near = np.where(on, middle - reach, np.nan)
        return cls(near, np.where(on, middle + reach, np.nan), pace, with_it)


class Expert:
    """Privileged planner for a simulator's ego; `plan` does not modify the world."""

    def __init__(self, simulator: Simulator, world: WorldMap) -> None:
        self._simulator, self._world = simulator, world
        self._standing = StaticObjects.of(simulator)

    def scene(self, kinds: np.ndarray, plans: np.ndarray) -> TrafficScene:
        """Returns the scene for scoring, from actor tracks (every STEP, 41 steps or more) and nearby static objects."""
        simulator = self._simulator
        near = self._standing.near(simulator.state.x, simulator.state.y)
        return TrafficScene(
            self._world.road, objects_of(kinds, plans, near), self.red_lights(), history(simulator), ZOE
        )

    def history(self) -> np.ndarray:
        """Returns the ego's states [4, 11] at -1.5, -1, -0.5 and 0 s."""
        return history(self._simulator)

    def red_lights(self) -> RedLights:
        """Returns the route's connectors and their red phases over the next 4 s."""
        stops = self._simulator.mover.stops
        times = self._simulator.time + STEP * np.arange(41)
        on = [bool(stops) and self._simulator.scene.signals.colour(stops[0][1], float(t)) == RED for t in times]
        return RedLights(self._world.red, np.repeat(np.array(on)[:, None], len(self._world.red), 1))

    def blind(self) -> np.ndarray:
        """Returns poses [41, 3] along the route, ignoring all actors, obstacles and signals."""
        nobody = np.zeros(0, np.int64), np.zeros((0, round(_LOOK / STEP) + 1, 5))
        return self._propose(0.0, 1.0, *nobody, blind=True)

    def plan(self) -> np.ndarray:
        """Plans the next 4 s: poses [41, 3] in the map every 0.1 s, starting at the ego's pose."""
        simulator = self._simulator
        kinds, plans = expect(simulator, _LOOK)
        scene = self.scene(kinds, plans[:, :51])
        rows: list[tuple[SubScores, np.ndarray]] = []
        clear: list[bool] = []
        lateral, blocked = self._lateral(), self._blocked()
        beside = abs(lateral) > _BESIDE
        # After passing an obstacle, the ego may stay on the other lane while traffic passes on its own.
        around = [(offset, 0.7) for offset in self._parallel or ((lateral,) if beside else ()) if blocked or beside]
        room = _STEER_OUT if around and blocked else 0.0
        for tried, (offset, share) in enumerate([_PROPOSALS[0], *around, *_PROPOSALS[1:]]):
            poses = self._propose(offset, share, kinds, plans, room=0.0 if 0 < tried <= len(around) else room)
            drive = tracker.track(poses[None], state_vector(simulator)[None], ZOE)[0][0]
            rows.append((pdm_score.rate(drive, scene, Version.EPDMS), poses))
            clear.append(abs(offset - lateral) < _BESIDE or not self._cuts_in(offset, drive, kinds, plans))
            if tried == len(around):
                # Steering out from behind an obstacle first heads towards it: a late TTC failure is allowed there.
                fine = [(row.TTC == 1.0 or (k and row.first_ttc_step >= 8)) for k, (row, _) in enumerate(rows)]
                good = [
                    (row.progress, poses)
                    for ok, (row, poses) in zip(np.logical_and(fine, clear), rows, strict=True)
                    if ok and row.multiplier == 1.0
                ]
                if good and (blocked or good[0][0] >= _STUCK):  # the own lane unless another leads past the obstacle
                    return good[0][1] if not blocked else max(good, key=lambda found: found[0])[1]
        best: tuple[float, np.ndarray] | None = None
        compared = pdm_score.compare_progress([r for r, _ in rows])
        for free, row, (_, poses) in zip(clear, compared, rows, strict=True):
            # Ties go to the first: centred and fast. An earlier failure is worse.
            early = [t for t in (row.first_at_fault_step, row.first_ttc_step) if t >= 0]
            value = row.score + 1e-3 * min(early, default=50) + 0.05 * row.TTC - 1.0 * (not free)
            if best is None or value > best[0] + 1e-9:
                best = value, poses
        assert best is not None
        # Standing still breaks no rule; if only comfort or a line is in the way, it must not last.
        safe = [
            (row.progress, poses)
            for free, (row, poses) in zip(clear, rows, strict=True)
            if free and min(row.NC, row.DAC, row.TLC, row.TTC) == 1.0 and row.progress >= _STUCK
        ]
        stands = simulator.state.speed < _STUCK and float(np.hypot(*(best[1][-1, :2] - best[1][0, :2]))) < _STUCK
        return max(safe, key=lambda found: found[0])[1] if stands and safe else best[1]

    def _cuts_in(self, offset: float, drive: np.ndarray, kinds: np.ndarray, plans: np.ndarray) -> bool:
        """Whether any vehicle of tracks [N, T, 5] is or soon comes beside a drive [41, 11] on the lane it changes to.

        The scores cannot rule this out: an ego hit from behind, or from the side within a lane, is not at fault.
        """
        simulator = self._simulator
        vehicles = plans[(kinds == ObjectKind.VEHICLE) | (kinds == ObjectKind.BICYCLE)]
        travelled = np.append(0.0, np.cumsum(np.hypot(*np.diff(drive[:, :2], axis=0).T)))
        there = simulator.route.at(simulator.along + travelled).copy()
        there[:, :2] += offset * np.stack([-np.sin(there[:, 2]), np.cos(there[:, 2])], -1)
        bodies = rectangle(there, EGO.length_m + 2 * _ROOM, EGO.width_m, EGO.centre_m)
        return any(bool(overlap(vehicles[:, t], bodies[t]).any()) for t in range(0, _CUT_IN, 2))

    def _blocked(self) -> bool:
        """Whether a static object blocks the ego's own lane, from 4 m behind its rear to 45 m ahead of its front."""
        state = self._simulator.state
        still = self._standing.near(state.x, state.y)
        way = _Way.along(self._simulator.route, self._simulator.along, 0.0, 0.0, 10.0)
        fixed = _Corridor.of(way, still.kind, np.repeat(still.rectangles[:, None], 2, 1))
        front = self._simulator.along + ZOE.ahead
        ahead = fixed.near[:, 0][fixed.far[:, 0] > front - ZOE.length - 4.0] - front
        return bool((ahead < 45.0).any())

    @property
    def _parallel(self) -> tuple[float, ...]:
        """Offsets (m, left positive) of the other lanes of the ego's direction; () off a multi-lane street."""
        streets = self._world.streets
        pose = self._simulator.route.at(self._simulator.along)
        if len(streets.main.lanes) < 2 or inside_junction(streets, pose[:2]):
            return ()
        own = abs(streets.main.at(float(pose[0]), float(pose[1]))[1])
        if min(abs(own - lane) for lane in streets.main.lanes) > 0.5:
            return ()
        # Traffic keeps right: a lane nearer the middle of the street is on the left.
        return tuple(own - lane for lane in streets.main.lanes if abs(own - lane) > 1.0)

    def _propose(
        self,
        offset: float,
        share: float,
        kinds: np.ndarray,
        plans: np.ndarray,
        blind: bool = False,
        room: float = 0.0,
    ) -> np.ndarray:
        """Simulates IDM along the route at an offset with a share of the free-road speed (0 brakes to a stop); [41, 3].

        room: additional gap (m) to static objects on the way.
        """
        simulator = self._simulator
        mover, state = simulator.mover, simulator.state
        turn = state.yaw - float(simulator.route.at(simulator.along)[2])
        slope = float(np.clip(np.tan(np.arctan2(np.sin(turn), np.cos(turn))), -0.5, 0.5))
        desired = max(share * mover.desired, 0.3)
        way = _Way.along(simulator.route, simulator.along, self._lateral(), offset, desired, slope)
        corridor = _Corridor.of(way, kinds, plans)
        still = self._standing.near(state.x, state.y)
        fixed = _Corridor.of(way, still.kind, np.repeat(still.rectangles[:, None], 2, 1))
        s, v, a = simulator.along, state.speed, state.acceleration
        out = [state.pose]
        for t in range(round(HORIZON / STEP)):
            gap, pace = np.inf, 0.0
            if not blind:
                gap, pace = self._leader(corridor, fixed, s, v, t, room)
                gap, pace = self._signal(gap, pace, s, v, simulator.time + t * STEP)
            free = float(way.free[int(np.clip((s - way.start) / _CELL, 0, len(way.free) - 1))])
            wanted = _GAP + max(0.0, v * _HEADWAY + v * (v - pace) / (2 * np.sqrt(_RATE * _BRAKE)))
            force = _RATE * (1 - (v / free) ** 4 - (wanted / max(gap, 0.3)) ** 2)
            force = float(np.clip(force, -7.0, _RATE)) if share else min(-2.5, max(force, -7.0))
            down = 4 * _JERK if force < -3.5 else 1.4 * _JERK
            a = float(np.clip(force, a - down * STEP, a + _JERK * STEP))
            a = max(a, -v / STEP)
            s += v * STEP + 0.5 * a * STEP**2
            v = max(v + a * STEP, 0.0)
            pose = way.at(s)
            out.append(pose)
        return np.stack(out)

    def _lateral(self) -> float:
        """Returns the ego's lateral offset from its route, m, left positive."""
        simulator = self._simulator
        here = simulator.route.at(simulator.along)
        dx, dy = simulator.state.pose[:2] - here[:2]
        return float(dy * np.cos(here[2]) - dx * np.sin(here[2]))

    @staticmethod
    def _leader(corridor: _Corridor, fixed: _Corridor, s: float, v: float, t: int, room: float) -> tuple[float, float]:
        """Returns the gap (m) from the front bumper to the next object on the way, and its speed (m/s) along it."""
        front, rear = s + ZOE.ahead, s - ZOE.behind
        gap, pace = np.inf, 0.0
        for i in np.flatnonzero(~np.isnan(fixed.near[:, 0])):
            if fixed.far[i, 0] > front and fixed.near[i, 0] - front - room < gap:
                gap, pace = float(fixed.near[i, 0] - front) - room, 0.0
        for i in range(len(corridor.near)):
            on = ~np.isnan(corridor.near[i])
            if not on[t:].any():
                continue
            if on[t] and corridor.along[i, t]:
                if corridor.far[i, t] > front and corridor.near[i, t] - front < gap:
                    gap, pace = float(corridor.near[i, t] - front), max(float(corridor.pace[i, t]), 0.0)
                continue
            # Crossing actor: the part of the way it covers is closed until it has left, unless the ego has passed
            # before it arrives.
            steps = t + np.flatnonzero(on[t:] & ~corridor.along[i, t:])
            if not len(steps):
                continue
            near, far = float(np.nanmin(corridor.near[i, steps])), float(np.nanmax(corridor.far[i, steps]))
            if far < rear or front > near + 1.5:
                if not (on[t] and corridor.near[i, t] > front - 0.5):
                    continue
                near = float(corridor.near[i, t])
            until = (steps[0] - t) * STEP
            passing = (far + ZOE.length - (s - ZOE.behind)) / max(v, 2.5)
            if until > 0 and passing + 1.2 < until:
                continue
            if near - front < gap:
                gap, pace = near - front - 0.8, 0.0
        return gap, pace

    def _signal(self, gap: float, pace: float, s: float, v: float, time: float) -> tuple[float, float]:
        """Returns gap and speed, replaced by a nearer stop line whose light is not green if the ego can still stop."""
        for line, approach in self._simulator.mover.stops:
            room = line - s - ZOE.ahead
            colour = self._simulator.scene.signals.colour(approach, time)
            limit = _GENTLE if colour == AMBER else _HARD
            if colour != GREEN and room > -0.2 and v**2 < 2 * limit * max(room, 0.0) + 0.3 and room + _GAP - 0.7 < gap:
                gap, pace = room + _GAP - 0.7, 0.0
        return gap, pace
