"""RayIoU: occupancy scored along the rays of a virtual lidar (SparseOcc, Liu et al., ECCV 2024).

Rays are cast through prediction and truth: a ray ends in the first occupied voxel and returns its class and the
distance at which the ray leaves that voxel. A ray is right if the classes agree and the distances differ by less than
a threshold. A thick shell of voxels, which voxel mIoU under a mask rewards, gains nothing here.

The traversal is that of Amanatides & Woo, "A Fast Voxel Traversal Algorithm" (1987), for all rays at once. The official
caster is a CUDA operator whose float32 end points decide which of two neighbours a ray through an edge visits;
this code rounds identically, so results agree with the official ones ray by ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np
import torch

from ...core import geometry
from ...core.classes import FREE, NUM_CLASSES
from ...core.errors import InvalidInput
from ...core.types import check_array
from ...core.voxels import OCC3D_GRID, VoxelGrid
from .occupancy import IGNORE, Labels, checked_labels

THRESHOLDS: tuple[float, ...] = (1.0, 2.0, 4.0)
"""Tolerances of the predicted distance, m."""
AZIMUTHS = 360
ORIGINS = 8
ORIGIN_REACH = 39.0
"""Maximum distance (m, along x or y) of origins from the ego: further ones would be at or beyond the grid's rim."""
STEPS_TO_ENTER = 1000
"""Steps within which a ray from outside must enter the grid (the official limit)."""

_BORDER = 254
_CPU_BLOCK = 16_384
"""Rays processed together on a CPU; their state fits the cache of one core."""
_COMPACT_BELOW = 0.75
"""Finished rays are removed once they make up a quarter: removing copies all state, keeping them costs every step."""


def ray_directions(azimuths: int = AZIMUTHS) -> np.ndarray:
    """Returns float32 [39 * azimuths, 3] unit vectors in base_link axes, pitch-major; 14,040 rays officially.

    Downward pitches hit the ground at 1, 2, .. 10 sensor heights distance; then the last step is repeated up to about
    12.5 degrees above the horizon. Fewer azimuths are only for validation during training: their RayIoU is not
    comparable with published numbers.
    """
    if azimuths < 1:
        raise InvalidInput("azimuths", f"want at least 1, got {azimuths}")
    pitches = [-np.arctan(1.0 / k) for k in range(1, 11)]
    step = pitches[-1] - pitches[-2]
    while pitches[-1] < 0.21:
        pitches.append(pitches[-1] + step)
    pitch, azimuth = np.meshgrid(pitches, np.arange(azimuths) * (2 * np.pi / azimuths), indexing="ij")
    rays = np.stack([np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)], -1)
    return rays.reshape(-1, 3).astype(np.float32)


def lidar_origins(
    ego2global: np.ndarray, lidar2ego: np.ndarray, reference: int, count: int = ORIGINS, reach: float = ORIGIN_REACH
) -> np.ndarray:
    """Returns the ray origins of one keyframe in its base_link, float64 [O, 3] m, O <= count.

    ego2global, lidar2ego: float64 [F, 4, 4], every keyframe of the scene in time order, past and future; reference:
    index of the evaluated keyframe. Lidar positions within `reach` are kept, at most `count` of them, evenly spread.
    A smaller `count` is faster but not comparable with published numbers.
    """
    check_array("ego2global", ego2global, np.float64, (None, 4, 4))
    check_array("lidar2ego", lidar2ego, np.float64, (len(ego2global), 4, 4))
    if not 0 <= reference < len(ego2global):
        raise InvalidInput("reference", f"{reference} is not one of {len(ego2global)} keyframes")
    lidar2reference = geometry.inverse(ego2global[reference]) @ ego2global @ lidar2ego
    origins = lidar2reference[:, :3, 3]
    origins = origins[(np.abs(origins[:, :2]) < reach).all(-1)]
    if len(origins) > count:
        origins = origins[np.round(np.linspace(0, len(origins) - 1, count)).astype(np.int64)]
    return origins


@dataclass(frozen=True, eq=False)
class Rays:
    """N rays in voxel units of a grid, rounded to float32 as in the official caster.

    start, end: float32 [3, N]; `end` is one metre from `start`.
    """

    start: torch.Tensor
    end: torch.Tensor

    def only(self, keep: torch.Tensor) -> Rays:
        """Selects rays by a mask, bool [N]."""
        return Rays(self.start[:, keep], self.end[:, keep])


@dataclass(frozen=True, eq=False)
class RayHits:
    """Hits of N rays.

    labels: uint8 [N], 17 without a hit; distances: float32 [N] m from the origin to where the ray leaves the hit
    voxel, or the grid. A ray that misses the grid has a distance of -1 voxel edge and the label of voxel (0, 0, 0), as
    in the official code.
    """

    labels: torch.Tensor
    distances: torch.Tensor


