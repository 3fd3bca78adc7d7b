"""Conversion of predicted points to sparse semantic voxels; gives every node the same voxels for a SceneQueries."""

from __future__ import annotations

import numpy as np

from ..core.classes import NUM_CLASSES
from ..core.errors import InvalidInput
from ..core.morphology import closed
from ..core.types import SceneQueries
from ..core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid, voxelise
from .config import OccupancyConfig


def occupied_voxels(
    queries: SceneQueries, grid: VoxelGrid = OCC3D_GRID, config: OccupancyConfig | None = None
) -> SparseVoxels:
    """Returns the voxels of the voxel head or densifier if present, else those of the points (best class and score).

    A point counts when its score exceeds `config.score_threshold` and it lies inside the grid and less than
    `config.max_point_distance` from its query's centre; core.voxels.voxelise merges points into voxels. With
    `config.padding` each class is closed morphologically by 3x3x3 voxels; a hole takes, among the classes that fill
    it, the one with the highest summed score among its neighbours, and their mean score.
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
