"""Features of image cells at 3-D points, the input of the voxel head.

CPU tensors use the compiled loops of `cell_kernels`, other devices equivalent tensor gathers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.classes import FREE
from ..image_queries import FURTHEST, NEAREST, ViewProposals, depth_step
from .views import SceneViews

FRAMES = 2
"""Frames whose cells are read: the present and the previous one."""
WINDOWS = (0.35, 0.8, 2.0)
"""Standard deviations of the Gaussian windows over a depth distribution, in bins of a 32-bin depth."""


def depth_windows(bins: int) -> Tensor:
    """Returns the matrix, float32 [bins, bins * 5], from a depth distribution to five shares at each bin: in the
    `WINDOWS` around it, nearer and further."""
    step = torch.arange(bins, dtype=torch.float32)
    apart = (step[None] - step[:, None]) * (31 / (bins - 1))  # [source bin, target bin], in bins of a 32-bin depth
    windows = [torch.exp(-0.5 * (apart / s) ** 2) for s in WINDOWS]
    windows += [(apart > 1.0).float(), (apart < -1.0).float()]
    return torch.stack(windows, -1).flatten(1)


@dataclass(frozen=True, eq=False)
class CellViews:
    """Image cells of the present and the previous frame, prepared for reading at 3-D points.

    classes: per frame float32 [N * h * w, 18], probabilities; depths: per frame float32 [N * h * w * bins, 5], shares
    of the depth distribution in `WINDOWS` around each bin, nearer and further; matrix float32 [FRAMES, N, 4, 4],
    present base_link to pixels; usable bool [FRAMES, N]; size: cells (h, w); image: pixels (H, W).
    """

    classes: list[Tensor]
    depths: list[Tensor]
    matrix: Tensor
    usable: Tensor
    size: tuple[int, int]
    image: tuple[int, int]
    bins: int

    @classmethod
    def of(cls, scene: SceneViews, cells: ViewProposals, smooth: Tensor) -> CellViews:
        """Build from the features of the first batch element; smooth: float32 [bins, bins * 5], see depth_windows. A
        single frame is also used as the previous one."""
        (h, w), (frames, n) = scene.sizes[0], scene.ego2img.shape[1:3]
        ages = [min(f, frames - 1) for f in range(FRAMES)]
        classes, depths = [], []
        for age in ages:
            known = {} if scene.derived is None else scene.derived[age]
            if "cell_views" not in known:
                slot = age if scene.slots is None else scene.slots[age]
                # The present frame's cells were classified to propose queries.
                logits = known.pop("cells") if "cells" in known else cells.cells(scene.table[0, slot, : n * h * w])
                depth = (logits[:, FREE + 1 :].softmax(-1) @ smooth).view(-1, len(WINDOWS) + 2)
                known["cell_views"] = logits[:, : FREE + 1].softmax(-1), depth
            classes.append(known["cell_views"][0])
            depths.append(known["cell_views"][1])
        matrix, usable = scene.ego2img[0, ages], scene.usable[0, ages]
        return cls(classes, depths, matrix, usable, (h, w), scene.image_size, len(smooth))

    def choose(self, frame: int, points: Tensor) -> Tensor:
        """Returns the camera with each of points float32 [P, 3] nearest to its middle column, int64 [P], -1 if none."""
        if not points.is_cpu:
            return self._choose(frame, points)
        out = torch.empty(len(points), dtype=torch.int64)
        _kernels().choose(_array(points), *self._cameras(frame), *self.image, out.numpy())
        return out

    def nearest(self, frame: int, points: Tensor, camera: Tensor) -> Tensor:
        """Read the nearest cell and bin at points float32 [P, 3] in `camera` int64 [P] (-1: zeros): class shares, depth
        windows and a visibility flag, float32 [P, 24]."""
        if not points.is_cpu:
            return self._nearest(frame, points, camera)
        out = torch.empty(len(points), self._width)
        _kernels().nearest(_array(points), camera.numpy(), *self._tables(frame), out.numpy())
        return out

    def read(self, frame: int, blocks: Tensor, offsets: Tensor, camera: Tensor) -> Tensor:
        """Interpolate, bilinear in the image and linear in depth, at blocks float32 [K, 3] + offsets [8, 3] in each
        block's camera int64 [K] (-1: zeros): float32 [K, 8, 24] with the channels of `nearest`."""
        if not blocks.is_cpu:
            return self._read(frame, blocks, offsets, camera)
        out = torch.empty(len(blocks), len(offsets), self._width)
        _kernels().read(_array(blocks), _array(offsets), camera.numpy(), *self._tables(frame), out.numpy())
        return out

    @property
    def _width(self) -> int:
        return self.classes[0].shape[1] + self.depths[0].shape[1] + 1

    def _cameras(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        return _array(self.matrix[frame, :, :3]), _array(self.usable[frame])

    def _tables(self, frame: int) -> tuple[Any, ...]:
        scale = (NEAREST, (self.bins - 1) / math.log(FURTHEST / NEAREST))
        matrix, classes, depths = self._cameras(frame)[0], _array(self.classes[frame]), _array(self.depths[frame])
        return matrix, self.image, self.size, scale, classes, depths

    def _choose(self, frame: int, points: Tensor) -> Tensor:
        rows = torch.cat([points, torch.ones_like(points[:, :1])], 1).T
        u, v, depth = (self.matrix[frame, :, :3] @ rows).unbind(1)  # [N, P] each
        seen = (depth > 0.3) & self.usable[frame, :, None]
        # Compare before dividing: 0 < u / depth < W.
        width, height = self.image[1] * depth, self.image[0] * depth
        u, v = u + 0.5 * depth, v + 0.5 * depth
        seen &= (u > 0) & (u < width) & (v > 0) & (v < height)
        best, camera = torch.where(seen, 1.0 - (u / width - 0.5).abs(), 0.0).max(0)
        return torch.where(best > 0, camera, -1)

    def _nearest(self, frame: int, points: Tensor, camera: Tensor) -> Tensor:
        (h, w), hit = self.size, camera >= 0
        u, v, depth, camera = self._project(frame, points, camera)
        row = (camera * h + (v * h).long().clamp(0, h - 1)) * w + (u * w).long().clamp(0, w - 1)
        step = depth_step(depth, self.bins).round().long()
        hit = hit[:, None].float()
        return torch.cat([self.classes[frame][row] * hit, self.depths[frame][row * self.bins + step] * hit, hit], 1)

    def _read(self, frame: int, blocks: Tensor, offsets: Tensor, camera: Tensor) -> Tensor:
        (h, w), two = self.size, torch.arange(2, device=blocks.device)
        points = (blocks[:, None] + offsets).view(-1, 3)
        hit = (camera >= 0).repeat_interleave(len(offsets))
        u, v, depth, camera = self._project(frame, points, camera.repeat_interleave(len(offsets)))
        hit = hit & (depth > 0.3) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
        x, y = (u * w - 0.5).clamp(0, w - 1), (v * h - 0.5).clamp(0, h - 1)
        step = depth_step(depth, self.bins)
        x0, y0, d0 = (t.long().clamp(max=m) for t, m in ((x, w - 2), (y, h - 2), (step, self.bins - 2)))
        across, down, along = (torch.stack([1 - f, f], -1) for f in (x - x0, y - y0, step - d0))
        share = (down[:, :, None] * across[:, None]).flatten(1) * hit[:, None]
        row = ((((camera * h + y0)[:, None] + two) * w)[:, :, None] + (x0[:, None] + two)[:, None]).flatten(1)
        classes = F.embedding_bag(row, self.classes[frame], per_sample_weights=share, mode="sum")
        deep = ((row * self.bins + d0[:, None])[:, :, None] + two).flatten(1)
        weight = (share[:, :, None] * along[:, None]).flatten(1)
        depths = F.embedding_bag(deep, self.depths[frame], per_sample_weights=weight, mode="sum")
        return torch.cat([classes, depths, hit[:, None].float()], 1).view(len(blocks), len(offsets), -1)

    def _project(self, frame: int, points: Tensor, camera: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Project points to image fractions u, v and depth (clamped to 0.1 m) in their cameras; -1 becomes 0."""
        camera = camera.clamp(min=0)
        matrix = self.matrix[frame, :, :3].flatten(1)[camera]  # [P, 12]
        x, y, z = points.unbind(1)
        image = [matrix[:, i] * x + matrix[:, i + 1] * y + matrix[:, i + 2] * z + matrix[:, i + 3] for i in (0, 4, 8)]
        depth = image[2].clamp(min=0.1)
        return (image[0] / depth + 0.5) / self.image[1], (image[1] / depth + 0.5) / self.image[0], depth, camera


def _kernels() -> ModuleType:
    """Imported at the first use: nodes that only know the encoder's type do without numba and start 0.2 s earlier."""
    from . import cell_kernels

    return cell_kernels


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