def rays_from(
    origins: np.ndarray, directions: np.ndarray, grid: VoxelGrid = OCC3D_GRID, device: torch.device | str = "cpu"
) -> Rays:
    """Combines every origin with every direction, origin-major (N = O * R).

    origins: float [O, 3] m, base_link; directions: float [R, 3], unit vectors. Raises InvalidInput for other shapes,
    non-finite numbers and zero directions.
    """
    for name, array in (("origins", origins), ("directions", directions)):
        if array.ndim != 2 or array.shape[1] != 3:
            raise InvalidInput(name, f"want [N, 3], got {list(array.shape)}")
        if not np.isfinite(array).all():
            raise InvalidInput(name, "holds a number that is not finite")
    if not directions.any(-1).all():
        raise InvalidInput("directions", "holds a vector of length 0")
    # The official code stores lower corner and edge in float32, computes in float64, then rounds to float32.
    lower, size = (np.float64(np.float32(v)) for v in (grid.lower, grid.size))
    first = np.repeat(origins.astype(np.float64), len(directions), 0)
    last = first + np.tile(directions, (len(origins), 1))
    start, end = (torch.from_numpy(((p - lower) / size).astype(np.float32).T.copy()) for p in (first, last))
    return Rays(start.to(device), end.to(device))


def cast(semantics: Labels, rays: Rays, grid: VoxelGrid = OCC3D_GRID) -> RayHits:
    """Casts every ray to the first occupied voxel.

    semantics: uint8 [X, Y, Z]; labels 0..16 stop a ray, 17 and 255 are free. Runs on the device of `rays`, in float64.
    """
    labels = checked_labels("semantics", semantics, grid.shape, ignore=True).to(rays.start.device)
    labels = labels.masked_fill(labels == IGNORE, FREE)
    # A border around the grid turns leaving it into a lookup; the last cell is a sink for finished rays.
    padded = torch.full([n + 2 for n in grid.shape], _BORDER, dtype=torch.uint8, device=labels.device)
    padded[1:-1, 1:-1, 1:-1] = labels
    table = torch.cat([padded.flatten(), padded.new_full((1,), FREE)])
    count = rays.start.shape[1]
    block = max(count, 1) if labels.is_cuda else _CPU_BLOCK
    parts = [
        _walk(table, Rays(rays.start[:, i : i + block], rays.end[:, i : i + block]), grid)
        for i in range(0, count, block)
    ] or [(labels.new_empty(0), rays.start.new_empty(0))]
    return RayHits(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]) * np.float32(grid.size))


