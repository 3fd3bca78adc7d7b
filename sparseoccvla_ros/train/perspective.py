"""Dense help for image features: what class and how far away is what each cell of a feature map shows.

Sparse queries teach the image features only where they look, so a short training spends most of its time on features.
The voxels that cameras see, projected into the images, say class and distance for most cells at once (compare the
perspective supervision of BEVFormer v2, Yang et al., CVPR 2023, and the depth supervision of BEVDepth, Li et al., AAAI
2023). The heads are thrown away after training.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.occ3d import NUM_CLASSES

UNKNOWN = 255
NEAREST, FURTHEST, BINS = 1.5, 56.0, 32
"""Distances [m] are told apart in BINS logarithmic steps."""
_SPLAT = 3


def cell_targets(
    centres: np.ndarray, labels: np.ndarray, ego2img: np.ndarray, size: tuple[int, int], stride: int, voxel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Class and distance bin of every feature cell, uint8 [N, h, w] each, UNKNOWN where no voxel is seen.

    centres [V, 3] m, labels [V] of seen voxels, base_link; ego2img [N, 4, 4]; size: (h, w) cells of `stride` pixels;
    voxel: edge in metres. The nearest voxel that covers a cell's middle wins.
    """
    h, w = size
    classes = np.full((len(ego2img), h * w), UNKNOWN, np.uint8)
    bins = classes.copy()
    for camera, matrix in enumerate(ego2img):
        image = centres @ matrix[:3, :3].T + matrix[:3, 3]
        depth = image[:, 2]
        # From far to near, so that what is near overwrites.
        order = np.argsort(-depth)
        order = order[depth[order] > NEAREST]
        away = depth[order]
        u, v = (image[order, :2].T / away + 0.5) / stride
        focal = np.linalg.norm(matrix[0, :3] - matrix[2, :3] * (matrix[0, :3] @ matrix[2, :3]))
        reach = 0.5 * voxel * focal / away / stride
        left, top = np.ceil(u - reach - 0.5).astype(int), np.ceil(v - reach - 0.5).astype(int)
        right, bottom = np.floor(u + reach - 0.5).astype(int), np.floor(v + reach - 0.5).astype(int)
        scale = (BINS - 1) / np.log(FURTHEST / NEAREST)
        step = np.clip(np.log(away / NEAREST) * scale, 0, BINS - 1).astype(np.uint8)
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
        bins[camera, cell] = step[where]
    shape = (len(ego2img), h, w)
    return classes.reshape(shape), bins.reshape(shape)


class PerspectiveHeads(nn.Module):
    """Class and distance of feature cells, from the finest feature level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, NUM_CLASSES + BINS, 1)

    def forward(self, level: Tensor, classes: Tensor, bins: Tensor) -> dict[str, Tensor]:
        """level float32 [M, C, h, w]; classes and bins uint8 [M, h, w]; cross entropies over the known cells."""
        both = self.out(F.relu(self.hidden(level)))
        known = classes != UNKNOWN
        if not bool(known.any()):
            zero = 0.0 * both.sum()
            return {"cells_class": zero, "cells_distance": zero}
        rows = both.permute(0, 2, 3, 1)[known]
        weight = rows.new_ones(NUM_CLASSES)
        weight[:11] = 2.0  # things are small
        return {
            "cells_class": F.cross_entropy(rows[:, :NUM_CLASSES], classes[known].long(), weight),
            "cells_distance": F.cross_entropy(rows[:, NUM_CLASSES:], bins[known].long()),
        }
