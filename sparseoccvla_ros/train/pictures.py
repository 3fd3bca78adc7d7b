"""Pictures of a validation."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..core.voxels import SparseVoxels
from ..data.samples import Sample
from ..view.above import draw_columns

_SIZE = 320


def occupancy_picture(shown: Sequence[tuple[Sample, SparseVoxels]]) -> np.ndarray | None:
    """uint8 [H, W, 3] RGB: one row per sample, its cameras, occupancy predicted and true (seen voxels) from above."""
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
