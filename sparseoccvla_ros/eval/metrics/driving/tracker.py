"""From plan to drive: interpolation to 10 Hz, NAVSIM's linear-quadratic tracker, kinematic bicycle model.

Follows navsim `batch_lqr` and `batch_kinematic_bicycle` (tags v1.1 and 2025-10-27, which agree), in float64. Their
"jerk penalty" is a difference matrix only in its last row; this is kept for comparable scores.
"""

from __future__ import annotations

import numpy as np

from .vehicle import AX, DT, HEADING, PACIFICA, STEER, STEER_RATE, VX, YAW_ACC, YAW_RATE, Vehicle, wrap

_HORIZON = 10
_STOP_SPEED = 0.2
_SPEED_WEIGHT, _STOP_GAIN = 10.0 / 11.0, 0.5
_LATERAL_WEIGHT, _HEADING_WEIGHT, _RATE_WEIGHT = 1.0, 10.0, 1.0
_ACCELERATION_LAG, _STEERING_LAG = 0.2, 0.05
_STEERING_LIMIT = np.pi / 3


def global_poses(initial: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Transforms poses [N, 3] in the frame of `initial` [3] to global poses; the heading is not wrapped."""
    c, s = np.cos(initial[2]), np.sin(initial[2])
    x = initial[0] + c * relative[:, 0] - s * relative[:, 1]
    y = initial[1] + s * relative[:, 0] + c * relative[:, 1]
    return np.stack([x, y, initial[2] + relative[:, 2]], -1)


def relative_poses(origin: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Transforms poses [N, 3] to the frame of a pose [3]; the heading is not wrapped."""
    dx, dy = (poses[:, :2] - origin[:2]).T
    c, s = np.cos(origin[2]), np.sin(origin[2])
    return np.stack([c * dx + s * dy, c * dy - s * dx, poses[:, 2] - origin[2]], -1)


def plan_to_10hz(
    initial: np.ndarray, plan: np.ndarray, interval: float = 0.5, start_us: int = 0, horizon: float = 4.0
) -> np.ndarray:
    """Converts relative plan poses [N, 3] every `interval` s to global poses [horizon / 0.1 + 1, 3].

    Linear in x, y and unwrapped heading; the last pose is held; headings in [-pi, pi). Time stamps are truncated to
    whole microseconds of a clock that starts at start_us, as in the official code.
    """
    start = start_us * 1e-6
    times = np.floor((np.arange(1, len(plan) + 1) * interval + start) * 1e6)
    times = np.concatenate([[float(start_us)], times])
    poses = np.concatenate([initial[None, :3], global_poses(initial, plan)])
    steps = round(horizon / DT)
    wanted = np.floor((np.arange(steps + 1) * DT + start) * 1e6)
    return interpolate(poses, times, np.clip(wanted, times[0], times[-1]))


def interpolate(poses: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Interpolates poses [N, 3] at times [N] linearly to times `wanted` [M]; headings are unwrapped, then wrapped."""
    columns = [poses[:, 0], poses[:, 1], np.unwrap(poses[:, 2])]
    out = np.stack([np.interp(wanted, times, c) for c in columns], -1)
    out[:, 2] = wrap(out[:, 2])
    return out


def profiles(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits (speeds [B, M] m/s, curvatures [B, M] 1/m) to poses [B, M + 1, 3] by regularised least squares."""
    steps = np.diff(poses[..., :2], axis=-2)
    turns = wrap(np.diff(poses[..., 2], axis=-1))
    count = steps.shape[-2]
    # v_k = v_0 + dt * sum of the accelerations before k, as a matrix on (v_0, a_0 .. a_(M-2)).
    sums = np.tril(np.ones((count, count)), -1) * DT
    sums = np.concatenate([np.ones((count, 1)), sums[:, :-1]], 1)
    heading = poses[..., :-1, 2]
    rough = np.zeros((max(count - 2, 0), count))
    for i in range(count - 3):
        rough[i, 1 + i] = 1.0
    if count > 2:
        rough[-1, count - 1], rough[-1, count - 2] = 1.0, -1.0
    design = DT * np.concatenate([np.cos(heading)[..., None] * sums, np.sin(heading)[..., None] * sums], -2)
    target = np.concatenate([steps[..., 0], steps[..., 1]], -1)
    speeds = _solve(design, target, 1e-4 * rough.T @ rough) @ sums.T
    weights = np.full(count, 1e-2)
    weights[0] = 1e-10
    curvatures = _solve(speeds[..., None] * DT * sums, turns, np.diag(weights)) @ sums.T
    return speeds, curvatures


def _solve(design: np.ndarray, target: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    transposed = np.swapaxes(design, -1, -2)
    return (np.linalg.pinv(transposed @ design + penalty) @ (transposed @ target[..., None]))[..., 0]


def command(
    state: np.ndarray, pose: np.ndarray, speeds: np.ndarray, curvatures: np.ndarray, step: int, vehicle: Vehicle
) -> np.ndarray:
    """Computes acceleration (m/s^2) and steering rate (rad/s), [B, 2], at a step.

    state: [B, 11]; pose: reference pose of the step [B, 3]; speeds, curvatures: profiles [B, M].
    """
    last = speeds.shape[-1] - 1
    end = min(step + _HORIZON, last)
    target, v = speeds[:, end], state[:, VX]
    ahead = curvatures[:, [min(step + j, end) for j in range(_HORIZON)]]
    stops = (target <= _STOP_SPEED) & (v <= _STOP_SPEED)
    acceleration = np.where(stops, -_STOP_GAIN, -_SPEED_WEIGHT) * (v - target)
    ex, ey = state[:, 0] - pose[:, 0], state[:, 1] - pose[:, 1]
    lateral = -ex * np.sin(pose[:, 2]) + ey * np.cos(pose[:, 2])
    heading = wrap(state[:, HEADING] - pose[:, 2])
    steer = state[:, STEER]
    by_lateral = by_heading = by_steer = np.zeros_like(v)  # derivatives with respect to the steering rate
    for j in range(_HORIZON):
        way = (v + acceleration * j * DT) * DT
        lateral, by_lateral = lateral + way * heading, by_lateral + way * by_heading
        heading = heading + way * (steer / vehicle.wheelbase - ahead[:, j])
        by_heading = by_heading + way * by_steer / vehicle.wheelbase
        by_steer = by_steer + DT
    pull = _LATERAL_WEIGHT * by_lateral * lateral + _HEADING_WEIGHT * by_heading * wrap(heading)
    rate = -pull / (_LATERAL_WEIGHT * by_lateral**2 + _HEADING_WEIGHT * by_heading**2 + _RATE_WEIGHT)
    return np.stack([acceleration, np.where(stops, 0.0, rate)], -1)


def advance(state: np.ndarray, command: np.ndarray, dt: float = DT, vehicle: Vehicle = PACIFICA) -> np.ndarray:
    """Integrates the state [B, 11] over dt s for a command [B, 2] (see `command`), with first-order lags."""
    v, heading, steer = state[:, VX], state[:, HEADING], state[:, STEER]
    new = np.zeros_like(state)
    new[:, AX] = state[:, AX] + dt / (dt + _ACCELERATION_LAG) * (command[:, 0] - state[:, AX])
    new[:, STEER_RATE] = dt / (dt + _STEERING_LAG) * command[:, 1]
    new[:, 0] = state[:, 0] + v * np.cos(heading) * dt
    new[:, 1] = state[:, 1] + v * np.sin(heading) * dt
    new[:, HEADING] = wrap(heading + v * np.tan(steer) / vehicle.wheelbase * dt)
    new[:, VX] = v + new[:, AX] * dt
    new[:, STEER] = np.clip(steer + new[:, STEER_RATE] * dt, -_STEERING_LIMIT, _STEERING_LIMIT)
    new[:, YAW_RATE] = new[:, VX] * np.tan(new[:, STEER]) / vehicle.wheelbase
    new[:, YAW_ACC] = (new[:, YAW_RATE] - state[:, YAW_RATE]) / dt
    return new


def track(poses: np.ndarray, initial: np.ndarray, vehicle: Vehicle = PACIFICA) -> tuple[np.ndarray, np.ndarray]:
    """Tracks poses [B, M + 1, 3] from states [B, 11]: (states [B, M + 1, 11], commands [B, M, 2])."""
    speeds, curvatures = profiles(poses)
    states, commands = [np.asarray(initial, np.float64)], []
    for step in range(poses.shape[1] - 1):
        commands.append(command(states[-1], poses[:, step], speeds, curvatures, step, vehicle))
        states.append(advance(states[-1], commands[-1], vehicle=vehicle))
    return np.stack(states, 1), np.stack(commands, 1)
