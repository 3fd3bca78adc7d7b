"""Encoder features, future labels and questions of nuScenes scenes: the samples of stages 2 and 3.

The counterpart of synthetic.py, future_labels.py and data/synthetic/qa_cache.py for the synthetic world. Features and
future labels are cached, one safetensors file per scene in a folder named by a hash of everything they depend on.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...core import geometry
from ...core.paths import cache_folder
from ...core.types import HORIZONS, STEP_SECONDS
from ...core.voxels import OCC3D_GRID
from ...data.nuscenes.dataset import UNKNOWN, NuscenesImages
from ...data.nuscenes.labels import load_occ3d, occ3d_file
from ...data.nuscenes.omnidrive import read_questions
from ...data.synthetic.qa_cache import QaPair
from ...occupancy.encoder import OccupancyEncoder
from .synthetic import file_digest, query_arrays, read_arrays, write_arrays

FORMAT_VERSION = 3
_FUTURES_VERSION = 2
_AHEAD = [round(h / STEP_SECONDS) for h in HORIZONS]


@dataclass(frozen=True, eq=False)
class NuscenesFeatures:
    """Feature cache of an encoder for nuScenes; scenes are indices into the index's scene arrays.

    images: of the index; weights: sha256 (hex) of the encoder's file; config: its configuration as JSON.
    """

    images: NuscenesImages
    weights: str
    config: str

    @classmethod
    def of(cls, encoder: OccupancyEncoder, weights: Path, images: NuscenesImages) -> NuscenesFeatures:
        """Returns the cache of an encoder that was loaded from the file `weights`."""
        return cls(images, file_digest(weights), json.dumps(asdict(encoder.config), sort_keys=True))

    @property
    def key(self) -> str:
        """Name of the cache folder."""
        index, image = self.images.index, self.images.image
        parts = [FORMAT_VERSION, str(self.images.root.resolve()), index.version, index.tables, index.digest]
        text = json.dumps([*parts, image.height, image.width, self.weights, self.config])
        return f"nuscenes-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def folder(self) -> Path:
        """Returns the folder of the features."""
        return cache_folder() / "features" / self.key

    def file(self, scene: int) -> Path:
        """Returns the feature file of a scene."""
        return self.folder() / f"{scene:08d}.safetensors"

    def name(self, scene: int) -> str:
        """Returns the scene's name, for logs and pictures."""
        return str(self.images.index.scene_name[scene])

    def rows(self, scene: int) -> np.ndarray:
        """Returns the keyframes of a scene as rows of the index, int64."""
        return np.flatnonzero(self.images.index.scene == scene)

    def complete(self, scene: int) -> list[int]:
        """Returns the positions in the scene of keyframes with six following ones; only these are used."""
        return np.flatnonzero(self.images.index.future_mask[self.rows(scene)].all(1)).tolist()

    def prepare(self, encoder: OccupancyEncoder, scenes: Sequence[int]) -> Iterator[int]:
        """Encode the missing scenes, keyframe by keyframe as online; yields each scene when it is cached."""
        for scene in scenes:
            if not self.file(scene).is_file():
                write_arrays(self.file(scene), self._encoded(encoder, scene), {"weights": self.weights})
            yield scene

    def _encoded(self, encoder: OccupancyEncoder, scene: int) -> dict[str, np.ndarray]:
        index, rows = self.images.index, self.rows(scene)
        encoder.reset()
        queries = [encoder.encode(self.images.frames(int(row), 0)) for row in rows]
        encoder.reset()
        return query_arrays(queries) | {
            "time": (index.stamp[rows] - index.stamp[rows[0]]) / 1e9,
            "pose": index.pose[rows],
            "twist": index.twist[rows].astype(np.float32),
            "ego": index.features[rows],
            "command": index.command[rows],
            "future": index.future[rows].astype(np.float32),
        }


