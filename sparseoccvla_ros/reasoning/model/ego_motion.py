"""Future ego motion for the forecaster."""

from __future__ import annotations

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import STEPS, WAYPOINT_TIMES

SOURCES = ("planned", "constant_velocity", "oracle")
"""Sources of a future motion; "oracle" is the true future, for evaluation only."""


def constant_velocity(twist: np.ndarray) -> np.ndarray:
    """Returns waypoints float32 [6, 2] m at 0.5 .. 3.0 s in base_link at the stamp, for a constant twist.

    twist: [6] = vx, vy, vz (m/s), wx, wy, wz (rad/s); the velocity is constant in the rotating body frame, so the path
    is an arc (exact integral, numerically stable for yaw rates near zero).
    """
    vx, vy, rate = float(twist[0]), float(twist[1]), float(twist[5])
    half = rate * WAYPOINT_TIMES / 2
    along = WAYPOINT_TIMES * np.sinc(rate * WAYPOINT_TIMES / np.pi)
    across = WAYPOINT_TIMES * np.sinc(half / np.pi) * np.sin(half)
    return np.stack([vx * along - vy * across, vx * across + vy * along], axis=-1).astype(np.float32)


def check_motion(motion: np.ndarray) -> np.ndarray:
    """Returns the motion as float32 [6, 2]; raises InvalidInput("future_motion") unless finite and of that shape."""
    motion = np.asarray(motion)
    if motion.shape != (STEPS, 2) or motion.dtype.kind not in "fiu":
        raise InvalidInput("future_motion", f"want numbers [{STEPS}, 2], got {motion.dtype} {list(motion.shape)}")
    if not np.isfinite(motion).all():
        raise InvalidInput("future_motion", "holds a number that is not finite")
    return motion.astype(np.float32)
