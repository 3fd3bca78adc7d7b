"""Bags of the synthetic world: six cameras, calibration, motion and occupancy ground truth, laid out as a nuScenes bag.

Topic names are those of the default input profile `nuscenes`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from ...core.classes import PALETTES
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS
from ...world.labels.occupancy import sparse_labels
from ...world.render.camera_rig import JITTER, SWEEP, Camera, load_rig
from ...world.render.renderer import Renderer
from ...world.scene import Scene
from ..bags.writer import BagWriter
from ..processes import in_processes
from .drives import FIXED_FRAME, START

EGO_FRAME = "base_link"
ODOMETRY_TOPIC = "/odom"
COMMAND_TOPIC = "/sparseoccvla/planning/command"
OCCUPANCY_TOPIC = "/world/occupancy"
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "u1")])
"""Ground-truth voxel: centre in m, colour for RViz, Occ3D class."""
TF_RATE, COMMAND_RATE, OCCUPANCY_RATE = 50.0, 2.0, 2.0
TF_MARGIN = 0.5
"""Seconds of transforms before and after the images, so that tf can be interpolated at every image stamp."""
BUNDLED = {
    "seed": 35, "seconds": 20.0, "rate": 6.0, "height": 198, "width": 352, "samples": 2, "jpeg_quality": 80,
}  # fmt: skip
"""How bags/world_demo was made: make_world_bag("bags/world_demo", **BUNDLED)."""


@dataclass(frozen=True)
class View:
    """One image to render: camera, world time in s from the start of the drive, stamp in ns."""

    camera: str
    time: float
    stamp: int


def schedule(rig: tuple[Camera, ...], seconds: float, rate: float, seed: int, pace: float = 1.0) -> list[View]:
    """Every image of a drive, ordered by stamp; the cameras are triggered one after another in each lidar sweep."""
    rng = np.random.default_rng([seed, 13])
    views = []
    for k in range(int(seconds * rate + 1e-6)):
        for camera in rig:
            time = k / rate + SWEEP + camera.sweep_offset + float(rng.uniform(-JITTER, JITTER))
            nanoseconds = round(time * NANOSECONDS)
            views.append(View(camera.name, pace * nanoseconds / NANOSECONDS, START + nanoseconds))
    return sorted(views, key=lambda v: v.stamp)


@lru_cache(maxsize=1)
def _renderer(seed: int, seconds: float) -> Renderer:
    return Renderer(Scene.generate(seed, seconds))


def _photograph(
    seed: int, seconds: float, rig: str, height: int, width: int, samples: int, jpeg_quality: int, views: Sequence[View]
) -> list[bytes]:
    """JPEG files of views; runs in a worker, which reuses its renderer between calls."""
    renderer = _renderer(seed, seconds)
    cameras = {c.name: c for c in load_rig(rig)}
    out = []
    for view in views:
        camera = cameras[view.camera]
        camera2map = renderer.scene.ego.at(view.time)[0] @ camera.camera2ego
        k = camera.scaled(height, width)
        picture = renderer.render(k, camera2map, height, width, view.time, samples)
        options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        done, data = cv2.imencode(".jpg", picture.rgb[..., ::-1], options)
        if not done:
            raise InvalidInput("image", f"{height} x {width} cannot be written as JPEG")
        out.append(data.tobytes())
    return out


def _photographs(
    photograph: Callable[[Sequence[View]], list[bytes]], chunks: list[list[View]], workers: int
) -> Generator[bytes, None, None]:
    results = map(photograph, chunks) if workers == 1 else in_processes(workers, photograph, chunks)
    for result in results:
        yield from result


def make_world_bag(
    path: Path | str,
    seed: int = 1,
    seconds: float = 20.0,
    rate: float = 12.0,
    height: int = 396,
    width: int = 704,
    jpeg_quality: int = 90,
    rig: str = "n015",
    samples: int = 1,
    pace: float = 1.0,
    workers: int = 1,
    force: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Path:
    """Render a drive through the world of a seed into a bag; returns the bag folder.

    seconds, rate: length of the drive and images per second and camera; height, width: of the images (the field of
    view is always that of the car's real 16:9 cameras); samples: rays along each side of a pixel; pace: world seconds
    per bag second, below 1 slows the vehicle and all traffic; workers: rendering processes; on_progress: called with
    the fraction done, 0..1. On one machine the same arguments give a byte-identical bag.

    Raises InvalidInput for an unknown rig, numbers out of range or an existing path without `force`.
    """
    if rate <= 0 or 1.0 / rate <= 2 * JITTER:
        raise InvalidInput("rate", f"{rate} images per second cannot be stamped in order")
    if not 1 <= jpeg_quality <= 100:
        raise InvalidInput("jpeg_quality", f"{jpeg_quality} is not within 1..100")
    if not 0.1 <= pace <= 1.0:
        raise InvalidInput("pace", f"{pace} is not within 0.1..1")
    if workers < 1:
        raise InvalidInput("workers", f"{workers} processes cannot render")
    cameras = load_rig(rig)
    with BagWriter(path, force) as bag:
        scene = Scene.generate(seed, pace * seconds)
        views = schedule(cameras, seconds, rate, seed, pace)
        chunk = 2 * len(cameras)
        chunks = [views[i : i + chunk] for i in range(0, len(views), chunk)]
        photograph = partial(_photograph, seed, pace * seconds, rig, height, width, samples, jpeg_quality)
        intrinsics = {c.name: c.scaled(height, width) for c in cameras}
        mounts = [(EGO_FRAME, c.name, c.camera2ego) for c in cameras]
        with closing(_photographs(photograph, chunks, workers)) as files:
            # The second number orders events with equal stamps: motion first, then command, images and occupancy.
            events: list[tuple[int, int, Callable[[], None]]] = []
            for stamp in _ticks(-TF_MARGIN, seconds + TF_MARGIN, TF_RATE):
                events.append((stamp, 0, partial(_write_motion, bag, scene, stamp, pace)))
            for stamp in _ticks(0.0, seconds, COMMAND_RATE):
                command = scene.ego.command(pace * _seconds(stamp)).value
                events.append((stamp, 1, partial(bag.string, COMMAND_TOPIC, stamp, command)))
            for view in views:
                events.append((view.stamp, 2, partial(_write_view, bag, view, files, intrinsics, height, width)))
            for view in _keyframes(views, seconds, pace):
                events.append((view.stamp, 3, partial(_write_occupancy, bag, scene, view)))
            events.sort(key=lambda e: e[:2])
            bag.transforms(events[0][0], mounts, static=True)
            for k, (_, _, action) in enumerate(events):
                action()
                if on_progress is not None:
                    on_progress((k + 1) / len(events))
    return Path(path)


def _ticks(start: float, end: float, rate: float) -> list[int]:
    """Stamps in ns from `start` to `end`, both inclusive and in seconds of the drive."""
    count = int((end - start) * rate + 1e-6)
    return [START + round((start + k / rate) * NANOSECONDS) for k in range(count + 1)]


def _seconds(stamp: int) -> float:
    return (stamp - START) / NANOSECONDS


def _write_motion(bag: BagWriter, scene: Scene, stamp: int, pace: float) -> None:
    pose, twist = scene.ego.at(pace * _seconds(stamp))
    bag.transforms(stamp, [(FIXED_FRAME, EGO_FRAME, pose)])
    bag.odometry(ODOMETRY_TOPIC, stamp, FIXED_FRAME, pose, pace * twist)


def _write_view(
    bag: BagWriter, view: View, files: Iterator[bytes], intrinsics: dict[str, np.ndarray], height: int, width: int
) -> None:
    name = view.camera
    bag.camera_info(f"/{name}/camera_info", view.stamp, name, width, height, intrinsics[name])
    bag.compressed_image(f"/{name}/image_rect_compressed", view.stamp, name, next(files))


def _keyframes(views: list[View], seconds: float, pace: float) -> list[View]:
    """The front camera's views nearest to every half second; ground truth uses the stamps of these images."""
    front = [v for v in views if v.camera == "CAM_FRONT"]
    times = np.array([v.time for v in front])
    wanted = pace * np.arange(0.0, seconds, 1.0 / OCCUPANCY_RATE)
    return [front[i] for i in np.unique([int(np.abs(times - t).argmin()) for t in wanted])]


def _write_occupancy(bag: BagWriter, scene: Scene, view: View) -> None:
    voxels = sparse_labels(scene, view.time)
    points = np.zeros(len(voxels), POINT)
    points["x"], points["y"], points["z"] = voxels.centres().T
    red, green, blue = PALETTES["live"][voxels.labels].astype(np.uint32).T
    points["rgb"], points["label"] = red << 16 | green << 8 | blue, voxels.labels
    bag.point_cloud(OCCUPANCY_TOPIC, view.stamp, EGO_FRAME, points)
