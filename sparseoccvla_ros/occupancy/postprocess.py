"""From predicted points to sparse semantic voxels.

Two entrances. `voxels_from_scores` is the post-processing of OPUS on all 17 class scores, for evaluation;
`occupied_voxels` works from a SceneQueries (best class and its score per point) and gives every node that holds the
message the same voxels.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ..core.classes import NUM_CLASSES
from ..core.errors import InvalidInput
from ..core.morphology import BITS, close_bits, closed, neighbours, unflatten, volume_shape
from ..core.types import SceneQueries
from ..core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid, voxelise
from .config import OccupancyConfig

_SURROUNDINGS = np.array(list(product(range(-2, 3), repeat=3)), np.int64)
"""int64 [125, 3]: what a closing of a voxel depends on."""


def occupied_voxels(
    queries: SceneQueries, grid: VoxelGrid = OCC3D_GRID, config: OccupancyConfig | None = None
) -> SparseVoxels:
    """Voxels of a scene: those of the encoder's voxel head, else from the best class and score of each point.

    A point counts when its score exceeds `config.score_threshold`, it lies within `config.max_point_distance` of its
    query's centre and inside the grid; core.voxels says what voxels they make. With `config.padding` each class is
    closed by 3x3x3 voxels; a hole filled so takes, among the classes that fill it, the one with the highest summed
    score among its neighbours, and their mean score.
    """
    if queries.voxels is not None:
        return queries.voxels
    config = config or OccupancyConfig()
    if queries.labels.size and queries.labels.max() >= NUM_CLASSES:
        raise InvalidInput("labels", f"label {int(queries.labels.max())} is not an occupied class")
    distance = np.square(queries.points - queries.centres[:, None]).sum(-1)
    keep = (queries.scores > config.score_threshold) & (distance < config.max_point_distance**2)
    own = voxelise(queries.points[keep], queries.labels[keep], queries.scores[keep], grid)
    return closed(own) if config.padding else own


def voxels_from_scores(
    points: np.ndarray,
    scores: np.ndarray,
    grid: VoxelGrid = OCC3D_GRID,
    config: OccupancyConfig | None = None,
) -> SparseVoxels:
    """The post-processing of OPUS, voxel for voxel.

    points float32 [Q, R, 3] m, scores float32 [Q, R, 17] probabilities. Points far from their query's mean or below
    the threshold in every class are dropped; each voxel averages the scores of its first `max_points_per_voxel`
    points in input order; with padding, a voxel keeps its own mean where that exceeds the threshold in some class, all
    others take the scores after a 3x3x3 closing per class, and voxels below the threshold in every class are free;
    without padding every voxel that holds a point is occupied. The label is the class with the highest score.
    """
    config = config or OccupancyConfig()
    if points.ndim != 3 or points.shape[2] != 3 or scores.shape != (*points.shape[:2], NUM_CLASSES):
        raise InvalidInput("scores", f"want points [Q, R, 3] and scores [Q, R, 17], got {points.shape}, {scores.shape}")
    points, scores = points.astype(np.float32, copy=False), scores.astype(np.float32, copy=False)
    threshold = np.float32(config.score_threshold)
    distance = np.linalg.norm(points - points.mean(1, keepdims=True), axis=-1)
    keep = (distance < config.max_point_distance) & (scores.max(-1) > threshold)
    points, scores = points[keep], scores[keep]
    flat, inside = _flat_index(points, grid)
    flat, scores = flat[inside], scores[inside]
    if not len(flat):
        return SparseVoxels.empty(grid)

    order = np.argsort(flat, kind="stable")
    flat, scores = flat[order], scores[order]
    start = np.flatnonzero(np.diff(flat, prepend=-1))
    rank = np.arange(len(flat)) - np.repeat(start, np.diff(start, append=len(flat)))
    counted = rank < config.max_points_per_voxel
    flat, scores = flat[counted], scores[counted]
    start = np.flatnonzero(np.diff(flat, prepend=-1))
    count = np.diff(start, append=len(flat)).astype(np.float32)
    means = np.add.reduceat(scores, start, axis=0) / count[:, None]
    voxel = flat[start]
    if config.padding:
        voxel, means = _closed_scores(voxel, means, threshold, grid)
    order = np.argsort(_x_major(voxel, grid))
    voxel, means = voxel[order], means[order]
    return SparseVoxels(unflatten(voxel, grid), means.argmax(1).astype(np.uint8), means.max(1), grid)


def _flat_index(points: np.ndarray, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Flat z-major index int64 [M] of points float32 [M, 3], and which of them lie inside the grid.

    float32 all the way: OPUS bins in float32, and float64 would move points that lie on a border.
    """
    scaled = np.floor((points - np.asarray(grid.lower, np.float32)) / np.float32(grid.size))
    inside = np.logical_and(scaled >= 0, scaled < np.asarray(grid.shape, np.float32)).all(axis=-1)
    inside = np.asarray(inside)
    x, y, z = np.where(inside[:, None], scaled, 0).astype(np.int64).T
    return (z * grid.shape[0] + x) * grid.shape[1] + y, inside


def _x_major(flat: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Sort key that lists voxels by x, then y, then z."""
    z, x, y = np.unravel_index(flat, volume_shape(grid))
    return (x * grid.shape[1] + y) * grid.shape[2] + z


def _closed_scores(
    voxel: np.ndarray, means: np.ndarray, threshold: np.float32, grid: VoxelGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Occupied voxels and their 17 scores after the closing, see `voxels_from_scores`."""
    size = int(np.prod(grid.shape))
    over = means > threshold
    own = over.any(1)
    bits = np.zeros(size, np.uint32)
    bits[voxel] = over @ BITS
    closed = close_bits(bits.reshape(volume_shape(grid))).reshape(-1)
    closed[voxel[own]] = 0
    lifted = np.flatnonzero(closed)
    row = np.zeros(size, np.int64)
    row[voxel] = np.arange(1, len(voxel) + 1)
    table = np.concatenate((np.zeros((1, NUM_CLASSES), np.float32), means))
    blocks = [_windowed_scores(lifted[i : i + 2048], row, table, grid) for i in range(0, len(lifted), 2048)]
    return np.concatenate((voxel[own], lifted)), np.concatenate((means[own], *blocks))


def _windowed_scores(voxels: np.ndarray, row: np.ndarray, table: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Closed scores float32 [M, 17] of a few voxels: maximum, then minimum, over windows of their 5x5x5 surroundings.

    row: int64, flat, the row of `table` float32 [rows, 17] that holds each voxel's scores (row 0: zeros).
    """
    around, inside = neighbours(voxels, grid, _SURROUNDINGS)
    window = np.where(inside[..., None], table[row[around]], -np.inf).reshape(-1, 5, 5, 5, NUM_CLASSES)
    inside = inside.reshape(-1, 5, 5, 5)[:, 1:4, 1:4, 1:4]
    for axis in (1, 2, 3):
        parts = [window.take(range(i, i + 3), axis) for i in range(3)]
        window = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    return np.where(inside[..., None], window, np.inf).min((1, 2, 3)).astype(np.float32)
