"""Stage 3, forecast: trains residual fusion and forecaster on the cached points of a frozen encoder.

Three targets. Motion: points of movable classes inside a moving box follow the box, all others stay (scene flow from
boxes, rigid per instance). Place: moved points are pulled to the nearest voxel of their class, since the encoder's
points are about half a metre off. Score: the log-odds that a moved point lies in a voxel of its class, against the
labels of that time. All in the current ego frame, as in reasoning/model/forecaster.py.

The encoder's scores are not calibrated probabilities, and the forecast uses the encoder's threshold. A voxel raises the
IoU if its probability p of a hit exceeds IoU / (1 + IoU) (it adds p to the intersection and 1 - p to the union).
Log-odds are therefore measured from the threshold, at which a hit has the probability `worth`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.classes import FREE, MOVABLE, NUM_CLASSES
from ...core.types import HORIZONS, EgoState, SceneQueries
from ...core.voxels import OCC3D_GRID, SparseVoxels
from ...eval.metrics.forecast import copy_forward
from ...eval.metrics.moving_voxels import flow_of, judged, moving_numbers
from ...eval.metrics.occupancy import AbsentRule, OccupancyMeter
from ...occupancy.config import OccupancyConfig
from ...occupancy.postprocess import occupied_voxels
from ...reasoning.config import ReasoningConfig
from ...reasoning.model.ego_motion import constant_velocity
from ...reasoning.model.forecaster import Forecast, forecast_voxels
from ...reasoning.model.reasoner import Reasoner
from ...world.labels.annotations import UNKNOWN
from ..checkpoint import save_reasoner
from ..features.dataset import FeatureSample
from ..features.future_labels import unpack
from ..task import Stage, Validation

SEEN = 0.05
"""Points below this score are ignored in training: they are never output."""
REACH = (3, 3, 1)
"""Search radius in voxels along x, y and z for the nearest voxel of a point's class."""
_AHEAD = [1, 3, 5]
_MOVING, _REACTS = 0.2, 0.5


@dataclass(frozen=True)
class ForecastStageSettings:
    """Settings of stage 3, forecast. moving, still, place, score: weights of the losses; points: number drawn per query
    for the place loss; worth: probability of a hit at the score threshold; voxels: weight of the mean position error of
    the encoder's movable voxels; drawn: number of these per sample; small: weight of the mean squared score change;
    mislabelled_fraction: share of samples conditioned on constant velocity instead of the (noisy) true motion, as
    before the first plan; others: share of samples, among those with a simulated future under another plan, that are
    conditioned on that plan and trained on that future; reacts: weight of voxels whose motion depends on the plan."""

    moving: float = 4.0
    still: float = 0.3
    place: float = 2.0
    points: int = 8
    score: float = 1.0
    worth: float = 0.12
    voxels: float = 2.0
    drawn: int = 512
    small: float = 0.01
    mislabelled_fraction: float = 0.1
    others: float = 0.5
    reacts: float = 4.0


@dataclass(frozen=True, eq=False)
class MovableVoxels:
    """Movable voxels, moved with their nearest query (reasoning.model.forecaster). centres [B, V, 3] m; owner int64
    [B, V], the query; flow [B, 3, V, 3] m, true displacement at HORIZONS; counts [B, V], loss weight, 0 for padding."""

    centres: Tensor
    owner: Tensor
    flow: Tensor
    counts: Tensor

    def to(self, device: torch.device) -> MovableVoxels:
        """Returns the tensors on another device."""
        return MovableVoxels(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, eq=False)
class ForecastBatch:
    """Batch of stage 3, forecast. features [B, Q, C]; centres [B, Q, 3] m; points [B, Q, R, 3] m; labels uint8
    [B, Q, R]; scores [B, Q, R]; motion [B, 6, 2] m, true; steady [B, 6, 2] m, constant velocity; flow [B, 3, Q, R, 3]
    m, true displacement of points; known uint8 [B, 3, X, Y, Z], future labels; occupancy [B, K, D] and chosen [B, K] of
    the language model, or None; voxels: with a voxel head, or None; samples: for validation."""

    features: Tensor
    centres: Tensor
    points: Tensor
    labels: Tensor
    scores: Tensor
    motion: Tensor
    steady: Tensor
    flow: Tensor
    known: Tensor
    occupancy: Tensor | None
    chosen: Tensor | None
    voxels: MovableVoxels | None
    samples: tuple[FeatureSample, ...]


