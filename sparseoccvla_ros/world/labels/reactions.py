"""Counterfactual traffic: reactions of the other actors if the ego departs from its recorded drive.

A recording contains one future, which does not show what depends on the ego. Here the ego brakes or sets off instead,
along its own path, and all others continue by the rules of world.sim.traffic: followers brake behind it, actors that
waited for it go, and actors that would have gone yield.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np

from ...core import geometry
from ...core.types import HORIZONS, WAYPOINT_TIMES
from ..agents.actors import EGO
from ..agents.traffic import STEP, rectangle
from ..scene import Scene
from ..sim.traffic import Traffic
from ..sim.vehicle import EgoVehicleState
from .annotations import boxes

BRAKE, GO = -4.0, 2.0
"""Acceleration in m/s^2 of an ego that brakes instead of driving, and that sets off instead of standing or slowing."""
DRIVES = 2.0
"""m/s; the recorded ego counts as driving if its mean speed over the next 3 s is above this."""


def otherwise(scene: Scene, time: float) -> float:
    """Return the ego acceleration (BRAKE or GO, m/s^2) that contrasts with the recorded drive from `time` on."""
    here, there = (float(scene.ego.mover.motion(t)[0]) for t in (time, time + HORIZONS[-1]))
    return BRAKE if there - here > DRIVES * HORIZONS[-1] else GO


def reactions(scene: Scene, time: float, acceleration: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return ego waypoints float32 [6, 2] m and footprints float32 [4, N, 5] of scene.moving, now and at HORIZONS.

    Both in base_link at `time`; acceleration: the ego's from then on, up to its desired speed, None for the recorded
    drive. The scene is not modified.
    """
    ego = scene.ego.mover
    known = {id(m.mover): copy.copy(m.mover) for m in scene.moving}
    movers = [known[id(m.mover)] for m in scene.moving]
    crossing = {id(c.mover) for c in scene.crossings}
    rest = [(m.shape.name, known[id(m.mover)]) for m in scene.moving if id(m.mover) not in crossing]
    first = int(np.searchsorted(ego.times, time + 1e-6)) - 1
    steps = round(HORIZONS[-1] / STEP)
    traffic = Traffic(
        [m for name, m in rest if name != "pedestrian"], [m for name, m in rest if name == "pedestrian"],
        [dataclasses.replace(c, mover=known[id(c.mover)]) for c in scene.crossings if id(c.mover) in known],
        ego, scene.signals, first, first + steps,
    )  # fmt: skip
    along, speed = float(ego.travelled[first]), float(ego.speeds[first])
    driven = [along]
    for k in range(first, first + steps):
        force = float(ego.forces[k]) if acceleration is None else acceleration
        if acceleration is not None and acceleration > 0.0:
            force = min(force, max(ego.desired - speed, 0.0) / STEP)
        x, y, yaw = (float(v) for v in ego.path.at(along))
        state = EgoVehicleState(x, y, yaw, speed, force)
        traffic.step(state, along, rectangle(state.pose, EGO.length_m, EGO.width_m, EGO.centre_m))
        later = max(speed + force * STEP, 0.0)
        along, speed = along + 0.5 * (speed + later) * STEP, later
        driven.append(along)
    # `driven` starts at the step before `time`; the recorded distance between the two is added.
    frame, back = scene.ego.at(time)[0], geometry.inverse(scene.ego.at(time)[0])
    at = float(ego.motion(time)[0]) - driven[0]
    reached = np.interp(WAYPOINT_TIMES, STEP * np.arange(steps + 1), driven)
    there = ego.path.at(reached + at)
    waypoints = geometry.apply(back, np.column_stack([there[:, :2], np.zeros(len(there))]))[:, :2]
    now = boxes(scene, time, frame)
    moving = np.arange(len(scene.standing), len(scene.standing) + len(scene.moving))
    plans = [now[np.isin(now.instance, moving)].plans]
    for horizon in HORIZONS:
        k = first + round(horizon / STEP)
        found = plans[0].copy()
        for row, mover in enumerate(movers):
            old, new = mover.path.at(np.array([mover.travelled[first], mover.travelled[k]]))
            a, b = geometry.apply(back, np.array([[*old[:2], 0.0], [*new[:2], 0.0]]))[:, :2]
            yaw = float(new[2] - old[2])
            rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
            found[row, :2] = b + rotation @ (plans[0][row, :2] - a)
            found[row, 2] = plans[0][row, 2] + yaw
        plans.append(found)
    return waypoints.astype(np.float32), np.stack(plans).astype(np.float32)
