"""Stage 1, first phase: trains class and depth prediction per image cell, without the decoder.

The cells of the finest feature level initialise the decoder's image queries and provide most of the occupancy head's
input. They have dense labels, and a step without decoder and set losses costs a fraction of a full one.
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
"""Tolerance of a correct depth: a voxel (m), or a twentieth of the depth if that is more."""


class CellStage(Stage[FrameBatch]):
    """Trains the backbone after the frozen blocks, the finest level of the neck, and the image queries' head.

    frozen: number of backbone blocks whose output is cached; depthwise: as in OccupancyStageSettings. Raises
    InvalidInput("image_queries", ...) for an encoder without image queries.
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
        """Draw one of the cached variants."""
        return sample.drawn(rng, 0.0)

    def collate(self, samples: Sequence[FrameSlice]) -> FrameBatch:  # type: ignore[override]
        """Read the frame sets, without their voxels."""
        return read_frames(samples, truth=False)

    def move(self, batch: FrameBatch, device: torch.device) -> FrameBatch:
        """Returns the batch on a device."""
        return batch.to(device)

    def cells(self, batch: FrameBatch) -> Tensor:
        """Returns class and depth logits float32 [F * N, h * w, 18 + bins] of all cells."""
        level = self.encoder.late_features(batch.early(), self.frozen)[0]
        return self.head.out(F.relu(self.head.hidden(level.flatten(2).transpose(1, 2))))

    def forward(self, batch: FrameBatch) -> dict[str, Tensor]:
        return cell_losses(self.cells(batch), batch.classes, batch.depths)

    def parameter_groups(self, learning_rate: float, backbone_lr_scale: float) -> list[dict[str, Any]]:
        """Lower learning rate for the backbone; no weight decay for norms and biases."""
        return parameter_groups(self, learning_rate, backbone_lr_scale)

    def validate(self, batches: Iterable[FrameBatch]) -> Validation:
        """Percentage of cells with correct class, depth, and both, averaged over classes; score: the last of these."""
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
        """Write the encoder's weights; its decoder is still untrained."""
        checkpoints.save(self.encoder, path)
