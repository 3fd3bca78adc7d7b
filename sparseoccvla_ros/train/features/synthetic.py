"""What a frozen encoder sees in cached world scenes, kept so that later stages train without running it again.

One safetensors file per scene under a hash of the encoder's weights, its configuration and the world's settings: other
weights are another folder. Frame sets go through the on-line path in order of time, memory included; a clip's first set
is the start of a drive.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...core import geometry
from ...core.classes import CAMERAS, MOVABLE
from ...core.errors import InvalidInput
from ...core.paths import cache_folder
from ...core.types import CameraFrames, EgoState, SceneQueries
from ...data.shared_work import share
from ...data.synthetic.drives import load_drive
from ...data.synthetic.scenes import WorldScene, WorldSettings, load_scene
from ...occupancy.encoder import OccupancyEncoder

FORMAT_VERSION = 2
QUERY_FIELDS = ("features", "centres", "points", "labels", "scores", "view_features")
STATE_FIELDS = ("time", "pose", "twist", "ego", "command", "future")
HALF = ("features", "points", "scores", "view_features")
"""Of QUERY_FIELDS, those that are kept as float16."""
_NS = 1_000_000_000
_CLIP_GAP = 3600


@dataclass(frozen=True)
class FeatureCache:
    """Where the features of an encoder lie. weights: sha256 (hex) of its file; config: its configuration as JSON."""

    world: WorldSettings
    weights: str
    config: str

    @classmethod
    def of(cls, encoder: OccupancyEncoder, weights: Path, world: WorldSettings) -> FeatureCache:
        """The cache of an encoder that was loaded from a file of weights."""
        return cls(world, file_digest(weights), json.dumps(asdict(encoder.config), sort_keys=True))

    @property
    def key(self) -> str:
        """Name of the cache folder."""
        text = json.dumps([FORMAT_VERSION, self.world.key, self.weights, self.config])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def folder(self) -> Path:
        """Folder of the features."""
        return cache_folder() / "features" / self.key

    def file(self, seed: int) -> Path:
        """Where the features of a scene lie."""
        return self.folder() / f"{seed:08d}.safetensors"

    def name(self, seed: int) -> str:
        """For logs and pictures."""
        return f"world {seed}"


def file_digest(path: Path) -> str:
    """sha256 of a file, hex. Raises InvalidInput("weights") where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput("weights", f"{path} cannot be read: {error}") from None


def frame_set(scene: WorldScene, index: int) -> CameraFrames:
    """A cached frame set as camera_sync would deliver it; clips lie an hour apart and in epochs of their own."""
    clip = index // scene.settings.sets
    stamp = round(float(scene.time[index]) * _NS) + clip * _CLIP_GAP * _NS
    count = scene.ego2img.shape[1]
    return CameraFrames(
        stamp, clip, CAMERAS[:count], np.full(count, stamp, np.int64), scene.usable, scene.images(index),
        scene.ego2img[index], EgoState(scene.pose[index], scene.twist[index], "map"),
    )  # fmt: skip


def encode_scene(encoder: OccupancyEncoder, scene: WorldScene) -> list[SceneQueries]:
    """The queries of every frame set of a scene, in order, as on line."""
    encoder.reset()
    queries = [encoder.encode(frame_set(scene, i)) for i in range(len(scene.time))]
    encoder.reset()
    return queries


def make_features(encoder: OccupancyEncoder, scene: WorldScene) -> dict[str, np.ndarray]:
    """Arrays of a scene, first axis its S frame sets: QUERY_FIELDS as in SceneQueries (float16 but for the centres),

    time float64 [S] s; pose float64 [S, 4, 4] ego2map; twist float32 [S, 6]; ego float32 [S, F], causal features of
    planning.ego_history; command uint8 [S]; future float32 [S, 6, 4, 4], base_link at FUTURE_SECONDS to present
    base_link. Where the encoder has a voxel head: voxels int16 [V, 4], places of all sets' voxels that can move and
    their labels, set by set; voxel_ends int64 [S], where each set's end.
    """
    queries = encode_scene(encoder, scene)
    out = _movable(queries)
    for name in QUERY_FIELDS:
        stacked = np.stack([getattr(q, name) for q in queries])
        out[name] = stacked.astype(np.float16) if name in HALF else stacked
    drive = load_drive(scene.seed, scene.settings.seconds)
    return out | {
        "time": scene.time,
        "pose": scene.pose,
        "twist": scene.twist.astype(np.float32),
        "ego": np.stack([drive.features(float(t)) for t in scene.time]),
        "command": scene.command,
        "future": (geometry.inverse(scene.pose)[:, None] @ scene.future).astype(np.float32),
    }


def _movable(queries: Sequence[SceneQueries]) -> dict[str, np.ndarray]:
    found = []
    for voxels in (q.voxels for q in queries):
        if voxels is None:
            return {}
        keep = np.isin(voxels.labels, MOVABLE)
        found.append(np.column_stack([voxels.indices[keep], voxels.labels[keep].astype(np.int16)]))
    return {"voxels": np.concatenate(found), "voxel_ends": np.cumsum([len(v) for v in found], dtype=np.int64)}


def movable_voxels(path: Path, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """{"voxels": objects [rows], an int16 [V, 4] each} of a cached file, as `make_features` has them; {} without."""
    with safe_open(path, framework="numpy") as file:
        if "voxel_ends" not in file.keys():  # noqa: SIM118
            return {}
        voxels, ends = file.get_tensor("voxels"), file.get_tensor("voxel_ends")
    out = np.empty(len(rows), object)
    out[:] = [voxels[0 if row == 0 else ends[row - 1] : ends[row]] for row in rows]
    return {"voxels": out}


def prepare_features(
    encoder: OccupancyEncoder, cache: FeatureCache, seeds: Sequence[int], workers: int = 1
) -> Iterator[int]:
    """Encode the seeds whose features are missing; gives each seed when its features are there.

    Their scenes must be in the world's cache, or are rendered. workers: processes of one thread each, which encode half
    as much again as one process of as many threads; 1 works in this process, on the encoder's device.
    """
    return share(_Encoding(encoder, cache), seeds, workers)


@dataclass(frozen=True, eq=False)
class _Encoding:
    encoder: OccupancyEncoder
    cache: FeatureCache

    def file(self, item: int) -> Path:
        return self.cache.file(item)

    def make(self, item: int) -> None:
        arrays = make_features(self.encoder, load_scene(item, self.cache.world))
        write_arrays(self.file(item), arrays, {"seed": str(item), "weights": self.cache.weights})


def read_arrays(path: Path, fields: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a cached file, all of them or some. Raises InvalidInput("cache") where it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if fields is None else fields)}
    except (OSError, SafetensorError) as error:
        raise InvalidInput("cache", f"{path} cannot be read ({error}); delete it") from None


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({n: np.ascontiguousarray(v) for n, v in arrays.items()}, part, metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
