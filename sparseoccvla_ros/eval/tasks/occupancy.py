"""Present occupancy: visible voxels and rays, compared with a blind network and the training prior."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.classes import CLASSES, NUM_CLASSES
from ..metrics.intervals import compared
from ..metrics.occupancy import AbsentRule, OccupancyMeter, binary_confusion, iou_per_class, mean_of_known
from ..metrics.ray_iou import THRESHOLDS, RayMeter, ray_iou_per_class
from ..report.tables import Block

MODEL, BLIND, PRIOR = "network", "network, blind", "class prior"
AGAINST = ((MODEL, PRIOR), (MODEL, BLIND))


def voxel_numbers(confusion: np.ndarray, rule: AbsentRule = AbsentRule.LEFT_OUT) -> np.ndarray:
    """Returns (mIoU, IoU) of counts [18, 18]."""
    per_class = iou_per_class(confusion, rule)[:NUM_CLASSES]
    return np.array([mean_of_known(per_class), iou_per_class(binary_confusion(confusion), rule)[0]])


def all_voxel_numbers(confusion: np.ndarray) -> np.ndarray:
    """Returns (mIoU and IoU by the rule of OPUS and SparseOcc, mIoU by the 2023 challenge's) of counts [18, 18]."""
    return np.append(voxel_numbers(confusion), voxel_numbers(confusion, AbsentRule.ZERO_IF_PREDICTED)[0])


def ray_numbers(counts: np.ndarray) -> np.ndarray:
    """Returns (RayIoU, RayIoU at each threshold) of counts [2 + thresholds, 18]: true, predicted, right rays."""
    iou = ray_iou_per_class(counts)
    return np.array([mean_of_known(iou), *(mean_of_known(row) for row in iou)])


class OccupancyTask:
    """Accumulates counts per row and scene. Picklable; `merge` adds the counts of other processes.

    unlabelled: number of moments without truth.
    """

    def __init__(self) -> None:
        self.unlabelled = 0
        self._voxels: dict[str, dict[str, OccupancyMeter]] = {}
        self._rays: dict[str, dict[str, RayMeter]] = {}

    def add(
        self, row: str, scene: str, predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray, origins: np.ndarray
    ) -> None:
        """Counts a predicted grid uint8 [X, Y, Z] of a row against truth (same shape) where visible (bool, same shape);
        origins: ray origins float64 [O, 3] m in base_link."""
        self._voxels.setdefault(row, {}).setdefault(scene, OccupancyMeter()).update(predicted, truth, visible)
        self._rays.setdefault(row, {}).setdefault(scene, RayMeter()).update(predicted, truth, origins)

    def merge(self, other: OccupancyTask) -> None:
        """Adds the counts of other scenes."""
        self.unlabelled += other.unlabelled
        for row, scenes in other._voxels.items():
            self._voxels.setdefault(row, {}).update(scenes)
            self._rays.setdefault(row, {}).update(other._rays[row])

    def result(self, rays_from: str) -> tuple[dict[str, Any], list[Block]]:
        """Returns plain numbers and tables; rays_from: description of the ray origins."""
        counts = {r: np.stack([m.confusion for m in s.values()]) for r, s in self._voxels.items()}
        rays = {r: np.stack([m.counts for m in s.values()]) for r, s in self._rays.items()}
        voxel, voxel_gain = compared(counts, all_voxel_numbers, AGAINST)
        ray, ray_gain = compared(rays, ray_numbers, AGAINST)
        per_class = {r: iou_per_class(c.sum(0), AbsentRule.LEFT_OUT)[:NUM_CLASSES] for r, c in counts.items()}
        names = ("miou", "iou", "miou_challenge", "ray_iou", *(f"ray_iou_{t:g}m" for t in THRESHOLDS))
        frames = {r: sum(m.frames for m in s.values()) for r, s in self._voxels.items()}
        numbers = {
            row: {"n": frames[row], "missing": self.unlabelled, "scenes": len(counts[row])}
            | dict(zip(names, [*voxel[row], *ray[row]], strict=True))
            | {"per_class": dict(zip(CLASSES, per_class[row].tolist(), strict=True))}
            for row in counts
        }
        gains = {f"{a} minus {b}": dict(zip(names, [*voxel_gain[a, b], *ray_gain[a, b]], strict=True))
                 for a, b in voxel_gain}  # fmt: skip
        head = [
            "",
            "n",
            "missing",
            "mIoU [95 %]",
            "IoU [95 %]",
            "mIoU, challenge [95 %]",
            "RayIoU [95 %]",
            *(f"RayIoU {t:g} m" for t in THRESHOLDS),
        ]
        rows = []
        for name, n, found, rayed in (
            *((r, (str(frames[r]), str(self.unlabelled)), voxel[r], ray[r]) for r in counts),
            *((f"{a} minus {b}", ("", ""), voxel_gain[a, b], ray_gain[a, b]) for a, b in voxel_gain),
        ):
            rows.append(
                [name, *n, *(e.text() for e in (*found, rayed[0])), *(f"{100 * e.value:.2f}" for e in rayed[1:])]
            )
        notes = [
            "Voxels that a camera sees, with the on-line post-processing (percent). Intervals: bootstrap over scenes.",
            "mIoU leaves out a class that is never true (OPUS, SparseOcc); the 2023 challenge's counts it as 0 where "
            "it is predicted. Missing: moments without labels.",
            f"RayIoU: rays from {rays_from}.",
            f"{PRIOR}: the most frequent label of each voxel over training drives. {BLIND}: the same weights on black "
            "images (grey level 1 of 255, as at 0 the encoder takes its cameras for broken).",
        ]
        classes = [[name, *(f"{100 * per_class[r][k]:.2f}" if per_class[r][k] >= 0 else "-" for r in counts)]
                   for k, name in enumerate(CLASSES)]  # fmt: skip
        blocks = [
            Block("Voxels and rays", head, rows, notes),
            Block("IoU per class (percent)", ["class", *counts], classes, ["-: the class is never true here."]),
        ]
        return {"rows": numbers, "differences": gains}, blocks
