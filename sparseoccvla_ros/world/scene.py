"""A driving scene from a seed: streets, things, traffic, the ego's drive and its route.

Frames: map (planar, the ground is z = 0, the junction is its origin) and base_link (rear axle on the ground). Times
are seconds from the start of the drive; positions metres; angles radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core import geometry
from ..core.errors import InvalidInput
from ..core.types import Command
from . import generator
from .agents.actors import EGO, LEAD_SECONDS, TAIL_SECONDS, Moving, without_collisions
from .agents.pedestrians import Crossing
from .agents.traffic import AMBER, GREEN, RED, Lights, Mover, Signals, overlap, simulate, walk
from .roads.curves import Curve, join, turn
from .roads.static_scene import REACH, Furnishing, Layout, Placed
from .roads.streets import SIDEWALK, STOP_LINE, Streets
from .scenario import MANEUVERS, VARIED
from .shapes import objects, vehicles
from .shapes.objects import SIGNAL_LAMPS, Shape
from .shapes.solids import Kind, Material, Part, Primitives, linear

COMMAND_SECONDS = 3.0
COMMAND_OFFSET = 2.0
COMMAND_SPEED = 5.0
LONGEST = 30.0
"""Seconds after which the ego may leave the built-up part of the world."""
_EGO_OWNER = -2
_LAMP_ON = {RED: (1.0, 0.10, 0.06), AMBER: (1.0, 0.62, 0.08), GREEN: (0.10, 1.0, 0.55)}


class EgoMotion:
    """The ego's drive: pose and velocity at any time from 2 s before the start to 6 s after the end."""

    def __init__(self, mover: Mover, duration: float) -> None:
        self.mover = mover
        self.duration = duration

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """(ego2map float64 [4, 4], twist float64 [6] = vx vy vz m/s, wx wy wz rad/s in base_link)."""
        if not -LEAD_SECONDS <= time <= self.duration + TAIL_SECONDS:
            raise InvalidInput("time", f"{time} s is outside the drive")
        s, speed = (float(v) for v in self.mover.motion(time))
        x, y, yaw = (float(v) for v in self.mover.path.at(s))
        twist = np.zeros(6)
        twist[0] = speed
        twist[5] = speed * float(self.mover.path.curvature_at(s))
        return geometry.planar(x, y, yaw), twist

    def command(self, time: float) -> Command:
        """What the route asks for next: its lateral offset COMMAND_SECONDS ahead, left or right from 2 m on.

        Looking ahead uses the present speed but at least COMMAND_SPEED, so that a car that waits at a red light still
        knows that it will turn.
        """
        s, speed = (float(v) for v in self.mover.motion(time))
        here = self.mover.path.at(s)
        there = self.mover.path.at(s + max(speed, COMMAND_SPEED) * COMMAND_SECONDS)
        dx, dy = there[:2] - here[:2]
        offset = dy * np.cos(here[2]) - dx * np.sin(here[2])
        if offset >= COMMAND_OFFSET:
            return Command.LEFT
        return Command.RIGHT if offset <= -COMMAND_OFFSET else Command.STRAIGHT


@dataclass(frozen=True)
class State:
    """The world at one time: every primitive in the map frame, and the ego's own body, which only casts a shadow."""

    time: float
    fixed: Primitives
    moving: Primitives
    ego: Primitives


