"""Fitting the voxel head to a frozen encoder: the ranking of blocks, the classes of their voxels, their context.

For the first two, the head's inputs are computed by the encoder and kept in memory (about 1 MB per sample). The context
network sees whole scenes, every sample once.
Use scenes that the encoder was not trained on: on its training scenes the image cells are more confident than on new
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.classes import CLASSES, FLAT, FREE, LABEL
from ..core.errors import InvalidInput
from ..data.dataset import DrivingSamples, Sample
from ..eval.metrics.occupancy import OccupancyMeter, OccupancyScores
from ..occupancy.decoder import LayerOutput
from ..occupancy.encoder import OccupancyEncoder, padded_size
from ..occupancy.heads.voxel_head import Candidates, VoxelHead
from ..occupancy.image_queries import ViewProposals
from ..occupancy.sampling.views import SceneViews

HIDDEN_WEIGHT = 0.2
"""Weight of voxels that no camera sees: the metric ignores them, but planner and viewer use them."""
HIDDEN_TARGET = 0.1
"""Target probability in the ranking of blocks whose occupied voxels are all hidden from the cameras."""
THING_WEIGHT, SCENERY_WEIGHT = 11.0, 4.0
"""Weights in the ranking of blocks with visible objects, or visible walls and plants; ground has 1."""
OFFSETS = (-0.6, -0.3, 0.3, 0.6)
GROUPS = {
    "free": (FREE,),
    "things": tuple(range(FLAT[0])),
    "cars": (LABEL["car"],),
    "people": (LABEL["pedestrian"],),
    "cones": (LABEL["traffic_cone"],),
    "walls": (LABEL["manmade"],),
    "plants": (LABEL["vegetation"],),
}
"""Classes whose logits are shifted together in calibration, in this order."""
IOU_WEIGHT = 0.4
"""Weight of IoU, beside mIoU, in calibration: mIoU alone makes walls a metre thick."""
_CONTEXT_RATE = 1e-3
"""Peak learning rate of the context."""
T = TypeVar("T")


@dataclass(frozen=True)
class VoxelHeadSettings:
    """Settings of the fit.

    rank_samples: samples for the ranking; rank_steps, steps: optimiser steps for the ranking and for the classes;
    blocks: candidate blocks kept per sample; batch_size: blocks per step; learning_rate: its peak; class_power: voxels
    of a class are weighted by (share of the class) ** -class_power.
    """

    rank_samples: int = 120
    rank_steps: int = 1_500
    steps: int = 6_000
    blocks: int = 1_500
    batch_size: int = 1_024
    learning_rate: float = 3e-3
    class_power: float = 0.35


@torch.inference_mode()
def _applied(
    encoder: OccupancyEncoder, sample: Sample, part: Callable[[SceneViews, ViewProposals, LayerOutput], T]
) -> T:
    """Returns the result of a part of the voxel head, or of all of it, for one sample."""
    assert encoder.decoder.proposals is not None
    images = torch.from_numpy(sample.images)
    t, n, h, w, _ = images.shape
    levels = encoder.image_features(images.flatten(0, 1))
    usable = torch.ones((1, t, n), dtype=torch.bool)
    ego2img = torch.from_numpy(sample.ego2img.astype(np.float32))[None]
    scene = SceneViews.of_levels(levels, ego2img, usable, padded_size((h, w)))
    return part(scene, encoder.decoder.proposals, encoder.decode(scene)[-1])


def fit_voxel_head(
    encoder: OccupancyEncoder,
    data: DrivingSamples,
    settings: VoxelHeadSettings | None = None,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> None:
    """Fit `encoder.voxel_head` on samples; the rest of the encoder is not changed.

    Deterministic per machine for the same data and seed. Raises InvalidInput("voxel_head", ...) for an encoder without
    a voxel head, or without samples.
    """
    head, settings = encoder.voxel_head, settings or VoxelHeadSettings()
    if head is None or not len(data):
        raise InvalidInput("voxel_head", "the encoder has none" if head is None else "there are no samples")
    encoder.eval()
    order = np.random.default_rng([seed, 31]).permutation(len(data))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        head.reset_parameters()
    _fit_rank(encoder, head, data, order[: settings.rank_samples], settings, generator, report)
    class_weight = _fit_classes(encoder, head, data, order, settings, generator, report)
    _fit_context(encoder, head, data, order, class_weight, report)


def calibrate_voxel_head(
    encoder: OccupancyEncoder, data: Iterable[Sample], rounds: int = 4, report: Callable[[str], None] = print
) -> OccupancyScores:
    """Shift the logits of `GROUPS` to maximise the scores on validation samples; returns these scores.

    The objective is mIoU plus IOU_WEIGHT times IoU. The fit weights rare classes up, so its probabilities are biased;
    the offsets correct that.
    """
    head = encoder.voxel_head
    assert head is not None
    found: list[tuple[np.ndarray, Tensor, Sample]] = []
    for sample in data:
        index, logits = _applied(encoder, sample, head)
        found.append((index.numpy(), logits.half(), sample))

    def scores(shift: Tensor) -> OccupancyScores:
        meter = OccupancyMeter()
        for index, logits, sample in found:
            dense = np.full(sample.semantics.size, FREE, np.uint8)
            dense[index] = (logits + shift).argmax(1).numpy().astype(np.uint8)
            meter.update(dense.reshape(sample.semantics.shape), np.ascontiguousarray(sample.semantics), sample.visible)
        return meter.result()

    shift = torch.zeros(FREE + 1)
    best = scores(shift)
    for _ in range(rounds):
        before = best
        for name, classes in GROUPS.items():
            for offset in OFFSETS:
                tried = shift.clone()
                tried[list(classes)] += offset
                result = scores(tried)
                if _worth(result) > _worth(best):
                    best, shift = result, tried
                    report(f"{name} {offset:+.1f}: mIoU {100 * result.miou:.2f} IoU {100 * result.iou:.2f}")
        if best is before:
            break
    with torch.no_grad():
        head.out.bias += shift
    report(" ".join(f"{n} {100 * v:.1f}" for n, v in zip(CLASSES, best.per_class, strict=False)))
    return best


def _worth(scores: OccupancyScores) -> float:
    return scores.miou + IOU_WEIGHT * scores.iou


def _fit_rank(
    encoder: OccupancyEncoder, head: VoxelHead, data: DrivingSamples, order: np.ndarray, settings: VoxelHeadSettings,
    generator: torch.Generator, report: Callable[[str], None],
) -> None:  # fmt: skip
    """Fit the ranking: which blocks contain visible occupied voxels, with the highest weight on objects."""
    rows, targets, weights = [], [], []
    for place in order:
        sample = data[int(place)]
        blocks = _applied(encoder, sample, head.ranked)
        visible, importance, hidden = _block_truth(head, sample)
        keep = torch.rand(len(visible), generator=generator) < 0.08
        keep |= (torch.rand(len(visible), generator=generator) < 0.5) & visible
        rows.append(blocks[keep].half())
        targets.append((visible.float() + HIDDEN_TARGET * (hidden & ~visible).float())[keep])
        # Visible blocks are kept at about 0.5, others at 0.08; this weight restores the grid's proportions.
        weights.append(torch.where(visible, importance, 0.5 / 0.08)[keep])
    x, y, w = torch.cat(rows), torch.cat(targets), torch.cat(weights)
    report(f"ranking: {len(x):,} blocks of {len(order)} samples")

    def loss(at: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(head.rank(x[at].float())[:, 0], y[at], w[at])

    learned = list(head.rank.parameters())
    _descend(learned, loss, len(x), 8_192, settings.rank_steps, settings.learning_rate, generator, report)


def _fit_classes(
    encoder: OccupancyEncoder, head: VoxelHead, data: DrivingSamples, order: np.ndarray, settings: VoxelHeadSettings,
    generator: torch.Generator, report: Callable[[str], None],
) -> Tensor:  # fmt: skip
    """Fit the classes of voxels by themselves; returns the classes' weights in the loss, float32 [18]."""
    cells, block, label, target, weight = _extract(encoder, head, data, order, settings.blocks, generator)
    counts = torch.bincount(target.flatten().long(), weight.flatten().float(), FREE + 1)
    share = (counts.sum() / counts.clamp(min=100)).pow(settings.class_power)
    class_weight = (share / share[FLAT[0]]).clamp(max=6.0)
    report(f"classes: {target.numel():,} voxels of {len(order)} samples")

    def loss(at: Tensor) -> Tensor:
        empty = torch.empty(0)
        found = Candidates(empty, empty, label[at].long(), cells[at].float(), block[at].float())
        return _class_loss(head.out(head.hidden_units(found)), target[at], weight[at].float(), class_weight)

    apart = {*head.rank.parameters(), *head.context.parameters()}
    learned = [p for p in head.parameters() if p not in apart]
    _descend(learned, loss, len(target), settings.batch_size, settings.steps, settings.learning_rate, generator, report)
    return class_weight


