"""From predicted points to sparse semantic voxels, the same for every node that holds the SceneQueries."""

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
    """Voxels of a scene: those of the voxel head or densifier, else from the best class and score of each point.

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
