"""Simulation of one drive, stepped at 10 Hz with the actions of a policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core import geometry
from ...core.types import Command
from ..agents.actors import EGO, LEAD_SECONDS, Moving
from ..agents.traffic import STEP, Mover, rectangle
from ..roads.curves import Curve
from ..scenario import NOMINAL
from ..scene import COMMAND_SECONDS, COMMAND_SPEED, EgoMotion, Scene
from .scenarios import staged
from .traffic import Traffic
from .vehicle import WHEELBASE, Action, EgoVehicleState

LONGEST = 60.0
"""Largest duration of a drive, s; the signal plans end there."""
_PACE = 0.8
"""Share of the free-road speed from which the length of a drive of NOMINAL seconds is computed."""


class SimulatedEgo:
    """The ego's drive so far, with the interface of scene.EgoMotion for rendering.

    Up to 0 s it is the recorded drive; future times also return recorded poses, from which a renderer computes where
    shadows will be needed.
    """

    def __init__(self, recorded: EgoMotion, duration: float) -> None:
        self.recorded, self.duration = recorded, duration
        self.path, self.stops, self.front = recorded.mover.path, recorded.mover.stops, recorded.mover.front
        self.mover = self
        self.states: list[EgoVehicleState] = []

    def pose(self, time: float) -> np.ndarray:
        """Return x, y, yaw at a time up to now; the recorded pose for times beyond."""
        if time <= 0.0 or not self.states:
            return self.recorded.mover.pose(time)
        last = STEP * (len(self.states) - 1)
        if time > last + STEP:
            return self.recorded.mover.pose(min(time, self.recorded.duration))
        k = min(int(time / STEP + 1e-9), len(self.states) - 1)
        now, after = self.states[k], self.states[min(k + 1, len(self.states) - 1)]
        share = min(max(time / STEP - k, 0.0), 1.0)
        return now.pose + share * (after.pose - now.pose)

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ego2map float64 [4, 4] and twist float64 [6] in base_link at a time up to now."""
        if time <= 0.0 or not self.states:
            return self.recorded.at(time)
        x, y, yaw = (float(v) for v in self.pose(time))
        state = self.states[min(round(time / STEP), len(self.states) - 1)]
        twist = np.zeros(6)
        twist[0], twist[5] = state.speed, state.yaw_rate
        return geometry.planar(x, y, yaw), twist


@dataclass(frozen=True)
class Actor:
    """An actor other than the ego: index in Scene.moving, name of its shape, and its shape and motion."""

    index: int
    kind: str
    moving: Moving


class Simulator:
    """A drive of one seed, or of one of scenarios.FAMILIES at a place selected by the seed.

    Attributes: scene, ego (SimulatedEgo), state (the ego now), route (Curve), begin, end (arc lengths between which
    the route is driven), time (s), actors.

    Raises InvalidInput as Scene.generate does, and for an unknown scenario.
    """

    def __init__(self, seed: int, scenario: str | None = None, longest: float = LONGEST) -> None:
        self.scenario = scenario
        self.scene, scripts = staged(scenario, seed) if scenario else (Scene.generate(seed, NOMINAL), [])
        recorded = self.scene.ego
        self.ego = SimulatedEgo(recorded, longest)
        self.longest = longest
        first, last = round(LEAD_SECONDS / STEP), round((LEAD_SECONDS + longest) / STEP)
        crossing = {id(c.mover): c for c in self.scene.crossings}
        crossers = [m.mover for m in self.scene.moving if id(m.mover) in crossing]
        rest = [m for m in self.scene.moving if id(m.mover) not in crossing]
        driven = [m.mover for m in rest if m.shape.name != "pedestrian"]
        walkers = [m.mover for m in rest if m.shape.name == "pedestrian"]
        people = [crossing[id(m)] for m in crossers]
        signals, ego = self.scene.signals, recorded.mover
        self.traffic = Traffic(driven, walkers, people, ego, signals, first, last, scripts)
        self.actors = tuple(Actor(i, m.shape.name, m) for i, m in enumerate(self.scene.moving))
        self.route: Curve = recorded.mover.path
        self.begin = float(recorded.mover.motion(0.0)[0])
        self.end = min(self.begin + _PACE * recorded.mover.desired * NOMINAL, self.route.length - 20.0)
        self.desired = recorded.mover.desired
        self.ego.states.append(self.recorded_state(0.0))
        self.scene.ego = self.ego  # type: ignore[assignment]
        self.along = self.begin
        """Arc length of the route point nearest to the ego, m; changes by -2 to 6 m per step."""

    @property
    def state(self) -> EgoVehicleState:
        """The ego now."""
        return self.ego.states[-1]

    @property
    def time(self) -> float:
        """Time since the start of the drive, s."""
        return STEP * (len(self.ego.states) - 1)

    @property
    def mover(self) -> Mover:
        """The recorded ego's mover: path, size, stop lines and free-road speed."""
        return self.ego.recorded.mover

    @property
    def body(self) -> np.ndarray:
        """Footprint [5] of the ego now."""
        return rectangle(self.state.pose, EGO.length_m, EGO.width_m, EGO.centre_m)

    def step(self, action: Action) -> None:
        """Advance all actors by STEP seconds, the ego by `action`."""
        self.follow(self.state.after(action))

    def follow(self, state: EgoVehicleState) -> None:
        """Advance all actors by STEP seconds, with the ego in a given state after them."""
        self.traffic.step(self.state, self.along, self.body)
        self.ego.states.append(state)
        near = np.arange(self.along - 2.0, self.along + 6.0, 0.1)
        points = self.route.at(near)[:, :2]
        self.along = float(near[np.hypot(*(points - self.state.pose[:2]).T).argmin()])

    @property
    def way(self) -> np.ndarray:
        """The route to be driven: poses [M, 3] in the map, every 2 m."""
        return self.route.at(np.arange(self.begin, self.end, 2.0))

    def recorded_state(self, time: float) -> EgoVehicleState:
        """Return the ego's state at a time of the recorded drive."""
        mover = self.mover
        along, speed = (float(v) for v in mover.motion(time))
        x, y, yaw = (float(v) for v in mover.path.at(along))
        force = float(np.interp(time, mover.times, mover.forces))
        return EgoVehicleState(x, y, yaw, speed, force, float(np.arctan(WHEELBASE * mover.path.curvature_at(along))))

    def command(self) -> Command:
        """Return the next command of the route, as EgoMotion.command does."""
        here = self.route.at(self.along)
        there = self.route.at(self.along + max(self.state.speed, COMMAND_SPEED) * COMMAND_SECONDS)
        dx, dy = there[:2] - here[:2]
        return Command.of_offset(dy * np.cos(here[2]) - dx * np.sin(here[2]))

    def rectangles(self, time: float | None = None) -> np.ndarray:
        """Return footprints [N, 5] of all actors now or at an earlier time."""
        moment = self.time if time is None else time
        return np.stack([a.moving.mover.rectangle(moment) for a in self.actors]) if self.actors else np.zeros((0, 5))

    def velocities(self) -> np.ndarray:
        """Return vx, vy [N, 2] m/s of all actors now."""
        k = self.traffic.k
        out = []
        for actor in self.actors:
            mover = actor.moving.mover
            speed = mover.speeds[k] if actor.kind != "pedestrian" else mover.speeds[k - 1]
            yaw = float(mover.path.at(mover.travelled[k])[2])
            out.append([speed * np.cos(yaw), speed * np.sin(yaw)])
        return np.array(out).reshape(-1, 2)