def _fit_context(
    encoder: OccupancyEncoder, head: VoxelHead, data: DrivingSamples, order: np.ndarray, class_weight: Tensor,
    report: Callable[[str], None],
) -> None:  # fmt: skip
    """Fit the context, on one sample per step; class_weight: float32 [18], of the classes in the loss."""
    optimizer = torch.optim.AdamW(head.context.parameters(), _CONTEXT_RATE, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _CONTEXT_RATE, total_steps=len(order), pct_start=0.05)
    total, every = 0.0, max(1, len(order) // 8)
    report(f"context: {len(order)} samples")
    for step, place in enumerate(order, 1):
        sample = data[int(place)]
        read = _applied(encoder, sample, head.candidates)
        # Cloned, because tensors of inference mode take no part in training.
        found = Candidates(*(getattr(read, field.name).clone() for field in fields(Candidates)))
        with torch.no_grad():
            hidden = head.hidden_units(found)
            alone = head.out(hidden)
        target, weight = _truth(sample, found)
        logits = alone + head.context(head.context.embedded(hidden), found.number)
        loss = _class_loss(logits, target, weight, class_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if step % every == 0:
            report(f"  step {step}: loss {total / every:.4f}")
            total = 0.0


def _class_loss(logits: Tensor, target: Tensor, weight: Tensor, class_weight: Tensor) -> Tensor:
    """Returns the weighted cross-entropy of logits [K, 8, 18] with uint8 targets and weights [K, 8]."""
    truth, factor = target.flatten().long(), weight.flatten()
    each = F.cross_entropy(logits.flatten(0, 1), truth, class_weight, reduction="none")
    return (each * factor).sum() / (factor * class_weight[truth]).sum()


def _truth(sample: Sample, found: Candidates) -> tuple[Tensor, Tensor]:
    """Returns classes uint8 [K, 8] and weights float32 [K, 8] of candidate voxels."""
    target = torch.from_numpy(sample.semantics.flatten())[found.index]
    seen = torch.from_numpy(sample.visible.flatten())[found.index]
    return target, torch.where(seen, 1.0, HIDDEN_WEIGHT)


def _extract(
    encoder: OccupancyEncoder, head: VoxelHead, data: DrivingSamples, order: np.ndarray, blocks: int,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns inputs and labels of `blocks` candidate blocks per sample: those with objects first, then random ones.

    Cells, block and label as in Candidates [M, ...], the first two in half precision; targets and weights [M, 8].
    """
    parts: list[tuple[Tensor, ...]] = []
    for place in order:
        sample = data[int(place)]
        found = _applied(encoder, sample, head.candidates)
        target, weight = _truth(sample, found)
        thing = ((target < FLAT[0]) & (weight == 1.0)).any(1)
        keep = (torch.rand(len(target), generator=generator) + thing.float()).topk(blocks).indices
        parts.append((
            found.cells[keep].half(), found.block[keep].half(), found.label[keep].to(torch.uint8),
            target[keep].to(torch.uint8), weight[keep].half(),
        ))  # fmt: skip
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _block_truth(head: VoxelHead, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
    """Returns per block: whether it contains a visible occupied voxel, its weight in the ranking (float32), and
    whether it contains a hidden occupied voxel."""
    semantics, (x, y, z) = np.ascontiguousarray(sample.semantics), head.blocks

    def any_of(mask: np.ndarray) -> Tensor:
        return torch.from_numpy(mask.reshape(x, 2, y, 2, z, 2).any((1, 3, 5)).reshape(-1))

    seen = sample.visible & (semantics < FREE)
    importance = torch.where(any_of(seen & (semantics > FLAT[-1])), SCENERY_WEIGHT, 1.0)
    importance = torch.where(any_of(seen & (semantics < FLAT[0])), THING_WEIGHT, importance)
    return any_of(seen), importance, any_of((semantics < FREE) & ~sample.visible)


def _descend(
    parameters: list[torch.nn.Parameter], loss: Callable[[Tensor], Tensor], rows: int, batch_size: int, steps: int,
    learning_rate: float, generator: torch.Generator, report: Callable[[str], None],
) -> None:  # fmt: skip
    """Minimise `loss` with AdamW and a one-cycle schedule on random batches of rows."""
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    total = 0.0
    for step in range(1, steps + 1):
        value = loss(torch.randint(rows, (batch_size,), generator=generator))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        total += float(value.detach())
        if step % max(1, steps // 5) == 0:
            report(f"  step {step}: loss {total / max(1, steps // 5):.4f}")
            total = 0.0
