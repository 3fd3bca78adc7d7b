"""Temporal memory of the encoder: features and ego poses of past frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import geometry
from ..core.types import CameraFrames
from .config import OccupancyConfig
from .sampling.views import SceneViews, level_starts


@dataclass(eq=False)
class _Remembered:
    """Geometry of one frame; usable: bool [N], cameras that may be sampled; derived: see SceneViews."""

    stamp: int
    ego2img: np.ndarray
    pose: np.ndarray
    usable: np.ndarray
    derived: dict[str, Any] = field(default_factory=dict)


class FrameMemory:
    """Ring buffer of feature tables, one slot per frame, with projections from the present base_link to each frame.

    Only the newest frame's features are written; for past frames only the matrices change from step to step:
    ego2img(old frame, present base_link) = ego2img(old) x inv(pose(old)) x pose(present).
    `write` adds a frame, `views` returns the decoder's input. On the next `write`, the present frame enters the history
    if it is at least `history_interval` newer than the newest frame there; otherwise it is overwritten. The first frame
    after a reset fills every slot, as OPUS repeats the present frame at the start of a scene.
    """

    def __init__(self, config: OccupancyConfig) -> None:
        self._frames = config.frames
        self._interval = round(config.history_interval * 1e9)
        self._max_gap = round(config.max_gap * 1e9)
        self._pose_jump = config.pose_jump
        self._table: Tensor | None = None
        self._sizes: tuple[tuple[int, int], ...] = ()
        self._entries: list[_Remembered] = []
        self._slots: list[int] = []
        self._last: CameraFrames | None = None

    def reset(self) -> None:
        """Clear the memory."""
        self._entries, self._slots, self._last = [], [], None

    @property
    def history(self) -> tuple[int, ...]:
        """Stamps (ns) of the frames in memory in order of age, the present one first."""
        return tuple(self._entries[s].stamp for s in self._slots)

    def write(self, frames: CameraFrames, usable: np.ndarray, features: list[Tensor]) -> str:
        """Add the newest frame set.

        usable: bool [N]; features: per level [N, C, H_l, W_l]. Returns why the memory was cleared first, "" if it was
        not: "start" (also a new device), "epoch", "time", "gap", "cameras", "image size", "frame of reference", "pose"
        or "calibration".
        """
        reason = self._break(frames, features)
        entry = _Remembered(frames.stamp, frames.ego2img, frames.ego.pose, usable)
        if reason:
            self._entries = [entry] * self._frames
            self._slots = list(range(self._frames))
        else:
            self._advance()
            self._entries[self._slots[0]] = entry
        table = self._room_for(features)
        starts = level_starts(self._sizes, len(frames.names))
        newest = table[self._slots[0]]
        for level, first, last in zip(features, starts, starts[1:], strict=False):
            maps = level.permute(0, 2, 3, 1)
            newest[first:last].view(maps.shape).copy_(maps)
        for slot in self._slots[1:] if reason else ():
            table[slot] = newest
        self._last = frames
        return reason

    def views(self, image_size: tuple[int, int]) -> SceneViews:
        """Returns the decoder's input for the newest frame, batch size 1; call `write` first."""
        assert self._table is not None
        by_age = [self._entries[slot] for slot in self._slots]
        present = by_age[0].pose
        matrices = [e.ego2img @ geometry.inverse(e.pose) @ present for e in by_age]
        # The given matrix itself, because the product differs by rounding.
        matrices[0] = by_age[0].ego2img
        device = self._table.device
        in_order = self._slots == list(range(self._frames))
        return SceneViews(
            table=self._table[None],
            sizes=self._sizes,
            ego2img=torch.from_numpy(np.stack(matrices)[None].astype(np.float32)).to(device),
            usable=torch.from_numpy(np.stack([e.usable for e in by_age])[None]).to(device),
            image_size=image_size,
            slots=None if in_order else torch.tensor(self._slots, device=device),
            derived=tuple(e.derived for e in by_age),
        )

    def _room_for(self, features: list[Tensor]) -> Tensor:
        """Returns the table [frames, rows, C], reallocated only when its size or device changes."""
        self._sizes = tuple((level.shape[2], level.shape[3]) for level in features)
        first = features[0]
        shape = (self._frames, level_starts(self._sizes, len(first))[-1], first.shape[1])
        if self._table is None or self._table.shape != shape or self._table.device != first.device:
            self._table = first.new_empty(shape)
        return self._table

    def _advance(self) -> None:
        """Move the present frame to the history if it is late enough, reusing the oldest slot for the next frame."""
        if self._frames == 1:
            return
        present, newest = (self._entries[s].stamp for s in self._slots[:2])
        if present - newest >= self._interval:
            self._slots = [self._slots[-1], *self._slots[:-1]]

    def _break(self, frames: CameraFrames, features: list[Tensor]) -> str:
        last = self._last
        if last is None or self._table is None:
            return "start"
        if frames.epoch != last.epoch:
            return "epoch"
        if frames.stamp < last.stamp:
            return "time"
        if frames.stamp - last.stamp > self._max_gap:
            return "gap"
        if frames.names != last.names:
            return "cameras"
        if frames.images.shape != last.images.shape:
            return "image size"
        if frames.ego.fixed_frame != last.ego.fixed_frame:
            return "frame of reference"
        if self._jumped(last, frames):
            return "pose"
        if self._table.device != features[0].device:
            return "start"
        return "calibration" if _recalibrated(last, frames) else ""

    def _jumped(self, before: CameraFrames, after: CameraFrames) -> bool:
        """Returns True if the ego moved further than its speed explains (a relocation)."""
        seconds = 1e-9 * (after.stamp - before.stamp)
        speed = max(float(np.linalg.norm(f.ego.twist[:3])) for f in (before, after))
        moved = float(np.linalg.norm(after.ego.pose[:3, 3] - before.ego.pose[:3, 3]))
        return moved > self._pose_jump + 3.0 * speed * seconds


def _recalibrated(before: CameraFrames, after: CameraFrames) -> bool:
    """Returns True if intrinsics or mount changed for a camera that is valid in both frame sets.

    ego2img includes the vehicle's motion between the stamps of camera and frame set, so a mount appears to move; the
    tolerances (0.5 m and 0.1 rad, plus twice the motion in that time) allow for it. Intrinsics are compared by K K^T,
    which is invariant to motion.
    """
    both = before.valid & after.valid
    old, new = before.ego2img[both, :3], after.ego2img[both, :3]
    old_kk, new_kk = (m[..., :3] @ m[..., :3].swapaxes(1, 2) for m in (old, new))
    if not both.any():
        return False
    if not np.allclose(old_kk, new_kk, rtol=1e-3, atol=1e-3 * float(np.abs(old_kk).max())):
        return True
    try:
        moved = np.linalg.solve(old[..., :3], old[..., 3:]) - np.linalg.solve(new[..., :3], new[..., 3:])
    except np.linalg.LinAlgError:
        return True
    offsets = np.abs(before.stamps - before.stamp) + np.abs(after.stamps - after.stamp)
    seconds = 2e-9 * offsets[both]
    twist = np.maximum(np.abs(before.ego.twist), np.abs(after.ego.twist))
    axes = [m[:, 2, :3] / np.linalg.norm(m[:, 2, :3], axis=-1, keepdims=True) for m in (old, new)]
    turned = np.arccos(np.clip((axes[0] * axes[1]).sum(-1), -1, 1))
    far = np.linalg.norm(moved[..., 0], axis=-1) > 0.5 + seconds * np.linalg.norm(twist[:3])
    return bool((far | (turned > 0.1 + seconds * np.linalg.norm(twist[3:]))).any())
