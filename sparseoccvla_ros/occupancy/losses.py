"""Training losses of the occupancy decoder: Chamfer-like distance of points and voxels, and focal classification.

After OPUS (Wang et al., NeurIPS 2024), with smooth L1 (Girshick, Fast R-CNN, ICCV 2015) and the sigmoid focal loss
(Lin et al., ICCV 2017). Points p_k (k = 1..N) of one decoder layer are compared with the centres g_j (j = 1..V) of all
occupied voxels, both in metres in base_link. a(j) is the point nearest to voxel j, b(k) the voxel nearest to point k:

    h(x)   = x^2 / (2 beta) for |x| < beta, |x| - beta / 2 beyond, summed over x, y, z
    L_pts  = points * [ 1/V sum_j w_j h(g_j - p_a(j)) + 1/N sum_k h(p_k - g_b(k)) ]
    w_j    = 1; far if voxel j is visible and |g_j - p_a(j)| > far_distance; at least rare if it is visible and of a
             rare class
    t_kc   = 1 if c is the class of voxel b(k), else 0;   s_kc = sigmoid(logit_kc)
    FL_kc  = -alpha (1 - s_kc)^gamma log s_kc if t_kc = 1, -(1 - alpha) s_kc^gamma log(1 - s_kc) if t_kc = 0
    L_cls  = classification * 1/N sum_k d_k sum_c channels_c FL_kc,   d_k = 1 + |xy of g_b(k)| / range_scale

The decoder's initial points are supervised by L_pts only, every layer by L_cls + L_pts, against all occupied voxels.
Sums and the counts V and N run over the whole batch. An element without occupied voxels is excluded from L_pts; its
points are negatives of every class, with d_k = 1.

OPUS-V2 classifies voxels instead of points, each against its own dense label, free ones as negatives of every class:

    L_cls  = classification * sum_u sum_c channels_c FL_uc / (number of occupied voxels u, at least 1)

Its density-aware variant divides each voxel's and each point's term of L_pts by the number of terms with the same
nearest neighbour, and replaces V and N by the numbers of distinct nearest points and voxels. (The public code divides
by the number of occupied voxels + 1.2e-7: a layer without any then outweighs everything else by millions.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from ..core.classes import FREE, LABEL, NUM_CLASSES
from ..core.errors import InvalidInput
from ..core.voxels import OCC3D_GRID, VoxelGrid
from .decoder import LayerOutput
from .densifier.network import DensifiedVoxels

IGNORED = 255
"""Dense label of unknown voxels, which training treats as neither free nor occupied."""
_CHUNK = 1 << 25
_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class LossWeights:
    """Constants of the losses (formulas in the module docstring); defaults are those of OPUS.

    Raises InvalidInput naming the field when a value is invalid.
    """

    points: float = 0.5
    """Factor of L_pts."""
    classification: float = 2.0
    """Factor of L_cls."""
    beta: float = 0.2
    """Metres at which smooth L1 changes from quadratic to linear: half a voxel of 0.4 m."""
    far: float = 5.0
    """Weight of a visible voxel without a point within `far_distance`."""
    far_distance: float = 0.2
    """Metres to the nearest point beyond which a visible voxel gets the weight `far`."""
    rare: float = 10.0
    """Minimum weight of a visible voxel of a rare class."""
    rare_classes: tuple[int, ...] = tuple(
        LABEL[name] for name in ("others", "bicycle", "construction_vehicle", "traffic_cone")
    )
    """Labels 0, 2, 5, 8."""
    channels: tuple[float, ...] = (10, 5, 10, 5, 5, 10, 10, 5, 10, 5, 5, 1, 5, 1, 1, 2, 1)
    """Weight per output channel, 17 numbers: scales that channel's loss at every point, positive or negative, whatever
    the class of the point's voxel."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss."""
    alpha: float = 0.25
    """Weight of positives in the focal loss; negatives have 1 - alpha."""
    range_scale: float = 113.137
    """Range [m] at which the classification weight d_k is 2: the diagonal of the 80 m x 80 m grid."""
    density_aware: bool = False
    """Use the density-aware L_pts, as OPUS-V2's longer schedule does (there with `points` 0.25)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rare_classes", tuple(self.rare_classes))
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("points", "classification", "far", "far_distance", "rare"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(name, f"want a finite number from 0, got {getattr(self, name)}")
        for name in ("beta", "range_scale"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InvalidInput(name, f"want a finite number above 0, got {getattr(self, name)}")
        # For gamma in (0, 1) the gradient at a score of exactly 0 or 1 is infinite.
        if self.gamma != 0.0 and not 1.0 <= self.gamma < float("inf"):
            raise InvalidInput("gamma", f"want 0 or a finite number from 1, got {self.gamma}")
        if not 0.0 <= self.alpha <= 1.0:
            raise InvalidInput("alpha", f"want 0..1, got {self.alpha}")
        if len(self.channels) != NUM_CLASSES or not all(0.0 <= c < float("inf") for c in self.channels):
            raise InvalidInput("channels", f"want {NUM_CLASSES} finite numbers from 0, got {self.channels}")
        if set(self.rare_classes) - set(range(NUM_CLASSES)):
            raise InvalidInput("rare_classes", f"want labels 0..{NUM_CLASSES - 1}, got {self.rare_classes}")


class Neighbours:
    """Exact Euclidean nearest-neighbour search in one reference set, for any number of query sets.

    Uses a float64 k-d tree on the CPU; elsewhere float32 distances from coordinate differences, in chunks, because the
    cheaper expansion |q|^2 - 2 q.r + |r|^2 has errors of millimetres at 40 m. Ties, within the rounding of these
    types, are resolved arbitrarily. Raises InvalidInput for a `reference` or `query` that is not [N, 3] or not finite,
    and for an empty reference.
    """

    def __init__(self, reference: Tensor) -> None:
        self._reference = _checked_points("reference", reference)
        if not len(reference):
            raise InvalidInput("reference", "is empty, so nothing is nearest")
        on_cpu = reference.device.type == "cpu"
        # Sliding midpoint instead of median splits: medians are slow to find because voxel centres share coordinates.
        self._tree = cKDTree(self._reference.double().numpy(), balanced_tree=False) if on_cpu else None

    def __call__(self, query: Tensor) -> Tensor:
        """Returns int64 [N], index of the reference point nearest to each query [N, 3]; no gradient."""
        query = _checked_points("query", query)
        if self._tree is None:
            return nearest_in_chunks(query, self._reference)
        return torch.from_numpy(self._tree.query(query.double().numpy())[1])


def nearest_in_chunks(query: Tensor, reference: Tensor, elements: int = _CHUNK) -> Tensor:
    """Search by brute force, as Neighbours does on an accelerator: query [N, 3], reference [M, 3] to int64 [N].

    elements: distances in memory at once, at least M; 2 x 4 bytes each (268 MB by default).
    """
    parts = []
    for part in query.split(max(1, elements // len(reference))):
        squared = (part[:, None, 0] - reference[:, 0]).square_()
        for axis in (1, 2):
            squared += (part[:, None, axis] - reference[:, axis]).square_()
        parts.append(squared.argmin(1))
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class OccupancyTargets:
    """Ground truth of one batch element: all voxels that are neither free nor ignored, on one device.

    centres: float32 [V, 3] m, base_link; labels: uint8 or int64 [V], 0..16, stored as int64; visible: bool [V], visible
    to a camera; semantics: uint8 [X, Y, Z], the dense source labels, required by losses on voxels. V may be 0. The
    search tree over the centres is built once, on first use. Raises InvalidInput naming the field.
    """

    centres: Tensor
    labels: Tensor
    visible: Tensor
    semantics: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.centres)
        if self.centres.dtype != torch.float32:
            raise InvalidInput("centres", f"want float32, got {self.centres.dtype}")
        _checked_points("centres", self.centres)
        if self.labels.shape != (count,) or self.labels.dtype not in (torch.uint8, torch.int64):
            raise InvalidInput("labels", f"want uint8 or int64 [{count}], got {_kind(self.labels)}")
        if self.visible.shape != (count,) or self.visible.dtype != torch.bool:
            raise InvalidInput("visible", f"want bool [{count}], got {_kind(self.visible)}")
        for name in ("labels", "visible"):
            if getattr(self, name).device != self.centres.device:
                raise InvalidInput(name, f"is on {getattr(self, name).device}, centres on {self.centres.device}")
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < NUM_CLASSES:
            raise InvalidInput("labels", f"{int(self.labels.min())}..{int(self.labels.max())} leave 0..16")
        object.__setattr__(self, "labels", self.labels.long())

    def __len__(self) -> int:
        return len(self.centres)

    @cached_property
    def neighbours(self) -> Neighbours:
        """Search structure over the centres. Raises InvalidInput when V is 0."""
        return Neighbours(self.centres)

    def to(self, device: torch.device | str) -> OccupancyTargets:
        """Returns a copy on `device`."""
        dense = None if self.semantics is None else self.semantics.to(device)
        return OccupancyTargets(self.centres.to(device), self.labels.to(device), self.visible.to(device), dense)

    @classmethod
    def from_dense(
        cls, semantics: np.ndarray, camera_mask: np.ndarray | None = None, grid: VoxelGrid = OCC3D_GRID
    ) -> OccupancyTargets:
        """Build targets on the CPU from dense labels.

        semantics: integers [X, Y, Z] of the grid: 0..16 occupied, 17 free, 255 ignored (no centre, like free);
        camera_mask: bool or 0/1 [X, Y, Z], True where a voxel is visible to a camera, default everywhere.
        """
        if semantics.shape != grid.shape or semantics.dtype.kind not in "ui":
            raise InvalidInput("semantics", f"want integers {list(grid.shape)}, got {_kind(semantics)}")
        if ((semantics < 0) | ((semantics > FREE) & (semantics != IGNORED))).any():
            raise InvalidInput("semantics", f"holds a label that is not one of 0..{FREE} and {IGNORED}")
        if camera_mask is not None and (camera_mask.shape != grid.shape or camera_mask.dtype.kind not in "bui"):
            raise InvalidInput("camera_mask", f"want bool {list(grid.shape)}, got {_kind(camera_mask)}")
        index = np.argwhere(semantics < FREE)
        where = tuple(index.T)
        visible = np.ones(len(index), bool) if camera_mask is None else camera_mask[where].astype(bool)
        labels = semantics[where].astype(np.int64)
        return cls(
            torch.from_numpy(grid.centre_of(index)),
            torch.from_numpy(labels),
            torch.from_numpy(visible),
            torch.from_numpy(np.array(semantics, np.uint8)),
        )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Points of one layer and batch element, float32 [N, 3] m, matched with the ground truth.

    point_of int64 [V], nearest point of each voxel; voxel_of int64 [N], nearest voxel of each point; both None if
    there are no occupied voxels.
    """

    points: Tensor
    target: OccupancyTargets
    point_of: Tensor | None
    voxel_of: Tensor | None

    @classmethod
    def match(cls, points: Tensor, target: OccupancyTargets) -> _Pairs:
        if not len(target):
            return cls(points, target, None, None)
        return cls(points, target, Neighbours(points)(target.centres), target.neighbours(points))


