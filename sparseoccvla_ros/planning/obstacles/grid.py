"""Bird's-eye view of what can move or be moved, now and half a second ago, and of a red light's stop line: an input of
the planner.

The queries tell the planner what is where only after long training; occupancy predicted from them says it at once, and
two views of it say what moves (the mid-level input of ChauffeurNet, Bansal et al., RSS 2019).
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ...core.classes import LABEL
from ...core.geometry import inverse
from ...core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid

VULNERABLE = ("bicycle", "motorcycle", "pedestrian")
"""Classes of people and two-wheelers."""
GROUPS: tuple[tuple[str, ...], ...] = (
    ("bus", "car", "construction_vehicle", "trailer", "truck"),
    VULNERABLE,
    ("traffic_cone",),
)
"""Classes of each channel."""
LOWER, CELL, SHAPE = (-8.0, -16.0), 0.8, (60, 40)
"""m in base_link of the first corner, m of a cell's edge, and cells ahead and to the left."""
CHANNELS = 2 * len(GROUPS) + 2
"""GROUPS now, GROUPS before, 1 where the time before is known, and the line at which the vehicle must stop."""
_KNOWN, _LINE = 2 * len(GROUPS), 2 * len(GROUPS) + 1
LINE_WIDTH = 3.2
"""m; how wide a stop line is drawn."""
AGO, AGO_RANGE = 0.5, (0.3, 0.8)
"""s between the two views: best, and accepted."""
_NS = 1_000_000_000
_GROUP_OF = np.full(256, -1, np.int8)
for _index, _names in enumerate(GROUPS):
    _GROUP_OF[[LABEL[name] for name in _names]] = _index


def group_of(labels: np.ndarray) -> np.ndarray:
    """Returns int8 [V], the index into GROUPS of labels uint8 [V], -1 for classes of none."""
    return _GROUP_OF[labels]


def obstacle_points(indices: np.ndarray, labels: np.ndarray, grid: VoxelGrid = OCC3D_GRID) -> np.ndarray:
    """Returns float32 [M, 4]: centre (m, base_link) and group of the voxels of GROUPS. indices [V, 3]; labels [V]."""
    group = group_of(labels)
    kept = group >= 0
    return np.column_stack([grid.centre_of(indices[kept]), group[kept]]).astype(np.float32)


def obstacle_grid(
    now: np.ndarray,
    before: np.ndarray | None = None,
    moved: np.ndarray | None = None,
    stop_line: float | None = None,
) -> np.ndarray:
    """Returns uint8 [CHANNELS, *SHAPE], 0 or 1, of the points of two moments (obstacle_points).

    moved: float64 [4, 4], base_link before to base_link now; stop_line: m ahead of base_link (StopLine.ahead). Without
    `before` its channels are 0.
    """
    out = np.zeros((CHANNELS, *SHAPE), np.uint8)
    _draw(out[: len(GROUPS)], now[:, :2], now[:, 3])
    if before is not None and moved is not None:
        _draw(out[len(GROUPS) : _KNOWN], before[:, :3] @ moved[:2, :3].T + moved[:2, 3], before[:, 3])
        out[_KNOWN] = 1
    return out if stop_line is None else with_stop_line(out, stop_line)


def with_stop_line(grid: np.ndarray, stop_line: float | None) -> np.ndarray:
    """Returns a copy of an obstacle_grid with another stop line, m ahead of base_link, or without one."""
    out = grid.copy()
    out[_LINE] = 0
    if stop_line is not None:
        across = np.arange(-0.5 * (LINE_WIDTH - CELL), 0.5 * LINE_WIDTH, CELL)
        _draw(out[_LINE:], np.column_stack([np.full_like(across, stop_line), across]), np.zeros(len(across)))
    return out


def seen_from(grid: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns a copy of an obstacle_grid with its obstacles as seen from another place.

    place: float64 [4, 4], the other base_link to the grid's. What the grid does not cover is empty; the stop line, a
    distance ahead, stays.
    """
    out, back = grid.copy(), inverse(place)
    layer, x, y = np.nonzero(grid[:_KNOWN])
    centres = np.column_stack([x, y]) * CELL + (np.array(LOWER) + 0.5 * CELL)
    out[:_KNOWN] = 0
    _draw(out[:_KNOWN], centres @ back[:2, :2].T + back[:2, 3], layer)
    return out


def _draw(layers: np.ndarray, places: np.ndarray, group: np.ndarray) -> None:
    x, y = np.floor((places - LOWER) / CELL).astype(np.int64).T
    inside = (x >= 0) & (x < SHAPE[0]) & (y >= 0) & (y < SHAPE[1])
    layers[group[inside].astype(np.int64), x[inside], y[inside]] = 1


class ObstacleMemory:
    """Obstacle points of the last moments of a drive."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, int, np.ndarray, np.ndarray]] = deque(maxlen=32)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def grid(
        self, stamp: int, epoch: int, pose: np.ndarray, voxels: SparseVoxels, stop_line: float | None = None
    ) -> np.ndarray:
        """Add a moment and return its obstacle_grid, the same if asked again.

        stamp: ns; pose: float64 [4, 4] ego2fixed; stop_line: as for obstacle_grid. The moment before is that of the
        same epoch nearest to AGO.
        """
        now = obstacle_points(voxels.indices, voxels.labels, voxels.grid)
        aged = [((stamp - s) / _NS, p, points) for s, e, p, points in self._kept if e == epoch]
        aged = [kept for kept in aged if AGO_RANGE[0] <= kept[0] <= AGO_RANGE[1]]
        if (stamp, epoch) not in [kept[:2] for kept in self._kept]:
            self._kept.append((stamp, epoch, pose.copy(), now))
        if not aged:
            return obstacle_grid(now, stop_line=stop_line)
        _, then, before = min(aged, key=lambda kept: abs(kept[0] - AGO))
        return obstacle_grid(now, before, inverse(pose) @ then, stop_line)
