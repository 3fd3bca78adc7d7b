"""Occupancy forecasts at +1, +2, +3 s, compared with copies of the present.

Every grid is in base_link of its own time, is counted whole (visible or not), and is placed by the true future motion,
for copy-forward and the network alike. The rows differ in the motion given to the forecaster. Scores are those of
SparseWorld (4D occupancy, also PreWorld) and of OccWorld (Zheng et al., ECCV 2024), which differ for a class absent
from the truth, so their numbers are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...core.types import HORIZONS, Reasoning, SceneQueries
from ...core.voxels import SparseVoxels
from ...reasoning.model.ego_motion import constant_velocity
from ...reasoning.model.forecaster import forecast_voxels
from ...reasoning.model.reasoner import Reasoner
from ..metrics.forecast import copy_forward, copy_unmoved
from ..metrics.intervals import compared, estimates, resampled
from ..metrics.moving_voxels import at_constant_velocity, at_horizons, judged, moved, moving_numbers
from ..metrics.occupancy import AbsentRule, OccupancyMeter
from ..report.tables import Block
from .occupancy import voxel_numbers

NOT_CONTINUED = "forecast, planned motion, ground not continued"
PLANNED, CONSTANT, TRUE = "forecast, planned motion", "forecast, constant velocity", "forecast, true motion (oracle)"
UNMOVED, FORWARD = "copy of the prediction", "copy-forward of the prediction"
STEADY_FLOW = "constant-velocity flow of the prediction (true velocity)"
TRUE_FLOW = "true motion of the prediction (oracle)"
TRUE_UNMOVED, TRUE_FORWARD = "copy of the true present (oracle)", "copy-forward of the true present (oracle)"
AGAINST = ((PLANNED, FORWARD), (CONSTANT, FORWARD), (NOT_CONTINUED, FORWARD), (PLANNED, CONSTANT))
MOVING_AGAINST = ((PLANNED, FORWARD), (TRUE, FORWARD), (STEADY_FLOW, FORWARD), (TRUE_FLOW, FORWARD))
RULE = AbsentRule.ZERO_IF_PREDICTED
SPARSEWORLD_PAST, SPARSEWORLD_MARGIN = 5, 8
"""SparseWorld scores keyframes with 5 before them and 8, themselves included, to the end of the scene."""


def forecasts(
    reasoner: Reasoner,
    queries: SceneQueries,
    reasoning: Reasoning,
    motions: dict[str, np.ndarray],
    future2now: np.ndarray,
) -> dict[str, tuple[SparseVoxels, ...]]:
    """Returns forecasts at HORIZONS by row, as from the whole reasoner but without another prefill, because only the
    forecaster uses the motion. motions: [6, 2] m by row; future2now: float64 [3, 4, 4], poses of the grids.

    If the reasoner continues the ground, the row NOT_CONTINUED is the forecast without it."""

    def row(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(reasoner.anchors.device)[None]

    out = {}
    for name, motion in motions.items():
        with torch.inference_mode():
            found = reasoner.forecaster(row(reasoning.fused_features), row(queries.centres), row(motion))
        out[name] = forecast_voxels(queries, found, reasoner.config, reasoner.grid, future2now)
        if name == PLANNED and reasoner.config.continue_ground:
            alone = replace(reasoner.config, continue_ground=False)
            out[NOT_CONTINUED] = forecast_voxels(queries, found, alone, reasoner.grid, future2now)
    return out


def numbers_of(confusions: np.ndarray) -> np.ndarray:
    """Returns (mIoU at 1, 2, 3 s, mean, IoU at 1, 2, 3 s, mean, mean mIoU by OccWorld's rule) of counts [3, 18, 18]."""
    both = np.stack([voxel_numbers(c, RULE) for c in confusions], 1)
    other = np.mean([voxel_numbers(c, AbsentRule.ONE)[0] for c in confusions])
    return np.append(np.concatenate([both, both.mean(1, keepdims=True)], 1), other)


Meters = dict[str, dict[str, list[OccupancyMeter]]]
"""Meters by row and scene, one per horizon."""


def moving_of(confusions: np.ndarray) -> np.ndarray:
    """Returns (mIoU at 1, 2, 3 s, mean, IoU at 1, 2, 3 s, mean) of movable classes in counts [3, 18, 18]."""
    both = np.array([moving_numbers(c) for c in confusions]).T
    return np.concatenate([both, both.mean(1, keepdims=True)], 1).ravel()


class ForecastTask:
    """Accumulates counts per row and scene. Picklable; `merge` adds the counts of other processes.

    frames: number of moments counted; moving: of these, with moving objects; unlabelled: moments without truth up to
    the last horizon.
    """

    def __init__(self) -> None:
        self._meters: Meters = {}
        self._moving: Meters = {}
        self._reactions: dict[str, np.ndarray] = {}
        self.frames = self.moving = self.unlabelled = 0

    def add(
        self,
        scene: str,
        present: np.ndarray,
        future: np.ndarray,
        truth: np.ndarray,
        predicted: SparseVoxels | None = None,
        told: dict[str, tuple[SparseVoxels, ...]] | None = None,
        plans: np.ndarray | None = None,
        close: bool = True,
    ) -> None:
        """Counts a moment.

        present: true labels uint8 [X, Y, Z]; future: float64 [3, 4, 4], base_link at HORIZONS to present base_link;
        truth: uint8 [3, X, Y, Z]; predicted: predicted present; told: forecasts by row; plans: [7, N, 5] of moving
        objects (metrics.moving_voxels.moving_plans); close: fill holes of one voxel (ReasoningConfig.padding).
        """
        count = len(HORIZONS)
        rows = {TRUE_UNMOVED: copy_unmoved(present, count), TRUE_FORWARD: copy_forward(present, np.eye(4), future)}
        if predicted is not None:
            dense = predicted.dense()
            rows |= {UNMOVED: copy_unmoved(dense, count), FORWARD: copy_forward(dense, np.eye(4), future)}
        flows: dict[str, Sequence[SparseVoxels]] = {}
        if predicted is not None and plans is not None:
            for name, movers in ((STEADY_FLOW, at_constant_velocity(plans)), (TRUE_FLOW, at_horizons(plans))):
                flows[name] = moved(predicted, movers, future, close)
        for name, voxels in (flows | dict(told or {})).items():
            rows[name] = torch.from_numpy(np.stack([v.dense() for v in voxels]))
        where = None if plans is None or not plans.shape[1] else judged(at_horizons(plans), future)
        for name, grids in rows.items():
            _count(self._meters, name, scene, grids, truth, None)
            if where is not None:
                _count(self._moving, name, scene, grids, truth, where)
        self.frames += 1
        self.moving += where is not None

    def add_reactions(self, scene: str, sums: np.ndarray) -> None:
        """Counts a moment under two plans; sums: from metrics.plan_reactions.reaction_sums."""
        self._reactions[scene] = self._reactions.get(scene, np.zeros(5)) + sums

    def merge(self, other: ForecastTask) -> None:
        """Adds the counts of other scenes."""
        self.frames += other.frames
        self.moving += other.moving
        self.unlabelled += other.unlabelled
        for scene, sums in other._reactions.items():
            self.add_reactions(scene, sums)
        for own, found in ((self._meters, other._meters), (self._moving, other._moving)):
            for row, scenes in found.items():
                own.setdefault(row, {}).update(scenes)

    def result(self, title: str = "Forecasts") -> tuple[dict[str, Any], list[Block]]:
        """Returns plain numbers and tables."""
        counts = _counts(self._meters)
        found, gains = compared(counts, numbers_of, AGAINST)
        names = [f"{kind}_{at}" for kind in ("miou", "iou") for at in (*(f"{h:g}s" for h in HORIZONS), "mean")]
        names.append("miou_mean_occworld")
        numbers: dict[str, Any] = {"rows": {}, "differences": {}}
        for row, values in found.items():
            known = {"n": self.frames, "missing": self.unlabelled, "scenes": len(counts[row])}
            numbers["rows"][row] = known | dict(zip(names, values, strict=True))
        for (a, b), values in gains.items():
            numbers["differences"][f"{a} minus {b}"] = dict(zip(names, values, strict=True))
        ends = ("1 s", "2 s", "3 s", "mean")
        head = ["", "n", "missing", *(f"{kind} {at}" for kind in ("mIoU", "IoU") for at in ends), "mIoU mean, OccWorld"]
        rows = [[r, str(self.frames), str(self.unlabelled), *(v.text() for v in e)] for r, e in found.items()]
        rows += [[f"{a} minus {b}", "", "", *(v.text() for v in e)] for (a, b), e in gains.items()]
        notes = [
            "Whole grids, seen or not, each in the ego frame of its own time, in which the true motion places it "
            "(percent, 95 % bootstrap over scenes). SparseWorld's rule: a class never true scores 0 if predicted; "
            "OccWorld's: 1. Missing: no truth up to the last horizon.",
            "Planned motion is what the node is told on line: the plan of the frame set before, carried over.",
        ]
        blocks = [Block(title, head, rows, notes)]
        if self._moving:
            numbers["moving"], block = self._moving_result(f"{title}: moving voxels")
            blocks.append(block)
        if self._reactions:
            numbers["two_plans"], block = self._reaction_result(f"{title}: the same moments under two plans")
            blocks.append(block)
        return numbers, blocks

    def _reaction_result(self, title: str) -> tuple[dict[str, Any], Block]:
        """Returns the difference of forecasts between both plans, for reacting actors and for all others."""
        counts = np.stack(list(self._reactions.values()))

        def means(sums: np.ndarray) -> np.ndarray:
            known = np.where(sums[[0, 0, 3]] > 0, sums[[0, 0, 3]], np.nan)
            values = sums[[1, 2, 4]] / known
            return np.append(values, values[0] - values[2])

        found = estimates(means(counts.sum(0)), resampled(counts, means))
        names = ("conflict_m", "reaction_share", "others_m", "conflict_minus_others_m")
        voxels = {"voxels_in_conflict": int(counts[:, 0].sum()), "other_voxels": int(counts[:, 3].sum())}
        row = [str(voxels["voxels_in_conflict"]), *(v.text(1.0) for v in found)]
        head = [
            "voxels in conflict",
            "forecasts differ, m",
            "share of the true reaction",
            "others differ, m",
            "more, m",
        ]
        notes = [
            "Voxels that can move, at 3 s, told the recorded plan and another (braking where the expert drives, "
            "setting off where it waits). In conflict: who is a metre elsewhere in the world under the other. 95 % "
            "bootstrap over scenes.",
        ]
        return voxels | dict(zip(names, found, strict=True)), Block(title, head, [row], notes)

    def _moving_result(self, title: str) -> tuple[dict[str, Any], Block]:
        """Returns the scores of moving voxels, and by what share each row is better than copy-forward."""
        counts = _counts(self._moving)
        found, _ = compared(counts, moving_of, ())
        ends = ("1s", "2s", "3s", "mean")
        names = [f"{kind}_{at}" for kind in ("miou", "iou") for at in ends]
        numbers: dict[str, Any] = {"rows": {}, "better_by": {}}
        for row, values in found.items():
            numbers["rows"][row] = {"n": self.moving, "scenes": len(counts[row])} | dict(
                zip(names, values, strict=True)
            )
        rows = [[r, str(self.moving), *(v.text() for v in e)] for r, e in found.items()]
        for a, b in MOVING_AGAINST:
            if a in counts and b in counts:
                with np.errstate(divide="ignore", invalid="ignore"):
                    value, draws = (
                        f(counts[a], moving_of) / f(counts[b], moving_of) - 1.0
                        for f in (lambda c, statistic: statistic(c.sum(0)), resampled)
                    )
                # If the copy scores 0, the relative improvement is undefined.
                share = estimates(
                    np.where(np.isfinite(value), value, np.nan), np.where(np.isfinite(draws), draws, np.nan)
                )
                numbers["better_by"][f"{a} than {b}"] = dict(zip(names, share, strict=True))
                rows.append([f"{a}: better than {b} by", "", *(v.text() for v in share)])
        notes = [
            "Only columns that a moving box covers now or at the horizon; mIoU of the movable classes, IoU of movable "
            "against the rest. A thing moves if it is half a metre away within 3 s. Percent, 95 % bootstrap over "
            "scenes.",
            "Flows take voxels in a box along: with its true motion, or with its velocity over the next half second.",
        ]
        return numbers, Block(
            title, ["", "n", *(f"{kind} {at}" for kind in ("mIoU", "IoU") for at in ends)], rows, notes
        )


def _count(
    meters: Meters, row: str, scene: str, grids: torch.Tensor, truth: np.ndarray, where: np.ndarray | None
) -> None:
    own = meters.setdefault(row, {}).setdefault(scene, [OccupancyMeter(RULE) for _ in HORIZONS])
    for k, (meter, grid, labels) in enumerate(zip(own, grids, truth, strict=True)):
        meter.update(grid, labels, None if where is None else where[k])


def _counts(meters: Meters) -> dict[str, np.ndarray]:
    return {row: np.stack([[m.confusion for m in own] for own in scenes.values()]) for row, scenes in meters.items()}


def told_motions(motion: np.ndarray | None, twist: np.ndarray, future: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the motions given to the forecaster, float32 [6, 2] m by row. motion: the previous plan carried over, or
    None for constant velocity, as on line; twist [6]; future [6, 4, 4]: base_link at 0.5 .. 3 s to the present."""
    constant = constant_velocity(twist)
    true = future[:, :2, 3].astype(np.float32)
    return {PLANNED: constant if motion is None else motion, CONSTANT: constant, TRUE: true}
