"""Occupancy forecast metrics: mIoU and IoU per horizon under two protocols, and copy baselines.

Both protocols compare whole grids, each in the ego frame of its own future time, without a visibility mask, and
report the mean over 1, 2 and 3 s. They differ in steps and in the score of classes absent from the truth, so their
numbers are not comparable: SparseWorld (4D occupancy, also PreWorld) and OccWorld (Zheng et al., ECCV 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from ...core import geometry
from ...core.classes import FREE
from ...core.errors import InvalidInput
from ...core.types import HORIZONS, check_array
from ...core.voxels import OCC3D_GRID, VoxelGrid
from .occupancy import IGNORE, AbsentRule, Labels, OccupancyMeter, OccupancyScores, checked_labels


class Protocol(StrEnum):
    """Counting rules by which a forecast is scored."""

    SPARSEWORLD = "sparseworld"
    """Present and 1, 2, 3 s; a class absent from the truth scores 0 if predicted, and is otherwise left out."""
    OCCWORLD = "occworld"
    """0.5, 1, .. 3 s; a class absent from the truth scores 1."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Horizons of the protocol, seconds after the present."""
        return (0.0, *HORIZONS) if self is Protocol.SPARSEWORLD else (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)

    @property
    def rule(self) -> AbsentRule:
        """Score of a class absent from the truth."""
        return AbsentRule.ZERO_IF_PREDICTED if self is Protocol.SPARSEWORLD else AbsentRule.ONE


@dataclass(frozen=True, eq=False)
class ForecastScores:
    """Scores as fractions (0..1). at: per horizon (s); miou, iou: means over the horizons 1, 2 and 3 s."""

    at: dict[float, OccupancyScores]
    miou: float
    iou: float


class ForecastMeter:
    """Accumulates forecasts into one confusion matrix per horizon. Picklable; `merge` adds other processes' counts."""

    def __init__(self, protocol: Protocol, seconds: Sequence[float] = HORIZONS) -> None:
        """seconds: horizons of the grids given to `update`; must include 1, 2 and 3. The others are reported but not
        averaged. `protocol.seconds` are the protocol's own.
        """
        self.protocol = Protocol(protocol)
        self.seconds = tuple(float(s) for s in seconds)
        if not set(HORIZONS) <= set(self.seconds) or len(set(self.seconds)) != len(self.seconds):
            raise InvalidInput("seconds", f"want {HORIZONS} among distinct horizons, got {self.seconds}")
        self.meters = {s: OccupancyMeter(self.protocol.rule) for s in self.seconds}

    def update(self, pred: Labels, semantics: Labels) -> None:
        """Counts one sequence.

        pred: uint8 [H, X, Y, Z], 0..17, in the order of `seconds`; semantics: the same, 255 is ignored; each grid in
        base_link of its own time. Raises InvalidInput.
        """
        for name, grids in (("pred", pred), ("semantics", semantics)):
            if len(grids) != len(self.seconds):
                raise InvalidInput(name, f"want {len(self.seconds)} horizons, got {len(grids)}")
        for meter, guess, truth in zip(self.meters.values(), pred, semantics, strict=True):
            meter.update(guess, truth)

    def merge(self, other: ForecastMeter) -> None:
        """Adds the counts of another meter. Raises InvalidInput if protocol or horizons differ."""
        if (other.protocol, other.seconds) != (self.protocol, self.seconds):
            raise InvalidInput("other", f"{other.protocol} {other.seconds} is not {self.protocol} {self.seconds}")
        for seconds, meter in self.meters.items():
            meter.merge(other.meters[seconds])

    def result(self) -> ForecastScores:
        """Returns the scores of everything counted so far."""
        at = {seconds: meter.result() for seconds, meter in self.meters.items()}
        scored = [at[seconds] for seconds in HORIZONS]
        return ForecastScores(at, float(np.mean([s.miou for s in scored])), float(np.mean([s.iou for s in scored])))


def copy_unmoved(semantics: Labels, count: int, grid: VoxelGrid = OCC3D_GRID) -> torch.Tensor:
    """Baseline: the present grid at every horizon, as if neither ego nor world moved.

    semantics: uint8 [X, Y, Z], 255 becomes free. Returns uint8 [count, X, Y, Z] on the device of the input.
    """
    return _present(semantics, grid).expand(count, -1, -1, -1)


def copy_forward(
    semantics: Labels, ego2fixed: np.ndarray, future_ego2fixed: np.ndarray, grid: VoxelGrid = OCC3D_GRID
) -> torch.Tensor:
    """Baseline: a static world, seen from the true future ego poses.

    semantics: uint8 [X, Y, Z], the present, 255 becomes free; ego2fixed: float64 [4, 4], the present pose;
    future_ego2fixed: float64 [H, 4, 4]. The centre of every future voxel is moved into the present grid and takes the
    label of the voxel it falls into (nearest neighbour); voxels from outside the present grid are free. Uses the true
    future motion, which a forecaster has to predict. Returns uint8 [H, X, Y, Z] on the device of the input. Raises
    InvalidInput.
    """
    labels = _present(semantics, grid)
    check_array("ego2fixed", ego2fixed, np.float64, (4, 4))
    check_array("future_ego2fixed", future_ego2fixed, np.float64, (None, 4, 4))
    future2now = torch.from_numpy(geometry.inverse(ego2fixed) @ future_ego2fixed).to(labels.device)
    # Moving by whole voxels must be exact: in voxel units centres are at 0.5, so rounding cannot cross a boundary.
    lower = future2now.new_tensor(grid.lower)
    shape = torch.tensor(grid.shape, device=labels.device)
    axes = [torch.arange(n, dtype=torch.float64, device=labels.device) + 0.5 for n in grid.shape]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    moved = []
    for matrix in future2now:
        shift = (matrix[:3, :3] @ lower + matrix[:3, 3] - lower) / grid.size
        index = (centres @ matrix[:3, :3].T + shift).floor().long()
        inside = ((index >= 0) & (index < shape)).all(-1)
        x, y, z = index.clamp(min=shape.new_zeros(3), max=shape - 1).unbind(-1)
        moved.append(torch.where(inside, labels[x, y, z], labels.new_tensor(FREE)))
    return torch.stack(moved)


def _present(semantics: Labels, grid: VoxelGrid) -> torch.Tensor:
    """Returns the present grid as a forecast, with ignored voxels set to free."""
    labels = checked_labels("semantics", semantics, grid.shape, ignore=True)
    return labels.masked_fill(labels == IGNORE, FREE)