class ForecastStage(Stage[ForecastBatch]):
    """Trains fusion and forecaster of a Reasoner; the rest of it is frozen.

    config: of the encoder; its post-processing yields the present voxels for the copy-forward baseline.
    """

    name = "forecast"

    def __init__(
        self,
        reasoner: Reasoner,
        config: OccupancyConfig,
        parts: Sequence[str] = (),
        settings: ForecastStageSettings | None = None,
    ) -> None:
        super().__init__()
        self.reasoner = reasoner.requires_grad_(False)
        reasoner.forecaster.requires_grad_(True)
        reasoner.fusion.requires_grad_(True)
        self.config, self.settings = config, settings or ForecastStageSettings()
        self._parts = sorted({*parts, "forecast"})
        self.steepness = nn.Parameter(torch.zeros(len(HORIZONS)))
        """Log of the factor per horizon that scales the encoder's log-odds to those of a hit."""

    def augment(self, sample: FeatureSample, rng: np.random.Generator) -> FeatureSample:
        """Draw whether the sample uses its recorded future or the one under another plan (array `other`)."""
        known = np.isfinite(sample.arrays.get("other_motion", np.nan)).all()
        other = bool(known and rng.random() < self.settings.others)
        return replace(sample, arrays=sample.arrays | {"other": other})

    def collate(self, samples: Sequence[FeatureSample]) -> ForecastBatch:
        """Stack samples and compute the true displacement of their points."""

        def stack(name: str) -> Tensor | None:
            if name not in samples[0].arrays:
                return None
            return torch.from_numpy(np.stack([s.arrays[name] for s in samples]))

        arrays = {name: stack(name) for name in ("features", "centres", "points", "labels", "scores")}
        other = [bool(s.arrays.get("other", False)) for s in samples]
        movers = [s.arrays["other_movers" if o else "movers"] for s, o in zip(samples, other, strict=True)]
        motion = [s.arrays["other_motion"] if o else s.waypoints for s, o in zip(samples, other, strict=True)]
        flow = [flow_of(s.arrays["points"], s.arrays["labels"], m) for s, m in zip(samples, movers, strict=True)]
        known = np.stack([unpack(s.arrays["future_labels"]) for s in samples])
        # No labels exist for a future that did not happen: only its motion is trained.
        known[other] = UNKNOWN
        steady = [m if o else constant_velocity(s.twist) for s, m, o in zip(samples, motion, other, strict=True)]
        return ForecastBatch(
            **arrays,
            motion=torch.from_numpy(np.stack(motion)), steady=torch.from_numpy(np.stack(steady)),
            flow=torch.from_numpy(np.stack(flow)), known=torch.from_numpy(known), occupancy=stack("occupancy"),
            chosen=stack("chosen"),
            voxels=draw_voxels(samples, movers, self.reasoner.config, self.settings.drawn, self.settings.reacts),
            samples=tuple(samples),
        )  # fmt: skip

    def forecast(self, batch: ForecastBatch, motion: Tensor) -> Forecast:
        """Returns the forecast conditioned on the ego motion [B, 6, 2] m."""
        fused = batch.features
        if batch.occupancy is not None and batch.chosen is not None:
            fused = self.reasoner.fusion(fused, batch.occupancy, batch.chosen.long())
        return self.reasoner.forecaster(fused, batch.centres, motion)

    def forward(self, batch: ForecastBatch) -> dict[str, Tensor]:
        """Returns the loss terms, conditioned on the true motion with a plan's errors or on constant velocity."""
        count = len(batch.motion)
        scale = 1.0 + 0.08 * torch.randn(count, 1, 2, device=batch.motion.device)
        wrong = torch.rand(count, 1, 1, device=batch.motion.device) < self.settings.mislabelled_fraction
        found = self.forecast(batch, torch.where(wrong, batch.steady, batch.motion * scale))
        moved = displacement(found, batch.points, batch.centres)
        seen = (batch.scores > SEEN)[:, None].to(moved.dtype) * batch.scores[:, None]
        length = torch.linalg.vector_norm(batch.flow, dim=-1)
        error = torch.linalg.vector_norm(moved - batch.flow, dim=-1)
        terms = {}
        # Metres per second of horizon, to balance the horizons.
        per_second = error / self.reasoner.forecaster.seconds[None, :, None, None]
        for name, which in (("moving", length > _MOVING), ("still", length <= _MOVING)):
            # Normalised by all points: most are static, and moving them wrongly costs more than missing a car.
            share = (per_second * seen * which).sum() / seen.sum().clamp(min=1.0)
            terms[name] = getattr(self.settings, name) * share
        if batch.voxels is not None:
            terms["voxels"] = self.settings.voxels * self._voxel_loss(found, batch, batch.voxels)
        return {
            **terms,
            "place": self.settings.place * self._place_loss(moved, batch),
            "score": self.settings.score * self._score_loss(found, moved.detach(), batch),
        }

    def _voxel_loss(self, found: Forecast, batch: ForecastBatch, voxels: MovableVoxels) -> Tensor:
        """Returns the mean position error of voxels moved with their query, in metres per second of horizon."""
        rows = torch.arange(len(voxels.owner), device=voxels.owner.device)[:, None]
        offset = (voxels.centres - batch.centres[rows, voxels.owner])[:, None]
        owner = voxels.owner[:, None].expand(-1, len(HORIZONS), -1)
        went = turned(offset, found.turn.gather(2, owner))
        went = went + found.shift.gather(2, owner[..., None].expand(-1, -1, -1, 3))
        error = torch.linalg.vector_norm(went - voxels.flow, dim=-1)
        error = error / self.reasoner.forecaster.seconds[None, :, None]
        return (error.mean(1) * voxels.counts).sum() / voxels.counts.sum().clamp(min=1.0)

    def _place_loss(self, moved: Tensor, batch: ForecastBatch) -> Tensor:
        """Returns the mean L1 distance (m) of drawn points to the nearest voxel of their class, 0 inside it."""
        drawn = torch.randperm(moved.shape[3], device=moved.device)[: self.settings.points]
        at = batch.points[:, None, :, drawn] + moved[..., drawn, :]
        label = batch.labels.long()[:, None, :, drawn].expand(at.shape[:-1])
        centre, found = nearest_of_class(at.detach(), label, batch.known)
        miss = ((at - centre).abs() - 0.5 * OCC3D_GRID.size).clamp(min=0.0).sum(-1)
        weight = found * batch.scores[:, None, :, drawn]
        return (miss * weight).sum() / weight.sum().clamp(min=1.0)

    def _score_loss(self, found: Forecast, moved: Tensor, batch: ForecastBatch) -> Tensor:
        grid = OCC3D_GRID
        at = batch.points[:, None] + moved
        lower = at.new_tensor(grid.lower)
        shape = torch.tensor(grid.shape, device=at.device)
        index = ((at - lower) / grid.size).floor().long()
        inside = ((index >= 0) & (index < shape)).all(-1)
        x, y, z = index.clamp(min=shape.new_zeros(3), max=shape - 1).unbind(-1)
        row = torch.arange(len(at), device=at.device)[:, None, None, None]
        horizon = torch.arange(len(HORIZONS), device=at.device)[None, :, None, None]
        truth = batch.known[row, horizon, x, y, z]
        label = batch.labels.long()[:, None].expand(-1, len(HORIZONS), -1, -1)
        change = found.class_change.gather(-1, label.clamp(max=NUM_CLASSES - 1))
        cut, worth = (math.log(p / (1 - p)) for p in (self.config.score_threshold, self.settings.worth))
        above = torch.logit(batch.scores, eps=1e-4)[:, None] - cut + change
        logit = above * self.steepness.exp()[:, None, None] + worth
        weight = inside * (batch.scores > SEEN)[:, None] * (truth <= FREE)
        loss = F.binary_cross_entropy_with_logits(logit, (truth == label).to(logit.dtype), reduction="none")
        return ((loss + self.settings.small * change.square()) * weight).sum() / weight.sum().clamp(min=1)

    def validate(self, batches: Iterable[ForecastBatch]) -> Validation:
        """IoU and mIoU at 1, 2, 3 s by SparseWorld's protocol, conditioned on constant velocity, and of copy-forward of
        the present voxels; both at the encoder's threshold. score: gain in mean IoU plus gain in mean mIoU.

        With a voxel head, these grids contain movable classes only (the rest is static). Numbers `moving_` cover the
        columns under a moving box (eval.metrics.moving_voxels)."""
        rule = AbsentRule.ZERO_IF_PREDICTED
        meters = {name: [OccupancyMeter(rule) for _ in HORIZONS] for name in ("told", "copy")}
        moving = {name: [OccupancyMeter() for _ in HORIZONS] for name in meters}
        # Without continue_ground, which is a rule and not learnt.
        config = replace(self.reasoner.config, score_threshold=self.config.score_threshold, continue_ground=False)
        with torch.inference_mode():
            for batch in batches:
                found = self.forecast(batch, batch.steady)
                for k, sample in enumerate(batch.samples):
                    queries = queries_of(sample)
                    own = Forecast(*(getattr(found, f.name)[k : k + 1] for f in fields(found)))
                    poses = sample.future[_AHEAD].astype(np.float64)
                    told = forecast_voxels(queries, own, config, OCC3D_GRID, poses)
                    truth = batch.known[k].cpu()
                    now = occupied_voxels(queries, OCC3D_GRID, self.config).dense()
                    if queries.voxels is not None:
                        can = torch.isin(truth, torch.tensor(MOVABLE, dtype=truth.dtype)) | (truth > FREE)
                        truth = torch.where(can, truth, torch.tensor(FREE, dtype=truth.dtype))
                    grids = {"told": torch.from_numpy(np.stack([v.dense() for v in told]))}
                    grids["copy"] = copy_forward(now, np.eye(4), poses)
                    where = judged(sample.arrays["movers"], poses)
                    for name, pair in grids.items():
                        for h, (whole, part) in enumerate(zip(meters[name], moving[name], strict=True)):
                            whole.update(pair[h], truth[h])
                            part.update(pair[h], truth[h], where[h])
        numbers = {}
        for name, prefix in (("told", ""), ("copy", "copy_")):
            scores = [meter.result() for meter in meters[name]]
            for horizon, at in zip(HORIZONS, scores, strict=True):
                numbers[f"{prefix}iou_{horizon:g}s"], numbers[f"{prefix}miou_{horizon:g}s"] = at.iou, at.miou
            numbers[f"{prefix}iou"] = float(np.mean([s.iou for s in scores]))
            numbers[f"{prefix}miou"] = float(np.mean([s.miou for s in scores]))
            for horizon, meter in zip(HORIZONS, moving[name], strict=True):
                numbers[f"{prefix}moving_miou_{horizon:g}s"], _ = moving_numbers(meter.confusion)
        gain = numbers["iou"] - numbers["copy_iou"] + numbers["miou"] - numbers["copy_miou"]
        return Validation(gain, numbers)

    def export(self, path: Path) -> None:
        """Write the files for the preset's reasoning, with all parts, trained here or before."""
        save_reasoner(self.reasoner, path, self._parts)


