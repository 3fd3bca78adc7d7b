"""Exports a simulated drive as a bag with motion, boxes, map, lights and plans, for ./run eval bag and viewers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core import geometry
from ...core.types import NANOSECONDS
from ...data.bags.annotations import Area, Cube, write_areas, write_cubes
from ...data.bags.writer import BagWriter, qos
from ...data.synthetic.drives import FIXED_FRAME, START
from ...world.agents.traffic import RED, STEP
from ..bags.recording import ACCELERATION, ANNOTATIONS, AREAS, RED_LIGHTS, ROUTE
from ..metrics.driving.traffic_scene import ObjectKind, Surface
from .forecast import REACH
from .rollout import Rollout

PLAN_TOPIC, REFERENCE_TOPIC = "/planning/path", "/expert/path"
_BEFORE = 19
"""Steps before the start of the drive for which the ego's motion is known."""
_STANDING_EVERY = 10


def write_drive(rollout: Rollout, path: Path, force: bool = False) -> None:
    """Writes a drive to a bag; ./run eval bag reproduces the PDMS and EPDMS of its plans.

    Args:
        rollout: A finished drive.
        path: Folder of the bag.
        force: Replace an existing bag.
    """
    with BagWriter(path, force) as bag:
        road = rollout.world.road
        write_areas(bag, AREAS, _stamp(-_BEFORE), FIXED_FRAME, _areas(rollout))
        line = np.column_stack([road.centerline, np.zeros(len(road.centerline))])
        _write_path(bag, ROUTE, _stamp(-_BEFORE), line)
        plans = {plan.step: plan for plan in rollout.planned}
        lights = [Area("red_light", i, polygon) for i, polygon in enumerate(rollout.world.red)]
        ego = rollout.simulator.ego
        for step in range(-_BEFORE, len(rollout.states)):
            stamp = _stamp(step)
            pose, twist = ego.at(STEP * step)
            acceleration = (twist[0] - ego.at(STEP * max(step - 1, -_BEFORE))[1][0]) / STEP
            if step >= 0:
                state = rollout.states[step]
                pose, acceleration = geometry.planar(*state[:3]), state[5]
                twist = np.array([state[3], 0.0, 0.0, 0.0, 0.0, state[9]])
            _write_motion(bag, stamp, pose, twist, float(acceleration))
            if step < 0:
                continue
            write_cubes(bag, ANNOTATIONS, stamp, FIXED_FRAME, _cubes(rollout, step), 1.5)
            write_areas(bag, RED_LIGHTS, stamp, FIXED_FRAME, lights if _red(rollout, step) else [])
            if step in plans:
                _write_path(bag, PLAN_TOPIC, stamp, plans[step].poses)
                _write_path(bag, REFERENCE_TOPIC, stamp, plans[step].reference)


def _stamp(step: int) -> int:
    return START + round(STEP * step * NANOSECONDS)


def _areas(rollout: Rollout) -> list[Area]:
    return [
        Area(Surface(kind).name.lower(), i, np.asarray(polygon, np.float64), on_route)
        for i, (kind, polygon, on_route) in enumerate(rollout.world.road.surfaces)
    ]


def _red(rollout: Rollout, step: int) -> bool:
    stops = rollout.simulator.mover.stops
    return bool(stops) and rollout.simulator.scene.signals.colour(stops[0][1], STEP * step) == RED


def _cubes(rollout: Rollout, step: int) -> list[Cube]:
    """Returns the actors of a step and, every second and at the last step, the static objects."""
    every = [
        (int(kind), i, plan) for i, (kind, plan) in enumerate(zip(rollout.kinds, rollout.actors[step], strict=True))
    ]
    if step % _STANDING_EVERY == 0 or step == len(rollout.states) - 1:
        standing = rollout.near_route(REACH)
        first = len(rollout.kinds)
        every += [
            (int(kind), first + i, plan)
            for i, (kind, plan) in enumerate(zip(standing.kind, standing.rectangles, strict=True))
        ]
    out = []
    for kind, number, (x, y, yaw, length, width) in every:
        pose = geometry.planar(x, y, yaw)
        pose[2, 3] = 0.8
        colour = (1.0, 0.5, 0.0) if kind == ObjectKind.VEHICLE else (0.2, 0.4, 1.0)
        out.append(Cube(ObjectKind(kind).name.lower(), number, pose, (float(length), float(width), 1.6), colour))
    return out


def _write_motion(bag: BagWriter, stamp: int, pose: np.ndarray, twist: np.ndarray, acceleration: float) -> None:
    bag.transforms(stamp, [(FIXED_FRAME, "base_link", pose)])
    bag.odometry("/odom", stamp, FIXED_FRAME, pose, twist)
    zero = bag.construct("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    linear = bag.construct("geometry_msgs/msg/Vector3", x=acceleration, y=0.0, z=0.0)
    accel = bag.construct("geometry_msgs/msg/Accel", linear=linear, angular=zero)
    message = bag.construct("geometry_msgs/msg/AccelStamped", header=bag.header(stamp, "base_link"), accel=accel)
    bag.write(ACCELERATION, message, stamp, qos())


def _write_path(bag: BagWriter, topic: str, stamp: int, poses: np.ndarray) -> None:
    """Writes poses [N, 3], one every STEP, as a Path."""
    bag.trajectory(topic, FIXED_FRAME, stamp, STEP * np.arange(len(poses)), poses)
