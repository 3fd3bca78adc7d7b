"""Present occupancy: voxels that a camera sees, and rays; against a blind network and the training seeds' prior."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.occ3d import CLASSES, NUM_CLASSES
from ..occupancy import AbsentRule, OccupancyMeter, binary_confusion, iou_per_class, mean_of_known
from ..planning.grids import LIDAR_AHEAD
from ..ray_iou import THRESHOLDS, RayMeter
from .intervals import compared
from .tables import Block

MODEL, BLIND, PRIOR = "network", "network, blind", "class prior"
LIDAR = np.array([[LIDAR_AHEAD, 0.0, 1.84]])
"""Where rays start: the lidar of the nuScenes cars, m in base_link, at the moment itself only."""
AGAINST = ((MODEL, PRIOR), (MODEL, BLIND))


def voxel_numbers(confusion: np.ndarray, rule: AbsentRule = AbsentRule.LEFT_OUT) -> np.ndarray:
    """(mIoU, IoU) of counts [18, 18]."""
    per_class = iou_per_class(confusion, rule)[:NUM_CLASSES]
    return np.array([mean_of_known(per_class), iou_per_class(binary_confusion(confusion), rule)[0]])


def ray_numbers(counts: np.ndarray) -> np.ndarray:
    """(RayIoU, RayIoU at each threshold) of counts [2 + thresholds, 18]: true, predicted, right rays."""
    right = counts[2:, :NUM_CLASSES]
    union = counts[0, :NUM_CLASSES] + counts[1, :NUM_CLASSES] - right
    iou = np.divide(right, union, out=np.full(right.shape, np.nan), where=union > 0)
    return np.array([mean_of_known(iou), *(mean_of_known(row) for row in iou)])


class OccupancyTask:
    """Counts per row and scene."""

    def __init__(self) -> None:
        self._voxels: dict[str, dict[str, OccupancyMeter]] = {}
        self._rays: dict[str, dict[str, RayMeter]] = {}

    def add(self, row: str, scene: str, predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray) -> None:
        """Count a grid uint8 [X, Y, Z] of a row against the truth and what is visible of it."""
        self._voxels.setdefault(row, {}).setdefault(scene, OccupancyMeter()).update(predicted, truth, visible)
        self._rays.setdefault(row, {}).setdefault(scene, RayMeter()).update(predicted, truth, LIDAR)

    def result(self) -> tuple[dict[str, Any], list[Block]]:
        """Plain numbers, and tables of them."""
        counts = {r: np.stack([m.confusion for m in s.values()]) for r, s in self._voxels.items()}
        rays = {
            r: np.stack([np.concatenate([m.truth[None], m.predicted[None], m.right]) for m in s.values()])
            for r, s in self._rays.items()
        }
        voxel, voxel_gain = compared(counts, voxel_numbers, AGAINST)
        ray, ray_gain = compared(rays, ray_numbers, AGAINST)
        per_class = {r: iou_per_class(c.sum(0), AbsentRule.LEFT_OUT)[:NUM_CLASSES] for r, c in counts.items()}
        names = ("miou", "iou", "ray_iou", *(f"ray_iou_{t:g}m" for t in THRESHOLDS))
        frames = {r: sum(m.frames for m in s.values()) for r, s in self._voxels.items()}
        numbers = {
            row: {"n": frames[row], "scenes": len(counts[row])}
            | dict(zip(names, [*voxel[row], *ray[row]], strict=True))
            | {"per_class": dict(zip(CLASSES, per_class[row].tolist(), strict=True))}
            for row in counts
        }
        gains = {f"{a} minus {b}": dict(zip(names, [*voxel_gain[a, b], *ray_gain[a, b]], strict=True))
                 for a, b in voxel_gain}  # fmt: skip
        head = ["", "n", "mIoU [95 %]", "IoU [95 %]", "RayIoU [95 %]", *(f"RayIoU {t:g} m" for t in THRESHOLDS)]
        rows = [[r, str(frames[r]), *(e.text() for e in (*voxel[r], ray[r][0])), *(f"{100 * e.value:.2f}"
                 for e in ray[r][1:])] for r in counts]  # fmt: skip
        rows += [[f"{a} minus {b}", "", *(e.text() for e in (*voxel_gain[a, b], ray_gain[a, b][0])),
                  *(f"{100 * e.value:.2f}" for e in ray_gain[a, b][1:])] for a, b in voxel_gain]  # fmt: skip
        notes = [
            "Voxels that a camera sees, with the on-line post-processing (percent). Intervals: bootstrap over scenes.",
            "RayIoU: rays from the lidar's place at the moment itself; published numbers use up to eight places.",
            f"{PRIOR}: the most frequent label of each voxel over training seeds. {BLIND}: the same weights on black "
            "images (grey level 1 of 255, as at 0 the encoder takes its cameras for broken).",
        ]
        classes = [[name, *(f"{100 * per_class[r][k]:.2f}" if per_class[r][k] >= 0 else "-" for r in counts)]
                   for k, name in enumerate(CLASSES)]  # fmt: skip
        blocks = [
            Block("Voxels and rays", head, rows, notes),
            Block("IoU per class (percent)", ["class", *counts], classes, ["-: the class is never true here."]),
        ]
        return {"rows": numbers, "differences": gains}, blocks