def displacement(found: Forecast, points: Tensor, centres: Tensor) -> Tensor:
    """Returns the displacement [B, 3, Q, R, 3] m of points [B, Q, R, 3] of queries at centres [B, Q, 3]."""
    offset = (points - centres[:, :, None])[:, None]
    return found.shift[:, :, :, None] + turned(offset, found.turn[..., None])


def turned(offset: Tensor, angle: Tensor) -> Tensor:
    """Returns the change of offsets [..., 3] m from a centre when rotated about z by angles [...] rad."""
    cos, sin = angle.cos(), angle.sin()
    x, y = offset[..., 0], offset[..., 1]
    return torch.stack([(cos - 1) * x - sin * y, sin * x + (cos - 1) * y, torch.zeros_like(x * cos)], -1)


def draw_voxels(
    samples: Sequence[FeatureSample], movers: Sequence[np.ndarray], config: ReasoningConfig, drawn: int, reacts: float
) -> MovableVoxels | None:
    """Returns up to `drawn` movable voxels per sample that are near a query, those in moving boxes first; None if none
    are cached. movers: [4, N, 5] of each sample; reacts: weight of voxels whose motion depends on the plan."""
    if "voxels" not in samples[0].arrays:
        return None
    shape = (len(samples), drawn)
    centres, flow = np.zeros((*shape, 3), np.float32), np.zeros((len(samples), len(HORIZONS), drawn, 3), np.float32)
    owner, counts = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for k, (sample, boxes) in enumerate(zip(samples, movers, strict=True)):
        voxels = sample.arrays["voxels"]
        where = OCC3D_GRID.centre_of(voxels[:, :3]).astype(np.float32)
        goes = flow_of(where[None], voxels[None, :, 3], boxes)[:, 0]
        weight = np.ones(len(voxels), np.float32)
        if np.isfinite(sample.arrays.get("other_movers", np.nan)).all():
            ways = [
                flow_of(where[None], voxels[None, :, 3], sample.arrays[n])[-1, 0] for n in ("movers", "other_movers")
            ]
            weight[np.linalg.norm(ways[0] - ways[1], axis=-1) > _REACTS] = reacts
        distance, nearest = KDTree(sample.arrays["centres"]).query(where)
        # Seeded by the sample alone, so a resumed run draws the same.
        draw = np.random.default_rng([round(1000 * sample.time), sample.seed]).random(len(voxels))
        order = np.argsort(draw - (np.abs(goes[-1]).sum(-1) > _MOVING), kind="stable")
        rows = order[distance[order] < config.max_point_distance][:drawn]
        n = len(rows)
        centres[k, :n], owner[k, :n], counts[k, :n] = where[rows], nearest[rows], weight[rows]
        flow[k, :, :n] = goes[:, rows]
    return MovableVoxels(*(torch.from_numpy(a) for a in (centres, owner, flow, counts)))


