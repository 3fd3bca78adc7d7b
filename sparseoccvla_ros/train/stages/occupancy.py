"""Stage 1: training of the occupancy encoder (paper stage "occupancy pretraining")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from ...core.classes import CLASSES, FLAT, FREE
from ...core.errors import InvalidInput
from ...core.types import EgoState, SceneQueries
from ...core.voxels import SparseVoxels
from ...data.dataset import DrivingSamples, Sample
from ...eval.metrics.occupancy import OccupancyMeter
from ...occupancy import checkpoints
from ...occupancy.backbone import EfficientNetLite, ResNet50
from ...occupancy.decoder import LayerOutput
from ...occupancy.encoder import OccupancyEncoder, padded_size
from ...occupancy.losses import IGNORED, LossWeights, OccupancyTargets, occupancy_loss
from ...occupancy.postprocess import occupied_voxels
from ...occupancy.sampling.views import SceneViews
from ..perspective_head import PerspectiveHeads, cell_losses, cell_targets
from ..task import Stage, Validation
from ..visualize import occupancy_picture

THRESHOLDS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Score thresholds tried in validation; the best one should be set in the preset's config."""
_CLUSTERED_SAMPLES, _PICTURED = 60, 3
_NOWHERE = EgoState(np.eye(4), np.zeros(6), "map")


@dataclass(frozen=True)
class OccupancyStageSettings:
    """Settings of stage 1.

    truth: "visible" trains on voxels visible to a camera, "all" on every occupied voxel, as OPUS does. A preset with
    few points needs "visible": hidden voxels outnumber visible ones by five to one and would take most points. frozen:
    number of backbone blocks frozen along with the stem (-1: whole backbone, 0: nothing). Batch norm always uses stored
    statistics. history_gradient: backpropagate into the image features of past frames; without it these take a third of
    the time and only present features are trained. initial_points: "data" initialises the queries at k-means centres of
    the voxels to learn, "random" keeps the network's initialisation. depthwise: train the backbone's depthwise kernels;
    with them frozen, a step on a CPU takes half the time (see occupancy/depthwise_grad.py).
    perspective: weight of the dense loss on image features (train/perspective_head.py), 0 for none.
    """

    truth: str = "visible"
    frozen: int = 3
    history_gradient: bool = False
    initial_points: str = "data"
    depthwise: bool = True
    perspective: float = 1.0

    def __post_init__(self) -> None:
        if self.truth not in ("visible", "all"):
            raise InvalidInput("truth", f"want visible or all, got {self.truth!r}")
        if self.initial_points not in ("data", "random"):
            raise InvalidInput("initial_points", f"want data or random, got {self.initial_points!r}")
        if self.frozen < -1:
            raise InvalidInput("frozen", f"want -1 or a number of blocks, got {self.frozen}")


