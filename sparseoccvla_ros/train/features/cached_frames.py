"""Frame sets of a BackboneCache as a dataset: singly for the image cells, by clip for the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...core.errors import InvalidInput
from ...core.voxels import OCC3D_GRID
from ...occupancy.losses import OccupancyTargets
from .backbone_cache import BackboneCache, unpack


@dataclass(frozen=True)
class FrameSlice:
    """Reference to the cached frame sets start .. stop - 1 of a scene, in one of `variants` variants.

    drive_start: the first one is also used as a sample without history, as at the start of a drive.
    """

    file: Path
    start: int
    stop: int
    variants: int
    variant: int = 0
    drive_start: bool = False

    def drawn(self, rng: np.random.Generator, drive_start: float) -> FrameSlice:
        """Draw one of the variants; drive_start: probability of setting that flag."""
        variant, starts = int(rng.integers(max(1, self.variants))), rng.random() < drive_start
        return replace(self, variant=variant, drive_start=bool(starts))


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Batch of F frame sets of N cameras each.

    parts: (bits, low, step) of F * N images, from `backbone_cache.pack`; classes uint8, depths float32 m
    [F * N, h, w]; ego2img float64 [F, N, 4, 4]; pose float64 [F, 4, 4]; targets: F of them.
    """

    parts: list[tuple[Tensor, Tensor, Tensor]]
    classes: Tensor
    depths: Tensor
    ego2img: np.ndarray
    pose: np.ndarray
    targets: list[OccupancyTargets]

    def to(self, device: torch.device) -> FrameBatch:
        """Returns the batch on another device; matrices stay on the CPU."""
        parts = [tuple(v.to(device, non_blocking=True) for v in part) for part in self.parts]
        return replace(
            self, parts=parts, classes=self.classes.to(device), depths=self.depths.to(device),
            targets=[t.to(device) for t in self.targets],
        )  # fmt: skip

    def early(self) -> list[Tensor]:
        """Returns the unpacked parts, the input of `OccupancyEncoder.late_features`."""
        return [unpack(*part) for part in self.parts]


class CachedFrames:
    """Dataset of the frame sets of cached seeds; `refresh` adds newly cached ones.

    clips: an item is a whole clip, else one frame set.
    """

    def __init__(self, cache: BackboneCache, seeds: Sequence[int], clips: bool) -> None:
        self.cache, self._wanted = cache, list(seeds)
        world = cache.world
        self._length = world.sets if clips else 1
        self._per_scene = world.clips * world.sets // self._length
        self._seeds: list[int] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self._seeds) * self._per_scene

    def __getitem__(self, index: int) -> FrameSlice:
        seed, place = divmod(index, self._per_scene)
        start = place * self._length
        return FrameSlice(
            self.cache.file(self._seeds[seed]), start, start + self._length, self.cache.variants.count
        )  # fmt: skip

    def state(self) -> list[int]:
        """Returns the seeds in use."""
        return list(self._seeds)

    def refresh(self, state: list[int] | None = None) -> None:
        """Add seeds cached in the meantime, or use exactly those of `state`; raises InvalidInput if one is missing."""
        there = [s for s in (self._wanted if state is None else state) if self.cache.file(s).is_file()]
        if state is not None and there != state:
            raise InvalidInput("cache", f"{len(state) - len(there)} scenes of this run are gone from {self.cache.key}")
        self._seeds = there


def read_frames(slices: Sequence[FrameSlice], truth: bool = True) -> FrameBatch:
    """Reads and concatenates the frame sets of all slices; truth: include the voxels.

    Raises InvalidInput("cache") if a file is missing or damaged.
    """
    found = [_read(s, truth) for s in slices]
    names = [n for n in found[0] if n.startswith("part")]
    parts = [
        tuple(
            torch.from_numpy(np.concatenate([_images(f[f"{kind}{i}"]) for f in found]))
            for kind in ("part", "low", "step")
        )
        for i in range(len(names))
    ]
    return FrameBatch(
        parts,
        torch.from_numpy(np.concatenate([_images(f["cell_class"]) for f in found])),
        torch.from_numpy(np.concatenate([_images(f["cell_depth"]) for f in found]).astype(np.float32)),
        np.concatenate([f["ego2img"] for f in found]),
        np.concatenate([f["pose"] for f in found]),
        [t for s, f in zip(slices, found, strict=True) for t in _targets(s, f)] if truth else [],
    )  # fmt: skip


def _images(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *values.shape[2:])


def _read(where: FrameSlice, truth: bool) -> dict[str, np.ndarray]:
    try:
        with safe_open(where.file, framework="numpy") as file:
            out = {
                name: file.get_slice(name)[where.variant, where.start : where.stop]
                for name in file.keys()  # noqa: SIM118
                if name not in ("voxel", "label", "end")
            }
            if truth:
                ends = file.get_tensor("end")
                first = int(ends[where.start - 1]) if where.start else 0
                out["end"] = ends[where.start : where.stop] - first
                for name in ("voxel", "label"):
                    out[name] = file.get_slice(name)[first : int(ends[where.stop - 1])]
    except (OSError, SafetensorError, IndexError) as error:
        raise InvalidInput("cache", f"{where.file} cannot be read ({error}); delete it") from None
    return out


def _targets(where: FrameSlice, arrays: dict[str, np.ndarray]) -> list[OccupancyTargets]:
    index = np.stack(np.unravel_index(arrays["voxel"], OCC3D_GRID.shape), -1)
    if where.variant % 2:
        index[:, 1] = OCC3D_GRID.shape[1] - 1 - index[:, 1]
    centres = torch.from_numpy(OCC3D_GRID.centre_of(index))
    labels = torch.from_numpy(arrays["label"].astype(np.int64))
    out, first = [], 0
    for last in arrays["end"].tolist():
        seen = torch.ones(last - first, dtype=torch.bool)
        out.append(OccupancyTargets(centres[first:last], labels[first:last], seen))
        first = last
    return out