class NuscenesFutures:
    """Future labels of the complete keyframes of a scene: Occ3D labels and annotated boxes at HORIZONS.

    labels: Occ3D folder; present: labels are transformed to present base_link, the frame of forecasts (nearest voxel,
    255 outside the future grid); else each is in base_link at its own time. A keyframe without labels is all 255.
    """

    def __init__(self, features: NuscenesFeatures, labels: Path, present: bool) -> None:
        self.features, self.labels, self.present = features, labels, present

    def file(self, scene: int) -> Path:
        """Returns the label file of a scene."""
        index = self.features.images.index
        root = str(self.features.images.root.resolve())
        text = json.dumps([_FUTURES_VERSION, root, index.version, index.tables, index.digest, self.present])
        folder = f"nuscenes-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return cache_folder() / "futures" / folder / f"{scene:08d}.safetensors"

    def prepare(self, scene: int) -> None:
        """Compute and write a scene's labels if they are missing."""
        if self.file(scene).is_file():
            return
        index, rows = self.features.images.index, self.features.rows(scene)
        known = {row: self._semantics(scene, int(row)) for row in rows.tolist()}
        blocks = []
        for place in self.features.complete(scene):
            row = int(rows[place])
            grids = [known[row + ahead] for ahead in _AHEAD]
            if self.present:
                moved = zip(grids, index.future[row][[a - 1 for a in _AHEAD]], strict=True)
                grids = [seen_from_now(grid, future) for grid, future in moved]
            blocks.append(zlib.compress(np.stack(grids).tobytes(), 6))
        arrays = {
            "labels": np.frombuffer(b"".join(blocks), np.uint8),
            "ends": np.cumsum([len(b) for b in blocks], dtype=np.int64),
        }
        write_arrays(self.file(scene), arrays, {})

    def read(self, scene: int) -> dict[str, np.ndarray] | None:
        """Reads movers and future_labels of the complete keyframes as in FutureLabels; returns None if not cached.

        Movers are the boxes annotated at all four times; their number varies per keyframe.
        """
        if not self.file(scene).is_file():
            return None
        stored = read_arrays(self.file(scene))
        data, ends = stored["labels"].tobytes(), stored["ends"]
        index, rows = self.features.images.index, self.features.rows(scene)
        movers, blocks = np.empty(len(ends), object), np.empty(len(ends), object)
        for k, (place, first, last) in enumerate(
            zip(self.features.complete(scene), [0, *ends[:-1]], ends, strict=True)
        ):
            blocks[k] = data[first:last]
            here, centres, yaws, there = index.tracks(int(rows[place]))
            steps = [0, *_AHEAD]
            stays = there[:, steps].all(1)
            size = np.broadcast_to(index.box_size[here][stays, None, :2], (int(stays.sum()), len(steps), 2))
            plans = [centres[stays][:, steps], yaws[stays][:, steps, None], size]
            movers[k] = np.concatenate(plans, -1).swapaxes(0, 1).astype(np.float32)
        return {"movers": movers, "future_labels": blocks}

    def _semantics(self, scene: int, row: int) -> np.ndarray:
        token = str(self.features.images.index.token[row])
        file = self.labels / occ3d_file(self.features.name(scene), token)
        return load_occ3d(file).semantics if file.is_file() else np.full(OCC3D_GRID.shape, UNKNOWN, np.uint8)


def seen_from_now(grid: np.ndarray, future: np.ndarray) -> np.ndarray:
    """Resamples labels uint8 [X, Y, Z] from a future base_link to the present one; 255 outside the future grid.

    future: float64 [4, 4], future base_link to present base_link. Each present voxel takes the label of the future
    voxel that contains its centre.
    """
    axes = [np.arange(n) for n in OCC3D_GRID.shape]
    centres = OCC3D_GRID.centre_of(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)).astype(np.float64)
    there = geometry.apply(geometry.inverse(future), centres)
    cell = np.floor((there - np.asarray(OCC3D_GRID.lower)) / OCC3D_GRID.size).astype(np.int64)
    inside = ((cell >= 0) & (cell < OCC3D_GRID.shape)).all(1)
    out = np.full(len(cell), UNKNOWN, np.uint8)
    out[inside] = grid[tuple(cell[inside].T)]
    return out.reshape(OCC3D_GRID.shape)


@dataclass(frozen=True, eq=False)
class NuscenesQuestions:
    """OmniDrive questions about the complete keyframes of a scene. split: folder name of the files."""

    features: NuscenesFeatures
    split: str

    def asked(self, scene: int) -> list[int]:
        """Returns the positions in the scene of complete keyframes with questions."""
        return [place for place in self.features.complete(scene) if self._of(scene, place)]

    def read(self, scene: int) -> dict[str, np.ndarray]:
        """Returns {"questions": object array, a list of QaPair each} for the keyframes of `asked`."""
        sets = [self._of(scene, place) for place in self.asked(scene)]
        out = np.empty(len(sets), object)
        out[:] = sets
        return {"questions": out}

    def _of(self, scene: int, place: int) -> list[QaPair]:
        images = self.features.images
        token = str(images.index.token[self.features.rows(scene)[place]])
        return [QaPair(q.question, q.answer, q.kind) for q in read_questions(images.root, self.split, token)]