def occupancy_loss(
    outputs: Sequence[LayerOutput],
    init_points: Tensor,
    targets: Sequence[OccupancyTargets],
    grid: VoxelGrid = OCC3D_GRID,
    weights: LossWeights | None = None,
    voxels: Sequence[DensifiedVoxels] | None = None,
) -> dict[str, Tensor]:
    """Compute the loss terms by name, float32 scalars with gradient; names are those of the public OPUS code.

    outputs: one LayerOutput per decoder layer; init_points: [B, Q, 1, 3], normalised to the grid like
    LayerOutput.points; targets: B elements, on the device of the outputs; voxels: the densifier's output per layer
    (OPUS-V2), classified instead of the outputs' logits, which are then ignored. Terms: `init_loss_pts`;
    `d{i}.loss_cls` and `d{i}.loss_pts` of every layer i except the last, whose terms are `loss_cls` and `loss_pts`.
    Terms are already weighted; the loss is their sum.

    Computed in float32 for any input precision; autocast affects none of the operations. Raises InvalidInput naming
    the argument for mismatched shapes, another device, numbers that are not finite, and missing dense labels.
    """
    weights = weights or LossWeights()
    if not outputs:
        raise InvalidInput("outputs", "is empty")
    batch = len(targets)
    _check("init_points", init_points, (batch, 1, 3))
    for i, output in enumerate(outputs):
        _check(f"outputs[{i}].points", output.points, (batch, None, 3))
        if voxels is not None:
            if not bool(voxels[i].logits.isfinite().all()):
                raise InvalidInput(f"voxels[{i}].logits", "holds a number that is not finite")
            continue
        _check(f"outputs[{i}].logits", output.logits, (batch, output.points.shape[2], NUM_CLASSES))
        if output.logits.shape[1] != output.points.shape[1]:
            raise InvalidInput(f"outputs[{i}].logits", "has another number of queries than points")
    for i, target in enumerate(targets):
        if target.centres.device != init_points.device:
            raise InvalidInput(f"targets[{i}]", f"is on {target.centres.device}, predictions on {init_points.device}")

    terms: dict[str, Tensor] = {}
    terms["init_loss_pts"] = _point_loss(_pairs(init_points, targets, grid), weights)
    for i, output in enumerate(outputs):
        prefix = "" if i == len(outputs) - 1 else f"d{i}."
        pairs = _pairs(output.points, targets, grid)
        terms[f"{prefix}loss_cls"] = (
            _class_loss(output.logits, pairs, weights)
            if voxels is None
            else _voxel_class_loss(voxels[i], targets, weights)
        )
        terms[f"{prefix}loss_pts"] = _point_loss(pairs, weights)
    return terms


