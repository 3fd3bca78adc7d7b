"""Planar curves: street centrelines of constant-curvature pieces, and densely sampled driven paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.errors import InvalidInput


@dataclass(frozen=True)
class Piece:
    """Constant curvature (1/m, left positive) from arc length s0 to s1; pose x, y, yaw at s0."""

    s0: float
    s1: float
    x: float
    y: float
    yaw: float
    curvature: float

    def pose(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, y, yaw at arc lengths s, which may lie outside s0..s1."""
        d = np.asarray(s, np.float64) - self.s0
        yaw = self.yaw + self.curvature * d
        # The sinc form is exact for arcs and avoids a division by zero for straight lines.
        half = 0.5 * self.curvature * d
        chord = d * np.sinc(half / np.pi)
        return self.x + chord * np.cos(self.yaw + half), self.y + chord * np.sin(self.yaw + half), yaw


def chain(curvatures: list[tuple[float, float]], x: float, y: float, yaw: float, s0: float = 0.0) -> list[Piece]:
    """Create tangent-continuous pieces from (length, curvature) pairs, starting at a pose."""
    pieces = []
    for length, curvature in curvatures:
        piece = Piece(s0, s0 + length, x, y, yaw, curvature)
        pieces.append(piece)
        s0 += length
        x, y, yaw = (float(v) for v in piece.pose(np.array(s0)))
    return pieces


class Curve:
    """A driven path sampled about every 0.1 to 0.25 m.

    points: float64 [N, 2] m; yaw: float64 [N] rad, unwrapped; s: float64 [N] m from 0. Beyond its ends the path
    continues straight.
    """

    def __init__(self, points: np.ndarray, yaw: np.ndarray) -> None:
        if len(points) < 2 or points.shape != (len(yaw), 2):
            raise InvalidInput("points", f"want [N, 2] with N headings, got {points.shape} and {yaw.shape}")
        self.points = np.asarray(points, np.float64)
        self.yaw = np.unwrap(yaw)
        self.s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(self.points, axis=0), axis=1))])
        self.curvature = np.gradient(self.yaw, self.s)

    @property
    def length(self) -> float:
        """Arc length of the whole path, m."""
        return float(self.s[-1])

    def at(self, s: np.ndarray | float) -> np.ndarray:
        """Return x, y, yaw float64 [..., 3] at arc lengths s."""
        s = np.asarray(s, np.float64)
        inside = np.clip(s, 0.0, self.length)
        yaw = np.interp(inside, self.s, self.yaw)
        beyond = s - inside
        x = np.interp(inside, self.s, self.points[:, 0]) + beyond * np.cos(yaw)
        y = np.interp(inside, self.s, self.points[:, 1]) + beyond * np.sin(yaw)
        return np.stack([x, y, yaw], -1)

    def curvature_at(self, s: np.ndarray | float) -> np.ndarray:
        """Return the curvature in 1/m at arc lengths s, left positive; 0 beyond the ends."""
        return np.interp(s, self.s, self.curvature, left=0.0, right=0.0)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the arc length of the sample nearest to a point, and the distance to it in metres."""
        d = np.hypot(self.points[:, 0] - x, self.points[:, 1] - y)
        i = int(d.argmin())
        return float(self.s[i]), float(d[i])


def join(curves: list[Curve]) -> Curve:
    """Join several paths that touch end to start."""
    points = [curves[0].points] + [c.points[1:] for c in curves[1:]]
    yaw = [curves[0].yaw] + [c.yaw[1:] for c in curves[1:]]
    return Curve(np.concatenate(points), np.concatenate(yaw))


def turn(start: np.ndarray, end: np.ndarray, step: float = 0.1) -> Curve:
    """Create a quintic Bezier from pose to pose (x, y, yaw) with zero curvature, as for zero steering, at both ends.

    It has three collinear control points at each end, spaced to make a right-angle turn close to an arc.
    """
    p, q = start[:2], end[:2]
    reach = 0.45 * float(np.linalg.norm(q - p))
    t0 = np.array([np.cos(start[2]), np.sin(start[2])]) * reach
    t1 = np.array([np.cos(end[2]), np.sin(end[2])]) * reach
    control = np.stack([p, p + 0.4 * t0, p + t0, q - t1, q - 0.4 * t1, q])
    u = np.linspace(0.0, 1.0, max(int(np.linalg.norm(q - p) * 1.2 / step), 8))[:, None]
    binomial = (1, 5, 10, 10, 5, 1)
    basis = np.concatenate([c * u**i * (1 - u) ** (5 - i) for i, c in enumerate(binomial)], 1)
    slope = np.diff(control, axis=0) * 5
    tangent = np.concatenate([c * u**i * (1 - u) ** (4 - i) for i, c in enumerate((1, 4, 6, 4, 1))], 1) @ slope
    return Curve(basis @ control, np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])))
