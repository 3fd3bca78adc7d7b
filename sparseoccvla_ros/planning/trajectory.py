"""Trajectory geometry: dense poses between waypoints, smooth heading, speed profile, and braking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from ..core.geometry import points_along
from ..core.types import STEP_SECONDS, STEPS, WAYPOINT_TIMES

SUBSTEPS = 5
"""Poses per waypoint interval in a sweep (0.1 s each)."""
SWEEP_TIMES = np.arange(1, STEPS * SUBSTEPS + 1) * (STEP_SECONDS / SUBSTEPS)
"""float64 [30], seconds after the stamp."""
MOVING = 0.3
"""m/s below which the direction of motion is noise, so that the last heading is kept."""
_KNOTS = np.concatenate([[0.0], WAYPOINT_TIMES])


def _spline(zero_at_start: int) -> CubicSpline:
    """Build unit cubic splines, one per knot: derivative `zero_at_start` is 0 at the start, the second at the end."""
    zero = np.zeros(STEPS + 1)
    return CubicSpline(_KNOTS, np.eye(STEPS + 1), bc_type=((zero_at_start, zero), (2, zero)))


# A spline is linear in its knots, so one matrix per coordinate converts waypoints to poses. The lateral slope is 0 at
# the start because the vehicle starts along x.
_X, _Y = _spline(2), _spline(1)
_SWEEP_X, _SWEEP_Y = _X(SWEEP_TIMES), _Y(SWEEP_TIMES)
_SWEEP_VX, _SWEEP_VY = _X(SWEEP_TIMES, 1), _Y(SWEEP_TIMES, 1)

_FIT_X = np.stack([WAYPOINT_TIMES**n for n in range(1, 5)], 1)
_FIT_Y = np.stack([WAYPOINT_TIMES**n for n in range(2, 5)], 1)
_SLOPE_X = np.stack([n * WAYPOINT_TIMES ** (n - 1) for n in range(1, 5)], 1) @ np.linalg.pinv(_FIT_X)
_SLOPE_Y = np.stack([n * WAYPOINT_TIMES ** (n - 1) for n in range(2, 5)], 1) @ np.linalg.pinv(_FIT_Y)


@dataclass(frozen=True, eq=False)
class Motion:
    """Trajectory for a follower: waypoints float32 [6, 2] m, heading float32 [6] rad, speed float32 [6] m/s,
    acceleration float32 [6] m/s^2, at WAYPOINT_TIMES in base_link at the stamp."""

    waypoints: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray


def _hold_heading(velocity_x: np.ndarray, velocity_y: np.ndarray) -> np.ndarray:
    """Returns the direction of motion [..., T], held (initially 0) while the speed is below MOVING."""
    moving = np.hypot(velocity_x, velocity_y) > MOVING
    angle = np.where(moving, np.arctan2(velocity_y, velocity_x), 0.0)
    newest = np.maximum.accumulate(np.where(moving, np.arange(1, moving.shape[-1] + 1), 0), axis=-1)
    padded = np.concatenate([np.zeros((*angle.shape[:-1], 1)), angle], axis=-1)
    return np.take_along_axis(padded, newest, axis=-1)


def sweep(waypoints: np.ndarray) -> np.ndarray:
    """Interpolate trajectories [K, 6, 2] to poses float64 [K, 30, 3] (x, y, yaw) at SWEEP_TIMES, along a cubic spline
    through the waypoints that leaves the origin along x."""
    knots = np.concatenate([np.zeros((len(waypoints), 1, 2)), waypoints], axis=1, dtype=np.float64)
    x, y = knots[..., 0], knots[..., 1]
    yaw = _hold_heading(x @ _SWEEP_VX.T, y @ _SWEEP_VY.T)
    return np.stack([x @ _SWEEP_X.T, y @ _SWEEP_Y.T, yaw], axis=-1)


def motion_of(waypoints: np.ndarray, present_speed: float) -> Motion:
    """Compute heading, speed and acceleration of a forward trajectory [6, 2].

    Heading is the tangent of a least-squares quartic that leaves the origin along x, which smooths waypoint noise of
    centimetres. Speed at a waypoint is the mean speed of the adjacent steps (exact for constant acceleration).
    """
    points = np.asarray(waypoints, np.float64)
    heading = _hold_heading(_SLOPE_X @ points[:, 0], _SLOPE_Y @ points[:, 1])
    chords = np.linalg.norm(np.diff(points, axis=0, prepend=np.zeros((1, 2))), axis=1) / STEP_SECONDS
    middle = 0.5 * (chords[:-1] + chords[1:])
    last = max(chords[-1] + 0.5 * (chords[-1] - chords[-2]), 0.0)
    speed = np.append(middle, last)
    acceleration = np.gradient(np.concatenate([[present_speed], speed]), STEP_SECONDS)[1:]
    return Motion(*(a.astype(np.float32) for a in (points, heading, speed, acceleration)))


def slowed(waypoints: np.ndarray, speed: float, deceleration: float) -> np.ndarray:
    """Follow a path [6, 2] while braking from `speed` (m/s) at a constant deceleration (m/s^2), never ahead of it.

    Returns waypoints float32 [6, 2].
    """
    braked = np.minimum(WAYPOINT_TIMES, max(speed, 0.0) / deceleration)
    return _no_further(waypoints, max(speed, 0.0) * braked - 0.5 * deceleration * braked**2)


def eased(waypoints: np.ndarray, speed: float, acceleration: float) -> np.ndarray:
    """Follow a path [6, 2] from `speed` (m/s) with at most a constant acceleration (m/s^2), never ahead of it.

    Returns waypoints float32 [6, 2].
    """
    return _no_further(waypoints, max(speed, 0.0) * WAYPOINT_TIMES + 0.5 * acceleration * WAYPOINT_TIMES**2)


def stopping_way(path: np.ndarray, waypoints: np.ndarray, deceleration: float, gap: float) -> np.ndarray:
    """Returns where a vehicle that follows `waypoints` [6, 2] on `path` [6, 2] comes to a stop behind them.

    float64 [M, 2] m, every half metre from the last waypoint along the path, straight on behind its end: the braking
    distance from the last speed at a deceleration (m/s^2), and `gap` m more.
    """
    driven = _from_origin(waypoints)[1]
    speed = float(driven[-1] - driven[-2]) / STEP_SECONDS
    ahead = np.arange(0.0, speed**2 / (2 * deceleration) + gap + 0.5, 0.5)
    points, along = _from_origin(path)
    return points_along(points, along, min(driven[-1], along[-1]) + ahead, least=0.05)


def _no_further(waypoints: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Returns waypoints float32 [6, 2] on the path of `waypoints` that are at most `reach` [6] m along it."""
    path, along = _from_origin(waypoints)
    return points_along(path, along, np.minimum(reach, along[1:])).astype(np.float32)


