"""Semantic points to sparse voxels: the one rule that the encoder's and the forecaster's occupancy share."""

from __future__ import annotations

import numpy as np

from .errors import InvalidInput
from .occ3d import NUM_CLASSES
from .voxels import OCC3D_GRID, SparseVoxels, VoxelGrid


def voxelise(
    points: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    grid: VoxelGrid = OCC3D_GRID,
    threshold: float = 0.0,
) -> SparseVoxels:
    """Occupied voxels of labelled points.

    A voxel takes the class with the largest summed score (the lower label on a tie), and the mean of that class's
    scores as its own; it is occupied when that mean reaches `threshold`. Points outside the grid or not finite are
    dropped. Voxels come sorted by x, then y, then z index, whatever the order of the points.

    points: float [N, 3] m, base_link; labels: uint8 [N], 0..16; scores: float [N], 0..1; threshold: 0..1.
    Raises InvalidInput for lengths that differ, labels past the occupied classes, or scores that are not finite.
    """
    points, labels, scores = np.asarray(points), np.asarray(labels), np.asarray(scores)
    count = len(points)
    if points.shape != (count, 3):
        raise InvalidInput("points", f"want [N, 3], got {list(points.shape)}")
    if labels.shape != (count,) or labels.dtype.kind not in "ui":
        raise InvalidInput("labels", f"want integers [{count}], got {labels.dtype} {list(labels.shape)}")
    if scores.shape != (count,):
        raise InvalidInput("scores", f"want [{count}], got {list(scores.shape)}")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < NUM_CLASSES:
        raise InvalidInput("labels", f"{int(labels.min())}..{int(labels.max())} leave 0..{NUM_CLASSES - 1}")
    if not np.isfinite(scores).all():
        raise InvalidInput("scores", "holds a number that is not finite")

    index, inside = grid.index_of(points)
    if not inside.any():
        return SparseVoxels.empty(grid)
    flat = np.ravel_multi_index(tuple(index[inside].T), grid.shape)
    # One key per (voxel, class); unique keys come sorted, so the classes of a voxel are neighbours.
    keys, group = np.unique(flat * NUM_CLASSES + labels[inside].astype(np.int64), return_inverse=True)
    sums = np.bincount(group, weights=scores[inside], minlength=len(keys))
    means = sums / np.bincount(group, minlength=len(keys))
    voxel = keys // NUM_CLASSES
    first_of_voxel = np.flatnonzero(np.r_[True, voxel[1:] != voxel[:-1]])
    # Stable sort by falling sum inside each voxel: the first entry of each voxel is its winner.
    winner = np.lexsort((keys, -sums, voxel))[first_of_voxel]
    winner = winner[means[winner] >= threshold]
    indices = np.stack(np.unravel_index(voxel[winner], grid.shape), axis=-1).astype(np.int16)
    return SparseVoxels(indices, (keys[winner] % NUM_CLASSES).astype(np.uint8), means[winner].astype(np.float32), grid)
