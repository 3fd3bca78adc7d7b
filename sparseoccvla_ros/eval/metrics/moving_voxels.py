"""Motion of dynamic objects: flow of points inside moving boxes, and the voxels on which forecast motion is scored.

Most of a street is static, so scores over whole grids hardly distinguish a forecast from a copy. Only the columns
covered by a moving box now or at the horizon are counted here: a copy leaves the box in place, a forecast must move it.
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
"""Margin (m) around a moving box within which points of movable classes belong to it, as predictions are imprecise."""
MOVED = 0.5
"""Displacement (m) at some horizon from which on a box counts as moving."""
_EDGE = 0.4
"""Margin (m) around a box that is also scored."""
_STEPS = [0, *(round(h / STEP_SECONDS) for h in HORIZONS)]


def moving_plans(centres: np.ndarray, yaws: np.ndarray, present: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns footprints float32 [7, N, 5] (x, y m, yaw rad, length, width m) of moving agents every 0.5 s.

    centres [A, 7, 2], yaws [A, 7], present bool [A, 7], sizes [A, 2]: all agents, in one frame.
    """
    keep = present[:, _STEPS].all(1)
    keep &= np.linalg.norm(np.nan_to_num(centres - centres[:, :1]), axis=-1)[:, _STEPS].max(1, initial=0.0) >= MOVED
    size = np.broadcast_to(sizes[keep, None], (int(keep.sum()), centres.shape[1], 2))
    plans = np.concatenate([centres[keep], yaws[keep, :, None], size], -1)
    return plans.swapaxes(0, 1).astype(np.float32)


def at_horizons(plans: np.ndarray) -> np.ndarray:
    """Selects the footprints now and at HORIZONS from those of `moving_plans`: [4, N, 5]."""
    return plans[_STEPS]


def at_constant_velocity(plans: np.ndarray) -> np.ndarray:
    """As `at_horizons`, extrapolating the true motion of the next half second without turning."""
    out = np.repeat(plans[:1], len(_STEPS), 0)
    out[..., :2] += (plans[1] - plans[0])[None, :, :2] * np.array(_STEPS, np.float32)[:, None, None]
    return out


def _along_and_across(xy: np.ndarray, plans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [P, N] m of points [P, 2] along and across each of boxes [N, 5], from its centre."""
    offset = xy[:, None] - plans[:, :2]
    cos, sin = np.cos(plans[:, 2]), np.sin(plans[:, 2])
    return cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]


def flow_of(points: np.ndarray, labels: np.ndarray, movers: np.ndarray) -> np.ndarray:
    """Returns the flow float32 [3, Q, R, 3] m of points [Q, R, 3] with labels [Q, R] to HORIZONS; movers [4, N, 5]."""
    out = np.zeros((len(HORIZONS), *points.shape), np.float32)
    rows, columns = np.nonzero(np.isin(labels, MOVABLE))
    if not len(rows) or not movers.shape[1]:
        return out
    xy = points[rows, columns, :2]
    now = movers[0]
    along, across = _along_and_across(xy, now)
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
    """Returns voxels at HORIZONS, each in its own ego frame, with those of movable classes moved with their boxes.

    movers [4, N, 5] in the frame of the voxels; future2now float64 [3, 4, 4]; close: fill holes of one voxel.
    """
    now = voxels.centres()
    flow = flow_of(now[None], voxels.labels[None], movers)[:, 0]
    return [placed(now + shift, voxels, close, pose) for shift, pose in zip(flow, future2now, strict=True)]


def judged(movers: np.ndarray, future2now: np.ndarray, grid: VoxelGrid = OCC3D_GRID) -> np.ndarray:
    """bool [3, X, Y, Z] at HORIZONS, each in its own ego frame: columns that a moving box covers now or at the horizon.

    movers [4, N, 5] in the present frame; future2now float64 [3, 4, 4].
    """
    x, y = (low + (np.arange(n) + 0.5) * grid.size for low, n in zip(grid.lower[:2], grid.shape[:2], strict=True))
    flat = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros(grid.shape[:2])], -1).reshape(-1, 3)
    out = np.zeros((len(future2now), *grid.shape), bool)
    for k, pose in enumerate(future2now):
        xy = geometry.apply(pose, flat)[:, :2]
        covered = np.zeros(len(xy), bool)
        for box in np.concatenate([movers[0], movers[k + 1]]).astype(np.float64):  # one at a time: 40,000 columns each
            along, across = _along_and_across(xy, box[None])
            covered |= ((np.abs(along) < 0.5 * box[3] + _EDGE) & (np.abs(across) < 0.5 * box[4] + _EDGE))[:, 0]
        out[k] = covered.reshape(grid.shape[:2])[..., None]
    return out


def moving_numbers(confusion: np.ndarray) -> tuple[float, float]:
    """Returns (mIoU of movable classes, IoU of movable against the rest) from counts [18, 18] of scored voxels."""
    movable = list(MOVABLE)
    per_class = iou_per_class(confusion, AbsentRule.ZERO_IF_PREDICTED)[movable]
    true, said = confusion[movable].sum(), confusion[:, movable].sum()
    hits = confusion[np.ix_(movable, movable)].sum()
    union = true + said - hits
    return mean_of_known(per_class), float(hits / union) if union else float("nan")
