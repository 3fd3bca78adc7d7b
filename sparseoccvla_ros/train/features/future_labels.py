"""Future labels of world scenes: occupancy and moving boxes 1, 2 and 3 s later, simulated once per seed and cached.

They need no rendering and do not depend on cameras or weights.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from ...core.paths import cache_folder
from ...core.types import HORIZONS, STEP_SECONDS, STEPS
from ...core.voxels import OCC3D_GRID
from ...data.synthetic.scenes import WORLD_VERSION, WorldSettings, load_scene
from ...world.labels.annotations import boxes, future_occupancy
from ...world.labels.reactions import otherwise, reactions
from ...world.scene import Scene
from .synthetic import read_arrays, write_arrays

FORMAT_VERSION = 2
OTHER_EVERY = 2
"""One frame set in so many also has the future under another plan, whose simulation costs as much as ten labels."""
_STEPS = tuple(round(h / STEP_SECONDS) for h in HORIZONS)


class FutureLabels:
    """Future ground truth of the last frame set of every clip.

    world: settings of the rendered scenes, which determine the times of the sets; present: labels are in base_link at
    the set's time, like a forecast in the current ego frame; else each is in base_link at its own time.
    """

    def __init__(self, world: WorldSettings, present: bool) -> None:
        self.world, self.present = world, present
        self.rows = tuple(clip * world.sets + world.sets - 1 for clip in range(world.clips))

    def file(self, seed: int) -> Path:
        """Returns the label file of a seed."""
        frame = "present" if self.present else "future"
        name = f"{FORMAT_VERSION}-{WORLD_VERSION}-{self.world.key}-{frame}"
        return cache_folder() / "futures" / name / f"{seed:08d}.safetensors"

    def prepare(self, seed: int, scene: Scene | None = None) -> None:
        """Simulate and write a seed's labels if missing. scene: the seed's scene, if the caller has it already."""
        if not self.file(seed).is_file():
            times = load_scene(seed, self.world).time[list(self.rows)]
            scene = scene or Scene.generate(seed, self.world.seconds)
            write_arrays(self.file(seed), self._make(scene, times), {"seed": str(seed)})

    def _make(self, scene: Scene, times: np.ndarray) -> dict[str, np.ndarray]:
        moving = np.arange(len(scene.standing), len(scene.standing) + len(scene.moving))
        labels, plans, others, motions = [], [], [], []
        for place, time in enumerate(times):
            frame = scene.ego.at(float(time))[0]
            found = [boxes(scene, float(time) + h, frame) for h in (0.0, *HORIZONS)]
            plans.append(np.stack([b[np.isin(b.instance, moving)].plans for b in found]))
            motion, other = np.full((STEPS, 2), np.nan, np.float32), np.full_like(plans[-1], np.nan)
            if self.present and place % OTHER_EVERY == 0:
                motion, other = reactions(scene, float(time), otherwise(scene, float(time)))
            motions.append(motion)
            others.append(other)
            grids = future_occupancy(scene, float(time), OCC3D_GRID, self.present, steps=_STEPS)
            labels.append(zlib.compress(grids.tobytes(), 6))
        return {
            "movers": np.stack(plans).astype(np.float32),
            "other_movers": np.stack(others).astype(np.float32),
            "other_motion": np.stack(motions).astype(np.float32),
            "labels": np.frombuffer(b"".join(labels), np.uint8),
            "ends": np.cumsum([len(b) for b in labels], dtype=np.int64),
        }

    def read(self, seed: int) -> dict[str, np.ndarray] | None:
        """Reads the arrays of a seed; returns None if they are not cached. First axis: the frame sets of `rows`.

        movers: float32 [., 4, N, 5], x, y m, yaw rad, length, width m of all moving boxes, now and at HORIZONS, in
        present base_link; other_motion [., 6, 2] m, other_movers: the ego's waypoints and the boxes under another plan,
        NaN if not simulated; future_labels: object array [.], for `unpack`.
        """
        if not self.file(seed).is_file():
            return None
        stored = read_arrays(self.file(seed))
        data, ends = stored["labels"].tobytes(), stored["ends"]
        blocks = np.empty(len(ends), object)
        blocks[:] = [data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        others = {name: stored[name] for name in ("other_motion", "other_movers")}
        return {"movers": stored["movers"], "future_labels": blocks, **others}


def unpack(block: bytes) -> np.ndarray:
    """Returns the labels uint8 [3, X, Y, Z] at HORIZONS, 17 = free."""
    return np.frombuffer(zlib.decompress(block), np.uint8).reshape(len(HORIZONS), *OCC3D_GRID.shape)
