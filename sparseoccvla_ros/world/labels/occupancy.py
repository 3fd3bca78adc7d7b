"""Ground-truth occupancy of the synthetic world, from the same primitives that the renderer draws.

The layout is Occ3D's (Tian et al., NeurIPS 2023), with one deliberate difference from the nuScenes files: the ground
is in the voxel that contains z = 0 (index 2), not two voxels lower.
"""

from __future__ import annotations

import numpy as np

from ...core.classes import FREE, LABEL
from ...core.geometry import yaw_of
from ...core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid
from ..kernels.voxels import fill
from ..scene import Scene
from ..shapes.solids import Primitives

SHELL = 0.45
"""Thickness of a building's occupied walls, m; the inside, floors included, is free because no sensor sees it."""
_PRIORITY = (
    (LABEL["pedestrian"], LABEL["bicycle"], LABEL["motorcycle"], LABEL["traffic_cone"]),
    (LABEL["car"], LABEL["truck"], LABEL["bus"], LABEL["trailer"], LABEL["construction_vehicle"], LABEL["barrier"]),
    (LABEL["others"], LABEL["manmade"]),
    (LABEL["vegetation"],),
    (FREE,),
)
"""Labels by priority for a voxel that several primitives share, highest first; the ground ranks below all."""


def _rank() -> np.ndarray:
    rank = np.zeros(FREE + 1, np.int32)
    for place, group in enumerate(_PRIORITY):
        rank[list(group)] = len(_PRIORITY) - place
    return rank


def dense_labels(scene: Scene, time: float, ego2map: np.ndarray, grid: VoxelGrid = OCC3D_GRID) -> np.ndarray:
    """Return occupancy labels uint8 [X, Y, Z] (17 = free) in base_link at ego2map, at `time` s of the drive.

    A voxel takes the class of the primitive that contains its centre. Unobserved voxels are labelled as well.
    """
    state = scene.at(time)
    table = Primitives.concatenate([state.fixed, state.moving])
    turn, frame = yaw_of(ego2map), ego2map[:2, 3].astype(np.float32)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = (table.centre[:, :2] - frame).T
    centre = np.stack([c * x + s * y, c * y - s * x, table.centre[:, 2]], -1)
    size, lower, shape = np.float32(grid.size), np.array(grid.lower, np.float32), np.array(grid.shape)
    reach = np.hypot(table.half[:, 0], table.half[:, 1]).clip(0.75 * size)
    reach = np.stack([reach, reach, table.half[:, 2].clip(0.5 * size)], -1)
    first = np.floor((centre - reach - lower) / size).astype(np.int64).clip(0, shape)
    last = np.ceil((centre + reach - lower) / size).astype(np.int64).clip(0, shape)

    # Rank in the high bits, label in the low: the maximum per voxel wins in any order. The ground's rank is 0.
    keys = np.full(grid.shape, FREE, np.int32)
    level = int(np.floor((0.0 - grid.lower[2]) / size))
    if 0 <= level < grid.shape[2]:
        gx, gy = (
            lo + (np.arange(n, dtype=np.float32) + 0.5) * size for lo, n in zip(lower[:2], shape[:2], strict=True)
        )
        points = np.stack([gx[:, None] * c - gy * s, gx[:, None] * s + gy * c], -1) + frame
        keys[:, :, level] = scene.streets.label(points.reshape(-1, 2).astype(np.float32)).reshape(grid.shape[:2])
    hollow = (table.label == LABEL["manmade"]) & (table.half[:, :2] > 2.0).all(1)
    yaw = table.yaw - np.float32(turn)
    fill(
        table.kind, centre, table.half, table.taper, yaw, table.label.astype(np.int32), _rank(), first, last, lower,
        size, hollow, np.float32(SHELL), FREE, keys,
    )  # fmt: skip
    return (keys & 0xFF).astype(np.uint8)


def sparse_labels(scene: Scene, time: float, grid: VoxelGrid = OCC3D_GRID) -> SparseVoxels:
    """Return the occupied voxels around the ego at `time` s of its drive, with scores of 1."""
    return SparseVoxels.from_dense(dense_labels(scene, time, scene.ego.at(time)[0], grid), grid)