def _from_origin(waypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the origin and waypoints, float64 [7, 2] m, and their arc lengths [7]."""
    points = np.concatenate([np.zeros((1, 2)), np.asarray(waypoints, np.float64)])
    return points, np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])


def braking(speed: float, yaw_rate: float, deceleration: float, max_curvature: float, max_lateral: float) -> Motion:
    """Brake from `speed` (m/s, negative in reverse) to a stop at constant deceleration (m/s^2) and curvature.

    The curvature follows from the yaw rate (rad/s), limited by max_curvature (1/m) and max_lateral (m/s^2).
    """
    rate = abs(speed)
    limit = min(max_curvature, max_lateral / max(rate, 0.1) ** 2)
    curvature = float(np.clip(yaw_rate / speed, -limit, limit)) if rate > MOVING else 0.0
    time = np.minimum(WAYPOINT_TIMES, rate / deceleration)
    distance = np.sign(speed) * (rate * time - 0.5 * deceleration * time**2)
    heading = curvature * distance
    # sin(a)/a and (1 - cos(a))/a stay smooth through a = 0
    x = distance * np.sinc(heading / np.pi)
    y = distance * np.sinc(heading / (2 * np.pi)) * np.sin(heading / 2)
    remaining = np.maximum(rate - deceleration * WAYPOINT_TIMES, 0.0)
    slowing = np.where(remaining > 0, -np.sign(speed) * deceleration, 0.0)
    columns = (np.stack([x, y], 1), heading, np.sign(speed) * remaining, slowing)
    return Motion(*(np.ascontiguousarray(c, np.float32) for c in columns))