class Scene:
    """One world and what happens in it; make it with `Scene.generate`."""

    def __init__(
        self,
        seed: int,
        streets: Streets,
        standing: Sequence[Placed],
        moving: Sequence[Moving],
        ego: EgoMotion,
        signals: Lights,
        maneuver: str,
        crossings: Sequence[Crossing] = (),
    ) -> None:
        self.seed, self.streets, self.ego, self.signals, self.maneuver = seed, streets, ego, signals, maneuver
        self.standing, self.moving, self.crossings = tuple(standing), tuple(moving), tuple(crossings)
        rng = np.random.default_rng([seed, 7])
        tables = [Primitives.of(p.shape.parts, i, float(rng.random())) for i, p in enumerate(self.standing)]
        poses = np.concatenate([np.tile(p.pose, (len(p.shape.parts), 1)) for p in self.standing])
        self.fixed = Primitives.concatenate(tables).posed(poses)
        first = len(self.standing)
        tables = [Primitives.of(m.shape.parts, first + i, float(rng.random())) for i, m in enumerate(self.moving)]
        self._moving = Primitives.concatenate(tables)
        self._ego = Primitives.of(_ego_body(), _EGO_OWNER, 0.0)
        self._lamps = [
            (int(np.flatnonzero(self.fixed.owner == i)[0]), _approach(p.pose[2]))
            for i, p in enumerate(self.standing)
            if p.shape.name == "signal"
        ]

    @property
    def duration(self) -> float:
        """Seconds of the drive."""
        return self.ego.duration

    @classmethod
    def generate(cls, seed: int, seconds: float = 20.0, maneuver: str | None = None) -> Scene:
        """The world of a seed; maneuver: left, straight or right, by the seed where None.

        Raises InvalidInput for a negative seed, a duration outside 1..LONGEST seconds or an unknown maneuver.
        """
        if seed < 0:
            raise InvalidInput("seed", f"{seed} is negative")
        if not 1.0 <= seconds <= LONGEST:
            raise InvalidInput("seconds", f"{seconds} is not within 1..{LONGEST:.0f}, then the built-up streets end")
        if maneuver not in (None, *MANEUVERS):
            raise InvalidInput("maneuver", f"{maneuver!r} is none of {MANEUVERS}")
        if seed >= VARIED:
            world = generator.generate(seed, maneuver, seconds)
            plan, drive = world.plan, EgoMotion(world.ego, seconds)
            return cls(
                seed, plan.streets, world.standing, world.moving, drive, world.lights, plan.maneuver, world.crossings
            )
        rng = np.random.default_rng(seed)
        drawn = str(rng.choice(MANEUVERS, p=[0.4, 0.25, 0.35]))
        maneuver = maneuver or drawn
        streets = Streets.generate(rng)
        standing = Layout(streets, rng, Furnishing((float(rng.uniform(-62, -52)), 1.0))).build()
        held = frozenset({"main_west"}) if maneuver == "left" else frozenset()
        signals = Signals(change=float(rng.uniform(4.5, 6.5)), held=held)
        ego = _ego(streets, maneuver, rng)
        driven = _vehicles(streets, ego, rng)
        simulate([ego, *(m.mover for m in driven)], signals, seconds + TAIL_SECONDS + 1.0, -LEAD_SECONDS)
        walkers = _walkers(streets, signals, rng, seconds + TAIL_SECONDS + 1.0)
        moving = without_collisions(ego, driven + walkers, standing, seconds)
        return cls(seed, streets, standing, moving, EgoMotion(ego, seconds), signals, maneuver)

    def at(self, time: float) -> State:
        """The world at a time of the drive (s)."""
        poses = np.stack([m.mover.pose(time) for m in self.moving])
        rows = self._moving.owner - len(self.standing)
        moving = self._moving.posed(poses[rows])
        s = self.ego.mover.pose(time)
        ego = self._ego.posed(np.tile(s, (len(self._ego), 1)))
        colour = self.fixed.colour.copy()
        for first, approach in self._lamps:
            shown = self.signals.colour(approach, time)
            for name, lamps in zip((RED, AMBER, GREEN), SIGNAL_LAMPS, strict=True):
                if name == shown:
                    colour[[first + k for k in lamps]] = 2.0 * linear(np.array(_LAMP_ON[name], np.float32))
        fixed = Primitives(**{**self.fixed.__dict__, "colour": colour})
        return State(time, fixed, moving, ego)


def _approach(yaw: float) -> str:
    """Whom a signal is for, by the direction in which they drive."""
    if abs(np.sin(yaw)) > 0.5:
        return "cross"
    return "main_east" if np.cos(yaw) > 0 else "main_west"


def _ego_body() -> list[Part]:
    return [
        Part(Kind.BOX, (EGO.centre_m, 0, 0.6), (2.0, 0.85, 0.4), (0.5, 0.5, 0.5), Material.PAINT),
        Part(Kind.BOX, (EGO.centre_m - 0.2, 0, 1.25), (1.2, 0.7, 0.28), (0.5, 0.5, 0.5), Material.PAINT),
    ]


def _ego(streets: Streets, maneuver: str, rng: np.random.Generator) -> Mover:
    main, cross = streets.main, streets.cross
    stop = -(cross.half_width + STOP_LINE[1])
    lane = main.lanes[-1] if maneuver == "right" else main.lanes[0]
    start = stop - float(rng.uniform(46, 58))
    if maneuver == "straight":
        path = main.lane(-lane, start - 60, 320.0, step=0.1)
    else:
        side = 1.0 if maneuver == "left" else -1.0
        begin = main.pose(-10.5 if maneuver == "left" else -12.5, -lane)
        exit_along = side * (main.half_width + (2.8 if maneuver == "left" else 7.5))
        away = cross.lane(-side * cross.lanes[0], exit_along, side * 320.0, step=0.1)
        path = join([main.lane(-lane, start - 60, float(begin[0]), 0.1), turn(begin, away.at(0.0)), away])
    begin_s, _ = path.nearest(start, -lane)
    line, _ = path.nearest(stop, -lane)
    desired = float(rng.uniform(9.5, 11.5))
    return Mover(
        path, EGO.length_m, EGO.width_m, begin_s, float(rng.uniform(5.5, 7.5)), desired, 1.5, EGO.centre_m,
        ((line, "main_east"),),
    )  # fmt: skip


