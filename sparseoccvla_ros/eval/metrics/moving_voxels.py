"""Where moving things are and will be: flow of points inside boxes, and the voxels that forecast motion is judged on.

Most of a street stands still, so whole grids hardly tell a forecast from a copy. What is counted here are the columns
that a moving box covers now or at the horizon: a copy leaves the box where it was, a forecast has to take it along.
"""

from __future__ import annotations

import numpy as np

from ...core import geometry
from ...core.classes import MOVABLE
from ...core.types import HORIZONS, STEP_SECONDS
from ...core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid
from ...reasoning.model.forecaster import placed
from .occupancy import AbsentRule, iou_per_class, mean_of_known

MARGIN = 0.8
"""Metres about a moving box within which points of movable classes count as its own: predictions are a little off."""
MOVED = 0.5
"""Metres from its place within 3 s from which on a box moves."""
_EDGE = 0.4
"""Metres about a box that are still judged."""
_STEPS = [0, *(round(h / STEP_SECONDS) for h in HORIZONS)]


def moving_plans(centres: np.ndarray, yaws: np.ndarray, present: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Ground plans float32 [7, N, 5] (x, y m, yaw rad, length, width m) of what moves, now and at six half-seconds.

    centres [A, 7, 2], yaws [A, 7], present bool [A, 7], sizes [A, 2]: of all agents, in one frame.
    """
    keep = present[:, _STEPS].all(1)
    keep &= np.linalg.norm(np.nan_to_num(centres - centres[:, :1]), axis=-1)[:, _STEPS].max(1, initial=0.0) >= MOVED
    size = np.broadcast_to(sizes[keep, None], (int(keep.sum()), centres.shape[1], 2))
    plans = np.concatenate([centres[keep], yaws[keep, :, None], size], -1)
    return plans.swapaxes(0, 1).astype(np.float32)


def at_horizons(plans: np.ndarray) -> np.ndarray:
    """Of `moving_plans`, those now and at HORIZONS: [4, N, 5]."""
    return plans[_STEPS]


def at_constant_velocity(plans: np.ndarray) -> np.ndarray:
    """As `at_horizons`, if everything went on as in its next half second, without turning."""
    out = np.repeat(plans[:1], len(_STEPS), 0)
    out[..., :2] += (plans[1] - plans[0])[None, :, :2] * np.array(_STEPS, np.float32)[:, None, None]
    return out


def flow_of(points: np.ndarray, labels: np.ndarray, movers: np.ndarray) -> np.ndarray:
    """float32 [3, Q, R, 3] m: where points go until HORIZONS. points [Q, R, 3]; labels [Q, R]; movers [4, N, 5]."""
    out = np.zeros((len(HORIZONS), *points.shape), np.float32)
    rows, columns = np.nonzero(np.isin(labels, MOVABLE))
    if not len(rows) or not movers.shape[1]:
        return out
    xy = points[rows, columns, :2]
    now = movers[0]
    offset = xy[:, None] - now[:, :2]
    cos, sin = np.cos(now[:, 2]), np.sin(now[:, 2])
    along, across = cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]
    beyond = np.maximum(np.abs(along) - 0.5 * now[:, 3], np.abs(across) - 0.5 * now[:, 4])
    points_of, nearest = np.arange(len(beyond)), beyond.argmin(1)
    hit = beyond[points_of, nearest] < MARGIN
    rows, columns, points_of, nearest = rows[hit], columns[hit], points_of[hit], nearest[hit]
    along, across = along[points_of, nearest], across[points_of, nearest]
    for k in range(len(HORIZONS)):
        later = movers[k + 1][nearest]
        cos, sin = np.cos(later[:, 2]), np.sin(later[:, 2])
        moved = later[:, :2] + np.stack([cos * along - sin * across, sin * along + cos * across], -1)
        out[k, rows, columns, :2] = moved - points[rows, columns, :2]
    return out


def moved(voxels: SparseVoxels, movers: np.ndarray, future2now: np.ndarray, close: bool) -> list[SparseVoxels]:
    """Voxels at HORIZONS, each in its own ego frame, if those of movable classes went where their boxes go.

    movers [4, N, 5] in the frame of the voxels; future2now float64 [3, 4, 4]; close: as the forecaster's padding.
    """
    now = voxels.centres()
    flow = flow_of(now[None], voxels.labels[None], movers)[:, 0]
    return [placed(now + shift, voxels, close, pose) for shift, pose in zip(flow, future2now, strict=True)]


def judged(movers: np.ndarray, future2now: np.ndarray, grid: VoxelGrid = OCC3D_GRID) -> np.ndarray:
    """bool [3, X, Y, Z] at HORIZONS, each in its own ego frame: the columns that a moving box covers now or then.

    movers [4, N, 5] in the present frame; future2now float64 [3, 4, 4].
    """
    x, y = (low + (np.arange(n) + 0.5) * grid.size for low, n in zip(grid.lower[:2], grid.shape[:2], strict=True))
    flat = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros(grid.shape[:2])], -1).reshape(-1, 3)
    out = np.zeros((len(future2now), *grid.shape), bool)
    for k, pose in enumerate(future2now):
        xy = geometry.apply(pose, flat)[:, :2]
        covered = np.zeros(len(xy), bool)
        for plans in (movers[0], movers[k + 1]):
            for px, py, yaw, length, width in plans.tolist():
                dx, dy = xy[:, 0] - px, xy[:, 1] - py
                along, across = np.cos(yaw) * dx + np.sin(yaw) * dy, np.cos(yaw) * dy - np.sin(yaw) * dx
                covered |= (np.abs(along) < 0.5 * length + _EDGE) & (np.abs(across) < 0.5 * width + _EDGE)
        out[k] = covered.reshape(grid.shape[:2])[..., None]
    return out


def moving_numbers(confusion: np.ndarray) -> tuple[float, float]:
    """(mIoU of the movable classes, IoU of movable against everything else) of counts [18, 18] of judged voxels."""
    movable = list(MOVABLE)
    per_class = iou_per_class(confusion, AbsentRule.ZERO_IF_PREDICTED)[movable]
    true, said = confusion[movable].sum(), confusion[:, movable].sum()
    hits = confusion[np.ix_(movable, movable)].sum()
    union = true + said - hits
    return mean_of_known(per_class), float(hits / union) if union else float("nan")
