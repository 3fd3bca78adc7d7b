"""Rigid transforms, their interpolation, and pinhole projection.

A transform `a2b` is a float64 [4, 4] matrix that takes points of frame a to frame b. Quaternions are x, y, z, w
(ROS order; nuScenes tables hold w, x, y, z and are reordered when they are read).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from .errors import InvalidInput


def transform(translation: np.ndarray, quaternion: np.ndarray, field: str = "transform") -> np.ndarray:
    """Build a transform float64 [4, 4] from translation [3] m and quaternion [4] x, y, z, w.

    Raises InvalidInput when a number is not finite or the quaternion's norm deviates from 1 by more than 1e-2
    (recorders round; a larger deviation means a wrong message).
    """
    t = np.asarray(translation, np.float64).reshape(3)
    q = np.asarray(quaternion, np.float64).reshape(4)
    if not (np.isfinite(t).all() and np.isfinite(q).all()):
        raise InvalidInput(field, "holds a number that is not finite")
    norm = float(np.linalg.norm(q))
    if abs(norm - 1.0) > 1e-2:
        raise InvalidInput(field, f"quaternion has norm {norm:.3f}, want 1")
    out = np.eye(4)
    out[:3, :3] = Rotation.from_quat(q / norm).as_matrix()
    out[:3, 3] = t
    return out


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Return the rotation of a transform [4, 4] as quaternion float64 [4] x, y, z, w."""
    return Rotation.from_matrix(matrix[:3, :3]).as_quat()


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Invert rigid transforms float64 [..., 4, 4] by transposing the rotation."""
    out = np.zeros_like(matrix)
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = -(rotation @ matrix[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def interpolate(first: np.ndarray, second: np.ndarray, fraction: float) -> np.ndarray:
    """Interpolate two transforms [4, 4] at `fraction` by lerp and slerp, as tf2; InvalidInput outside 0..1."""
    if not 0.0 <= fraction <= 1.0:
        raise InvalidInput("fraction", f"{fraction} would extrapolate")
    out = np.eye(4)
    out[:3, 3] = (1 - fraction) * first[:3, 3] + fraction * second[:3, 3]
    pair = Rotation.from_matrix(np.stack([first[:3, :3], second[:3, :3]]))
    out[:3, :3] = Slerp([0.0, 1.0], pair)([fraction]).as_matrix()[0]
    return out


def yaw_of(matrix: np.ndarray) -> float:
    """Return the heading of a transform [4, 4], rad: angle of its x axis in the xy plane, counter-clockwise."""
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def planar(x: float, y: float, yaw: float) -> np.ndarray:
    """Build the transform float64 [4, 4] of a planar pose: x, y in metres, yaw in radians."""
    out = np.eye(4)
    c, s = np.cos(yaw), np.sin(yaw)
    out[:2, :2] = ((c, -s), (s, c))
    out[:2, 3] = (x, y)
    return out


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a transform [4, 4] to points [..., 3]."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def points_along(line: np.ndarray, lengths: np.ndarray, at: np.ndarray, least: float = 1e-6) -> np.ndarray:
    """Returns the points [K, 2] at arc lengths `at` [K] of a polyline [M, 2] with the arc lengths [M].

    Behind its end it goes straight on, in the direction of its last step longer than `least`; along x without one.
    """
    moving = np.flatnonzero(np.diff(lengths) > least)
    last = line[moving[-1] + 1] - line[moving[-1]] if len(moving) else np.array([1.0, 0.0])
    points = np.stack([np.interp(at, lengths, line[:, i]) for i in (0, 1)], -1)
    return points + np.maximum(at - lengths[-1], 0.0)[:, None] * last / np.hypot(*last)


def camera_matrix(intrinsics: np.ndarray, ego2camera: np.ndarray) -> np.ndarray:
    """Return ego2img float64 [4, 4]: maps homogeneous base_link points to (u * z, v * z, z, 1), u and v in pixels.

    intrinsics: [3, 3] pixels; ego2camera: [4, 4], optical frame (z forward, x right, y down; REP-103).
    """
    out = np.eye(4)
    out[:3] = intrinsics @ ego2camera[:3]
    return out


def project(ego2img: np.ndarray, points: np.ndarray, near: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
    """Project points [..., 3] in base_link to pixels float64 [..., 2] (u right, v down) and depths [...] m.

    Points at a depth below `near` get NaN pixels.
    """
    camera = points @ ego2img[:3, :3].T + ego2img[:3, 3]
    depth = camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = np.where((depth > near)[..., None], camera[..., :2] / depth[..., None], np.nan)
    return pixels, depth
