"""Cached encoder features of world scenes: later stages train without running the encoder again.

One safetensors file per scene, in a folder named by a hash of the encoder's weights, its configuration and the world's
settings. Frame sets pass through the online path in temporal order, including the encoder's memory; each clip starts a
new drive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...core import geometry
from ...core.classes import CAMERAS, MOVABLE
from ...core.errors import InvalidInput
from ...core.files import file_sha256, written
from ...core.paths import cache_folder
from ...core.types import LIGHT_COLOURS, CameraFrames, EgoState, SceneQueries, TrafficLight
from ...data.shared_work import share
from ...data.synthetic.drives import load_drive
from ...data.synthetic.scenes import WorldScene, WorldSettings, load_scene
from ...occupancy.encoder import OccupancyEncoder

FORMAT_VERSION = 3
QUERY_FIELDS = ("features", "centres", "points", "labels", "scores", "view_features")
STATE_FIELDS = ("time", "pose", "twist", "ego", "command", "future")
HALF = ("features", "points", "scores", "view_features")
"""Fields of QUERY_FIELDS that are stored as float16."""
_NS = 1_000_000_000
_CLIP_GAP = 3600


@dataclass(frozen=True)
class FeatureCache:
    """Feature cache of an encoder. weights: sha256 (hex) of its file; config: its configuration as JSON."""

    world: WorldSettings
    weights: str
    config: str

    @classmethod
    def of(cls, encoder: OccupancyEncoder, weights: Path, world: WorldSettings) -> FeatureCache:
        """Returns the cache of an encoder that was loaded from the file `weights`."""
        return cls(world, file_digest(weights), json.dumps(asdict(encoder.config), sort_keys=True))

    @property
    def key(self) -> str:
        """Name of the cache folder."""
        text = json.dumps([FORMAT_VERSION, self.world.key, self.weights, self.config])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def folder(self) -> Path:
        """Returns the folder of the features."""
        return cache_folder() / "features" / self.key

    def file(self, seed: int) -> Path:
        """Returns the feature file of a scene."""
        return self.folder() / f"{seed:08d}.safetensors"

    def name(self, seed: int) -> str:
        """Returns the scene's name, for logs and pictures."""
        return f"world {seed}"


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file, hex. Raises InvalidInput("weights") if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise InvalidInput("weights", f"{path} cannot be read: {error}") from None


def frame_set(scene: WorldScene, index: int) -> CameraFrames:
    """Returns a cached frame set as camera_sync publishes it; clips are an hour apart and have their own epochs."""
    clip = index // scene.settings.sets
    stamp = round(float(scene.time[index]) * _NS) + clip * _CLIP_GAP * _NS
    count = scene.ego2img.shape[1]
    return CameraFrames(
        stamp, clip, CAMERAS[:count], np.full(count, stamp, np.int64), scene.usable, scene.images(index),
        scene.ego2img[index], EgoState(scene.pose[index], scene.twist[index], "map"),
    )  # fmt: skip


def encode_scene(encoder: OccupancyEncoder, scene: WorldScene) -> list[SceneQueries]:
    """Returns the queries of every frame set of a scene, in order, as online."""
    encoder.reset()
    queries = [encoder.encode(frame_set(scene, i)) for i in range(len(scene.time))]
    encoder.reset()
    return queries


def make_features(encoder: OccupancyEncoder, scene: WorldScene) -> dict[str, np.ndarray]:
    """Computes a scene's arrays, with its S frame sets as first axis.

    Those of query_arrays; time float64 [S] s; pose float64 [S, 4, 4] ego2map; twist float32 [S, 6]; ego float32 [S, F],
    causal features of planning.ego_history; command uint8 [S]; future float32 [S, 6, 4, 4], base_link at FUTURE_SECONDS
    to present base_link.
    """
    queries = encode_scene(encoder, scene)
    drive = load_drive(scene.seed, scene.settings.seconds)
    return query_arrays(queries) | {
        "time": scene.time,
        "pose": scene.pose,
        "twist": scene.twist.astype(np.float32),
        "ego": np.stack([drive.features(float(t)) for t in scene.time]),
        "command": scene.command,
        "future": (geometry.inverse(scene.pose)[:, None] @ scene.future).astype(np.float32),
    }


def query_arrays(queries: Sequence[SceneQueries]) -> dict[str, np.ndarray]:
    """Returns the queries of S frame sets as the arrays of a cached file.

    QUERY_FIELDS [S, ...] as in SceneQueries, those of HALF as float16. With a voxel head also: voxels int16 [V, 4],
    indices and labels of the movable voxels of all sets, concatenated; voxel_ends int64 [S], the end of each set in
    them. traffic_light float32 [S, 3]: index into LIGHT_COLOURS, probability and distance (m), NaN where none is seen.
    """
    out = _movable(queries)
    out["traffic_light"] = np.stack([_row_of(q.traffic_light) for q in queries])
    for name in QUERY_FIELDS:
        stacked = np.stack([getattr(q, name) for q in queries])
        out[name] = stacked.astype(np.float16) if name in HALF else stacked
    return out


def _movable(queries: Sequence[SceneQueries]) -> dict[str, np.ndarray]:
    found = []
    for voxels in (q.voxels for q in queries):
        if voxels is None:
            return {}
        keep = np.isin(voxels.labels, MOVABLE)
        found.append(np.column_stack([voxels.indices[keep], voxels.labels[keep].astype(np.int16)]))
    return {"voxels": np.concatenate(found), "voxel_ends": np.cumsum([len(v) for v in found], dtype=np.int64)}


def _row_of(light: TrafficLight | None) -> np.ndarray:
    known = (np.nan,) * 3 if light is None else (LIGHT_COLOURS.index(light.colour), light.probability, light.distance)
    return np.array(known, np.float32)


def traffic_lights(path: Path) -> list[TrafficLight | None]:
    """Reads the traffic light of each frame set of a cached file (`query_arrays`)."""
    return [
        None if np.isnan(row).any() else TrafficLight(LIGHT_COLOURS[int(row[0])], float(row[1]), float(row[2]))
        for row in read_arrays(path, ("traffic_light",))["traffic_light"]
    ]


def movable_voxels(path: Path, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Reads {"voxels": object array [rows] of int16 [V, 4]} as in `query_arrays` from a cached file; {} without."""
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
    """Encode the seeds whose features are missing; yields each seed when its features are cached.

    Scenes that are not in the world's cache are rendered. workers: single-threaded processes, with 1.5 times the
    throughput of one process with as many threads; 1 encodes in this process, on the encoder's device.
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
    """Reads all or some arrays of a cached file. Raises InvalidInput("cache") if it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if fields is None else fields)}
    except (OSError, SafetensorError) as error:
        raise InvalidInput("cache", f"{path} cannot be read ({error}); delete it") from None


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays to a safetensors file atomically."""
    with written(path) as part:
        save_file({n: np.ascontiguousarray(v) for n, v in arrays.items()}, part, metadata)
