"""Stage 1, first phase: the image cells learn what they show and how far away it is, without the decoder.

What the decoder's image queries start from, and most of what an occupancy head needs, is said by the cells of the
finest feature level. They learn from dense truth; a step without decoder and set losses costs a part of a whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.classes import CLASSES, NUM_CLASSES
from ...core.errors import InvalidInput
from ...occupancy import checkpoints
from ...occupancy.encoder import OccupancyEncoder
from ...occupancy.image_queries import ViewProposals, expected_depth
from ..features.cached_frames import FrameBatch, FrameSlice, read_frames
from ..perspective_head import cell_losses
from ..task import Stage, Validation
from .occupancy import freeze_backbone, parameter_groups

NEAR_METRES, NEAR_SHARE = 0.4, 0.05
"""A depth counts as found when it is off by no more than a voxel, or by a twentieth of it."""


class CellStage(Stage[FrameBatch]):
    """Trains the later blocks of the backbone, the finest level of the neck, and the head of the image queries.

    frozen: blocks of the backbone whose output is cached; depthwise: as in OccupancyStageSettings. Raises
    InvalidInput("image_queries", ...) for an encoder without them.
    """

    name = "cells"

    def __init__(self, encoder: OccupancyEncoder, frozen: int, depthwise: bool = False) -> None:
        super().__init__()
        if encoder.decoder.proposals is None:
            raise InvalidInput("image_queries", "this encoder has none, so its image cells say nothing")
        self.encoder, self.frozen = encoder.requires_grad_(False), frozen
        self.head: ViewProposals = encoder.decoder.proposals
        for part in (encoder.backbone, encoder.neck.lateral, encoder.neck.output[0], self.head.hidden, self.head.out):
            part.requires_grad_(True)
        freeze_backbone(encoder.backbone, frozen, depthwise)

    def augment(self, sample: FrameSlice, rng: np.random.Generator) -> FrameSlice:
        """One of the cached variants."""
        return sample.drawn(rng, 0.0)

    def collate(self, samples: Sequence[FrameSlice]) -> FrameBatch:  # type: ignore[override]
        """Reads the frame sets; their voxels are not needed."""
        return read_frames(samples, truth=False)

    def move(self, batch: FrameBatch, device: torch.device) -> FrameBatch:
        """The batch on a device."""
        return batch.to(device)

    def cells(self, batch: FrameBatch) -> Tensor:
        """Logits float32 [F * N, h * w, 18 + bins] of class and depth of all cells."""
        level = self.encoder.late_features(batch.early(), self.frozen)[0]
        return self.head.out(F.relu(self.head.hidden(level.flatten(2).transpose(1, 2))))

    def forward(self, batch: FrameBatch) -> dict[str, Tensor]:
        return cell_losses(self.cells(batch), batch.classes, batch.depths)

    def parameter_groups(self, rate: float, slow: float) -> list[dict[str, Any]]:
        """The backbone learns slowly; norms and biases do not decay."""
        return parameter_groups(self, rate, slow)

    def validate(self, batches: Iterable[FrameBatch]) -> Validation:
        """Share of cells of each class that have their class, their depth, and both; score: the mean of the last."""
        known, right, near, both = np.zeros((4, NUM_CLASSES))
        losses = []
        with torch.inference_mode():
            for batch in batches:
                cells = self.cells(batch)
                losses.append(float(sum(cell_losses(cells, batch.classes, batch.depths).values())))
                classes, metres = batch.classes.flatten(1), batch.depths.flatten(1)
                solid = classes < NUM_CLASSES
                truth = classes[solid].cpu().numpy()
                is_right = (cells[..., : NUM_CLASSES + 1].argmax(-1) == classes)[solid].cpu().numpy()
                off = (expected_depth(cells[..., NUM_CLASSES + 1 :]) - metres).abs()[solid]
                is_near = (off <= (NEAR_SHARE * metres[solid]).clamp(min=NEAR_METRES)).cpu().numpy()
                for total, hit in ((known, None), (right, is_right), (near, is_near), (both, is_right & is_near)):
                    total += np.bincount(truth, hit, NUM_CLASSES)
        there = known > 0
        numbers = {"loss": float(np.mean(losses)), "frames": float(len(losses))}
        for name, total in (("right", right), ("near", near), ("both", both)):
            numbers[name] = float(100 * np.mean(total[there] / known[there]))
        numbers |= {f"both_{c}": float(100 * b / k) for c, b, k in zip(CLASSES, both, known, strict=False) if k}
        return Validation(numbers["both"], numbers)

    def export(self, path: Path) -> None:
        """The encoder's weights; its decoder has learnt nothing yet."""
        checkpoints.save(self.encoder, path)