def nearest_of_class(points: Tensor, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the nearest voxel of each point's class: (centres [B, H, Q, R, 3] m, bool [B, H, Q, R], True if found
    within REACH). points [B, H, Q, R, 3] m; labels int64 [B, H, Q, R]; known uint8 [B, H, X, Y, Z]."""
    grid = OCC3D_GRID
    axes = [torch.arange(-r, r + 1, device=points.device) for r in REACH]
    near = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    near = near[near.square().sum(-1).argsort(stable=True)]
    lower, shape = points.new_tensor(grid.lower), torch.tensor(grid.shape, device=points.device)
    index = ((points - lower) / grid.size).floor().long()[..., None, :] + near
    inside = ((index >= 0) & (index < shape)).all(-1)
    x, y, z = index.clamp(min=shape.new_zeros(3), max=shape - 1).unbind(-1)
    row = torch.arange(len(points), device=points.device)[:, None, None, None, None]
    horizon = torch.arange(points.shape[1], device=points.device)[None, :, None, None, None]
    same = inside & (known[row, horizon, x, y, z] == labels[..., None])
    first = same.to(torch.uint8).argmax(-1)
    chosen = index.gather(-2, first[..., None, None].expand(*first.shape, 1, 3))[..., 0, :]
    return (chosen + 0.5) * grid.size + lower, same.any(-1)


def queries_of(sample: FeatureSample) -> SceneQueries:
    """Returns the cached queries of a sample, with their movable voxels if these are cached."""
    arrays = {k: np.ascontiguousarray(sample.arrays[k]) for k in ("features", "centres", "points", "labels", "scores")}
    views = sample.arrays.get("view_features", np.zeros((1, arrays["features"].shape[1]), np.float32))
    ego = EgoState(np.eye(4), sample.twist.astype(np.float64), "map")
    found, voxels = sample.arrays.get("voxels"), None
    if found is not None:
        score = np.ones(len(found), np.float32)
        voxels = SparseVoxels(np.ascontiguousarray(found[:, :3]), found[:, 3].astype(np.uint8), score, OCC3D_GRID)
    return SceneQueries(
        round(sample.time * 1e9), 0, ego, **arrays, view_features=views, trained=True, voxels=voxels
    )  # fmt: skip
