"""Object boxes from clusters of movable voxels, with velocities estimated from the forecast occupancy."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from ..core.classes import CLASSES, LABEL
from ..core.voxels import SparseVoxels

GROUPS: tuple[tuple[int, ...], ...] = tuple(
    tuple(LABEL[name] for name in names)
    for names in (
        ("car", "bus", "truck", "trailer", "construction_vehicle"),
        ("bicycle", "motorcycle"),
        ("pedestrian",),
        ("traffic_cone",),
    )
)
"""Labels that may be mixed in one object; a box never spans two groups."""
MIN_VOXELS = 4
"""Minimum cluster size; smaller ones are noise."""
MAX_SPEED = 15.0
"""m/s, maximum speed of an object; limits the search for a box in the forecast."""
MIN_OVERLAP = 0.5
"""Share of a box's cells that the forecast must cover; below it, the velocity is unknown."""
STILL = 0.02
"""Overlap penalty per metre of motion; standing still wins among equal fits."""
HEADING_SPEED = 1.0
"""m/s from which a box's yaw follows its velocity; below it, the yaw points along +x of base_link."""


@dataclass(frozen=True, eq=False)
class ObjectBox:
    """One object in base_link at the stamp of its voxels.

    centre: float64 [3] m; size: float64 [3] m, length >= width, height; yaw: rad; label: index into CLASSES; score:
    mean score of its voxels; velocity: float64 [2] m/s over ground, None if unknown.
    """

    centre: np.ndarray
    size: np.ndarray
    yaw: float
    label: int
    score: float
    velocity: np.ndarray | None

    @property
    def name(self) -> str:
        """Class name."""
        return CLASSES[self.label]


def object_boxes(voxels: SparseVoxels, future: SparseVoxels | None = None, horizon: float = 1.0) -> list[ObjectBox]:
    """Returns one box per cluster of movable voxels, best score first.

    Voxels of a group form one object when at most one free voxel lies between them. future: forecast `horizon` seconds
    later, in base_link at the stamp of `voxels`; displacements are therefore over ground.
    """
    boxes = []
    for group in GROUPS:
        chosen = np.isin(voxels.labels, group)
        if not chosen.any():
            continue
        indices, labels, scores = (a[chosen] for a in (voxels.indices, voxels.labels, voxels.scores))
        later = None if future is None or not len(future) else _top_view(future, group)
        for members in _clusters(indices, voxels.grid.shape):
            cells = indices[members]
            velocity = None if later is None else _velocity(cells[:, :2], later, voxels.grid.size, horizon)
            boxes.append(_box(cells, labels[members], scores[members], velocity, voxels))
    return sorted(boxes, key=lambda b: -b.score)


def _clusters(indices: np.ndarray, shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Group rows of `indices` [M, 3] into clusters; drops clusters of fewer than MIN_VOXELS."""
    volume = np.zeros(shape, bool)
    volume[tuple(indices.T)] = True
    near = ndimage.binary_dilation(volume, np.ones((2, 2, 2), bool))
    numbers, count = ndimage.label(near, np.ones((3, 3, 3), bool))
    owner = numbers[tuple(indices.T)]
    rows = [np.flatnonzero(owner == number) for number in range(1, count + 1)]
    return [r for r in rows if len(r) >= MIN_VOXELS]


def _top_view(voxels: SparseVoxels, group: tuple[int, ...]) -> np.ndarray:
    """Returns float32 [X, Y], 1 where a column holds a voxel of the group."""
    out = np.zeros(voxels.grid.shape[:2], np.float32)
    chosen = np.isin(voxels.labels, group)
    out[tuple(voxels.indices[chosen, :2].T)] = 1.0
    return out


def _velocity(cells: np.ndarray, later: np.ndarray, size: float, horizon: float) -> np.ndarray | None:
    """Returns float64 [2] m/s from the best shift of a cluster's columns [M, 2] to `later`, None if the fit is poor."""
    reach = round(MAX_SPEED * horizon / size)
    lower, upper = cells.min(0), cells.max(0)
    pattern = np.zeros(tuple(upper - lower + 1), np.float32)
    pattern[tuple((cells - lower).T)] = 1.0
    around = np.pad(later, reach)[lower[0] : upper[0] + 2 * reach + 1, lower[1] : upper[1] + 2 * reach + 1]
    overlap = cv2.matchTemplate(around, pattern, cv2.TM_CCORR) / pattern.sum()
    shift = np.stack(np.meshgrid(*(np.arange(n) - reach for n in overlap.shape), indexing="ij"), -1) * size
    fit = overlap - STILL * np.linalg.norm(shift, axis=-1)
    best = np.unravel_index(int(fit.argmax()), fit.shape)
    if overlap[best] < MIN_OVERLAP:
        return None
    return shift[best] / horizon


def _box(
    cells: np.ndarray, labels: np.ndarray, scores: np.ndarray, velocity: np.ndarray | None, voxels: SparseVoxels
) -> ObjectBox:
    grid = voxels.grid
    corners = np.concatenate([cells[:, :2] + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    metric = (corners * grid.size + np.array(grid.lower[:2])).astype(np.float32)
    (x, y), (length, width), degrees = cv2.minAreaRect(metric)
    yaw = np.radians(degrees)
    if width > length:
        length, width, yaw = width, length, yaw + np.pi / 2
    towards = np.array((1.0, 0.0))
    if velocity is not None and np.linalg.norm(velocity) >= HEADING_SPEED:
        towards = velocity
    if np.cos(yaw) * towards[0] + np.sin(yaw) * towards[1] < 0:
        yaw += np.pi
    bottom, top = cells[:, 2].min(), cells[:, 2].max() + 1
    z = grid.lower[2] + grid.size * (bottom + top) / 2
    weight = np.bincount(labels, scores, minlength=len(CLASSES))
    return ObjectBox(
        centre=np.array((x, y, z), np.float64),
        size=np.array((length, width, grid.size * (top - bottom)), np.float64),
        yaw=float(np.arctan2(np.sin(yaw), np.cos(yaw))),
        label=int(weight.argmax()),
        score=float(scores.mean()),
        velocity=velocity,
    )
