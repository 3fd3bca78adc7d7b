"""Privileged motion prediction: actors follow their true paths, extrapolating their current speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...world.agents.traffic import GREEN, STEP, rectangle
from ...world.sim.simulator import Actor, Simulator
from ..metrics.driving.traffic_scene import Objects, kind_of_label

REACH = 75.0
"""Radius around the ego within which objects are considered, m."""


@dataclass(frozen=True)
class StaticObjects:
    """Static objects on or near the road: kind [S], footprints [S, 5]."""

    kind: np.ndarray
    rectangles: np.ndarray

    @classmethod
    def of(cls, simulator: Simulator) -> StaticObjects:
        """Collects the scene's static objects, except buildings, bushes and trees."""
        kinds, plans = [], []
        for placed in simulator.scene.standing:
            name = placed.shape.name
            if name not in ("building", "bush", "tree"):
                kinds.append(int(kind_of_label(name)))
                plans.append(placed.rectangle)
        return cls(np.array(kinds, np.int64), np.reshape(plans, (-1, 5)))

    def near(self, x: float, y: float) -> StaticObjects:
        """Returns the objects within REACH of a point."""
        close = np.hypot(self.rectangles[:, 0] - x, self.rectangles[:, 1] - y) < REACH
        return StaticObjects(self.kind[close], self.rectangles[close])


def expected_travel(simulator: Simulator, actor: Actor, times: np.ndarray) -> np.ndarray:
    """Predicts an actor's arc lengths [T] m on its path, `times` [T] s from now."""
    mover, k = actor.moving.mover, simulator.traffic.k
    here = float(mover.travelled[k])
    if actor.kind == "pedestrian":
        ahead = here + float(mover.speeds[k - 1]) * times
        for crossing in simulator.scene.crossings:
            if crossing.mover is mover and here < crossing.kerb - 1e-6:
                ahead = np.minimum(ahead, crossing.kerb)
        return np.minimum(ahead, max(mover.path.length, here))
    speed, force = float(mover.speeds[k]), float(mover.forces[k - 1])
    # Braking continues for one second, acceleration for two: a car that pulls out is slow only at first.
    if force < 0.0:
        later = np.maximum(speed + force * np.minimum(times, 1.0), 0.0)
    else:
        later = np.minimum(speed + force * np.minimum(times, 2.0), max(mover.desired, speed))
    steps = np.diff(times, prepend=0.0)
    ahead = here + np.cumsum(later * steps)
    for line, approach in mover.stops:
        room = line - here - mover.front
        if room > 0 and simulator.scene.signals.colour(approach, simulator.time) != GREEN and speed**2 < 10.0 * room:
            ahead = np.minimum(ahead, line - mover.front)
    return ahead


def expect(simulator: Simulator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Predicts the actors near the ego: (kind [N], footprints [N, T, 5] every STEP from now)."""
    times = STEP * np.arange(round(seconds / STEP) + 1)
    kinds, plans = [], []
    now = simulator.rectangles()
    x, y = simulator.state.x, simulator.state.y
    for actor in simulator.actors:
        if np.hypot(now[actor.index, 0] - x, now[actor.index, 1] - y) > REACH:
            continue
        mover = actor.moving.mover
        poses = mover.path.at(expected_travel(simulator, actor, times))
        kinds.append(int(kind_of_label(actor.kind)))
        plans.append(rectangle(poses, mover.length, mover.width, mover.centre))
    if not kinds:
        return np.zeros(0, np.int64), np.zeros((0, len(times), 5))
    return np.array(kinds, np.int64), np.stack(plans)


def objects_of(kinds: np.ndarray, plans: np.ndarray, standing: StaticObjects) -> Objects:
    """Returns tracks for the scores, from footprints [N, T, 5] every STEP and static objects."""
    count = plans.shape[1]
    still = np.repeat(standing.rectangles[:, None], count, 1)
    every = np.concatenate([plans, still])
    velocity = np.gradient(every[..., :2], STEP, axis=1) if count > 1 else np.zeros((*every.shape[:2], 2))
    state = np.concatenate([every[..., :3], velocity], -1)
    size = every[:, 0, 3:5]
    return Objects(np.concatenate([kinds, standing.kind]), size, state, np.ones(every.shape[:2], bool))
