"""Occupancy truth of the synthetic world, from the same primitives that the renderer draws.

The layout is Occ3D's (Tian et al., NeurIPS 2023). One thing is deliberately different from the nuScenes files: the
ground lies where it is, in the voxel that contains z = 0 (index 2), not two voxels lower.
"""

from __future__ import annotations

import numpy as np
import torch

from ...core.classes import FREE, LABEL
from ...core.geometry import yaw_of
from ...core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid
from ..render.raster import to_local
from ..scene import Scene
from ..shapes.solids import Kind, Primitives

SHELL = 0.45
"""Metres of a building's walls that are occupied; its inside is free, floors included, as no sensor ever sees it."""
_PRIORITY = (
    (LABEL["pedestrian"], LABEL["bicycle"], LABEL["motorcycle"], LABEL["traffic_cone"]),
    (LABEL["car"], LABEL["truck"], LABEL["bus"], LABEL["trailer"], LABEL["construction_vehicle"], LABEL["barrier"]),
    (LABEL["others"], LABEL["manmade"]),
    (LABEL["vegetation"],),
    (FREE,),
)
"""Which label keeps a voxel that several primitives share, first wins; the ground comes after all."""


def _rank() -> torch.Tensor:
    rank = torch.zeros(FREE + 1, dtype=torch.int32)
    for place, group in enumerate(_PRIORITY):
        rank[list(group)] = len(_PRIORITY) - place
    return rank


def _inside(p: Primitives, local: torch.Tensor, grow: torch.Tensor, size: float) -> torch.Tensor:
    """Whether points [N, 3] lie in their primitives, of which parts thinner than a voxel count as one voxel thick."""
    x, y, z = local.abs().unbind(-1)
    half, taper, rise = p.half, p.taper, local[:, 2] + p.half[:, 2]
    half_z = half[:, 2].clamp(min=0.5 * size)
    lean = torch.where(local[:, 0] >= 0, taper[:, 0], taper[:, 1])
    boxy = (x <= torch.maximum(half[:, 0] - lean * rise, grow)) & (
        y <= torch.maximum(half[:, 1] - taper[:, 2] * rise, grow)
    )
    radius = torch.maximum(half[:, 0] * (1 - taper[:, 0] * rise / (2 * half[:, 2])), grow)
    cone = x * x + y * y <= radius**2
    ball = (x / torch.maximum(half[:, 0], grow)) ** 2 + (y / torch.maximum(half[:, 1], grow)) ** 2
    ball = ball + (z / half_z) ** 2 <= 1.0
    wheel = (y <= torch.maximum(half[:, 1], grow)) & (x * x + local[:, 2] ** 2 <= half[:, 0].clamp(min=0.5 * size) ** 2)
    inside = torch.where(p.kind <= int(Kind.WEDGE), boxy, cone)
    inside = torch.where(p.kind == int(Kind.ELLIPSOID), ball, inside)
    inside = torch.where(p.kind == int(Kind.WHEEL), wheel, inside)
    return inside & (z <= half_z)


@torch.inference_mode()
def dense_labels(
    scene: Scene, time: float, ego2map: np.ndarray, grid: VoxelGrid = OCC3D_GRID, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Semantic occupancy uint8 [X, Y, Z] (17 = free) in base_link of a vehicle at ego2map, at `time` s of the drive.

    A voxel takes the class of the primitive its centre lies in. Everything in the grid is labelled, seen or not.
    """
    state = scene.at(time)
    table = Primitives.concatenate([state.fixed, state.moving]).to(device)
    turn, x, y = yaw_of(ego2map), float(ego2map[0, 3]), float(ego2map[1, 3])
    frame = torch.tensor([x, y, 0.0], device=device)
    centre = to_local(table.centre - frame, torch.full_like(table.yaw, turn))
    yaw = table.yaw - turn
    size, lower = grid.size, torch.tensor(grid.lower, device=device)
    shape = torch.tensor(grid.shape, device=device)

    reach = torch.hypot(table.half[:, 0], table.half[:, 1]).clamp(min=0.75 * size)
    reach = torch.stack([reach, reach, table.half[:, 2].clamp(min=0.5 * size)], -1)
    zero = torch.zeros_like(shape)
    first = torch.clamp(torch.floor((centre - reach - lower) / size).long(), min=zero, max=shape)
    last = torch.clamp(torch.ceil((centre + reach - lower) / size).long(), min=zero, max=shape)
    extent = last - first
    count = extent.prod(-1)
    row = torch.repeat_interleave(torch.arange(len(table), device=device), count)
    place = torch.arange(len(row), device=device) - torch.repeat_interleave(torch.cumsum(count, 0) - count, count)
    ny, nz = extent[row, 1], extent[row, 2]
    index = torch.stack([place // (ny * nz), (place // nz) % ny, place % nz], -1) + first[row]

    local = to_local((index + 0.5) * size + lower - centre[row], yaw[row])
    grow = 0.5 * size * (torch.cos(yaw[row]).abs() + torch.sin(yaw[row]).abs())
    p = table[row]
    hit = torch.nonzero(_inside(p, local, grow, size))[:, 0]
    house = (p.label[hit] == LABEL["manmade"]) & (p.half[hit, :2] > 2.0).all(-1)
    depth = (p.half[hit, :2] - local[hit, :2].abs()).amin(-1)
    label = torch.where(house & (depth > SHELL), torch.full_like(p.label[hit], FREE), p.label[hit])
    # Rank above, label below: the maximum per voxel is the winner, whatever the order.
    key = (_rank().to(device)[label.long()] << 8) | label.to(torch.int32)
    flat = (index[hit, 0] * shape[1] + index[hit, 1]) * shape[2] + index[hit, 2]

    keys = torch.full(grid.shape, FREE, dtype=torch.int32, device=device)  # rank 0
    level = int(np.floor((0.0 - grid.lower[2]) / size))
    if 0 <= level < grid.shape[2]:
        i, j = torch.meshgrid(*(torch.arange(n, device=device) for n in grid.shape[:2]), indexing="ij")
        gx, gy = (i + 0.5) * size + grid.lower[0], (j + 0.5) * size + grid.lower[1]
        points = torch.stack([gx, gy, torch.zeros_like(gx)], -1).reshape(-1, 3)
        points = to_local(points, torch.full_like(points[:, 0], -turn)) + frame
        keys[:, :, level] = scene.streets.label(points[:, 0], points[:, 1]).to(torch.int32).reshape(grid.shape[:2])
    keys.view(-1).scatter_reduce_(0, flat, key, "amax")
    return (keys & 0xFF).to(torch.uint8).cpu().numpy()


def sparse_labels(scene: Scene, time: float, grid: VoxelGrid = OCC3D_GRID) -> SparseVoxels:
    """The occupied voxels around the ego at a time of its drive, scores 1."""
    return SparseVoxels.from_dense(dense_labels(scene, time, scene.ego.at(time)[0], grid), grid)
