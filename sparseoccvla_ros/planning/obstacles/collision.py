"""Collision check of the swept ego footprint against present and forecast occupancy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.classes import FLAT, LABEL, MOVABLE, OBSTACLES
from ...core.vehicle import Vehicle
from ...core.voxels import SparseVoxels, VoxelGrid
from ..config import MIN_OBSTACLE_HEIGHT, ValidatorConfig
from ..trajectory import SWEEP_TIMES, sweep
from .grid import VULNERABLE

GROUND_BLOCK = 4.0
"""m, edge of the square blocks over which the ground height is averaged."""
MOVABLE_HOLD = 1.0
"""s for which a movable obstacle is assumed to stay in place when no forecast is available."""
VULNERABLE_SHARE = 0.7
"""Share of `obstacle_score` that is enough for people and two-wheelers: what is small scores lower, and counts more."""
MAX_GROUND_OFFSET = 1.5
"""m, maximum height of the ground above or below z = 0 of base_link."""
STOP_LINE_WIDTH, STOP_LINE_DEPTH = 8.0, 1.5
"""m, the area across and along the way that a stop line blocks."""
_VULNERABLE = np.isin(np.arange(256), [LABEL[name] for name in VULNERABLE])


@dataclass(frozen=True, eq=False)
class ForecastLayer:
    """Voxels forecast for `seconds` after the stamp; to_ego: float64 [4, 4], from their frame to base_link at the stamp
    (identity if they were forecast at this stamp)."""

    seconds: float
    voxels: SparseVoxels
    to_ego: np.ndarray


class ObstacleMap:
    """Bird's-eye-view obstacle layers of one scene; the cost of `touches` does not depend on the number of voxels.

    Layer 0 is the present, followed by one layer per forecast. Present static obstacles are in every layer, movable
    ones in layer 0 only, which without forecasts applies for MOVABLE_HOLD seconds. A pose is checked against the layer
    nearest in time. Voxels with a score (probability) below `obstacle_score` are ignored, people and two-wheelers below
    `vulnerable_share` of it. stop_line: m ahead of base_link from which the way is blocked, None if it is not; what is
    closer than the vehicle needs to stand there stays free.
    """

    def __init__(
        self,
        limits: ValidatorConfig,
        voxels: SparseVoxels,
        forecasts: tuple[ForecastLayer, ...] = (),
        obstacle_score: float = 0.25,
        vulnerable_share: float = VULNERABLE_SHARE,
        stop_line: float | None = None,
    ) -> None:
        self._limits = limits
        self._scores = obstacle_score * np.where(_VULNERABLE, vulnerable_share, 1.0)  # by label
        self._grid = voxels.grid
        self._classes = np.zeros(256, bool)
        self._classes[list(OBSTACLES)] = True
        movable = np.zeros(256, bool)
        movable[list(MOVABLE)] = True
        present = self._obstacles(voxels)
        moving = movable[voxels.labels]
        static = self._rasterise(voxels.centres()[present & ~moving])
        if stop_line is not None:
            nearest = limits.vehicle.front_m + limits.collision_margin_m + self._grid.size
            x = np.arange(max(stop_line, nearest), max(stop_line, nearest) + STOP_LINE_DEPTH, 0.5 * self._grid.size)
            y = np.arange(-0.5 * STOP_LINE_WIDTH, 0.5 * STOP_LINE_WIDTH, 0.5 * self._grid.size)
            static |= self._rasterise(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
        now = static | self._rasterise(voxels.centres()[present & moving])
        layers, times = [now], [0.0]
        for forecast in forecasts:
            hit = self._obstacles(forecast.voxels)
            centres = forecast.voxels.centres()[hit] @ forecast.to_ego[:3, :3].T + forecast.to_ego[:3, 3]
            layers.append(static | self._rasterise(centres))
            times.append(forecast.seconds)
        if not forecasts:
            layers.append(static)
            times.append(2 * MOVABLE_HOLD)
        self._layers = np.stack(layers)
        self._layer_of_step = np.abs(SWEEP_TIMES[:, None] - np.array(times)).argmin(1)
        self._body = _footprint(limits.vehicle, limits.collision_margin_m, limits.collision_margin_m, self._grid.size)
        # clear the cells under the present outline and at its sides, which must not keep the vehicle from moving
        x, y, inside = self._cells(_footprint(limits.vehicle, 0.0, limits.collision_margin_m, self._grid.size))
        self._layers[:, x[inside], y[inside]] = False

    def _obstacles(self, voxels: SparseVoxels) -> np.ndarray:
        """Returns bool [M], True for obstacle classes with a sufficient score at a height the vehicle would hit."""
        centres = voxels.centres()
        height = centres[:, 2] - _ground(voxels, centres)
        band = (height >= MIN_OBSTACLE_HEIGHT) & (height <= self._limits.max_obstacle_height_m)
        enough = voxels.scores >= self._scores[voxels.labels]
        return self._classes[voxels.labels] & enough & band

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns cell indices x, y of points [..., 2] m and whether they are inside the grid."""
        scaled = np.floor((points - self._grid.lower[:2]) / self._grid.size)
        x, y = np.clip(scaled, -1, 1_000_000).astype(np.int32).transpose(-1, *range(scaled.ndim - 1))
        columns, rows, _ = self._grid.shape
        return x, y, (x >= 0) & (x < columns) & (y >= 0) & (y < rows)

    def _rasterise(self, centres: np.ndarray) -> np.ndarray:
        layer = np.zeros(self._grid.shape[:2], bool)
        x, y, inside = self._cells(centres[:, :2])
        layer[x[inside], y[inside]] = True
        return layer

    def touches(self, waypoints: np.ndarray) -> np.ndarray:
        """Returns bool [K], True if the footprint hits an obstacle along trajectories [K, 6, 2] m; off-grid is free."""
        return self.touches_poses(sweep(waypoints))

    def touches_later(self, points: np.ndarray) -> bool:
        """Check poses along points [M, 2] m, with headings along them, against what is there at the end of the plan."""
        steps = np.diff(points, axis=0)
        if np.hypot(*(points[-1] - points[0])) < 0.05:
            return False
        yaw = np.arctan2(steps[:, 1], steps[:, 0])
        poses = np.column_stack([points[1:], yaw])[None]
        return bool(self._hits(poses, np.full(len(steps), self._layer_of_step[-1]))[0])

    def touches_poses(self, poses: np.ndarray) -> np.ndarray:
        """Check poses [K, 30, 3] (x, y, yaw) at SWEEP_TIMES in the same way."""
        return self._hits(poses, self._layer_of_step)

    def _hits(self, poses: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """Returns bool [K] for poses [K, T, 3] with a layer for each of T."""
        cos, sin = np.cos(poses[..., 2:]), np.sin(poses[..., 2:])
        along, across = self._body.T
        points = np.stack(
            [poses[..., :1] + cos * along - sin * across, poses[..., 1:2] + sin * along + cos * across], axis=-1
        )
        x, y, inside = self._cells(points)
        layer = np.broadcast_to(layers[:, None], x.shape)
        hit = self._layers[layer, np.where(inside, x, 0), np.where(inside, y, 0)] & inside
        return hit.any(axis=(1, 2))


def _footprint(vehicle: Vehicle, ends: float, flanks: float, cell: float) -> np.ndarray:
    """Sample the footprint, extended by `ends` and `flanks`, at half-cell steps: [S, 2] m in the vehicle frame."""
    half_length, half_width = vehicle.length_m / 2 + ends, vehicle.width_m / 2 + flanks
    along = np.linspace(-half_length, half_length, int(np.ceil(4 * half_length / cell)) + 1) + vehicle.centre_m
    across = np.linspace(-half_width, half_width, int(np.ceil(4 * half_width / cell)) + 1)
    return np.stack(np.meshgrid(along, across, indexing="ij"), -1).reshape(-1, 2)


def _ground(voxels: SparseVoxels, centres: np.ndarray) -> np.ndarray:
    """Returns the ground height [M] m under each voxel: mean z of flat classes in its block, 0 if it has none."""
    grid: VoxelGrid = voxels.grid
    edge = max(round(GROUND_BLOCK / grid.size), 1)
    rows = grid.shape[1] // edge + 1
    block = voxels.indices[:, 0].astype(np.int64) // edge * rows + voxels.indices[:, 1] // edge
    blocks = (grid.shape[0] // edge + 1) * rows
    flat = np.isin(voxels.labels, FLAT)
    count = np.bincount(block[flat], minlength=blocks)
    total = np.bincount(block[flat], centres[flat, 2], minlength=blocks)
    height = np.clip(total / np.maximum(count, 1), -MAX_GROUND_OFFSET, MAX_GROUND_OFFSET)
    return height[block]
