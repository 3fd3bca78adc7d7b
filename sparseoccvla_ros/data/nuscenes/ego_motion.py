"""Ego motion and planned route of a nuScenes scene, from the CAN bus expansion or the poses.

nuScenes (Caesar et al. 2020); the CAN bus expansion's files are described in its README: `can_bus/<scene>_pose.json`
(50 Hz) and `can_bus/<scene>_route.json`, the baseline route that the drivers were given in advance.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS, Command
from ...planning.route_command import LOOKAHEAD, MIN_LOOKAHEAD, route_command
from .tables import MICROSECOND, rows, table_quaternion

Odometry = list[tuple[int, np.ndarray, np.ndarray]]
"""(stamp ns, ego2global float64 [4, 4], twist float64 [6] m/s and rad/s in base_link), by stamp."""

CAN_BLACKLIST = frozenset((*range(161, 169), *range(170, 177), *range(309, 315)))
"""Numbers of the scenes with invalid CAN bus data (nuScenes devkit, can_bus_api.py)."""
ROUTE_BLACKLIST = frozenset(
    (
        *(71, 73, 74, 75, 76, 85, 100, 101, 106, 107, 108, 109, 110, *range(112, 120), 261, 262, 263, 264, 276),
        *(*range(302, 307), 334, 388, 389, 390, 436, 499, 500, 501, 502, *range(504, 516), 517, 518),
        *(*range(547, 552), *range(556, 566), 730, 731, *range(733, 739), 778, *range(780, 785), 904, 905, 1073, 1074),
    )
)
"""Numbers of the scenes whose route is off the driven path (nuScenes devkit, can_bus_api.py, threshold 5 m)."""
TWIST_WINDOW = NANOSECONDS // 10
"""Window of pose differentiation, ns: 0.1 s, since neighbouring rows are milliseconds apart and amplify jitter."""
TWIST_SPAN = (NANOSECONDS // 50, NANOSECONDS)
"""Shortest and longest time difference accepted for a speed, ns."""
_ARC_STEPS = 24
_SLOW = 0.5


def scene_number(scene: str) -> int:
    """The number in a scene name such as scene-0061; -1 if it has none."""
    digits = scene.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


def can_odometry(root: Path, scene: str, first: int, last: int) -> Odometry | None:
    """Odometry from the CAN bus (about 50 Hz) between two stamps; None if it is missing or the scene is blacklisted."""
    path = root / "can_bus" / f"{scene}_pose.json"
    if not path.is_file() or scene_number(scene) in CAN_BLACKLIST:
        return None
    out = []
    for row in rows(path):
        try:
            stamp = int(row["utime"]) * MICROSECOND
            pose = geometry.transform(np.asarray(row["pos"]), table_quaternion(row["orientation"]), "can_bus")
            twist = np.asarray([*row["vel"], *row["rotation_rate"]], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput("can_bus", f"{path}: a row is malformed: {error!r}") from error
        if first <= stamp <= last:
            out.append((stamp, pose, twist))
    return out or None


def differentiated(poses: dict[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields odometry from backward differences of poses by stamp; skips stamps with too little history."""
    stamps = list(poses)
    for index, stamp in enumerate(stamps):
        earlier = max(bisect.bisect_right(stamps, stamp - TWIST_WINDOW) - 1, 0)
        span = stamp - stamps[earlier]
        if earlier == index or not TWIST_SPAN[0] <= span <= TWIST_SPAN[1]:
            continue
        seconds = span / NANOSECONDS
        pose = poses[stamp]
        step = geometry.inverse(poses[stamps[earlier]]) @ pose
        # Under a constant twist the chord is rotated by half the turn from the body's direction of motion.
        turn = Rotation.from_matrix(step[:3, :3]).as_rotvec()
        linear = Rotation.from_rotvec(-turn / 2).apply(step[:3, 3]) / seconds
        angular = turn / seconds
        yield stamp, pose, np.concatenate([linear, angular])


def can_route(root: Path, scene: str) -> np.ndarray | None:
    """The baseline route float64 [M, 2] m in the global frame; None if it is missing or the scene is blacklisted.

    Raises InvalidInput("can_bus") for a file that is not a list of points.
    """
    path = root / "can_bus" / f"{scene}_route.json"
    if not path.is_file() or scene_number(scene) in CAN_BLACKLIST | ROUTE_BLACKLIST:
        return None
    try:
        route = np.asarray(json.loads(path.read_text(encoding="utf-8")), np.float64)
    except (OSError, TypeError, ValueError) as error:
        raise InvalidInput("can_bus", f"{path} is no list of points: {error}") from None
    if route.ndim != 2 or route.shape[1] != 2 or not np.isfinite(route).all():
        raise InvalidInput("can_bus", f"{path} is no list of points [M, 2]")
    kept = np.concatenate([[True], np.linalg.norm(np.diff(route, axis=0), axis=1) > 1e-6])
    return route[kept] if kept.sum() >= 2 else None


def command_on_route(route: np.ndarray, pose: np.ndarray, speed: float) -> Command | None:
    """Command of a route float64 [M, 2] in the fixed frame at a pose [4, 4] and speed m/s; None far from the route.

    Same rule and parameters as planning.route_command.RouteCommand, which runs in the vehicle.
    """
    return route_command(route, pose, max(speed * LOOKAHEAD, MIN_LOOKAHEAD))


def command_of_motion(twist: np.ndarray) -> Command:
    """Same rule applied to the arc of the present twist float64 [6], for scenes without a route."""
    speed, rate = float(twist[0]), float(twist[5])
    length = max(speed * LOOKAHEAD, MIN_LOOKAHEAD)
    curvature = rate / speed if speed > _SLOW else 0.0
    turned = curvature * length * np.linspace(0.0, 1.0, _ARC_STEPS + 1)
    step = length / _ARC_STEPS
    middle = 0.5 * (turned[1:] + turned[:-1])
    arc = np.cumsum(step * np.stack([np.cos(middle), np.sin(middle)], -1), 0)
    return route_command(np.concatenate([np.zeros((1, 2)), arc]), np.eye(4), length, np.inf) or Command.STRAIGHT
