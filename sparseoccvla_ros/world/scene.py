"""A driving scene generated from a seed: streets, objects, traffic, the ego's drive and its route.

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
from .agents.actors import EGO, LEAD_SECONDS, TAIL_SECONDS, Moving
from .agents.pedestrians import Crossing
from .agents.traffic import AMBER, GREEN, RED, Mover, Phases
from .roads.static_scene import Placed
from .roads.streets import Streets
from .scenario import MANEUVERS
from .shapes.objects import SIGNAL_LAMPS
from .shapes.solids import Kind, Material, Part, Primitives, linear

COMMAND_SECONDS = 3.0
COMMAND_SPEED = 5.0
LONGEST = 30.0
"""Longest drive in s; later the ego may leave the built-up part of the world."""
_EGO_OWNER = -2
_LAMP_ON = {RED: (1.0, 0.10, 0.06), AMBER: (1.0, 0.62, 0.08), GREEN: (0.10, 1.0, 0.55)}


class EgoMotion:
    """The ego's drive: pose and velocity at any time from 2 s before the start to 6 s after the end."""

    def __init__(self, mover: Mover, duration: float) -> None:
        self.mover = mover
        self.duration = duration

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ego2map float64 [4, 4] and twist float64 [6] = vx vy vz m/s, wx wy wz rad/s in base_link."""
        if not -LEAD_SECONDS <= time <= self.duration + TAIL_SECONDS:
            raise InvalidInput("time", f"{time} s is outside the drive")
        s, speed = (float(v) for v in self.mover.motion(time))
        x, y, yaw = (float(v) for v in self.mover.path.at(s))
        twist = np.zeros(6)
        twist[0] = speed
        twist[5] = speed * float(self.mover.path.curvature_at(s))
        return geometry.planar(x, y, yaw), twist

    def command(self, time: float) -> Command:
        """Return the route's next command: left or right if its lateral offset COMMAND_SECONDS ahead is at least 2 m.

        The look-ahead uses the current speed but at least COMMAND_SPEED, because a car waiting at a red light still
        needs its turn command.
        """
        s, speed = (float(v) for v in self.mover.motion(time))
        here = self.mover.path.at(s)
        there = self.mover.path.at(s + max(speed, COMMAND_SPEED) * COMMAND_SECONDS)
        dx, dy = there[:2] - here[:2]
        return Command.of_offset(dy * np.cos(here[2]) - dx * np.sin(here[2]))


@dataclass(frozen=True)
class State:
    """The world at one time: every primitive in the map frame, and the ego's own body, which only casts a shadow."""

    time: float
    fixed: Primitives
    moving: Primitives
    ego: Primitives


class Scene:
    """One world with its traffic over time; created by `Scene.generate`.

    signal_rows: of each signal, its first row in `fixed`, to which SIGNAL_LAMPS add, and its pose (x, y, yaw).
    """

    def __init__(
        self,
        seed: int,
        streets: Streets,
        standing: Sequence[Placed],
        moving: Sequence[Moving],
        ego: EgoMotion,
        signals: Phases,
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
        self.signal_rows = [
            (int(np.flatnonzero(self.fixed.owner == i)[0]), p.pose)
            for i, p in enumerate(self.standing)
            if p.shape.name == "signal"
        ]

    @property
    def duration(self) -> float:
        """Duration of the drive, s."""
        return self.ego.duration

    @classmethod
    def generate(cls, seed: int, seconds: float = 20.0, maneuver: str | None = None) -> Scene:
        """Generate the world of a seed; maneuver: left, straight or right, drawn from the seed if None.

        Raises InvalidInput for a negative seed, a duration outside 1..LONGEST seconds or an unknown maneuver.
        """
        if seed < 0:
            raise InvalidInput("seed", f"{seed} is negative")
        if not 1.0 <= seconds <= LONGEST:
            raise InvalidInput("seconds", f"{seconds} is not within 1..{LONGEST:.0f}, then the built-up streets end")
        if maneuver not in (None, *MANEUVERS):
            raise InvalidInput("maneuver", f"{maneuver!r} is not one of {MANEUVERS}")
        plan, standing, moving, ego, lights, crossings = generator.generate(seed, maneuver, seconds)
        return cls(seed, plan.streets, standing, moving, EgoMotion(ego, seconds), lights, plan.maneuver, crossings)

    def at(self, time: float) -> State:
        """Return the world at `time` s of the drive."""
        poses = np.stack([m.mover.pose(time) for m in self.moving])
        rows = self._moving.owner - len(self.standing)
        moving = self._moving.posed(poses[rows])
        s = self.ego.mover.pose(time)
        ego = self._ego.posed(np.tile(s, (len(self._ego), 1)))
        colour = self.fixed.colour.copy()
        for first, pose in self.signal_rows:
            shown = self.signals.colour(approach_of(pose[2]), time)
            for name, lamps in zip((RED, AMBER, GREEN), SIGNAL_LAMPS, strict=True):
                if name == shown:
                    colour[[first + k for k in lamps]] = 2.0 * linear(np.array(_LAMP_ON[name], np.float32))
        fixed = Primitives(**{**self.fixed.__dict__, "colour": colour})
        return State(time, fixed, moving, ego)


def approach_of(yaw: float) -> str:
    """Return the approach that a signal controls, from the direction of travel."""
    if abs(np.sin(yaw)) > 0.5:
        return "cross"
    return "main_east" if np.cos(yaw) > 0 else "main_west"


def _ego_body() -> list[Part]:
    return [
        Part(Kind.BOX, (EGO.centre_m, 0, 0.6), (2.0, 0.85, 0.4), (0.5, 0.5, 0.5), Material.PAINT),
        Part(Kind.BOX, (EGO.centre_m - 0.2, 0, 1.25), (1.2, 0.7, 0.28), (0.5, 0.5, 0.5), Material.PAINT),
    ]
