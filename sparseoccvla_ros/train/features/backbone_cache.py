"""Cached output of the frozen first blocks of the backbone on world scenes, quantised to eight bits.

Stem and first blocks keep their ImageNet weights and account for 60 % of the backbone's forward pass. Their output is
smaller than the images (28 kB for a 128 x 352 image, 40 to 90 kB as PNG), so training from it saves reading,
augmentation and most of the convolutions. Augmentation is applied before caching, `variants` times per frame set:
every second variant is mirrored, and most have photometric augmentation. Labels are cached too: class and depth of the
image cells (perspective_head.py) and the voxels visible to a camera.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.classes import FREE
from ...core.paths import cache_folder
from ...core.voxels import OCC3D_GRID
from ...data.dataset import Sample, mirrored, photometric_distortion
from ...data.synthetic.dataset import world_sample
from ...data.synthetic.scenes import WorldScene, WorldSettings, load_scene
from ...occupancy.encoder import OccupancyEncoder, padded_size
from ..perspective_head import cell_targets
from .synthetic import write_arrays

FORMAT_VERSION = 1
_LEVELS = 255


@dataclass(frozen=True)
class Variants:
    """Augmentation of cached frame sets: `count` variants drawn from `seed`, every second one mirrored.

    photograph: probability of photometric augmentation. count 0, for validation: one variant without augmentation.
    """

    count: int = 2
    photograph: float = 0.8
    seed: int = 1

    def draw(self, clip: Sequence[Sample], seed: int, number: int, variant: int) -> list[Sample]:
        """Returns one variant of the frame sets of a clip (number `number` of scene `seed`), augmented alike."""
        if not self.count:
            return list(clip)
        rng = np.random.default_rng([self.seed, seed, number, variant])
        if rng.random() < self.photograph:
            whole = replace(clip[0], images=np.concatenate([s.images for s in clip]))
            images = photometric_distortion(whole, rng).images
            clip = [replace(s, images=images[i : i + 1]) for i, s in enumerate(clip)]
        return [mirrored(s) for s in clip] if variant % 2 else list(clip)


@dataclass(frozen=True)
class BackboneCache:
    """Cache of the features after an encoder's first `blocks` blocks.

    Files are named by seed, in a folder named by a hash of everything they depend on: the frozen weights, the dtype
    and normalisation, the world's settings, and the augmentation.
    """

    encoder: OccupancyEncoder
    world: WorldSettings
    blocks: int
    variants: Variants = field(default_factory=Variants)

    @cached_property
    def key(self) -> str:
        """Name of the folder."""
        config = self.encoder.config
        digest = hashlib.sha256()
        for name, value in self.encoder.backbone.state_dict().items():
            if name.startswith("stem") or (name.startswith("blocks.") and int(name.split(".")[1]) < self.blocks):
                digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        text = json.dumps([
            FORMAT_VERSION, self.world.key, self.blocks, asdict(self.variants), config.backbone, config.backbone_dtype,
            config.image_mean, config.image_std, config.strides, digest.hexdigest(),
        ])  # fmt: skip
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def file(self, seed: int) -> Path:
        """Returns the feature file of a scene."""
        return cache_folder() / "backbone" / self.key / f"{seed:08d}.safetensors"

    def make(self, seed: int) -> None:
        """Write the features of a scene; renders it if it is not cached."""
        write_arrays(self.file(seed), self.arrays(load_scene(seed, self.world)), {"seed": str(seed)})

    def arrays(self, scene: WorldScene) -> dict[str, np.ndarray]:
        """Computes the arrays of a scene: V variants, S frame sets (clip by clip, oldest first), N cameras.

        part{i}: uint8 [V, S, N, h, w, C], i-th part of EfficientNetLite.early, dequantised as low + step * part with
        low{i}, step{i}: float32 [V, S, N, C]. cell_class: uint8, cell_depth: float16 m, both [V, S, N, h, w].
        ego2img: float64 [V, S, N, 4, 4], base_link at the set's time to pixels; pose: float64 [V, S, 4, 4] ego2map (of
        a mirrored map in mirrored variants). voxel: int32 flat grid indices of the occupied visible voxels, label:
        uint8, both concatenated over the sets and not mirrored; end: int64 [S], the end of each set in them.
        """
        settings, out = scene.settings, {}
        rows: list[dict[str, np.ndarray]] = []
        sets = [world_sample(scene, i, 1) for i in range(len(scene.time))]
        for variant in range(max(1, self.variants.count)):
            for number in range(settings.clips):
                clip = sets[number * settings.sets : (number + 1) * settings.sets]
                drawn = self.variants.draw(clip, scene.seed, number, variant)
                rows += [self._row(sample) for sample in drawn]
        leading = (max(1, self.variants.count), len(sets))
        for name in rows[0]:
            stacked = np.stack([row[name] for row in rows])
            out[name] = stacked.reshape(leading + stacked.shape[1:])
        pose = np.stack([scene.pose, _MIRROR @ scene.pose @ _MIRROR])
        out["pose"] = pose[np.arange(leading[0]) % 2]
        voxels = [np.flatnonzero((s.semantics < FREE) & s.visible).astype(np.int32) for s in sets]
        out["voxel"] = np.concatenate(voxels)
        out["label"] = np.concatenate([s.semantics.ravel()[v] for s, v in zip(sets, voxels, strict=True)])
        out["end"] = np.cumsum([len(v) for v in voxels])
        return out

    def _row(self, sample: Sample) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(sample.images[0]))
            parts = self.encoder.early_features(images, self.blocks)
        out: dict[str, np.ndarray] = {"ego2img": sample.ego2img[0].astype(np.float64)}
        for index, part in enumerate(parts):
            packed = pack(part)
            out |= {f"{name}{index}": v.numpy() for name, v in zip(("part", "low", "step"), packed, strict=True)}
        stride = self.encoder.config.strides[0]
        size = tuple(s // stride for s in padded_size(sample.images.shape[2:4]))
        index = np.argwhere((sample.semantics < FREE) & sample.visible)
        classes, depths = cell_targets(
            OCC3D_GRID.centre_of(index).astype(np.float64), sample.semantics[tuple(index.T)], out["ego2img"], size,
            stride, OCC3D_GRID.size,
        )  # fmt: skip
        return out | {"cell_class": classes, "cell_depth": depths.astype(np.float16)}


_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


def pack(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise per image and channel to 8 bits: float32 [M, C, h, w] to uint8 [M, h, w, C], low and step [M, C]."""
    low, high = part.amin((2, 3), keepdim=True), part.amax((2, 3), keepdim=True)
    step = (high - low).clamp(min=1e-6) / _LEVELS
    bits = ((part - low) / step).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return bits, low[..., 0, 0].contiguous(), step[..., 0, 0].contiguous()


def unpack(bits: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """Dequantise the output of `pack` to float32 [M, C, h, w], channels last."""
    values = torch.addcmul(low[:, None, None], bits.float(), step[:, None, None])
    return values.permute(0, 3, 1, 2)
