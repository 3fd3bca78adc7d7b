"""Stage 3, forecast: residual fusion and forecaster learn what becomes of the points that a frozen encoder sees.

Three targets. Motion: points of movable classes that lie in a moving box go where the box goes, all others stay
(scene flow from boxes, as rigid motion of instances). Place: once moved, points are drawn to the nearest voxel of their
class, since what the encoder sees is half a metre off where it is. Score: the log-odds that a point, once moved, lies
in a voxel of its class, against the labels of that time. All in the current ego frame, which
reasoning/model/forecaster.py speaks in.

The encoder's scores are no calibrated probabilities, and its threshold stays the forecast's. A voxel raises the IoU if
the probability of a hit exceeds IoU / (1 + IoU) (the ratio of what it adds above to what it adds below), so log-odds
are counted from there: the threshold is where a hit has the probability `worth`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.classes import FREE, MOVABLE, NUM_CLASSES
from ...core.types import HORIZONS, EgoState, SceneQueries
from ...core.voxels import OCC3D_GRID, SparseVoxels
from ...eval.metrics.forecast import ForecastMeter, Protocol, copy_forward
from ...eval.metrics.moving_voxels import flow_of, judged, moving_numbers
from ...eval.metrics.occupancy import OccupancyMeter
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
"""Points below this score teach nothing: nobody will show them."""
REACH = (3, 3, 1)
"""Voxels along x, y and z within which a point looks for its class."""
_AHEAD = [1, 3, 5]
_MOVING, _REACTS = 0.2, 0.5


@dataclass(frozen=True)
class ForecastStageSettings:
    """moving, still, place, score: weights of the losses; points: of a query, drawn for place; worth: probability of a
    hit from which on a voxel is worth showing;
    voxels: weight of the mean distance by which the encoder's movable voxels miss their place, every one counted alike;
    drawn: of them, per sample;
    small: weight of the mean square of what changes scores; mislabelled_fraction: share of samples that are told
    constant velocity instead of (blurred) true motion, as when there is no plan yet; others: share of the samples with
    a future under another plan that are told that plan and learn that future; reacts: how much more the voxels count
    that go elsewhere with it."""

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
class Followers:
    """Voxels that go with their nearest query (reasoning.model.forecaster): centres [B, V, 3] m; owner int64 [B, V],
    the query; flow [B, 3, V, 3] m, where they go; counts [B, V], 0 where there are fewer."""

    centres: Tensor
    owner: Tensor
    flow: Tensor
    counts: Tensor

    def to(self, device: torch.device) -> Followers:
        """The same on another device."""
        return Followers(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, eq=False)
class ForecastBatch:
    """features [B, Q, C]; centres [B, Q, 3] m; points [B, Q, R, 3] m; labels int64 [B, Q, R]; scores [B, Q, R];
    motion [B, 6, 2] m, true; steady [B, 6, 2] m, constant velocity; flow [B, 3, Q, R, 3] m, where points go; known
    int64 [B, 3, X, Y, Z] (uint8) labels, or None in validation; occupancy [B, K, D] and chosen [B, K] of the language
    model, or None; samples: for validation."""

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
    voxels: Followers | None
    samples: tuple[FeatureSample, ...]


class ForecastStage(Stage[ForecastBatch]):
    """Trains fusion and forecaster of a Reasoner; everything else of it stays as it is.

    config: of the encoder, whose post-processing makes the present voxels that copy-forward moves.
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
        """Log of what the encoder's log-odds are multiplied by to be those of a hit, at each horizon."""

    def augment(self, sample: FeatureSample, rng: np.random.Generator) -> FeatureSample:
        """The sample as it was, or (`other` among its arrays) as it would have been under another plan."""
        known = np.isfinite(sample.arrays.get("other_motion", np.nan)).all()
        other = bool(known and rng.random() < self.settings.others)
        return replace(sample, arrays=sample.arrays | {"other": other})

    def collate(self, samples: Sequence[FeatureSample]) -> ForecastBatch:
        """Stacks samples and works out where their points go."""

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
        # Nobody labelled what did not happen: only motion is learnt of it.
        known[other] = UNKNOWN
        steady = [m if o else constant_velocity(s.twist) for s, m, o in zip(samples, motion, other, strict=True)]
        return ForecastBatch(
            **arrays,
            motion=torch.from_numpy(np.stack(motion)), steady=torch.from_numpy(np.stack(steady)),
            flow=torch.from_numpy(np.stack(flow)), known=torch.from_numpy(known), occupancy=stack("occupancy"),
            chosen=stack("chosen"),
            voxels=followers(samples, movers, self.reasoner.config, self.settings.drawn, self.settings.reacts),
            samples=tuple(samples),
        )  # fmt: skip

    def move(self, batch: ForecastBatch, device: torch.device) -> ForecastBatch:
        """Samples stay where they are."""
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        return ForecastBatch(**{k: v.to(device) if isinstance(v, Tensor | Followers) else v for k, v in values.items()})

    def forecast(self, batch: ForecastBatch, motion: Tensor) -> Forecast:
        """The forecaster's answer for the ego motion [B, 6, 2] it is told."""
        fused = batch.features
        if batch.occupancy is not None and batch.chosen is not None:
            fused = self.reasoner.fusion(fused, batch.occupancy, batch.chosen.long())
        return self.reasoner.forecaster(fused, batch.centres, motion)

    def forward(self, batch: ForecastBatch) -> dict[str, Tensor]:
        """Loss terms. The told motion is the true one, blurred as a plan is, or constant velocity."""
        count = len(batch.motion)
        scale = 1.0 + 0.08 * torch.randn(count, 1, 2, device=batch.motion.device)
        wrong = torch.rand(count, 1, 1, device=batch.motion.device) < self.settings.mislabelled_fraction
        found = self.forecast(batch, torch.where(wrong, batch.steady, batch.motion * scale))
        moved = displacement(found, batch.points, batch.centres)
        seen = (batch.scores > SEEN)[:, None].to(moved.dtype) * batch.scores[:, None]
        length = torch.linalg.vector_norm(batch.flow, dim=-1)
        error = torch.linalg.vector_norm(moved - batch.flow, dim=-1)
        terms = {}
        # Metres per second of horizon, so that three seconds do not outweigh one.
        per_second = error / self.reasoner.forecaster.seconds[None, :, None, None]
        for name, which in (("moving", length > _MOVING), ("still", length <= _MOVING)):
            # Of all points: most stand still, and a query that moves them costs more than one that misses a car.
            share = (per_second * seen * which).sum() / seen.sum().clamp(min=1.0)
            terms[name] = getattr(self.settings, name) * share
        if batch.voxels is not None:
            terms["voxels"] = self.settings.voxels * self._voxel_loss(found, batch, batch.voxels)
        return {
            **terms,
            "place": self.settings.place * self._place_loss(moved, batch),
            "score": self.settings.score * self._score_loss(found, moved.detach(), batch),
        }

    def _voxel_loss(self, found: Forecast, batch: ForecastBatch, voxels: Followers) -> Tensor:
        """Metres per second of horizon by which voxels miss where they go, with the query that takes them along."""
        rows = torch.arange(len(voxels.owner), device=voxels.owner.device)[:, None]
        offset = (voxels.centres - batch.centres[rows, voxels.owner])[:, None]
        owner = voxels.owner[:, None].expand(-1, len(HORIZONS), -1)
        went = turned(offset, found.turn.gather(2, owner))
        went = went + found.shift.gather(2, owner[..., None].expand(-1, -1, -1, 3))
        error = torch.linalg.vector_norm(went - voxels.flow, dim=-1)
        error = error / self.reasoner.forecaster.seconds[None, :, None]
        return (error.mean(1) * voxels.counts).sum() / voxels.counts.sum().clamp(min=1.0)

    def _place_loss(self, moved: Tensor, batch: ForecastBatch) -> Tensor:
        """Mean distance in metres by which some points of each query miss the nearest voxel of their class."""
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

    def parameter_groups(self, rate: float, slow: float) -> list[dict[str, Any]]:
        """Norms, biases and gates do not decay."""
        found = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in found if p.ndim > 1], "lr": rate},
            {"params": [p for p in found if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        ]

    def validate(self, batches: Iterable[ForecastBatch]) -> Validation:
        """IoU and mIoU at 1, 2, 3 s by SparseWorld's protocol, told constant velocity, against copy-forward of what
        the encoder sees now, at the encoder's threshold. score: by how much mean IoU and mIoU together are better.

        With a voxel head, only what can move is in these grids (the rest stays), and numbers `moving_` are of the
        columns that a moving box covers (eval.metrics.moving_voxels)."""
        meters = {name: ForecastMeter(Protocol.SPARSEWORLD) for name in ("told", "copy")}
        moving = {name: [OccupancyMeter() for _ in HORIZONS] for name in meters}
        # What was learnt alone: how the ground goes on is a rule.
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
                        meters[name].update(pair, truth)
                        for h, meter in enumerate(moving[name]):
                            meter.update(pair[h], truth[h], where[h])
        results = {name: meter.result() for name, meter in meters.items()}
        numbers = {}
        for name, prefix in (("told", ""), ("copy", "copy_")):
            for horizon, scores in results[name].at.items():
                numbers[f"{prefix}iou_{horizon:g}s"], numbers[f"{prefix}miou_{horizon:g}s"] = scores.iou, scores.miou
            numbers[f"{prefix}iou"], numbers[f"{prefix}miou"] = results[name].iou, results[name].miou
            for horizon, meter in zip(HORIZONS, moving[name], strict=True):
                numbers[f"{prefix}moving_miou_{horizon:g}s"], _ = moving_numbers(meter.confusion)
        gain = results["told"].iou - results["copy"].iou + results["told"].miou - results["copy"].miou
        return Validation(gain, numbers)

    def export(self, path: Path) -> None:
        """Files for the preset's reasoning: everything of it, trained here or before."""
        save_reasoner(self.reasoner, path, self._parts)


def displacement(found: Forecast, points: Tensor, centres: Tensor) -> Tensor:
    """[B, 3, Q, R, 3] m by which a forecast moves points [B, Q, R, 3] of queries at centres [B, Q, 3]."""
    offset = (points - centres[:, :, None])[:, None]
    return found.shift[:, :, :, None] + turned(offset, found.turn[..., None])


def turned(offset: Tensor, angle: Tensor) -> Tensor:
    """By how much offsets [..., 3] m from a centre change when they turn about it by angles [...] rad."""
    cos, sin = angle.cos(), angle.sin()
    x, y = offset[..., 0], offset[..., 1]
    return torch.stack([(cos - 1) * x - sin * y, sin * x + (cos - 1) * y, torch.zeros_like(x * cos)], -1)


def followers(
    samples: Sequence[FeatureSample], movers: Sequence[np.ndarray], config: ReasoningConfig, drawn: int, reacts: float
) -> Followers | None:
    """At most `drawn` movable voxels of each sample that a query takes along, those in moving boxes first; None where
    the samples have none. movers: of each sample, [4, N, 5]; reacts: weight of those whose way depends on the plan."""
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
        # A draw that depends on the sample alone, so that a resumed run makes the same.
        draw = np.random.default_rng([round(1000 * sample.time), sample.seed]).random(len(voxels))
        order = np.argsort(draw - (np.abs(goes[-1]).sum(-1) > _MOVING), kind="stable")
        rows = order[distance[order] < config.max_point_distance][:drawn]
        n = len(rows)
        centres[k, :n], owner[k, :n], counts[k, :n] = where[rows], nearest[rows], weight[rows]
        flow[k, :, :n] = goes[:, rows]
    return Followers(*(torch.from_numpy(a) for a in (centres, owner, flow, counts)))


def nearest_of_class(points: Tensor, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The voxel of its class that is nearest to each point's: (centres [B, H, Q, R, 3] m, bool [B, H, Q, R] whether
    there is one within REACH). points [B, H, Q, R, 3] m; labels int64 [B, H, Q, R]; known uint8 [B, H, X, Y, Z]."""
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
    """The cached queries of a sample, with what can move of their voxels where those are cached."""
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
