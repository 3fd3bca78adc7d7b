"""Occupancy at +1, +2, +3 s against copies of the present.

Every grid lies in base_link of its own time, is counted whole (seen or not), and is placed by the true future motion,
for copy-forward and the network alike. What differs is the motion that the forecaster is told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...core.types import HORIZONS, Reasoning, SceneQueries
from ...core.voxels import SparseVoxels
from ...reasoning.forecaster import forecast_voxels
from ...reasoning.motion import constant_velocity
from ...reasoning.reasoner import Reasoner
from ..forecast import Protocol, copy_forward, copy_unmoved
from ..occupancy import OccupancyMeter
from .intervals import compared
from .occupancy import voxel_numbers
from .tables import Block

PLANNED, CONSTANT, TRUE = "forecast, planned motion", "forecast, constant velocity", "forecast, true motion (oracle)"
UNMOVED, FORWARD = "copy of the prediction", "copy-forward of the prediction"
TRUE_UNMOVED, TRUE_FORWARD = "copy of the true present (oracle)", "copy-forward of the true present (oracle)"
AGAINST = ((PLANNED, FORWARD), (CONSTANT, FORWARD), (PLANNED, CONSTANT))
RULE = Protocol.SPARSEWORLD.rule


def forecasts(
    reasoner: Reasoner, queries: SceneQueries, reasoning: Reasoning, motion: np.ndarray, future2now: np.ndarray
) -> tuple[SparseVoxels, ...]:
    """Forecasts at HORIZONS as Reasoner.forecast_ahead gives them, without another prefill: only the forecaster hears
    of the motion. motion: [6, 2] m told to it; future2now: float64 [3, 4, 4], where the grids lie."""

    def row(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None]

    with torch.inference_mode():
        found = reasoner.forecaster(row(reasoning.fused_features), row(queries.centres), row(motion))
    return forecast_voxels(queries, found, reasoner.config, reasoner.grid, future2now)


def numbers_of(confusions: np.ndarray) -> np.ndarray:
    """(mIoU at 1, 2, 3 s, mean, IoU at 1, 2, 3 s, mean) of counts [3, 18, 18]."""
    both = np.stack([voxel_numbers(c, RULE) for c in confusions], 1)
    return np.concatenate([both, both.mean(1, keepdims=True)], 1).ravel()


class ForecastTask:
    """Counts per row and scene."""

    def __init__(self) -> None:
        self._meters: dict[str, dict[str, list[OccupancyMeter]]] = {}
        self.frames = 0

    def add(
        self,
        scene: str,
        present: np.ndarray,
        pose: np.ndarray,
        future_poses: np.ndarray,
        truth: np.ndarray,
        predicted: SparseVoxels | None = None,
        told: dict[str, tuple[SparseVoxels, ...]] | None = None,
    ) -> None:
        """Count a moment.

        present: true labels uint8 [X, Y, Z]; pose float64 [4, 4], future_poses float64 [3, 4, 4]: ego2map; truth uint8
        [3, X, Y, Z]; predicted: the present as the network sees it; told: its forecasts by row.
        """
        count = len(HORIZONS)
        rows = {TRUE_UNMOVED: copy_unmoved(present, count), TRUE_FORWARD: copy_forward(present, pose, future_poses)}
        if predicted is not None:
            dense = predicted.dense()
            rows |= {UNMOVED: copy_unmoved(dense, count), FORWARD: copy_forward(dense, pose, future_poses)}
        for name, voxels in (told or {}).items():
            rows[name] = torch.from_numpy(np.stack([v.dense() for v in voxels]))
        for name, grids in rows.items():
            meters = self._meters.setdefault(name, {}).setdefault(scene, [OccupancyMeter(RULE) for _ in HORIZONS])
            for meter, grid, labels in zip(meters, grids, truth, strict=True):
                meter.update(grid, labels)
        self.frames += 1

    def result(self) -> tuple[dict[str, Any], list[Block]]:
        """Plain numbers, and tables of them."""
        counts = {
            row: np.stack([[m.confusion for m in meters] for meters in scenes.values()])
            for row, scenes in self._meters.items()
        }
        found, gains = compared(counts, numbers_of, AGAINST)
        names = [f"{kind}_{at}" for kind in ("miou", "iou") for at in (*(f"{h:g}s" for h in HORIZONS), "mean")]
        numbers = {
            "rows": {r: {"n": self.frames, "scenes": len(counts[r])} | dict(zip(names, e, strict=True))
                     for r, e in found.items()},
            "differences": {f"{a} minus {b}": dict(zip(names, e, strict=True)) for (a, b), e in gains.items()},
        }  # fmt: skip
        head = ["", "n", *(f"{kind} {at}" for kind in ("mIoU", "IoU") for at in ("1 s", "2 s", "3 s", "mean"))]
        rows = [[r, str(self.frames), *(v.text() for v in e)] for r, e in found.items()]
        rows += [[f"{a} minus {b}", "", *(v.text() for v in e)] for (a, b), e in gains.items()]
        notes = [
            "Whole grids, seen or not, each in the ego frame of its own time, in which the true motion places it "
            "(percent, 95 % bootstrap over scenes; SparseWorld's rule: a class never true scores 0 if predicted).",
            "Planned motion is what the node is told on line: the plan of the frame set before, carried over.",
        ]
        return numbers, [Block("Forecasts", head, rows, notes)]


def told_motions(
    motion: np.ndarray | None, twist: np.ndarray, pose: np.ndarray, future: np.ndarray
) -> dict[str, np.ndarray]:
    """What the forecaster is told, float32 [6, 2] m by row. motion: the plan carried over, constant velocity where
    None, as on line; twist [6]; pose [4, 4] and future [6, 4, 4]: ego2map now and at six half-seconds."""
    constant = constant_velocity(twist)
    true = (np.linalg.inv(pose) @ future)[:, :2, 3].astype(np.float32)
    return {PLANNED: constant if motion is None else motion, CONSTANT: constant, TRUE: true}
