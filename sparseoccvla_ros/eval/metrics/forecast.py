"""Baselines of occupancy forecasts that copy the present: unmoved, or moved by the ego's true motion."""

from __future__ import annotations

import numpy as np
import torch

from ...core import geometry
from ...core.classes import FREE
from ...core.types import check_array
from ...core.voxels import OCC3D_GRID, VoxelGrid
from .occupancy import IGNORE, Labels, checked_labels


def copy_unmoved(semantics: Labels, count: int, grid: VoxelGrid = OCC3D_GRID) -> torch.Tensor:
    """Baseline: the present grid at every horizon, as if neither ego nor world moved.

    semantics: uint8 [X, Y, Z], 255 becomes free. Returns uint8 [count, X, Y, Z] on the device of the input.
    """
    return _present(semantics, grid).expand(count, -1, -1, -1)


def copy_forward(
    semantics: Labels, ego2fixed: np.ndarray, future_ego2fixed: np.ndarray, grid: VoxelGrid = OCC3D_GRID
) -> torch.Tensor:
    """Baseline: a static world, seen from the true future ego poses.

    semantics: uint8 [X, Y, Z], the present, 255 becomes free; ego2fixed: float64 [4, 4], the present pose;
    future_ego2fixed: float64 [H, 4, 4]. The centre of every future voxel is moved into the present grid and takes the
    label of the voxel it falls into (nearest neighbour); voxels from outside the present grid are free. Uses the true
    future motion, which a forecaster has to predict. Returns uint8 [H, X, Y, Z] on the device of the input. Raises
    InvalidInput.
    """
    labels = _present(semantics, grid)
    check_array("ego2fixed", ego2fixed, np.float64, (4, 4))
    check_array("future_ego2fixed", future_ego2fixed, np.float64, (None, 4, 4))
    future2now = torch.from_numpy(geometry.inverse(ego2fixed) @ future_ego2fixed).to(labels.device)
    # Moving by whole voxels must be exact: in voxel units centres are at 0.5, so rounding cannot cross a boundary.
    lower = future2now.new_tensor(grid.lower)
    shape = torch.tensor(grid.shape, device=labels.device)
    axes = [torch.arange(n, dtype=torch.float64, device=labels.device) + 0.5 for n in grid.shape]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    moved = []
    for matrix in future2now:
        shift = (matrix[:3, :3] @ lower + matrix[:3, 3] - lower) / grid.size
        index = (centres @ matrix[:3, :3].T + shift).floor().long()
        inside = ((index >= 0) & (index < shape)).all(-1)
        x, y, z = index.clamp(min=shape.new_zeros(3), max=shape - 1).unbind(-1)
        moved.append(torch.where(inside, labels[x, y, z], labels.new_tensor(FREE)))
    return torch.stack(moved)


def _present(semantics: Labels, grid: VoxelGrid) -> torch.Tensor:
    """Returns the present grid as a forecast, with ignored voxels set to free."""
    labels = checked_labels("semantics", semantics, grid.shape, ignore=True)
    return labels.masked_fill(labels == IGNORE, FREE)