def _pairs(points: Tensor, targets: Sequence[OccupancyTargets], grid: VoxelGrid) -> list[_Pairs]:
    """Match normalised points [B, Q, R, 3] in metres, one entry per batch element."""
    lower, upper = points.new_tensor([grid.lower, grid.upper], dtype=torch.float32)
    metric = points.float().flatten(1, 2) * (upper - lower) + lower
    return [_Pairs.match(p, target) for p, target in zip(metric, targets, strict=True)]


def _point_loss(batch: list[_Pairs], weights: LossWeights) -> Tensor:
    """Compute L_pts, scalar."""
    # Depends on every point, so that a batch without occupied voxels still backpropagates (zeros) into the points.
    voxel_sum = point_sum = 0.0 * torch.stack([pairs.points.sum() for pairs in batch]).sum()
    voxel_count = point_count = 0.0
    for pairs in batch:
        if pairs.point_of is None or pairs.voxel_of is None:
            continue
        target = pairs.target
        nearest_points = pairs.points[pairs.point_of]  # [V, 3] m
        with torch.no_grad():
            rare = torch.isin(target.labels, target.labels.new_tensor(weights.rare_classes))
            far = torch.linalg.vector_norm(target.centres - nearest_points, dim=1) > weights.far_distance
            voxel_weight = torch.where(target.visible & far, weights.far, 1.0)  # [V]
            voxel_weight = torch.where(target.visible & rare, voxel_weight.clamp(min=weights.rare), voxel_weight)
        by_voxel, by_point = (_shares(of, weights.density_aware) for of in (pairs.point_of, pairs.voxel_of))
        voxel_sum = (
            voxel_sum + (by_voxel * voxel_weight * _smooth_l1(nearest_points, target.centres, weights.beta)).sum()
        )
        point_sum = (
            point_sum + (by_point * _smooth_l1(pairs.points, target.centres[pairs.voxel_of], weights.beta)).sum()
        )
        voxel_count += by_voxel.sum()
        point_count += by_point.sum()
    return weights.points * (voxel_sum / (voxel_count + _EPS) + point_sum / (point_count + _EPS))


