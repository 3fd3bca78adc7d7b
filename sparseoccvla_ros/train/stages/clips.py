"""Stage 1, second phase: trains the whole encoder on cached early features, clip by clip.

Every frame set of a clip is encoded once, with gradient. It is the present of one sample and the past of later ones;
past features carry no gradient, as in stage 1 without `history_gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InvalidInput
from ...data.dataset import Sample
from ...occupancy.encoder import OccupancyEncoder
from ...occupancy.losses import LossWeights, OccupancyTargets
from ..features.cached_frames import FrameBatch, FrameSlice, read_frames
from .occupancy import OccupancyBatch, OccupancyStage, OccupancyStageSettings

DRIVE_STARTS = 0.1
"""Share of samples without history."""


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Batch of B samples built from the frame sets in `frames`.

    index: int64 [B, T], each sample's frame sets, the present one first; ego2img: float32 [B, T, N, 4, 4], as in
    Sample; targets: B of them; cells: as in OccupancyBatch; image_size: (H, W) of the padded images before caching.
    """

    frames: FrameBatch
    index: Tensor
    ego2img: Tensor
    targets: list[OccupancyTargets]
    cells: tuple[Tensor, Tensor]
    image_size: tuple[int, int]


class ClipStage(OccupancyStage):
    """OccupancyStage trained on FrameSlices of whole clips; validation uses samples with images, as there."""

    def __init__(
        self,
        encoder: OccupancyEncoder,
        settings: OccupancyStageSettings | None = None,
        weights: LossWeights | None = None,
    ) -> None:
        """Raises InvalidInput("truth", ...) unless the settings' truth is "visible", the only one in the cache."""
        super().__init__(encoder, settings, weights)
        if self.settings.truth != "visible":
            raise InvalidInput("truth", "the cache holds the voxels that a camera sees, no others")

    def augment(self, sample: FrameSlice, rng: np.random.Generator) -> FrameSlice:
        """Draw one of the cached variants, sometimes with its first frame set as a sample without history."""
        whole = sample.stop - sample.start - self.encoder.config.frames + 1
        return sample.drawn(rng, min(1.0, whole * DRIVE_STARTS / (1.0 - DRIVE_STARTS)))

    def collate(self, samples: Sequence[Any]) -> ClipBatch | OccupancyBatch:  # type: ignore[override]
        """Read the clips and combine each frame set with its history."""
        if isinstance(samples[0], Sample):
            return super().collate(samples)
        frames, depth = read_frames(samples), self.encoder.config.frames
        index: list[list[int]] = []
        first = 0
        for clip in samples:
            count = clip.stop - clip.start
            if clip.drive_start:
                index.append([first] * depth)
            index += [[first + i - age for age in range(depth)] for i in range(depth - 1, count)]
            first += count
        ego2img = [
            [frames.ego2img[i] @ np.linalg.inv(frames.pose[i]) @ frames.pose[row[0]] for i in row] for row in index
        ]
        targets = [frames.targets[row[0]] for row in index]
        for target in targets:
            if len(target):
                _ = target.neighbours  # cached here, in a loader thread
        matrices = torch.from_numpy(np.array(ego2img, np.float32))
        present, cameras = torch.tensor(index)[:, 0], matrices.shape[2]
        cells = tuple(v.view(-1, cameras, *v.shape[1:])[present].flatten(0, 1) for v in (frames.classes, frames.depths))
        stride = self.encoder.config.strides[0]
        size = tuple(stride * s for s in frames.classes.shape[1:])
        return ClipBatch(replace(frames, targets=[]), torch.tensor(index), matrices, targets, cells, size)

    def move(self, batch: Any, device: torch.device) -> Any:
        """Returns the batch on a device."""
        if isinstance(batch, OccupancyBatch) or device.type == "cpu":
            return super().move(batch, device) if isinstance(batch, OccupancyBatch) else batch
        return replace(
            batch, frames=batch.frames.to(device), index=batch.index.to(device), ego2img=batch.ego2img.to(device),
            targets=[t.to(device) for t in batch.targets], cells=tuple(c.to(device) for c in batch.cells),
        )  # fmt: skip

    def levels(self, batch: Any) -> list[Tensor]:
        """Returns feature levels [B * T * N, C, h, w] of the samples; those of past frames carry no gradient."""
        n, out = batch.ego2img.shape[2], []
        for level in self.encoder.late_features(batch.frames.early(), self.settings.frozen):
            frames = level.view(-1, n, *level.shape[1:])
            seen = [frames[batch.index[:, :1]], frames.detach()[batch.index[:, 1:]]]
            out.append(torch.cat(seen, 1).flatten(0, 2))
        return out

    def _truth(self, sample: FrameSlice) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(t.centres.numpy(), t.labels.numpy()) for t in read_frames([sample]).targets]
