"""Open-loop measures beyond the protocols: staying on the road and ride comfort."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import STEP_SECONDS, STEPS, check_array
from ...core.vehicle import Vehicle
from ...planning.trajectory import motion_of
from ..protocols.grids import box_corners
from ..tasks.planning_samples import ROAD_CELLS, ROAD_EXTENT

MOVING = 0.5
"""Length of a step (m) below which it defines no heading."""


@dataclass(frozen=True)
class Comfort:
    """Largest magnitudes along a trajectory: acceleration and lateral in m/s^2, jerk in m/s^3, curvature in 1/m."""

    acceleration: float
    lateral: float
    jerk: float
    curvature: float


def comfort(waypoints: np.ndarray, speed: float | None) -> Comfort:
    """Computes comfort by finite differences of waypoints [6, 2] m in base_link; speed: current m/s along x or None.

    Without a speed the start is ignored. Step speeds are means and apply at mid-step, first 0.25 s after the stamp.
    """
    points = _checked(waypoints)
    steps = np.diff(points, axis=0, prepend=np.zeros((1, 2)))
    length = np.linalg.norm(steps, axis=1)
    heading = np.zeros(STEPS + 1)
    signed = np.empty(STEPS)
    for k, step in enumerate(steps):
        # At a right angle rounding must not decide.
        forward = step @ (np.cos(heading[k]), np.sin(heading[k])) >= -1e-9 * length[k]
        signed[k] = length[k] if forward else -length[k]
        # reversing does not turn the vehicle
        direction = np.arctan2(*(step if forward else -step)[::-1])
        heading[k + 1] = direction if length[k] > MOVING else heading[k]
    speeds, seconds = signed / STEP_SECONDS, np.full(STEPS - 1, STEP_SECONDS)
    if speed is not None:
        speeds, seconds = np.append(speed, speeds), np.append(STEP_SECONDS / 2, seconds)
    acceleration = np.diff(speeds) / seconds
    jerk = np.diff(acceleration) / ((seconds[1:] + seconds[:-1]) / 2)
    turn = (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi
    # the first chord differs from the current heading (x) by half a step's turn: only chords are compared
    turn, arc = turn[1:], (length[1:] + length[:-1]) / 2
    lateral = turn * arc / STEP_SECONDS**2
    curvature = np.where(arc > MOVING, turn / np.maximum(arc, MOVING), 0.0)
    return Comfort(*(float(np.abs(values).max()) for values in (acceleration, lateral, jerk, curvature)))


def on_road(waypoints: np.ndarray, drivable: np.ndarray, ego: Vehicle) -> np.ndarray:
    """bool [6]: whether all four corners of the vehicle are on drivable ground at each waypoint [6, 2] m in base_link.

    drivable: bool [1000, 1000], row = y, column = x, from -50 m in 0.1 m cells. Corners off the raster count as on the
    road. The heading is that of planning.trajectory.motion_of: smoothed, and held while at rest.
    """
    check_array("drivable", drivable, np.bool_, (ROAD_CELLS, ROAD_CELLS))
    points = _checked(waypoints)
    yaw = motion_of(points, 0.0).heading.astype(np.float64)
    middle = points + ego.centre_m * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    corners = box_corners(middle, yaw, np.array([ego.length_m, ego.width_m]))
    cells = np.clip(np.floor((corners + ROAD_EXTENT) * (ROAD_CELLS / (2 * ROAD_EXTENT))), -1, ROAD_CELLS).astype(int)
    inside = ((cells >= 0) & (cells < ROAD_CELLS)).all(-1)
    column, row = np.where(inside[..., None], cells, 0).transpose(2, 0, 1)
    return (drivable[row, column] | ~inside).all(-1)


def _checked(waypoints: np.ndarray) -> np.ndarray:
    points = np.asarray(waypoints, np.float64)
    if points.shape != (STEPS, 2) or not np.isfinite(points).all():
        raise InvalidInput("waypoints", f"want finite [{STEPS}, 2], got {list(points.shape)}")
    return points
