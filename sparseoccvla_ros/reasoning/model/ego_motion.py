"""Future ego motion for the forecaster."""

from __future__ import annotations

import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.types import HORIZONS, STEPS, WAYPOINT_TIMES

SOURCES = ("planned", "constant_velocity", "oracle")
"""Where a future motion came from; "oracle" is the true future, for evaluation only."""
STANDING = 0.05
"""m per 0.5 s; a shorter step says nothing about the heading, which then stays."""


def constant_velocity(twist: np.ndarray) -> np.ndarray:
    """Waypoints float32 [6, 2] m at 0.5 .. 3.0 s in base_link at the stamp, for a twist that does not change.

    twist: [6] = vx, vy, vz (m/s), wx, wy, wz (rad/s); velocity is constant in the turning body frame, so the path is
    an arc (exact integral, stable for turn rates near zero).
    """
    vx, vy, rate = float(twist[0]), float(twist[1]), float(twist[5])
    half = rate * WAYPOINT_TIMES / 2
    along = WAYPOINT_TIMES * np.sinc(rate * WAYPOINT_TIMES / np.pi)
    across = WAYPOINT_TIMES * np.sinc(half / np.pi) * np.sin(half)
    return np.stack([vx * along - vy * across, vx * across + vy * along], axis=-1).astype(np.float32)


def check_motion(motion: np.ndarray) -> np.ndarray:
    """The future motion as float32 [6, 2]; raises InvalidInput("future_motion") unless finite and of that shape."""
    motion = np.asarray(motion)
    if motion.shape != (STEPS, 2) or motion.dtype.kind not in "fiu":
        raise InvalidInput("future_motion", f"want numbers [{STEPS}, 2], got {motion.dtype} {list(motion.shape)}")
    if not np.isfinite(motion).all():
        raise InvalidInput("future_motion", "holds a number that is not finite")
    return motion.astype(np.float32)


def future_poses(motion: np.ndarray) -> np.ndarray:
    """Poses float64 [3, 4, 4] of base_link at HORIZONS seconds, in base_link at the stamp, along waypoints [6, 2] m.

    The vehicle looks along its path: the heading at a waypoint is the mean direction of the steps before and after it,
    and past the last step the direction keeps turning as before (exact on circular arcs). The ground is taken as flat.
    Raises InvalidInput("future_motion").
    """
    points = np.concatenate([np.zeros((1, 2)), check_motion(motion).astype(np.float64)])
    steps = np.diff(points, axis=0)
    # Step 0 starts along x; a step too short to tell takes the direction of the one before.
    angles, before = np.zeros(STEPS), 0.0
    for i, (dx, dy) in enumerate(steps):
        if np.hypot(dx, dy) >= STANDING:
            turn = np.arctan2(dy, dx) - before
            # A vehicle that backs up keeps looking ahead.
            turn = (turn + np.pi / 2) % np.pi - np.pi / 2
            before += turn
        angles[i] = before
    after = np.append(angles[1:], 2 * angles[-1] - angles[-2])
    headings = (angles + after) / 2
    at = [int(np.flatnonzero(h == WAYPOINT_TIMES)[0]) for h in HORIZONS]
    return np.stack([geometry.planar(*points[i + 1], headings[i]) for i in at])
