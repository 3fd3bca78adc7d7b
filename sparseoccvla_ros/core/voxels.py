"""Voxel grids and sparse semantic voxels in the ego frame (base_link, REP-103)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .classes import FREE, NUM_CLASSES
from .errors import InvalidInput


@dataclass(frozen=True)
class VoxelGrid:
    """An axis-aligned grid in base_link: x forward, y left, z up; index 0 is the minimum of each axis.

    lower, upper: metres [3]; size: edge of a voxel in metres. The voxel centre is lower + (index + 0.5) * size.
    """

    lower: tuple[float, float, float] = (-40.0, -40.0, -1.0)
    upper: tuple[float, float, float] = (40.0, 40.0, 5.4)
    size: float = 0.4

    def __post_init__(self) -> None:
        if self.size <= 0 or any(u <= lo for lo, u in zip(self.lower, self.upper, strict=True)):
            raise InvalidInput("grid", f"lower {self.lower}, upper {self.upper}, size {self.size} is no volume")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        x, y, z = (round((u - lo) / self.size) for lo, u in zip(self.lower, self.upper, strict=True))
        return x, y, z

    def index_of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the voxel indices of metric points.

        points: float [..., 3] m, base_link. Returns (int64 [..., 3], inside bool [...]); non-finite points are outside.
        """
        points = np.asarray(points)
        finite = np.isfinite(points).all(-1)
        scaled = np.floor((np.where(finite[..., None], points, 1e9) - self.lower) / self.size)
        index = np.clip(scaled, -(2**31), 2**31).astype(np.int64)
        inside = finite & ((index >= 0) & (index < self.shape)).all(-1)
        return index, inside

    def centre_of(self, index: np.ndarray) -> np.ndarray:
        """Return the centres float32 [..., 3] m in base_link of integer voxel indices [..., 3]."""
        return ((np.asarray(index) + 0.5) * self.size + self.lower).astype(np.float32)


OCC3D_GRID = VoxelGrid()
"""200 x 200 x 16 voxels of 0.4 m (Occ3D-nuScenes)."""


@dataclass(frozen=True, eq=False)
class SparseVoxels:
    """The occupied voxels at one instant.

    indices: int16 [M, 3]; labels: uint8 [M], 0..16; scores: float32 [M], 0..1; grid: their voxel grid.
    """

    indices: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    grid: VoxelGrid = OCC3D_GRID

    def __post_init__(self) -> None:
        count = len(self.indices)
        if self.indices.shape != (count, 3) or self.indices.dtype != np.int16:
            raise InvalidInput("indices", f"want int16 [M, 3], got {self.indices.dtype} {self.indices.shape}")
        if self.labels.shape != (count,) or self.labels.dtype != np.uint8:
            raise InvalidInput("labels", f"want uint8 [{count}], got {self.labels.dtype} {self.labels.shape}")
        if self.scores.shape != (count,) or self.scores.dtype != np.float32:
            raise InvalidInput("scores", f"want float32 [{count}], got {self.scores.dtype} {self.scores.shape}")
        if count and (self.labels.max() >= NUM_CLASSES):
            raise InvalidInput("labels", f"label {int(self.labels.max())} is not an occupied class")
        if count and ((self.indices < 0).any() or (self.indices >= self.grid.shape).any()):
            raise InvalidInput("indices", f"outside the grid of {self.grid.shape}")

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def empty(cls, grid: VoxelGrid = OCC3D_GRID) -> SparseVoxels:
        """Build an instance without occupied voxels."""
        return cls(np.zeros((0, 3), np.int16), np.zeros(0, np.uint8), np.zeros(0, np.float32), grid)

    @classmethod
    def from_dense(cls, semantics: np.ndarray, grid: VoxelGrid = OCC3D_GRID) -> SparseVoxels:
        """Build from a dense label grid uint8 [X, Y, Z] with 17 = free (the Occ3D file layout)."""
        if semantics.shape != grid.shape:
            raise InvalidInput("semantics", f"want {grid.shape}, got {semantics.shape}")
        index = np.argwhere(semantics < FREE).astype(np.int16)
        labels = semantics[tuple(index.T)].astype(np.uint8)
        return cls(index, labels, np.ones(len(index), np.float32), grid)

    def dense(self) -> np.ndarray:
        """Return a dense label grid uint8 [X, Y, Z], 17 = free."""
        out = np.full(self.grid.shape, FREE, np.uint8)
        out[tuple(self.indices.T.astype(np.int64))] = self.labels
        return out

    def centres(self) -> np.ndarray:
        """Return the voxel centres float32 [M, 3] m in base_link."""
        return self.grid.centre_of(self.indices)


def voxelise(points: np.ndarray, labels: np.ndarray, scores: np.ndarray, grid: VoxelGrid = OCC3D_GRID) -> SparseVoxels:
    """Convert labelled points to occupied voxels.

    A voxel takes the class with the largest summed score (the lower label on a tie), and the mean of that class's
    scores as its own. Points outside the grid or not finite are dropped. Voxels are sorted by x, then y, then z index,
    independent of the order of the points.

    points: float [N, 3] m, base_link; labels: uint8 [N], 0..16; scores: float [N], 0..1.
    Raises InvalidInput for mismatched lengths, labels outside the occupied classes, or scores that are not finite.
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
    # One key per (voxel, class); unique keys are sorted, so the classes of a voxel are adjacent.
    keys, group = np.unique(flat * NUM_CLASSES + labels[inside].astype(np.int64), return_inverse=True)
    sums = np.bincount(group, weights=scores[inside], minlength=len(keys))
    means = sums / np.bincount(group, minlength=len(keys))
    voxel = keys // NUM_CLASSES
    first_of_voxel = np.flatnonzero(np.r_[True, voxel[1:] != voxel[:-1]])
    # Sort by descending sum within each voxel, then by label: the first entry of each voxel wins.
    winner = np.lexsort((keys, -sums, voxel))[first_of_voxel]
    indices = np.stack(np.unravel_index(voxel[winner], grid.shape), axis=-1).astype(np.int16)
    return SparseVoxels(indices, (keys[winner] % NUM_CLASSES).astype(np.uint8), means[winner].astype(np.float32), grid)