def _vehicles(streets: Streets, ego: Mover, rng: np.random.Generator) -> list[Moving]:
    """Cars, trucks, buses and cyclists on the lanes, none of them close to the ego or on the junction."""
    main, cross = streets.main, streets.cross
    lanes: list[tuple[Curve, float, str, float]] = []
    for k, offset in enumerate(main.lanes):
        lanes.append((main.lane(-offset, -REACH, REACH + 150), REACH - cross.half_width, "main_east", 1.0))
        if k == 0:  # the outer westbound lane is closed by the building site
            lanes.append((main.lane(offset, REACH, -REACH - 150), REACH - cross.half_width, "main_west", 1.0))
    for side in (-1.0, 1.0):
        path = cross.lane(-side * cross.lanes[0], -side * REACH, side * (REACH + 150))
        lanes.append((path, REACH - main.half_width, "cross", 0.85))
        path = main.lane(-side * 7.15, -side * REACH, side * (REACH + 100))
        lanes.append((path, REACH - cross.half_width, "main_east" if side > 0 else "main_west", 0.0))
    out = []
    occupied = ego.rectangle_at(ego.start)[None]
    for path, junction, approach, pace in lanes:
        along = float(rng.uniform(4, 25))
        line = junction - STOP_LINE[1]
        while along < 2 * REACH - 10:
            shape = objects.bicycle(rng, rider=True) if pace == 0 else _vehicle(rng)
            speed = float(rng.uniform(3.8, 5.0)) if pace == 0 else float(rng.uniform(8.5, 11.5)) * pace
            mover = Mover(
                path, shape.length, shape.width, along, 0.6 * speed, speed, float(rng.uniform(1.2, 1.9)),
                stops=((line, approach),),
            )  # fmt: skip
            plan = mover.rectangle_at(along)
            on_junction = junction - 18 < along < junction + 18
            longer = plan.copy()
            longer[3] += 12.0
            if not on_junction and not overlap(occupied, longer, 0.5).any():
                out.append(Moving(shape, mover))
                occupied = np.concatenate([occupied, plan[None]])
            along += float(rng.uniform(16, 48)) if pace else float(rng.uniform(50, 120))
    return out


def _vehicle(rng: np.random.Generator) -> Shape:
    draw = rng.random()
    if draw < 0.80:
        return vehicles.car(rng)
    return vehicles.truck(rng) if draw < 0.92 else vehicles.bus(rng)


def _walkers(streets: Streets, signals: Signals, rng: np.random.Generator, end: float) -> list[Moving]:
    """People along the sidewalks, some who stand, some who cross in front of the waiting ego."""
    out = []
    main, cross = streets.main, streets.cross
    for street, other, count in ((main, cross, 11), (cross, main, 8)):
        for side in (-1.0, 1.0):
            for _ in range(count):
                begin = float(rng.uniform(-80, 80))
                beyond = side * (street.half_width + float(rng.uniform(1.2, 0.65 * SIDEWALK)))
                forward = 1.0 if rng.random() < 0.5 else -1.0
                goal = begin + forward * 60.0
                corner = other.half_width + 0.5 * SIDEWALK
                if abs(begin) < corner + 2:
                    continue
                if np.sign(begin) != np.sign(goal):  # stop at the corner, do not run across
                    goal = float(np.sign(begin)) * corner
                path = street.lane(beyond, begin, goal)
                speed = 0.0 if rng.random() < 0.2 else float(rng.uniform(1.0, 1.6))
                out.append(Moving(objects.pedestrian(rng), walk(path, speed, 0.0, 0.0, end)))
    for _ in range(5):
        speed = float(rng.uniform(1.15, 1.5))
        side = 1.0 if rng.random() < 0.5 else -1.0
        x = -(cross.half_width + float(rng.uniform(1.4, 3.6)))
        reach = main.half_width + 1.6
        y = np.linspace(-side * reach, side * reach, 80)
        path = Curve(np.stack([np.full_like(y, x), y], -1), np.full(80, side * np.pi / 2))
        leave = signals.change - 0.8 - path.length / speed - float(rng.uniform(0, 4.0))
        out.append(Moving(objects.pedestrian(rng), walk(path, speed, leave, 0.0, end)))
    return out
