"""Morphological closing of sparse semantic voxels, which fills the holes that points leave in surfaces.

It uses bit masks, one bit per class: thresholding a closed score volume gives the same set as closing the thresholded
volume, so all 17 classes take a dozen passes over one integer grid.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from .classes import FREE, NUM_CLASSES
from .voxels import SparseVoxels, VoxelGrid

BITS = np.uint32(1) << np.arange(NUM_CLASSES, dtype=np.uint32)
"""uint32 [17]: the bit of each class."""
_CUBE = np.array(list(product((-1, 0, 1), repeat=3)), np.int64)
"""int64 [27, 3]: offsets to a voxel and its 26 neighbours."""


def closed(voxels: SparseVoxels) -> SparseVoxels:
    """Append the voxels that a 3x3x3 closing of each class adds.

    Among the classes that fill a hole, it takes the one with the highest summed score of its neighbours, and the mean
    score of that class's neighbours.
    """
    if not len(voxels):
        return voxels
    grid = voxels.grid
    x, y, z = voxels.indices.T.astype(np.int64)
    flat = (z * grid.shape[0] + x) * grid.shape[1] + y
    flat, labels, scores = _fill_holes(flat, voxels.labels, voxels.scores, grid)
    return SparseVoxels(
        np.concatenate((voxels.indices, unflatten(flat, grid))),
        np.concatenate((voxels.labels, labels)),
        np.concatenate((voxels.scores, scores)),
        grid,
    )


def unflatten(flat: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Convert flat z-major indices to voxel indices int16 [M, 3]."""
    z, x, y = np.unravel_index(flat, volume_shape(grid))
    return np.stack((x, y, z), -1).astype(np.int16)


def volume_shape(grid: VoxelGrid) -> tuple[int, int, int]:
    """Return (Z, X, Y), with a long axis last for numpy's inner loops."""
    x, y, z = grid.shape
    return z, x, y


def _spread(bits: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """Combine every voxel of [Z, X, Y] with its 26 neighbours, ignoring those outside the grid."""
    for axis in range(3):
        source = np.moveaxis(bits, axis, 0)
        bits = bits.copy()
        target = np.moveaxis(bits, axis, 0)
        combine(target[1:], source[:-1], out=target[1:])
        combine(target[:-1], source[1:], out=target[:-1])
    return bits


def close_bits(bits: np.ndarray) -> np.ndarray:
    """Apply 3x3x3 morphological closing to every bit of a uint32 [Z, X, Y] volume."""
    return _spread(_spread(bits, np.bitwise_or), np.bitwise_and)


def neighbours(flat: np.ndarray, grid: VoxelGrid, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return flat indices [M, K] at (z, x, y) `offsets` int64 [K, 3] from each voxel, and which are inside the grid."""
    shape = volume_shape(grid)
    index = [axis[:, None] + offset for axis, offset in zip(np.unravel_index(flat, shape), offsets.T, strict=True)]
    inside = np.ones(index[0].shape, bool)
    for axis, size in zip(index, shape, strict=True):
        inside &= (axis >= 0) & (axis < size)
        np.clip(axis, 0, size - 1, out=axis)
    return (index[0] * shape[1] + index[1]) * shape[2] + index[2], inside


def _fill_holes(
    flat: np.ndarray, labels: np.ndarray, scores: np.ndarray, grid: VoxelGrid
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flat index, label and score of the voxels that closing adds, see `closed`."""
    size = int(np.prod(grid.shape))
    bits = np.zeros(size, np.uint32)
    bits[flat] = BITS[labels]
    closed = close_bits(bits.reshape(volume_shape(grid))).reshape(-1)
    closed[flat] = 0
    holes = np.flatnonzero(closed)
    label_volume = np.full(size, FREE, np.uint8)
    label_volume[flat] = labels
    score_volume = np.zeros(size, np.float32)
    score_volume[flat] = scores
    around, inside = neighbours(holes, grid, _CUBE)
    label = np.where(inside, label_volume[around], FREE)
    slot = (np.arange(len(holes)) * (FREE + 1))[:, None] + label
    total = np.bincount(slot.ravel(), score_volume[around].ravel(), len(holes) * (FREE + 1))
    count = np.bincount(slot.ravel(), minlength=len(holes) * (FREE + 1))
    total, count = total.reshape(-1, FREE + 1)[:, :FREE], count.reshape(-1, FREE + 1)[:, :FREE]
    allowed = (closed[holes, None] & BITS) != 0
    best = np.where(allowed, total, -1.0).argmax(1)
    row = np.arange(len(holes))
    mean = total[row, best] / np.maximum(count[row, best], 1)
    return holes, best.astype(np.uint8), mean.astype(np.float32)
