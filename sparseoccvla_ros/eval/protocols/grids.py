"""Grid arithmetic of the collision metrics: filled boxes, and ego footprint cells at waypoints.

Float types and order of operations follow the public code, so waypoints on a cell border fall on the same side.
Grids span -50..50 m; a cell's centre is -50 + (index + 0.5) * resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np

from ...core.vehicle import NUSCENES_CAR

HALF_EXTENT = 50.0
EGO_LENGTH, EGO_WIDTH = NUSCENES_CAR.length_m, NUSCENES_CAR.width_m
"""Size of the vehicle in all protocols, m."""
LIDAR_AHEAD = 0.985793
"""Distance from base_link forward to the origin of the lidar frame (nuScenes), m."""
CENTRE_AHEAD = 0.5
"""Distance from the lidar frame's origin forward to the centre of the vehicle, m."""


def box_corners(centres: np.ndarray, yaws: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns box corners float64 [..., 4, 2] m; centres [..., 2] m, yaws [...] rad, sizes [..., 2] m length, width."""
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) / 2
    local = signs * sizes[..., None, :]
    cos, sin = np.cos(yaws)[..., None], np.sin(yaws)[..., None]
    turned = np.stack([cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1]], -1)
    return turned + centres[..., None, :]


def fill(cells: int, polygons: Iterable[np.ndarray]) -> np.ndarray:
    """bool [cells, cells]: polygons [4, 2] of whole pixels (column, row) filled, including their borders."""
    grid = np.zeros((cells, cells), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(grid, [polygon.astype(np.int32)], 1)
    return grid.view(bool)


def draw_lines(cells: int, resolution: float, lines: Iterable[np.ndarray]) -> np.ndarray:
    """bool [cells, cells], row = y, column = x: polylines [P, 2] m, one pixel wide, clipped to the grid."""
    grid = np.zeros((cells, cells), np.uint8)
    first = -HALF_EXTENT + resolution / 2
    for line in lines:
        pixels = np.clip((line - first) / resolution, 0, cells - 1).astype(np.int32)
        cv2.polylines(grid, [pixels], isClosed=False, color=1, thickness=1)
    return grid.view(bool)


@lru_cache
def footprint(resolution: float, ahead: float) -> np.ndarray:
    """Returns cells int64 [C, 2] (forward, lateral) whose centres are in the vehicle box centred at (`ahead` m, 0)."""
    first = -HALF_EXTENT + resolution / 2
    ranges = []
    for middle, extent in ((ahead, EGO_LENGTH), (0.0, EGO_WIDTH)):
        low, high = (middle + side * extent / 2 - first for side in (-1, 1))
        ranges.append(np.arange(np.ceil(low / resolution), np.floor(high / resolution) + 1, dtype=np.int64))
    return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 2)


def shifted_cells(points: np.ndarray, resolution: float) -> np.ndarray:
    """Returns footprint cells float64 [6, C, 2] (forward, lateral) at waypoints [6, 2] m, without rotation."""
    return (points / np.float32(resolution))[:, None] + footprint(resolution, CENTRE_AHEAD)


def turned_cells(points: np.ndarray, resolution: float, cells: int, shortest: float) -> np.ndarray:
    """Returns footprint cells float64 [6, C, 2] (x, y) at waypoints [6, 2] m in base_link, rotated about base_link.

    The heading is the direction from the previous waypoint (first: from the origin), or 0 for steps < shortest m.
    """
    heading = step_headings(points, shortest)
    origin = (cells - 1) / 2
    body = footprint(resolution, LIDAR_AHEAD + CENTRE_AHEAD) - origin
    out = np.empty((len(points), len(body), 2))
    for step, (point, yaw) in enumerate(zip(points, heading, strict=True)):
        cos, sin = np.cos(yaw), np.sin(yaw)
        out[step] = point / np.float32(resolution) + np.round(body @ np.array([[cos, sin], [-sin, cos]]) + origin)
    return out


def step_headings(points: np.ndarray, shortest: float) -> np.ndarray:
    """Returns the direction [6] rad of each step of waypoints [6, 2], 0 for steps shorter than `shortest` m."""
    steps = np.diff(points, axis=0, prepend=np.zeros((1, 2), points.dtype))
    return np.where(
        np.linalg.norm(steps, axis=1) < shortest, points.dtype.type(0), np.arctan2(steps[:, 1], steps[:, 0])
    )


def covered(grids: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """bool [6]: whether any of the cells float [6, C, 2] (row, column) is set in grids bool [6, N, N].

    Cells are truncated towards zero and clamped: a vehicle off the grid collides with objects on its border.
    """
    index = np.clip(cells, 0, grids.shape[-1] - 1).astype(np.int32)
    step = np.arange(len(grids))[:, None]
    return grids[step, index[..., 0], index[..., 1]].any(1)


def centre_covered(grids: np.ndarray, points: np.ndarray, resolution: float) -> np.ndarray:
    """bool [6]: whether the cell of each waypoint [6, 2] m (along rows, columns) is set; free off the grid."""
    first = points.dtype.type(-HALF_EXTENT + resolution / 2)
    # large numbers would overflow; clipped waypoints stay off the grid
    index = np.clip((points - first) / np.float32(resolution), -2, grids.shape[-1]).astype(np.int64)
    inside = ((index >= 0) & (index < grids.shape[-1])).all(1)
    row, column = np.where(inside[:, None], index, 0).T
    return grids[np.arange(len(grids)), row, column] & inside


def leaves(drivable: np.ndarray, polygon: np.ndarray) -> bool:
    """Whether a filled polygon [4, 2] of whole pixels (column, row) covers an unset cell on the grid."""
    low = polygon.min(0).astype(int)
    size = polygon.max(0).astype(int) - low + 1
    patch = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillPoly(patch, [(polygon - low).astype(np.int32)], 1)
    row, column = np.nonzero(patch)
    row, column = row + low[1], column + low[0]
    inside = (row >= 0) & (row < drivable.shape[0]) & (column >= 0) & (column < drivable.shape[1])
    return not drivable[row[inside], column[inside]].all()
