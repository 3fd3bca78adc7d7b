"""Kinematic urban manoeuvres, from which anchors are fitted when recorded driving is not available."""

from __future__ import annotations

from itertools import product

import numpy as np

from ..core.types import STEP_SECONDS, STEPS, TURN_OFFSET

SUBSTEPS = 25
"""Integration steps per waypoint interval (20 ms)."""
SPEEDS = np.arange(0.0, 14.0, 1.0)
"""m/s, initial speed."""
ACCELERATIONS = (-3.0, -1.5, -0.5, 0.0, 0.5, 1.0, 2.0)
"""m/s^2, constant until standstill or TOP_SPEED."""
CURVATURES = tuple(np.round(np.concatenate([[0.0], np.geomspace(0.002, 0.2, 12)]), 5))
"""1/m, left turns; right turns are their mirror image."""
TOP_SPEED = 14.0
MAX_LATERAL = 3.5
"""m/s^2, usual limit of lateral acceleration in urban driving."""


def drive(speed: np.ndarray, acceleration: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Integrate a kinematic bicycle: waypoints float64 [N, 6, 2] m in base_link at 0.5 .. 3.0 s.

    speed [N] m/s, acceleration [N] m/s^2, first and last [N]: curvature in 1/m at 0 s and 3 s, linear in between
    (constant steering rate). The curvature is limited so that lateral acceleration does not exceed MAX_LATERAL.
    """
    count = STEPS * SUBSTEPS
    dt = STEP_SECONDS / SUBSTEPS
    middle = (np.arange(count) + 0.5) * dt
    v = np.clip(speed[:, None] + acceleration[:, None] * middle, 0.0, np.maximum(speed, TOP_SPEED)[:, None])
    curvature = first[:, None] + (last - first)[:, None] * middle / (count * dt)
    limit = MAX_LATERAL / np.maximum(v, 0.1) ** 2
    turn = np.clip(curvature, -limit, limit) * v * dt
    yaw = np.cumsum(turn, axis=1) - 0.5 * turn
    step = np.stack([v * np.cos(yaw), v * np.sin(yaw)], axis=-1) * dt
    return np.cumsum(step, axis=1)[:, SUBSTEPS - 1 :: SUBSTEPS]


def command_of(trajectories: np.ndarray) -> np.ndarray:
    """Returns the command of trajectories [N, 6, 2] as int64 [N]: 0 left, 1 straight, 2 right."""
    lateral = trajectories[:, -1, 1]
    return np.where(lateral >= TURN_OFFSET, 0, np.where(lateral <= -TURN_OFFSET, 2, 1)).astype(np.int64)


def urban() -> tuple[np.ndarray, np.ndarray]:
    """Build all manoeuvres of the tables above and their mirror images, a deterministic grid.

    Returns trajectories float64 [N, 6, 2] and commands int64 [N].
    """
    ramps = [(k, k) for k in CURVATURES] + [(0.0, k) for k in CURVATURES[1:]] + [(k, 0.0) for k in CURVATURES[1:]]
    grid = np.array([(v, a, k0, k1) for v, a, (k0, k1) in product(SPEEDS, ACCELERATIONS, ramps)])
    left = drive(*grid.T)
    # many rows of the table result in the same standstill: keep one
    left = np.unique(np.round(left, 6).reshape(len(left), -1), axis=0).reshape(-1, STEPS, 2)
    both = np.concatenate([left, left * (1.0, -1.0)])
    return both, command_of(both)
