"""Bags of vehicles that are not nuScenes': 1 to 8 cameras with mixed names, lenses, transports and sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import yaml

from sparseoccvla_ros.camera_sync.calibration import EQUIDISTANT, PLUMB_BOB, RATIONAL, CameraModel
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.core.types import NANOSECONDS
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.writer import BagWriter

START = 1_700_000_000 * NANOSECONDS
NAMES = ("bow", "stern", "eye.left", "eye.right", "mirror-l", "mirror-r", "roof", "7th")
LENSES = (PLUMB_BOB, RATIONAL, EQUIDISTANT)
RATIONAL_LENS = (-0.28, 0.09, 0.0005, -0.0004, 0.002, 0.05, -0.02, 0.004)
FISHEYE_LENS = (0.02, -0.004, 0.001, -0.0002)
FOCAL = 190.0
"""px, of the bundled bag's images as they are shown to a lens: 86 degrees wide."""
SPEED = 5.0
"""m/s, straight on."""


def rig(count: int) -> dict[str, CameraModel]:
    """Cameras around a car, each with another lens, optical frame and size than its neighbour."""
    headings = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
    out = {}
    for i, (name, heading) in enumerate(zip(NAMES, headings, strict=False)):
        width, height = ((320, 180), (256, 192), (240, 240))[i % 3]
        lens = LENSES[i % 3]
        focal = {PLUMB_BOB: 0.6, RATIONAL: 0.55, EQUIDISTANT: 0.32}[lens] * width
        k = np.array([[focal, 0.0, 0.5 * width + i], [0.0, focal, 0.5 * height - i], [0.0, 0.0, 1.0]])
        c, s = np.cos(heading), np.sin(heading)
        pose = np.eye(4)
        pose[:3, :3] = np.array([[s, 0.0, c], [-c, 0.0, s], [0.0, -1.0, 0.0]])
        pose[:3, 3] = (1.2 + 0.7 * c, 0.7 * s, 1.6)
        d = {PLUMB_BOB: (), RATIONAL: RATIONAL_LENS, EQUIDISTANT: FISHEYE_LENS}[lens]
        out[name] = CameraModel(name, f"optical_{i}", width, height, k, pose, np.array(d), lens)
    return out


@cache
def _views() -> tuple[np.ndarray, ...]:
    """The first image of every camera of the bundled world, uint8 [198, 352, 3] RGB."""
    topics = [c.image_topic for c in profile().cameras.values()]
    found: dict[str, np.ndarray] = {}
    with BagReader(bundled_bag()) as reader:
        for record in reader.messages(topics):
            if record.topic not in found:
                data = np.asarray(reader.decode(record.raw, record.type).data)
                found[record.topic] = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
            if len(found) == len(topics):
                break
    return tuple(found[topic] for topic in topics)


