"""Training dataset of the synthetic world: samples from rendered scenes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput
from ..dataset import Sample
from .scenes import WorldScene, WorldSettings, load_scene, scene_file

SPLITS = {"train": range(80_000), "validation": range(80_000, 90_000), "test": range(90_000, 100_000)}
"""Seeds of each split. The world accepts other seeds as well; those from RESERVED on are kept for external
evaluation and are never used here for training, validation or reports."""
RESERVED = 1_000_000


def world_settings(split: str, height: int = 128, width: int = 352, frames: int = 2) -> WorldSettings:
    """Settings of a split: the rig is that of a nuScenes car, except in training, where it varies per seed.

    A clip has one frame set more than `frames`, so it yields two samples with full history. Raises InvalidInput for an
    unknown split or inconsistent numbers.
    """
    if split not in SPLITS:
        raise InvalidInput("split", f"{split!r} is not one of {', '.join(SPLITS)}")
    mounts = {} if split == "train" else {"clips": 3, "mount_degrees": 0.0, "mount_metres": 0.0, "other_rigs": 0.0}
    return WorldSettings(height=height, width=width, sets=frames + 1, **mounts)


class WorldSamples:
    """Samples of scenes: one per frame set with full history within its clip.

    seeds: of the scenes; frames: frames of a sample, the present one included; cached_only: leave out seeds that are
    not in the cache (yet) instead of rendering them on access; `refresh` checks the cache again.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        settings: WorldSettings,
        frames: int = 2,
        cached_only: bool = False,
    ) -> None:
        if not 1 <= frames <= settings.sets:
            raise InvalidInput("frames", f"clips of {settings.sets} sets hold no sample of {frames} frames")
        self.settings, self.frames = settings, frames
        self._wanted, self._cached_only = list(seeds), cached_only
        self._presents = [
            clip * settings.sets + i for clip in range(settings.clips) for i in range(frames - 1, settings.sets)
        ]
        self._seeds: list[int] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self._seeds) * len(self._presents)

    def __getitem__(self, index: int) -> Sample:
        seed, place = divmod(index, len(self._presents))
        scene = load_scene(self._seeds[seed], self.settings)
        return world_sample(scene, self._presents[place], self.frames)

    def state(self) -> list[int]:
        """The seeds in use."""
        return list(self._seeds)

    def refresh(self, state: list[int] | None = None) -> None:
        """Add newly cached scenes, or use exactly the seeds of `state` (missing ones are rendered)."""
        if state is not None:
            self._seeds = list(state)
        elif self._cached_only:
            self._seeds = [s for s in self._wanted if scene_file(s, self.settings).is_file()]
        else:
            self._seeds = self._wanted


def world_sample(scene: WorldScene, present: int, frames: int) -> Sample:
    """Build the sample whose present frame is set `present` of a scene, with the frames - 1 sets before it."""
    sets = range(present, present - frames, -1)
    pose = scene.pose[present]
    back = geometry.inverse(pose)
    ego2img = [scene.ego2img[s] if s == present else _moved(scene, s, pose) for s in sets]
    return Sample(
        name=f"world {scene.seed} at {scene.time[present]:.2f} s",
        images=np.stack([scene.images(s) for s in sets]),
        ego2img=np.stack(ego2img).astype(np.float32),
        semantics=scene.dense(present),
        visible=scene.mask(present),
        twist=scene.twist[present].astype(np.float32),
        command=int(scene.command[present]),
        future=(back @ scene.future[present]).astype(np.float32),
    )


def _moved(scene: WorldScene, index: int, pose: np.ndarray) -> np.ndarray:
    """ego2img [N, 4, 4] of an earlier set for points in base_link at `pose`."""
    return scene.ego2img[index] @ geometry.inverse(scene.pose[index]) @ pose
