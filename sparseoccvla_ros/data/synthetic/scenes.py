"""Training data of the synthetic world: short clips of frame sets with occupancy ground truth, rendered once per seed.

Each scene is one safetensors file in the cache folder, under a hash of the settings and WORLD_VERSION. Images match
the output of camera_sync for a drive of that seed: same size and crop, every camera at its own stamp.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.spatial.transform import Rotation

from ...camera_sync.config import ImageConfig
from ...core import geometry
from ...core.classes import CAMERAS
from ...core.errors import InvalidInput
from ...core.files import written
from ...core.paths import cache_folder
from ...core.types import NANOSECONDS
from ...core.voxels import OCC3D_GRID
from ...world.labels.occupancy import dense_labels
from ...world.labels.visibility import camera_visibility
from ...world.render.camera_rig import JITTER, SWEEP, Camera, load_rig, random_rig
from ...world.render.renderer import Renderer
from ...world.scene import Scene
from ..dataset import COMMANDS, FUTURE_SECONDS
from ..processes import in_processes

log = logging.getLogger(__name__)

WORLD_VERSION = 2
"""Increment when the world, its renderer or its labels change the result of a seed; invalidates cached scenes."""
RIGS = ("n015", "n008")
_BLOCKS = ("jpeg", "labels", "visible")


@dataclass(frozen=True)
class WorldSettings:
    """Settings of rendered scenes.

    height, width: of the prepared images [px]; samples: rays along each side of a pixel; clips: clips per drive; sets:
    frame sets per clip; interval, interval_jitter: seconds between sets, and the largest deviation from it; seconds:
    length of the drive; mount_degrees, mount_metres: standard deviation of every camera's mount from the nominal one;
    other_rigs: share of seeds with another rig than a nuScenes car's, or with some of its cameras missing; cameras:
    camera slots of a scene, of which a rig may use fewer, see WorldScene.usable.
    """

    height: int = 128
    width: int = 352
    samples: int = 1
    clips: int = 6
    sets: int = 3
    interval: float = 0.5
    interval_jitter: float = 0.08
    seconds: float = 20.0
    mount_degrees: float = 0.7
    mount_metres: float = 0.03
    other_rigs: float = 0.4
    cameras: int = len(CAMERAS)

    def __post_init__(self) -> None:
        ImageConfig(self.height, self.width)
        for name in ("samples", "clips", "sets"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"world.{name}", f"want at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.interval_jitter < self.interval:
            raise InvalidInput("world.interval_jitter", f"want 0..{self.interval} s, got {self.interval_jitter}")
        if self.clip_seconds > self.seconds / self.clips:
            raise InvalidInput("world.sets", f"{self.clips} clips of {self.sets} sets do not fit {self.seconds} s")
        if self.mount_degrees < 0 or self.mount_metres < 0:
            raise InvalidInput("world.mount_degrees", "a standard deviation is negative")
        if not 0.0 <= self.other_rigs <= 1.0:
            raise InvalidInput("world.other_rigs", f"want a share 0..1, got {self.other_rigs}")
        if not len(CAMERAS) <= self.cameras <= 8:
            raise InvalidInput("world.cameras", f"want {len(CAMERAS)}..8, got {self.cameras}")

    @property
    def clip_seconds(self) -> float:
        """Longest possible duration of a clip, s."""
        return (self.sets - 1) * (self.interval + self.interval_jitter) + 0.1

    @property
    def key(self) -> str:
        """Name of the cache folder of these settings."""
        text = json.dumps([WORLD_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def folder(self) -> Path:
        """Cache folder of the scenes of these settings."""
        return cache_folder() / "world" / self.key


@dataclass(frozen=True, eq=False)
class WorldScene:
    """The clips of one seed; S = clips x sets, clip by clip, oldest set first; N = settings.cameras.

    jpeg: S x N encoded images, empty for cameras that the rig lacks; usable: bool [N], which cameras the rig has
    (those of core.classes.CAMERAS in that order, then others); ego2img: float64 [S, N, 4, 4], base_link at the set's
    time to prepared pixels of each camera, zero if missing; pose: float64 [S, 4, 4] ego2map; twist: float64 [S, 6] m/s,
    rad/s in base_link; time: float64 [S] seconds of the drive (exposure of the front camera, or else of the first
    one); future: float64 [S, 6, 4, 4], ego2map at time + FUTURE_SECONDS; command: uint8 [S], index into COMMANDS;
    labels, visible: S zlib blocks, uint8 and packed bool [200, 200, 16].
    """

    seed: int
    settings: WorldSettings
    jpeg: list[bytes]
    usable: np.ndarray
    ego2img: np.ndarray
    pose: np.ndarray
    twist: np.ndarray
    time: np.ndarray
    future: np.ndarray
    command: np.ndarray
    labels: list[bytes]
    visible: list[bytes]

    def images(self, index: int) -> np.ndarray:
        """Images of a set, uint8 [N, H, W, 3] RGB, black for missing cameras."""
        n = len(self.usable)
        out = np.zeros((n, self.settings.height, self.settings.width, 3), np.uint8)
        for camera in np.flatnonzero(self.usable):
            out[camera] = self.image(index, camera)
        return out

    def image(self, index: int, camera: int) -> np.ndarray:
        """Image of one camera (slot) that the rig has, in a set: uint8 [H, W, 3] RGB."""
        data = self.jpeg[len(self.usable) * index + camera]
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def dense(self, index: int) -> np.ndarray:
        """Labels uint8 [X, Y, Z] in base_link at the set's time, 17 = free."""
        return np.frombuffer(zlib.decompress(self.labels[index]), np.uint8).reshape(OCC3D_GRID.shape)

    def mask(self, index: int) -> np.ndarray:
        """bool [X, Y, Z]: voxels visible to at least one camera of the set."""
        bits = np.unpackbits(np.frombuffer(zlib.decompress(self.visible[index]), np.uint8))
        return bits[: int(np.prod(OCC3D_GRID.shape))].astype(bool).reshape(OCC3D_GRID.shape)