def photograph(model: CameraModel, index: int) -> np.ndarray:
    """A view of the bundled world through a camera's lens, uint8 [H, W, 3] RGB; black where the lens sees more."""
    view = _views()[index % len(_views())]
    distortion = model.distortion if model.distortion.size else np.zeros(4)
    fisheye = model.distortion_model == EQUIDISTANT
    seen = _rays(model.height, model.width, model.intrinsics.tobytes(), tuple(distortion.tolist()), fisheye)
    seen = (seen * FOCAL + (0.5 * view.shape[1], 0.5 * view.shape[0])).astype(np.float32)
    return cv2.remap(view, seen, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@cache
def _rays(height: int, width: int, intrinsics: bytes, distortion: tuple[float, ...], fisheye: bool) -> np.ndarray:
    """Where the pixels of a lens look, float64 [H, W, 2]: x / z and y / z of the optical frame."""
    u, v = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    pixels = np.stack([u, v], -1).reshape(-1, 1, 2)
    undistort = cv2.fisheye.undistortPoints if fisheye else cv2.undistortPoints
    matrix = np.frombuffer(intrinsics).reshape(3, 3)
    return undistort(pixels, matrix, np.array(distortion)).reshape(height, width, 2)


@dataclass(frozen=True)
class Recording:
    """How a vehicle is recorded; the defaults are a sound recording, what differs is a mistake to find.

    seconds, rate: of the images; late: seconds by which a camera's stamps lie behind the others'; silent: cameras whose
    images end after half the time; infos: False sends no CameraInfo; mounts: False sends no tf_static; odometry, tf:
    whether the ego's motion is there.
    """

    seconds: float = 2.0
    rate: float = 3.0
    late: dict[str, float] | None = None
    silent: tuple[str, ...] = ()
    infos: bool = True
    mounts: bool = True
    odometry: bool = True
    tf: bool = True

    def but(self, **changes: object) -> Recording:
        """Another one."""
        return replace(self, **changes)  # type: ignore[arg-type]


def write(
    folder: Path,
    cameras: dict[str, CameraModel],
    how: Recording = Recording(),
    infos: dict[str, CameraModel] | None = None,
    images: dict[str, np.ndarray] | None = None,
) -> tuple[Path, Path]:
    """A bag of a straight drive and the profile that fits it; returns both paths.

    infos: what CameraInfo says of cameras, where that is not the truth; images: [H, W, 3] that replace theirs.
    """
    pictures = {name: photograph(model, i) for i, (name, model) in enumerate(cameras.items())} | (images or {})
    bag_path = folder / "bag"
    with BagWriter(bag_path) as bag:
        if how.mounts:
            edges = [("base_link", m.frame_id, m.camera2ego) for m in cameras.values()]
            bag.transforms(START - NANOSECONDS, edges, static=True)
        for stamp, name in sorted(_events(cameras, how)):
            if name:
                model = cameras[name]
                if how.infos:
                    _info(bag, _topic(name) + "/info", stamp, (infos or {}).get(name, model))
                _image(bag, name, stamp, model.frame_id, pictures[name])
                continue
            pose = geometry.planar(SPEED * (stamp - START) / NANOSECONDS, 0.0, 0.0)
            if how.tf:
                bag.transforms(stamp, [("map", "base_link", pose)])
            if how.odometry:
                bag.odometry("/vehicle/odom", stamp, "map", pose, np.array([SPEED, 0.0, 0.0, 0.0, 0.0, 0.0]))
    return bag_path, write_profile(folder / "vehicle.yaml", tuple(cameras))


def _events(cameras: dict[str, CameraModel], how: Recording) -> list[tuple[int, str]]:
    """Stamp in ns and camera, empty for the ego's motion."""
    events = [(START + round(NANOSECONDS * t), "") for t in np.arange(-0.4, how.seconds + 0.4, 0.04)]
    for k in range(int(how.seconds * how.rate)):
        for i, name in enumerate(cameras):
            time = k / how.rate + 0.002 * i
            if not (name in how.silent and time > 0.5 * how.seconds):
                late = (how.late or {}).get(name, 0.0)
                events.append((START + round(NANOSECONDS * (time + late)), name))
    return events


def write_profile(path: Path, names: tuple[str, ...]) -> Path:
    """The profile of such a bag."""
    each = {
        name: {
            "image_topic": _topic(name) + ("/jpeg" if _compressed(name) else "/image"),
            "transport": "compressed" if _compressed(name) else "raw",
            "info_topic": _topic(name) + "/info",
            "frame_id": f"optical_{NAMES.index(name)}",
        }
        for name in names
    }
    ego = {"base_frame": "base_link", "fixed_frames": ["map"], "odometry_topic": "/vehicle/odom"}
    content = {"format": "profile-1", "description": "a vehicle of the tests", "cameras": each, "ego": ego}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def cut(path: Path, name: str, views: dict[str, float]) -> tuple[str, ...]:
    """Replace a camera of a profile by views out of its lens; returns all names of a frame set."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["cameras"][name]["views"] = views
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return profile(path).names


def _topic(name: str) -> str:
    return f"/rig/cam{NAMES.index(name)}"


def _compressed(name: str) -> bool:
    return NAMES.index(name) % 2 == 0


def _image(bag: BagWriter, name: str, stamp: int, frame: str, picture: np.ndarray) -> None:
    if _compressed(name):
        data = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
        bag.compressed_image(_topic(name) + "/jpeg", stamp, frame, data)
        return
    height, width = picture.shape[:2]
    message = bag.construct(
        "sensor_msgs/msg/Image", header=bag.header(stamp, frame), height=height, width=width, encoding="rgb8",
        is_bigendian=0, step=3 * width, data=np.ascontiguousarray(picture).ravel(),
    )  # fmt: skip
    bag.write(_topic(name) + "/image", message, stamp)


def _info(bag: BagWriter, topic: str, stamp: int, model: CameraModel) -> None:
    roi = bag.construct("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    message = bag.construct(
        "sensor_msgs/msg/CameraInfo", header=bag.header(stamp, model.frame_id), height=model.height, width=model.width,
        distortion_model=model.distortion_model, d=model.distortion, k=model.intrinsics.ravel(), r=np.eye(3).ravel(),
        p=np.hstack([model.intrinsics, np.zeros((3, 1))]).ravel(), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip
    bag.write(topic, message, stamp)
