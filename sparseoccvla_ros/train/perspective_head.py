"""Dense auxiliary supervision of image features: class and depth of each cell of a feature map.

Sparse queries supervise image features only where they sample, so a short training spends most of its time on features.
Visible voxels projected into the images label class and depth of most cells at once (compare the perspective
supervision of BEVFormer v2, Yang et al., CVPR 2023, and the depth supervision of BEVDepth, Li et al., AAAI 2023). An
encoder with image queries keeps the head (occupancy/image_queries.py); otherwise it is discarded after training.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from scipy.ndimage import maximum_filter
from torch import Tensor, nn

from ..core.classes import FREE, LABEL, NUM_CLASSES
from ..occupancy.image_queries import NEAREST, depth_step

UNKNOWN = 255
THING_WEIGHT = 4.0
"""Weight of cells that show an object, in the class and depth losses: they are few, and they matter for driving."""
_SPLAT = 3


def cell_targets(
    centres: np.ndarray, labels: np.ndarray, ego2img: np.ndarray, size: tuple[int, int], stride: int, voxel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns class, uint8 [N, h, w], and depth along the optical axis, float32 [N, h, w] m, of every feature cell.

    centres [V, 3] m, labels [V] of visible voxels, base_link; ego2img [N, 4, 4]; size: (h, w) cells of `stride` pixels;
    voxel: edge length in m. A cell takes the nearest voxel that covers its centre. Cells without labelled neighbours
    (5 x 5) are FREE: sky, or beyond the grid. Holes between voxels and missing cameras are UNKNOWN.
    """
    h, w = size
    classes = np.full((len(ego2img), h * w), UNKNOWN, np.uint8)
    depths = np.zeros((len(ego2img), h * w), np.float32)
    for camera, matrix in enumerate(ego2img):
        image = centres @ matrix[:3, :3].T + matrix[:3, 3]
        depth = image[:, 2]
        # From far to near: nearer voxels overwrite.
        order = np.argsort(-depth)
        order = order[depth[order] > NEAREST]
        away = depth[order]
        u, v = (image[order, :2].T / away + 0.5) / stride
        focal = np.linalg.norm(matrix[0, :3] - matrix[2, :3] * (matrix[0, :3] @ matrix[2, :3]))
        reach = 0.5 * voxel * focal / away / stride
        left, top = np.ceil(u - reach - 0.5).astype(int), np.ceil(v - reach - 0.5).astype(int)
        right, bottom = np.floor(u + reach - 0.5).astype(int), np.floor(v + reach - 0.5).astype(int)
        cells, source = [], []
        for dy in range(_SPLAT):
            for dx in range(_SPLAT):
                x, y = left + dx, top + dy
                hit = np.flatnonzero((x <= right) & (y <= bottom) & (x >= 0) & (x < w) & (y >= 0) & (y < h))
                cells.append(y[hit] * w + x[hit])
                source.append(hit)
        where = np.concatenate(source)
        rank = np.argsort(where, kind="stable")
        cell, where = np.concatenate(cells)[rank], where[rank]
        classes[camera, cell] = labels[order][where]
        depths[camera, cell] = away[where]
    shape = (len(ego2img), h, w)
    classes, depths = classes.reshape(shape), depths.reshape(shape)
    seen = maximum_filter(classes != UNKNOWN, (1, 5, 5))
    found = np.where(seen, classes, FREE).astype(np.uint8)
    found[~ego2img.any((1, 2))] = UNKNOWN  # the vehicle does not have this camera
    return found, depths


class PerspectiveHeads(nn.Module):
    """Class and depth logits of the cells of the finest feature level, for an encoder without image queries."""

    def __init__(self, channels: int, bins: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, NUM_CLASSES + 1 + bins)

    def forward(self, level: Tensor) -> Tensor:
        """Returns logits [M, h * w, 18 + bins] of a level float32 [M, C, h, w]."""
        return self.out(F.relu(self.hidden(level.flatten(2).transpose(1, 2))))


def cell_losses(cells: Tensor, classes: Tensor, depths: Tensor) -> dict[str, Tensor]:
    """Returns the cross-entropy losses: class over known cells, depth over cells with an occupied class.

    cells: logits float32 [..., 18 + bins] of the cells of classes uint8 and depths float32 m. A true depth is divided
    linearly between the two bins around it.
    """
    rows, classes, depths = cells.reshape(-1, cells.shape[-1]), classes.flatten().long(), depths.flatten()
    known, solid = classes != UNKNOWN, classes < NUM_CLASSES
    if not bool(known.any()):
        zero = 0.0 * rows.sum()
        return {"cells_class": zero, "cells_depth": zero}
    weight = rows.new_ones(NUM_CLASSES + 1)
    weight[: LABEL["driveable_surface"]] = THING_WEIGHT
    weight[FREE] = 0.5
    bins = rows.shape[1] - NUM_CLASSES - 1
    step = depth_step(depths[solid], bins)
    below = step.floor().clamp(max=bins - 2.0)
    log = rows[solid, NUM_CLASSES + 1 :].log_softmax(-1)
    share = weight[classes[solid]]
    low, high = (log.gather(1, (below.long() + k)[:, None])[:, 0] for k in (0, 1))
    return {
        "cells_class": F.cross_entropy(rows[known, : NUM_CLASSES + 1], classes[known], weight),
        "cells_depth": -(share * (low + (step - below) * (high - low))).sum() / share.sum().clamp(min=1.0),
    }
