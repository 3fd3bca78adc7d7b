"""Drives one policy on one seed and records everything the scores need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...planning.trajectory_follower import TimedPath, TrajectoryFollower
from ...world.agents.traffic import RED, STEP, overlap
from ...world.sim.simulator import LONGEST, Simulator
from ...world.sim.vehicle import Action
from ..metrics.driving.bench2drive import CollisionCounter, End, Infraction, RedLightCounter, RouteMonitor
from ..metrics.driving.traffic_scene import ObjectKind, kind_of_label
from .expert import ZOE, Expert, state_vector
from .forecast import StaticObjects
from .policies import Policy
from .road_map import WorldMap, lane_width

PLAN_EVERY = 5
"""Simulation steps between plans."""
SPEED_LIMIT = 50.0 / 3.6
"""m/s; the world's streets are urban."""


@dataclass(frozen=True)
class Planned:
    """A recorded plan: step; poses [41, 3] at 10 Hz in the map, the last one held; reference: the expert's from the
    same state [41, 3]; the ego's state [11] and history [4, 11] at that step."""

    step: int
    poses: np.ndarray
    reference: np.ndarray
    state: np.ndarray
    history: np.ndarray


@dataclass
class Rollout:
    """A recorded drive of T steps.

    states: [T, 11] in the layout of metrics.driving; actors: [T, N, 5] footprints of the other actors, with kinds
    [N] and speeds [T, N] m/s; along: [T] m on the route; completion: [T] percent; infractions: (time s, kind);
    missing_plans: number of planning steps without a plan.
    """

    policy: str
    seed: int
    maneuver: str
    simulator: Simulator
    world: WorldMap
    standing: StaticObjects
    kinds: np.ndarray
    states: np.ndarray = field(default_factory=lambda: np.zeros((0, 11)))
    actors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 5)))
    speeds: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    along: np.ndarray = field(default_factory=lambda: np.zeros(0))
    completion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    planned: list[Planned] = field(default_factory=list)
    infractions: list[tuple[float, Infraction]] = field(default_factory=list)
    end: End = End.TIMEOUT
    missing_plans: int = 0

    def near_route(self, metres: float) -> StaticObjects:
        """Returns the static objects within a distance of the driven path (sampled every 10 steps)."""
        rectangles = self.standing.rectangles
        gap = np.hypot(*(rectangles[:, None, :2] - self.states[::10, :2]).transpose(2, 0, 1)).min(1)
        return StaticObjects(self.standing.kind[gap < metres], rectangles[gap < metres])


def poses_of(path: TimedPath, yaw: float) -> np.ndarray:
    """Samples a path as poses [41, 3] every 0.1 s, the last one held; headings are tangential, starting at `yaw`."""
    times = STEP * np.arange(41)
    points = np.stack([np.interp(times, path.times, path.points[:, i]) for i in (0, 1)], -1)
    headings, last = [yaw], yaw
    for step in np.diff(points, axis=0):
        if np.hypot(*step) > 0.02:
            last = float(np.arctan2(step[1], step[0]))
        headings.append(last)
    return np.concatenate([points, np.array(headings)[:, None]], -1)


class _Referee:
    """Detects infractions and the end of a drive by Bench2Drive's rules."""

    def __init__(self, simulator: Simulator, world: WorldMap, standing: StaticObjects) -> None:
        self.simulator, self.standing = simulator, standing
        route = simulator.route.at(np.arange(simulator.begin, simulator.end, 1.0))
        forward = np.stack([np.cos(route[:, 2]), np.sin(route[:, 2])], -1)
        self.monitor = RouteMonitor(route[:, :2] + ZOE.centre * forward)
        self.collisions, self.lights = CollisionCounter(), RedLightCounter()
        self.lines = []
        for line, approach in simulator.mover.stops:
            x, y, yaw = simulator.route.at(line)
            across = 0.5 * lane_width(world.streets.main) * np.array([-np.sin(yaw), np.cos(yaw)])
            middle = np.array([x, y])
            self.lines.append((np.stack([middle + across, middle - across]), float(yaw), approach))

    def look(self, rectangles: np.ndarray) -> tuple[list[Infraction], End | None]:
        """Returns this step's infractions and, if the drive ends, why."""
        simulator = self.simulator
        state, body, time = simulator.state, simulator.body, simulator.time
        found = []
        hit = [(i, simulator.actors[i].kind) for i in np.flatnonzero(overlap(rectangles, body))]
        still = np.flatnonzero(overlap(self.standing.rectangles, body))
        hit += [(len(rectangles) + int(i), "standing") for i in still]
        for actor, name in hit:
            if self.collisions.counts(int(actor), time, body[:2], state.speed):
                kind = kind_of_label(name)
                if name == "standing":
                    kind = ObjectKind(int(self.standing.kind[actor - len(rectangles)]))
                found.append(
                    Infraction.COLLISION_PEDESTRIAN if kind is ObjectKind.PEDESTRIAN
                    else Infraction.COLLISION_VEHICLE if kind in (ObjectKind.VEHICLE, ObjectKind.BICYCLE)
                    else Infraction.COLLISION_STATIC
                )  # fmt: skip
        for i, (line, yaw, approach) in enumerate(self.lines):
            red = simulator.scene.signals.colour(approach, time) == RED
            if red and self.lights.counts(i, line, yaw, body[:3], ZOE.length):
                found.append(Infraction.RED_LIGHT)
        return found, self.monitor.update(time, body[:2], state.speed, SPEED_LIMIT)


