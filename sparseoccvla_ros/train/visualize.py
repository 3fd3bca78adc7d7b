"""Validation images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..core.voxels import SparseVoxels
from ..data.dataset import COMMANDS, Sample
from ..view.above import draw_columns
from .features.dataset import FeatureSample

_SIZE = 320


def occupancy_picture(shown: Sequence[tuple[Sample, SparseVoxels]]) -> np.ndarray | None:
    """Draws a row per sample: cameras, then predicted and true occupancy (visible voxels) from above; RGB [H, W, 3]."""
    if not shown:
        return None
    rows = []
    for sample, predicted in shown:
        seen = np.where(sample.visible, sample.semantics, 17).astype(np.uint8)
        seen[seen > 17] = 17
        truth = SparseVoxels.from_dense(seen, predicted.grid)
        images = sample.images[0]
        if len(images) == 6:  # CAMERAS: front, front right, front left, back, back left, back right
            images = images[[2, 0, 1, 4, 3, 5]]
        half = -(-len(images) // 2)
        tiles = [np.concatenate(list(images[:half]), 1), np.concatenate(list(images[half:]), 1)]
        width = min(t.shape[1] for t in tiles)
        cameras = np.concatenate([t[:, :width] for t in tiles], 0)
        height = round(cameras.shape[0] * 640 / cameras.shape[1])
        cameras = cv2.resize(cameras, (640, height), interpolation=cv2.INTER_AREA)
        panel = np.full((_SIZE, 640, 3), 24, np.uint8)
        panel[: min(height, _SIZE)] = cameras[:_SIZE]
        cv2.putText(panel, sample.name, (8, _SIZE - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 230), 1, cv2.LINE_AA)
        above = [draw_columns(v, _SIZE) for v in (predicted, truth)]
        for image, text in zip(above, ("predicted", "true, seen voxels"), strict=True):
            cv2.putText(image, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 230), 1, cv2.LINE_AA)
        rows.append(np.concatenate([panel, *above], 1))
    return np.concatenate(rows, 0)


def plans_picture(shown: Sequence[tuple[FeatureSample, np.ndarray, np.ndarray, int]]) -> np.ndarray | None:
    """Draws three samples per row: candidates thin, the true path green, the chosen one yellow; RGB [H, W, 3].

    shown: sample, candidates [K, 6, 2] m, chosen [6, 2] m, index into COMMANDS. Occupied points, if the sample has
    them, are drawn below in grey.
    """
    tiles = []
    for sample, candidates, chosen, command in shown:
        tile = np.full((_SIZE, _SIZE, 3), 24, np.uint8)
        if "points" in sample.arrays:
            points = sample.arrays["points"][sample.arrays["scores"] > 0.3]
            x, y = _pixels(points[:, :2]).T
            inside = (x >= 0) & (x < _SIZE) & (y >= 0) & (y < _SIZE)
            tile[y[inside], x[inside]] = 90
        lines = [(c, (95, 95, 150), 1) for c in candidates]
        for path, colour, width in (*lines, (sample.waypoints, (60, 220, 90), 2), (chosen, (255, 210, 40), 2)):
            track = _pixels(np.concatenate([np.zeros((1, 2)), path]))
            cv2.polylines(tile, [track.astype(np.int32)], False, colour, width, cv2.LINE_AA)
        for text, height in ((sample.name, 16), (f"{COMMANDS[command].value}, {sample.twist[0]:.1f} m/s", 32)):
            cv2.putText(tile, text, (6, height), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, cv2.LINE_AA)
        tiles.append(tile)
    if not tiles:
        return None
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 3)
    return np.concatenate([np.concatenate(tiles[i : i + 3], 1) for i in range(0, len(tiles), 3)], 0)


def _pixels(points: np.ndarray) -> np.ndarray:
    """Converts points [N, 2] m to int64 [N, 2] column, row: 45 m ahead to 10 m behind, forward is up."""
    scale = _SIZE / 55.0
    return np.stack([_SIZE / 2 - points[:, 1] * scale, _SIZE - (points[:, 0] + 10.0) * scale], -1).round().astype(int)