def _shares(chosen: Tensor, density_aware: bool) -> Tensor:
    """Returns float32 [N] of neighbour indices int64 [N]: ones, or 1 / the number of equal indices if density-aware."""
    if not density_aware:
        return torch.ones(len(chosen), device=chosen.device)
    return 1.0 / chosen.bincount()[chosen]


def _class_loss(logits: Tensor, batch: list[_Pairs], weights: LossWeights) -> Tensor:
    """Compute L_cls, scalar, of logits [B, Q, R, 17]."""
    labels, range_weights = [], []
    for pairs in batch:
        if pairs.voxel_of is None:
            labels.append(torch.full((len(pairs.points),), FREE, device=logits.device))
            range_weights.append(torch.ones(len(pairs.points), device=logits.device))
        else:
            labels.append(pairs.target.labels[pairs.voxel_of])
            range_m = torch.linalg.vector_norm(pairs.target.centres[pairs.voxel_of, :2], dim=1)
            range_weights.append(1 + range_m / weights.range_scale)
    x = logits.float().flatten(0, 2)
    per_point = _focal(x, torch.cat(labels), weights) * torch.cat(range_weights)
    return weights.classification * per_point.sum() / (len(x) + _EPS)


def _voxel_class_loss(voxels: DensifiedVoxels, targets: Sequence[OccupancyTargets], weights: LossWeights) -> Tensor:
    """Compute L_cls of OPUS-V2, scalar; ignored voxels are excluded."""
    dense = [target.semantics for target in targets if target.semantics is not None]
    if len(dense) != len(targets):
        raise InvalidInput("targets", "hold no dense labels: make them with OccupancyTargets.from_dense")
    labels = torch.stack(dense)[voxels.indices.unbind(1)].long()
    known = labels != IGNORED
    labels = labels[known]
    per_voxel = _focal(voxels.logits.float()[known], labels, weights)
    return weights.classification * per_voxel.sum() / (labels < FREE).sum().clamp(min=1)


