"""Voxel mIoU and IoU of dense semantic grids, as counted by the Occ3D leader boards.

One 18 x 18 confusion matrix is summed over all frames and scored once at the end; averaging per-frame scores gives
other numbers. Classes and masks: Occ3D (Tian et al., NeurIPS 2023). The three protocols differ only in the score of a
class absent from the truth (`AbsentRule`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import nan, prod

import numpy as np
import torch

from ...core.classes import FREE, NUM_CLASSES
from ...core.errors import InvalidInput

IGNORE = 255
"""Label of unannotated truth voxels, which are excluded from all counts."""

Labels = np.ndarray | torch.Tensor
"""uint8 class labels, numpy or torch, on any device."""


class AbsentRule(StrEnum):
    """IoU of a class absent from the truth. Numbers under different rules are not comparable."""

    LEFT_OUT = "left_out"
    """NaN and excluded from the mean, even if predicted (OPUS, SparseOcc)."""
    ZERO_IF_PREDICTED = "zero_if_predicted"
    """0 if predicted, otherwise NaN (2023 occupancy challenge, SparseWorld)."""
    ONE = "one"
    """1, even if predicted (OccWorld)."""


@dataclass(frozen=True, eq=False)
class OccupancyScores:
    """Scores as fractions (0..1); NaN if undefined.

    frames: grids counted; confusion: int64 [18, 18], row = truth, column = prediction; per_class: float64 [18], IoU
    by label, 17 = free; miou: mean over the 17 occupied classes, ignoring NaN; iou: occupied against free,
    regardless of class.
    """

    frames: int
    confusion: np.ndarray
    per_class: np.ndarray
    miou: float
    iou: float


class OccupancyMeter:
    """Accumulates grids into one confusion matrix; those of parts add up to the same as a single pass. Picklable."""

    def __init__(self, rule: AbsentRule = AbsentRule.LEFT_OUT) -> None:
        self.rule = AbsentRule(rule)
        self.frames = 0
        self.confusion = np.zeros((NUM_CLASSES + 1, NUM_CLASSES + 1), np.int64)

    def update(self, pred: Labels, semantics: Labels, mask: Labels | None = None) -> None:
        """Counts grids.

        pred: uint8 [..., X, Y, Z], 0..17; semantics: the same shape, 0..17 or 255 (ignored); mask: bool or uint8 of
        the same shape, voxels that count (Occ3D's mask_camera or mask_lidar), None = all. Runs on the device of
        `pred`. Raises InvalidInput on other dtypes, shapes and labels.
        """
        pred = checked_labels("pred", pred)
        semantics = checked_labels("semantics", semantics, pred.shape, ignore=True).to(pred.device)
        counted = semantics != IGNORE
        if mask is not None:
            counted &= checked_mask(mask, pred.shape).to(pred.device)
        # Excluded voxels go to a separate bin: ten times faster than selecting the others.
        cells = self.confusion.size
        pairs = semantics.to(torch.int16) * (NUM_CLASSES + 1) + pred
        counts = torch.bincount(pairs.masked_fill_(~counted, cells).flatten(), minlength=cells + 1)[:cells]
        self.confusion += counts.view(self.confusion.shape).cpu().numpy()
        self.frames += prod(pred.shape[:-3])

    def result(self) -> OccupancyScores:
        """Returns the scores of everything counted so far."""
        per_class = iou_per_class(self.confusion, self.rule)
        iou = iou_per_class(binary_confusion(self.confusion), self.rule)[0]
        return OccupancyScores(
            self.frames, self.confusion.copy(), per_class, mean_of_known(per_class[:NUM_CLASSES]), float(iou)
        )


def iou_per_class(confusion: np.ndarray, rule: AbsentRule) -> np.ndarray:
    """float64 [C]: intersection over union from counts [C, C], row = truth."""
    hits, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    union = truth + predicted - hits
    iou = np.divide(hits, union, out=np.full(len(hits), nan), where=union > 0)
    if rule is AbsentRule.LEFT_OUT:
        iou[truth == 0] = nan
    elif rule is AbsentRule.ONE:
        iou[truth == 0] = 1.0
    return iou


def binary_confusion(confusion: np.ndarray) -> np.ndarray:
    """int64 [2, 2] of (occupied, free) from counts [18, 18]; a wrong occupied class still counts as occupied."""
    rows = np.stack([confusion[:FREE].sum(0), confusion[FREE]])
    return np.stack([rows[:, :FREE].sum(1), rows[:, FREE]], 1)


def mean_of_known(values: np.ndarray) -> float:
    """Returns the mean ignoring NaN; NaN if nothing is left, without numpy's warning."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else nan


def checked_labels(
    field: str, labels: Labels, shape: tuple[int, ...] | None = None, ignore: bool = False
) -> torch.Tensor:
    """Returns labels as a tensor on their own device.

    Raises InvalidInput naming `field` unless they are uint8 [..., X, Y, Z] of the given shape with values 0..17, or 255
    if `ignore`.
    """
    tensor = _tensor(field, labels)
    if tensor.dtype != torch.uint8:
        raise InvalidInput(field, f"want uint8, got {tensor.dtype}")
    if tensor.ndim < 3:
        raise InvalidInput(field, f"want [..., X, Y, Z], got {list(tensor.shape)}")
    if shape is not None and tensor.shape != shape:
        raise InvalidInput(field, f"want {list(shape)}, got {list(tensor.shape)}")
    wrong = tensor > FREE
    if ignore:
        wrong &= tensor != IGNORE
    if wrong.any():
        raise InvalidInput(field, f"label {int(tensor[wrong].max())} is no class (0..{FREE})")
    return tensor


def checked_mask(mask: Labels, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns a mask as bool tensor. Raises InvalidInput("mask") unless it is bool or uint8 of the given shape."""
    tensor = _tensor("mask", mask)
    if tensor.dtype not in (torch.bool, torch.uint8):
        raise InvalidInput("mask", f"want bool or uint8, got {tensor.dtype}")
    if tensor.shape != shape:
        raise InvalidInput("mask", f"want {list(shape)}, got {list(tensor.shape)}")
    return tensor.bool()


def _tensor(field: str, array: Labels) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array
    if not isinstance(array, np.ndarray):
        raise InvalidInput(field, f"want a numpy array or a tensor, got {type(array).__name__}")
    # torch cannot view read-only or reversed arrays: only those are copied.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