def rig_of(seed: int, settings: WorldSettings) -> tuple[Camera, ...]:
    """The rig of a seed: a nuScenes car's, or for a share `other_rigs` a random rig or a car's with 1 to 3 missing.

    Every mount is perturbed. Cameras are in the order of core.classes.CAMERAS, then others.
    """
    rng = np.random.default_rng([seed, 17])
    cameras = load_rig(RIGS[int(rng.integers(len(RIGS)))])
    other = np.random.default_rng([seed, 47])
    if other.random() < settings.other_rigs:
        if other.random() < 0.75:
            cameras = random_rig(other, settings.cameras)
        else:
            lost = other.permutation(len(cameras))[: other.integers(1, 4)]
            cameras = tuple(c for i, c in enumerate(cameras) if i not in lost)
    out = []
    for camera in cameras:
        off = np.eye(4)
        turn = rng.normal(0.0, np.radians(settings.mount_degrees), 3)
        off[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
        pose = camera.camera2ego @ off
        pose[:3, 3] += rng.normal(0.0, settings.mount_metres, 3)
        out.append(replace(camera, camera2ego=pose))
    return tuple(out)


def places(rig: Sequence[Camera], cameras: int) -> list[int]:
    """Slot of each camera of a rig among `cameras`: first those of core.classes.CAMERAS, then others in order."""
    spare = iter(range(len(CAMERAS), cameras))
    return [CAMERAS.index(c.name) if c.name in CAMERAS else next(spare) for c in rig]


def prepared_size(camera: Camera, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the whole image after scaling, before the crop to a prepared one (ImageConfig)."""
    scale = max(height / camera.height, width / camera.width)
    return max(height, round(camera.height * scale)), max(width, round(camera.width * scale))


def prepared_intrinsics(camera: Camera, height: int, width: int) -> np.ndarray:
    """K float64 [3, 3] of a prepared image: scaled, then cropped to bottom rows and middle columns (ImageConfig)."""
    rows, columns = prepared_size(camera, height, width)
    k = camera.scaled(rows, columns)
    k[:2, 2] -= ((columns - width) // 2, rows - height)
    return k


def set_times(seed: int, settings: WorldSettings) -> np.ndarray:
    """Start times of the sets' lidar sweeps, float64 [clips, sets] seconds of the drive; clips in equal parts of it."""
    rng = np.random.default_rng([seed, 19])
    part = settings.seconds / settings.clips
    begin = part * np.arange(settings.clips) + rng.uniform(0.0, part - settings.clip_seconds, settings.clips)
    steps = rng.uniform(-1.0, 1.0, (settings.clips, settings.sets - 1)) * settings.interval_jitter + settings.interval
    return begin[:, None] + np.concatenate([np.zeros((settings.clips, 1)), np.cumsum(steps, 1)], 1)


def exposures(seed: int, settings: WorldSettings, rig: tuple[Camera, ...]) -> np.ndarray:
    """Exposure times of every set, float64 [S, len(rig)] seconds of the drive, rounded to nanoseconds."""
    rng = np.random.default_rng([seed, 13])
    begin = set_times(seed, settings).ravel()
    offsets = np.array([c.sweep_offset for c in rig])
    times = begin[:, None] + SWEEP + offsets + rng.uniform(-JITTER, JITTER, (len(begin), len(rig)))
    return np.round(times * NANOSECONDS) / NANOSECONDS


def render_scene(seed: int, settings: WorldSettings) -> WorldScene:
    """Render and label the clips of a seed. Raises InvalidInput for a negative seed."""
    scene = Scene.generate(seed, settings.seconds)
    renderer = Renderer(scene)
    rig = rig_of(seed, settings)
    where = places(rig, settings.cameras)
    intrinsics = np.stack([prepared_intrinsics(c, settings.height, settings.width) for c in rig])
    out: dict[str, list] = {n: [] for n in ("jpeg", "ego2img", "pose", "twist", "time", "future", "labels", "visible")}
    commands = []
    first = min(range(len(rig)), key=lambda i: where[i])  # the front camera if present
    for moments in exposures(seed, settings, rig):
        present = float(moments[first])
        pose, twist = scene.ego.at(present)
        files, projections = [b""] * settings.cameras, np.zeros((settings.cameras, 4, 4))
        depths, camera2ego = [], []
        for camera, k, moment, place in zip(rig, intrinsics, moments, where, strict=True):
            camera2map = scene.ego.at(float(moment))[0] @ camera.camera2ego
            picture = renderer.render(k, camera2map, settings.height, settings.width, float(moment), settings.samples)
            camera2ego.append(geometry.inverse(pose) @ camera2map)
            depths.append(picture.depth)
            files[place] = _jpeg(picture.rgb, renderer.optics.quality)
            projections[place] = geometry.camera_matrix(k, geometry.inverse(camera2ego[-1]))
        visible = camera_visibility(np.stack(depths), intrinsics, np.stack(camera2ego))
        out["jpeg"] += files
        out["ego2img"].append(projections)
        out["pose"].append(pose)
        out["twist"].append(twist)
        out["time"].append(present)
        out["future"].append(np.stack([scene.ego.at(present + t)[0] for t in FUTURE_SECONDS]))
        out["labels"].append(zlib.compress(dense_labels(scene, present, pose).tobytes(), 6))
        out["visible"].append(zlib.compress(np.packbits(visible).tobytes(), 6))
        commands.append(COMMANDS.index(scene.ego.command(present)))
    arrays = {n: np.asarray(out[n], np.float64) for n in ("ego2img", "pose", "twist", "time", "future")}
    arrays |= {"command": np.array(commands, np.uint8), "usable": np.isin(np.arange(settings.cameras), where)}
    blocks = {n: out[n] for n in _BLOCKS}
    return WorldScene(seed=seed, settings=settings, **arrays, **blocks)


def load_scene(seed: int, settings: WorldSettings, keep: bool = True) -> WorldScene:
    """Load the scene of a seed from the cache; if missing or damaged, render it and, with `keep`, cache it."""
    path = scene_file(seed, settings)
    if path.is_file():
        try:
            return read_scene(path, settings)
        except InvalidInput as damaged:
            log.warning("%s: made again", damaged)
    scene = render_scene(seed, settings)
    if keep:
        write_scene(scene, path)
    return scene


def scene_file(seed: int, settings: WorldSettings) -> Path:
    """Path of a scene in the cache."""
    return settings.folder() / f"{seed:08d}.safetensors"


def cached_seeds(settings: WorldSettings) -> list[int]:
    """Cached seeds, ascending."""
    return sorted(int(p.stem) for p in settings.folder().glob("*.safetensors") if p.stem.isdigit())


def write_scene(scene: WorldScene, path: Path) -> None:
    """Write a scene's file atomically."""
    arrays = {n: getattr(scene, n) for n in ("usable", "ego2img", "pose", "twist", "time", "future", "command")}
    for name in _BLOCKS:
        blocks = getattr(scene, name)
        arrays[name] = np.frombuffer(b"".join(blocks), np.uint8)
        arrays[f"{name}_ends"] = np.cumsum([len(b) for b in blocks], dtype=np.int64)
    with written(path) as part:
        save_file(arrays, part, {"seed": str(scene.seed), "settings": json.dumps(asdict(scene.settings))})


def read_scene(path: Path, settings: WorldSettings) -> WorldScene:
    """Read a cached scene. Raises InvalidInput("world") for a damaged file or one of other settings."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        blocks = {}
        for name in _BLOCKS:
            data, ends = arrays.pop(name).tobytes(), arrays.pop(f"{name}_ends")
            blocks[name] = [data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        known = WorldSettings(**json.loads(metadata["settings"]))
        scene = WorldScene(seed=int(metadata["seed"]), settings=known, **arrays, **blocks)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidInput("world", f"{path.name} in the cache cannot be read ({error})") from None
    if known != settings:
        raise InvalidInput("world", f"{path.name} in the cache was made with other settings")
    return scene


def prepare_scenes(seeds: Sequence[int], settings: WorldSettings, workers: int = 1) -> Iterator[int]:
    """Render the seeds that are not cached yet, `workers` processes at a time; yields each seed once it is cached."""
    missing = []
    for seed in seeds:
        if scene_file(seed, settings).is_file():
            yield seed
        else:
            missing.append(seed)
    if not missing:
        return
    if workers < 1:
        raise InvalidInput("workers", f"{workers} processes cannot render")
    yield from in_processes(workers, _prepare, missing, [settings] * len(missing))


def _prepare(seed: int, settings: WorldSettings) -> int:
    load_scene(seed, settings)
    return seed


def _jpeg(rgb: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InvalidInput("image", f"{rgb.shape} cannot be written as JPEG")
    return data.tobytes()