class Episode:
    """A drive that its caller steps: the simulated world and a recorder of states, plans and infractions.

    Attributes: simulator, expert, rollout; end (why it ended, None while it is running).

    Args:
        seed: Seed of the world.
        scenario: A family of world.sim.scenarios, or None for the seed's own traffic.
        policy: Name of the policy.
        score_every: Steps between the plans recorded for PDMS and EPDMS, a multiple of PLAN_EVERY; 0: none.
        longest: Time limit in seconds.

    Raises:
        InvalidInput: The seed is negative, or the scenario is unknown.
    """

    def __init__(
        self, seed: int, scenario: str | None = None, policy: str = "", score_every: int = 10, longest: float = LONGEST
    ) -> None:
        self.simulator = simulator = Simulator(seed, scenario, longest)
        world = WorldMap(simulator.scene.streets, simulator.route, simulator.begin, simulator.end)
        self.expert, standing = Expert(simulator, world), StaticObjects.of(simulator)
        self._referee = _Referee(simulator, world, standing)
        self._score_every = score_every
        self.end: End | None = None
        self.rollout = Rollout(
            policy, seed, simulator.scene.maneuver, simulator, world, standing,
            np.array([int(kind_of_label(a.kind)) for a in simulator.actors], np.int64),
        )  # fmt: skip
        self._states: list[np.ndarray] = []
        self._actors: list[np.ndarray] = []
        self._speeds: list[np.ndarray] = []
        self._along: list[float] = []
        self._completion: list[float] = []

    @property
    def plan_due(self) -> bool:
        """Whether to plan at the step observed last."""
        return (len(self._states) - 1) % PLAN_EVERY == 0

    @property
    def completion(self) -> float:
        """Completed share of the route, percent."""
        return self._completion[-1] if self._completion else 0.0

    def observe(self) -> End | None:
        """Records the current step; returns why the drive ends with it, or None."""
        simulator = self.simulator
        rectangles = simulator.rectangles()
        found, self.end = self._referee.look(rectangles)
        self.rollout.infractions += [(simulator.time, i) for i in found]
        self._states.append(state_vector(simulator))
        self._actors.append(rectangles)
        self._speeds.append(np.hypot(*simulator.velocities().T))
        self._along.append(simulator.along)
        self._completion.append(self._referee.monitor.completion)
        if simulator.time >= simulator.longest - STEP:
            self.end = self.end or End.TIMEOUT
        return self.end

    def note(self, path: TimedPath | None) -> None:
        """Records the path planned at the step observed last."""
        self.rollout.missing_plans += path is None
        step = len(self._states) - 1
        if path is None or not self._score_every or step % self._score_every:
            return
        poses = poses_of(path, self.simulator.state.yaw)
        reference = poses if self.rollout.policy == "expert" else self.expert.plan()
        state = state_vector(self.simulator)
        self.rollout.planned.append(Planned(step, poses, reference, state, self.expert.history()))

    def finish(self) -> Rollout:
        """Returns the drive up to the step observed last."""
        out = self.rollout
        out.end = self.end or End.TIMEOUT
        out.states = _with_yaw_acceleration(np.stack(self._states))
        out.actors, out.speeds = np.stack(self._actors), np.stack(self._speeds)
        out.along, out.completion = np.array(self._along), np.array(self._completion)
        return out


def drive(
    policy: Policy, seed: int, scenario: str | None = None, score_every: int = 10, longest: float = LONGEST,
    latency: float = 0.0, until: Callable[[Episode], bool] = lambda _: False,
) -> Rollout:  # fmt: skip
    """Drives a policy on a seed, or a scenario family on that seed, to its end.

    latency: Delay of plans on their way to the follower, s; until: asked before each plan whether to break off. Other
    arguments as for Episode.
    """
    episode = Episode(seed, scenario, policy.name, score_every, longest)
    simulator, follower = episode.simulator, TrajectoryFollower()
    policy.begin(simulator, episode.expert)
    path: TimedPath | None = None
    coming: deque[tuple[float, TimedPath]] = deque()
    while episode.observe() is None:
        if episode.plan_due:
            if until(episode):
                break
            newest = policy.plan()
            episode.note(newest)
            # Without a new plan, the last one is followed until it is too old.
            if newest is not None:
                coming.append((simulator.time + latency, newest))
        while coming and coming[0][0] <= simulator.time + 1e-6:
            path = coming.popleft()[1]
        control = follower.control(path, simulator.time, simulator.state.pose, simulator.state.speed)
        simulator.step(Action(control.acceleration, control.steering))
    return episode.finish()


def _with_yaw_acceleration(states: np.ndarray) -> np.ndarray:
    states[:, 6] = states[:, 3] * states[:, 9]  # lateral acceleration at the rear axle
    states[1:, 10] = np.diff(states[:, 9]) / STEP
    return states