@dataclass(frozen=True, eq=False)
class OccupancyBatch:
    """Batch of stage 1. images uint8 [B, T, N, H, W, 3]; ego2img float32 [B, T, N, 4, 4]; targets: B of them; cells:
    class uint8 and depth float32 m [B * N, h, w] of the finest feature cells of the present images
    (train/perspective_head.py); samples: for validation.
    """

    images: Tensor
    ego2img: Tensor
    targets: list[OccupancyTargets]
    cells: tuple[Tensor, Tensor]
    samples: tuple[Sample, ...]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the padded images."""
        return padded_size(tuple(self.images.shape[3:5]))


class OccupancyStage(Stage[OccupancyBatch]):
    """Trains an OccupancyEncoder with the set losses of OPUS on every decoder layer."""

    name = "occupancy"

    def __init__(
        self,
        encoder: OccupancyEncoder,
        settings: OccupancyStageSettings | None = None,
        weights: LossWeights | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)
        self.settings = settings or OccupancyStageSettings()
        self.weights = weights or LossWeights()
        perspective, proposes = self.settings.perspective, encoder.decoder.proposals is not None
        if proposes and not perspective:
            raise InvalidInput("perspective", "image queries start where that loss teaches them to: want more than 0")
        self.heads = (
            PerspectiveHeads(encoder.config.embed_dims, encoder.config.depth_bins)
            if perspective and not proposes
            else None
        )
        freeze_backbone(encoder.backbone, self.settings.frozen, self.settings.depthwise)

    def begin(self, data: DrivingSamples, seed: int) -> None:
        """Initialise the queries' points at k-means centres of the voxels to learn."""
        if self.settings.initial_points == "random":
            return
        rng = np.random.default_rng([seed, 23])
        # Image queries cover standing objects; the learned queries cover the ground.
        wanted = FLAT if self.encoder.decoder.proposals is not None else range(FREE)
        grid, weight = self.encoder.grid, self.encoder.decoder.init_points.weight
        parts = []
        for index in rng.permutation(len(data))[:_CLUSTERED_SAMPLES]:
            for centres, labels in self._truth(data[int(index)]):
                parts.append(rng.permutation(centres[np.isin(labels, wanted)])[: 16 * len(weight)])
        centres = np.concatenate(parts).astype(np.float64)
        if len(centres) < len(weight):
            return
        lower, extent = np.array(grid.lower), np.subtract(grid.upper, grid.lower)
        chosen = centres[rng.permutation(len(centres))[:50_000]]
        clusters, _ = kmeans2(chosen, len(weight), iter=12, minit="++", rng=rng, missing="warn")
        with torch.no_grad():
            weight.copy_(torch.from_numpy((clusters - lower) / extent))

    def _truth(self, sample: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns centres [V, 3] m and labels [V] of the voxels to learn, per instant in an item of the data."""
        learned = self._learned(sample)
        index = np.argwhere(learned < FREE)
        return [(self.encoder.grid.centre_of(index), learned[tuple(index.T)])]

    def _learned(self, sample: Sample) -> np.ndarray:
        """Returns the labels uint8 [X, Y, Z] to learn, 255 where ignored."""
        if self.settings.truth == "all":
            return sample.semantics
        return np.where(sample.visible, sample.semantics, IGNORED).astype(np.uint8)

    def collate(self, samples: Sequence[Sample]) -> OccupancyBatch:
        """Stack images and collect the voxels to learn."""
        grid = self.encoder.grid
        targets, cells = [], []
        stride = self.encoder.config.strides[0]
        for sample in samples:
            target = OccupancyTargets.from_dense(self._learned(sample), sample.visible, grid)
            if len(target):
                _ = target.neighbours  # cached here, in a loader thread
            targets.append(target)
            seen = target.visible.numpy()
            size = tuple(s // stride for s in padded_size(sample.images.shape[2:4]))
            cells.append(
                cell_targets(
                    target.centres.numpy()[seen].astype(np.float64), target.labels.numpy()[seen],
                    sample.ego2img[0].astype(np.float64), size, stride, grid.size,
                )
            )  # fmt: skip
        images = torch.from_numpy(np.stack([s.images for s in samples]))
        ego2img = torch.from_numpy(np.stack([s.ego2img for s in samples]).astype(np.float32))
        classes, depths = (torch.from_numpy(np.concatenate(c)) for c in zip(*cells, strict=True))
        return OccupancyBatch(images, ego2img, targets, (classes, depths), tuple(samples))

    def move(self, batch: OccupancyBatch, device: torch.device) -> OccupancyBatch:
        """Move the tensors; samples stay on the CPU, they are for validation only."""
        if device.type == "cpu":
            return batch
        targets = [t.to(device) for t in batch.targets]
        return replace(
            batch,
            images=batch.images.to(device, non_blocking=True),
            ego2img=batch.ego2img.to(device, non_blocking=True),
            targets=targets,
            cells=tuple(c.to(device) for c in batch.cells),
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns feature levels [B * T * N, C, h, w] of images uint8 [B, T, N, H, W, 3]; those of past frames carry no
        gradient unless settings.history_gradient."""
        b, t, n = images.shape[:3]
        if t != self.encoder.config.frames:
            raise InvalidInput("images", f"want {self.encoder.config.frames} frames, got {t}")
        if self.settings.history_gradient or not torch.is_grad_enabled() or t == 1:
            return self.encoder.image_features(images.flatten(0, 2))
        now = self.encoder.image_features(images[:, 0].flatten(0, 1))
        with torch.no_grad():
            past = self.encoder.image_features(images[:, 1:].flatten(0, 2))
        return [
            torch.cat([p.view(b, 1, n, *p.shape[1:]), q.view(b, t - 1, n, *q.shape[1:])], 1).flatten(0, 2)
            for p, q in zip(now, past, strict=True)
        ]

    def scene(self, levels: list[Tensor], batch: OccupancyBatch) -> SceneViews:
        """Returns the decoder's input from a batch's image features; cameras with a zero ego2img are unusable."""
        usable = (batch.ego2img != 0).flatten(3).any(3)
        return SceneViews.of_levels(levels, batch.ego2img, usable, batch.image_size)

    def levels(self, batch: OccupancyBatch) -> list[Tensor]:
        """Returns feature levels [B * T * N, C, h, w] of a training batch."""
        return self.features(batch.images)

    def forward(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        levels = self.levels(batch)
        terms, _, cells = self.losses(levels, batch)
        if self.heads is not None:
            b, t, n = batch.ego2img.shape[:3]
            cells = self.heads(levels[0].view(b, t, n, *levels[0].shape[1:])[:, 0].flatten(0, 1))
        if cells is not None:
            terms |= {k: self.settings.perspective * v for k, v in cell_losses(cells, *batch.cells).items()}
        return terms

    def losses(
        self, levels: list[Tensor], batch: OccupancyBatch
    ) -> tuple[dict[str, Tensor], list[LayerOutput], Tensor | None]:
        """Returns the decoder's loss terms, every layer's output, and the proposals' cell logits or None."""
        decoder, scene = self.encoder.decoder, self.scene(levels, batch)
        with torch.autocast(scene.ego2img.device.type, enabled=False):
            points, query, proposals = decoder.start(scene)
            outputs = decoder.refine(points, query, scene, every_layer=True)
        voxels = None
        if self.encoder.densifiers is not None:
            voxels = [self.encoder.densify(output, layer) for layer, output in enumerate(outputs)]
        terms = occupancy_loss(outputs, points, batch.targets, self.encoder.grid, self.weights, voxels)
        return terms, outputs, None if proposals is None else proposals.cells

    def parameter_groups(self, learning_rate: float, backbone_lr_scale: float) -> list[dict[str, Any]]:
        """Lower learning rate for backbone and sampling offsets; no weight decay for vectors and initial points."""
        return parameter_groups(self, learning_rate, backbone_lr_scale)

    def validate(self, batches: Iterable[OccupancyBatch]) -> Validation:
        """Voxel mIoU and IoU in visible voxels, with the node's post-processing, at the best of THRESHOLDS."""
        meters = {t: OccupancyMeter() for t in THRESHOLDS}
        losses: list[float] = []
        first: list[tuple[Sample, LayerOutput]] = []
        with torch.inference_mode():
            for batch in batches:
                terms, outputs, _ = self.losses(self.features(batch.images), batch)
                losses.append(float(torch.stack(list(terms.values())).sum()))
                for k, sample in enumerate(batch.samples):
                    semantics = np.ascontiguousarray(sample.semantics)
                    last = LayerOutput(*(None if v is None else v[k : k + 1] for v in vars(outputs[-1]).values()))
                    for threshold, meter in meters.items():
                        meter.update(self.voxels(last, threshold)[0].dense(), semantics, sample.visible)
                    if len(first) < _PICTURED:
                        first.append((sample, last))
        results = {t: m.result() for t, m in meters.items()}
        threshold, scores = max(results.items(), key=lambda r: r[1].miou)
        numbers = {"miou": scores.miou, "iou": scores.iou, "loss": float(np.mean(losses)), "threshold": threshold}
        numbers |= {f"miou_at_{t}": r.miou for t, r in results.items()} | {"samples": scores.frames}
        numbers |= {f"iou_{name}": float(v) for name, v in zip(CLASSES, scores.per_class, strict=False)}
        shown = [(sample, self.voxels(last, threshold)[0]) for sample, last in first]
        return Validation(scores.miou, numbers, occupancy_picture(shown))

    def voxels(self, last: LayerOutput, threshold: float | None = None) -> list[SparseVoxels]:
        """Returns the node's output voxels per batch element, from the last layer; threshold: the preset's if None."""
        config = self.encoder.config if threshold is None else self.encoder.config.replace(score_threshold=threshold)
        if last.logits is None:
            dense = self.encoder.densify(last)
            return [dense.occupied(k, config.score_threshold, self.encoder.grid) for k in range(len(last.points))]
        points = self.encoder.decoder.to_metres(last.points.float())
        best, labels = last.logits.float().max(-1)
        scores, labels = best.sigmoid().cpu().numpy(), labels.to(torch.uint8).cpu().numpy()
        out = []
        for p, s, c in zip(points.cpu().numpy(), scores, labels, strict=True):
            empty = np.zeros((len(p), 1), np.float32)
            queries = SceneQueries(0, 0, _NOWHERE, empty, p.mean(1), p, c, s, empty)
            out.append(occupied_voxels(queries, self.encoder.grid, config))
        return out

    def export(self, path: Path) -> None:
        """Write a file for the preset's `weights.occupancy`."""
        checkpoints.save(self.encoder, path)


def parameter_groups(stage: nn.Module, learning_rate: float, backbone_lr_scale: float) -> list[dict[str, Any]]:
    """Returns optimizer groups of a stage's trainable parameters, see OccupancyStage.parameter_groups."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad:
            is_scaled = name.startswith("encoder.backbone.") or "sampling_offset" in name
            decays = parameter.ndim > 1 and "init_points" not in name
            groups.setdefault((is_scaled, decays), []).append(parameter)
    return [
        {
            "params": found,
            "lr": learning_rate * (backbone_lr_scale if is_scaled else 1.0),
            **({} if decays else {"weight_decay": 0.0}),
        }
        for (is_scaled, decays), found in sorted(groups.items(), key=lambda g: g[0])
    ]


def freeze_backbone(backbone: EfficientNetLite | ResNet50, blocks: int, depthwise: bool) -> None:
    """Freeze the stem and the first blocks, and unless `depthwise` all depthwise kernels."""
    for part in _first_parts(backbone, blocks):
        part.requires_grad_(False)
    if depthwise:
        return
    for part in backbone.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            part.requires_grad_(False)
    for name, parameter in backbone.named_parameters():
        # The norm's scale is folded into the kernel before it.
        if name.endswith("depthwise_norm.weight"):
            parameter.requires_grad_(False)


def _first_parts(backbone: EfficientNetLite | ResNet50, count: int) -> list[nn.Module]:
    """Returns the stem and the first `count` blocks of a backbone; nothing for 0, the whole backbone for -1."""
    if count == 0:
        return []
    if count == -1:
        return [backbone]
    if isinstance(backbone, EfficientNetLite):
        return [backbone.stem, backbone.stem_norm, *backbone.blocks[:count]]
    blocks = [b for k in range(1, 5) for b in getattr(backbone, f"layer{k}")]
    return [backbone.conv1, backbone.bn1, *blocks[:count]]