def _focal(x: Tensor, labels: Tensor, weights: LossWeights) -> Tensor:
    """Compute the sigmoid focal loss of logits [N, 17] and labels [N]: float32 [N], weighted sum over the channels."""
    positive = F.one_hot(labels, NUM_CLASSES + 1)[:, :NUM_CLASSES].to(x.dtype)
    p = x.sigmoid()
    one_minus_p_t = positive * (1 - p) + (1 - positive) * p
    alpha_t = positive * weights.alpha + (1 - positive) * (1 - weights.alpha)
    # Cross entropy from the logits, because log(sigmoid) of a confident mistake would be -inf.
    focal = alpha_t * one_minus_p_t**weights.gamma * F.binary_cross_entropy_with_logits(x, positive, reduction="none")
    return (focal * x.new_tensor(weights.channels)).sum(1)


def _smooth_l1(a: Tensor, b: Tensor, beta: float) -> Tensor:
    """Compute smooth L1 in metres of [N, 3], summed over x, y, z: [N]."""
    return F.smooth_l1_loss(a, b, beta=beta, reduction="none").sum(1)


def _kind(array: Tensor | np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _checked_points(name: str, points: Tensor) -> Tensor:
    """Returns float32 [N, 3] without gradient. Raises InvalidInput(name) unless [N, 3] and finite."""
    if points.ndim != 2 or points.shape[1] != 3:
        raise InvalidInput(name, f"want [N, 3], got {list(points.shape)}")
    if not bool(points.isfinite().all()):
        raise InvalidInput(name, "holds a number that is not finite")
    return points.detach().float()


def _check(name: str, value: Tensor, shape: tuple[int, int | None, int]) -> None:
    """Raises InvalidInput unless `value` is finite, not empty and [B, Q, R, C] with (B, R, C) = shape (None = any)."""
    fits = value.ndim == 4 and all(
        w in (None, g) for w, g in zip(shape, (value.shape[i] for i in (0, 2, 3)), strict=True)
    )
    if not fits or not value.numel():
        b, r, c = ("any" if w is None else w for w in shape)
        raise InvalidInput(name, f"want [{b}, any, {r}, {c}] with at least one point, got {list(value.shape)}")
    if not bool(value.isfinite().all()):
        raise InvalidInput(name, "holds a number that is not finite")
