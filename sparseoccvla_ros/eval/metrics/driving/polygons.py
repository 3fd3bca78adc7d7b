"""Exact tests between closed polygons: touching means sharing a point; inside means strictly inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def hulls_touch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether convex polygons (or segments) [..., A, 2] and [..., B, 2] share a point, broadcast; False for NaN.

    Separating axis theorem: convex shapes are disjoint exactly when the normal of some edge separates them.
    """
    touch = np.ones(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), bool)
    for shape in (a, b):
        edges = np.roll(shape, -1, -2) - shape
        if shape.shape[-2] == 4:  # boxes: opposite edges are parallel
            edges = edges[..., :2, :]
        elif shape.shape[-2] == 2:
            edges = edges[..., :1, :]
        normals = np.stack([-edges[..., 1], edges[..., 0]], -1)
        origin = shape[..., :1, :]  # differences stay precise at coordinates of 1e6 m
        one = (a - origin) @ np.swapaxes(normals, -1, -2)
        two = (b - origin) @ np.swapaxes(normals, -1, -2)
        touch &= ((one.min(-2) <= two.max(-2)) & (two.min(-2) <= one.max(-2))).all(-1)
    return touch


def inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Whether points [..., 2] lie strictly inside a simple polygon [V, 2], which need not be convex or closed."""
    result = np.zeros(points.shape[:-1], bool)
    low, high = polygon.min(0), polygon.max(0)
    near = ((points > low) & (points < high)).all(-1)
    if not near.any():
        return result
    p = points[near][:, None, :]
    a, b = polygon, np.roll(polygon, -1, 0)
    cross = (b[:, 0] - a[:, 0]) * (p[..., 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (p[..., 0] - a[:, 0])
    upward = (a[:, 1] <= p[..., 1]) & (p[..., 1] < b[:, 1])
    downward = (b[:, 1] <= p[..., 1]) & (p[..., 1] < a[:, 1])
    odd = ((upward & (cross > 0)) | (downward & (cross < 0))).sum(-1) % 2 == 1
    between = ((p >= np.minimum(a, b)) & (p <= np.maximum(a, b))).all(-1)
    result[near] = odd & ~((cross == 0) & between).any(-1)
    return result


def touches(boxes: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Whether closed convex boxes [..., 4, 2] and a closed simple polygon [V, 2] share a point."""
    result = np.zeros(boxes.shape[:-2], bool)
    near = ((boxes.min(-2) <= polygon.max(0)) & (boxes.max(-2) >= polygon.min(0))).all(-1)
    if not near.any():
        return result
    some = boxes[near]
    edges = np.stack([polygon, np.roll(polygon, -1, 0)], 1)
    crossing = hulls_touch(some[:, None], edges).any(-1)
    result[near] = crossing | inside(some[:, 0], polygon)
    return result


class Areas:
    """A set of simple polygons, arrays [V, 2]."""

    def __init__(self, polygons: Iterable[np.ndarray]) -> None:
        self.polygons: Sequence[np.ndarray] = tuple(np.asarray(p, np.float64) for p in polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def holders(self, points: np.ndarray) -> np.ndarray:
        """bool [P, ...]: which polygon strictly contains which of the points [..., 2]."""
        found = [inside(points, p) for p in self.polygons]
        return np.stack(found) if found else np.zeros((0, *points.shape[:-1]), bool)

    def hold(self, points: np.ndarray) -> np.ndarray:
        """bool [...]: whether any polygon strictly contains each of the points [..., 2]."""
        result = np.zeros(points.shape[:-1], bool)
        for polygon in self.polygons:
            result |= inside(points, polygon)
        return result


def project(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projects points [..., 2] to a polyline [C, 2]: (arc length [...], distance [...]) of the nearest point, m."""
    start, step = line[:-1], np.diff(line, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    delta = points[..., None, :] - start
    share = np.clip((delta * step).sum(-1) / np.maximum(length**2, 1e-300), 0.0, 1.0)
    gap = delta - share[..., None] * step
    distance = np.hypot(gap[..., 0], gap[..., 1])
    nearest = distance.argmin(-1)
    along = np.concatenate([[0.0], np.cumsum(length)[:-1]])[nearest]
    share = np.take_along_axis(share, nearest[..., None], -1)[..., 0]
    return along + share * length[nearest], np.take_along_axis(distance, nearest[..., None], -1)[..., 0]