def _walk(table: torch.Tensor, rays: Rays, grid: VoxelGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns labels uint8 [N] and distances float32 [N] in voxel edges."""
    strides = torch.tensor([(grid.shape[1] + 2) * (grid.shape[2] + 2), grid.shape[2] + 2, 1], device=table.device)
    out_distances = torch.full_like(rays.start[0], -1.0, dtype=torch.float64)
    out_labels = table[strides.sum()].repeat(len(out_distances))
    cell, ahead, next_wall, per_cell = _prepare(rays)
    ray = _enter(cell, ahead, next_wall, per_cell, strides.new_tensor(grid.shape)[:, None]).nonzero()[:, 0]
    at = ((cell[:, ray] + 1) * strides[:, None]).sum(0).int()
    sx, sy, sz = (ahead[:, ray] * strides[:, None]).int()
    tx, ty, tz = next_wall[:, ray]
    dx, dy, dz = per_cell[:, ray]
    left = torch.zeros_like(tx)
    rest = len(table) - 1
    alive = len(ray)
    while alive:
        if alive < _COMPACT_BELOW * len(ray):
            going = (at != rest).nonzero()[:, 0]
            ray, at, sx, sy, sz = (a[going] for a in (ray, at, sx, sy, sz))
            tx, ty, tz, dx, dy, dz, left = (a[going] for a in (tx, ty, tz, dx, dy, dz, left))
        value = table.index_select(0, at)
        x_before_y = tx < ty
        nearer = torch.where(x_before_y, tx, ty)
        leaving = torch.minimum(nearer, tz)
        ended = (value != FREE).nonzero()[:, 0]
        if len(ended):
            which, met = ray[ended], value[ended]
            beyond = met == _BORDER
            out_labels[which] = torch.where(beyond, FREE, met)
            out_distances[which] = torch.where(beyond, left[ended], leaving[ended])
            at[ended] = rest
            for stride in (sx, sy, sz):
                stride[ended] = 0
            alive -= len(ended)
        # Ties: z before x and y, y before x, as in the official caster.
        along_z = tz <= nearer
        along_x = x_before_y & ~along_z
        at += torch.where(along_z, sz, torch.where(along_x, sx, sy))
        # Distances are accumulated, not multiplied: the rounding decides later ties.
        tx, ty, tz = (
            torch.where(along_x, tx + dx, tx),
            torch.where(along_x | along_z, ty, ty + dy),
            torch.where(along_z, tz + dz, tz),
        )
        left = leaving
    return out_labels, out_distances.float()


def _prepare(rays: Rays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns first voxel and step (-1 or 1), int64, distances to the next face and between faces, float64; [3, N]."""
    start = rays.start.double()
    along = rays.end.double() - start
    x, y, z = along
    along = along / (x * x + y * y + z * z).sqrt()
    # Truncation, not floor: up to one voxel before the grid counts as its first voxel, as in the official code.
    cell = rays.start.long()
    ahead = torch.where(along >= 0, 1, -1)
    parallel = along == 0
    next_wall = torch.where(parallel, inf, (cell + (ahead > 0) - start) / along)
    return cell, ahead, next_wall, torch.where(parallel, inf, ahead / along)


def _enter(
    cell: torch.Tensor, ahead: torch.Tensor, next_wall: torch.Tensor, per_cell: torch.Tensor, shape: torch.Tensor
) -> torch.Tensor:
    """Advances rays that start outside, in place, to their first voxel in the grid; bool [N], False if they miss.

    Simple rather than fast, because origins are normally inside the grid.
    """
    for _ in range(STEPS_TO_ENTER):
        outside = (cell < 0) | (cell >= shape)
        moving_away = ((cell < 0) & ((ahead < 0) | next_wall.isinf())) | ((cell >= shape) & (ahead > 0))
        coming = (outside.any(0) & ~moving_away.any(0)).nonzero()[:, 0]
        if not len(coming):
            break
        tx, ty, tz = next_wall[:, coming]
        axis = torch.where(tx < ty, torch.where(tx < tz, 0, 2), torch.where(ty < tz, 1, 2))
        cell[axis, coming] += ahead[axis, coming]
        next_wall[axis, coming] += per_cell[axis, coming]
    return ((cell >= 0) & (cell < shape)).all(0)


class RayMeter:
    """Accumulates RayIoU counts over frames. Picklable; counts of parts add up.

    counts: int64 [2 + thresholds, 18], rays with a true hit by true label, by predicted label, and right at each
    threshold.
    """

    def __init__(
        self,
        directions: np.ndarray | None = None,
        grid: VoxelGrid = OCC3D_GRID,
        thresholds: Sequence[float] = THRESHOLDS,
    ) -> None:
        """directions: float32 [R, 3] unit vectors in base_link; None: the 14,040 official ones."""
        self.directions = ray_directions() if directions is None else directions
        self.grid = grid
        self.thresholds = tuple(thresholds)
        self.counts = np.zeros((2 + len(self.thresholds), NUM_CLASSES + 1), np.int64)

    def update(self, pred: Labels, semantics: Labels, origins: np.ndarray) -> None:
        """Counts one frame.

        pred: uint8 [X, Y, Z], 0..17; semantics: the same, 255 counts as free; origins: float [O, 3] m, base_link
        (`lidar_origins`). Runs on the device of `pred`. Raises InvalidInput.
        """
        pred = checked_labels("pred", pred, self.grid.shape)
        rays = rays_from(origins, self.directions, self.grid, pred.device)
        true = cast(semantics, rays, self.grid)
        # Only rays with a true hit are scored: the others (the longest) are not cast in the prediction.
        kept = true.labels != FREE
        labels, distances = true.labels[kept].long(), true.distances[kept]
        guess = cast(pred, rays.only(kept), self.grid)
        self.counts[0] += _histogram(labels)
        self.counts[1] += _histogram(guess.labels.long())
        same, error = guess.labels == labels, (guess.distances - distances).abs()
        for row, threshold in enumerate(self.thresholds, 2):
            self.counts[row] += _histogram(labels[same & (error < threshold)])


def ray_iou_per_class(counts: np.ndarray) -> np.ndarray:
    """Returns float64 [thresholds, 17] from RayMeter.counts; NaN for a class neither true nor predicted."""
    truth, predicted, right = counts[0, :NUM_CLASSES], counts[1, :NUM_CLASSES], counts[2:, :NUM_CLASSES]
    union = truth + predicted - right
    return np.divide(right, union, out=np.full(right.shape, nan), where=union > 0)


def _histogram(labels: torch.Tensor) -> np.ndarray:
    return torch.bincount(labels, minlength=NUM_CLASSES + 1).cpu().numpy()
