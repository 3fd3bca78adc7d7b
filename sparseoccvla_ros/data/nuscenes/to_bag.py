"""Conversion of a nuScenes scene to a ROS 2 bag in the default `nuscenes` input profile.

JPEG bytes are copied unchanged; header stamp and record time of every message are its own sensor stamp (the public
converters record keyframes at the lidar's), so that playback keeps the real timing between cameras. Topics:

    /tf_static                              base_link -> each sensor, transient local
    /tf                                     map -> base_link at every ego_pose row (each sensor's own stamp)
    /odom                                   from the CAN bus, or else from differentiated poses
    /CAM_X/image_rect_compressed            the original file
    /CAM_X/camera_info                      K, R = I, P = [K 0], D = 0 (the images are undistorted)
    /LIDAR_TOP                              x, y, z, intensity, ring as float32
    /nuscenes/sample_token                  at keyframes
    /markers/annotations                    at keyframes: boxes in map; ns = category, text = annotation token
    /drivable_area                          at keyframes, with the map expansion: 32 x 32 m around the car, 0.1 m
    /nuscenes/scene                         once, transient local: the scene's name, description, location etc. as JSON
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput
from ..bags.annotations import Cube, write_cubes, write_occupancy_grid
from ..bags.writer import LATCHED_QOS, BagWriter
from .boxes import annotations as annotations_of
from .boxes import category_names, has_annotations
from .ego_motion import can_odometry, differentiated
from .map import Roads, map_file
from .tables import LIDAR, Scene, SensorRecord, list_scenes, load_scene

__all__ = ["Conversion", "convert_scene", "list_scenes"]

Progress = Callable[[int, int], None]
"""Called with (done, total) steps."""

BOXES, GROUND = "/markers/annotations", "/drivable_area"
BOX_SECONDS = 0.55
"""Lifetime of the boxes, s: slightly more than the time between keyframes."""
GROUND_EXTENT = 16.0
"""Half side of the drivable area around the car, m, as in Foxglove's converter."""
_COLOURS = {
    "vehicle.bicycle": (0.86, 0.08, 0.24), "vehicle.motorcycle": (1.0, 0.24, 0.39), "vehicle": (1.0, 0.62, 0.0),
    "human": (0.0, 0.0, 0.9), "movable_object": (0.44, 0.5, 0.56),
}  # fmt: skip
_OTHER = (0.6, 0.6, 0.6)
LIDAR_POINT = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity", "ring")])


@dataclass(frozen=True)
class Conversion:
    """Result of a converter: message counts per topic, and the skipped parts with the reason."""

    path: Path
    counts: dict[str, int]
    skipped: dict[str, str]


def convert_scene(
    dataroot: Path | str,
    scene: str,
    out: Path | str,
    version: str = "auto",
    keyframes_only: bool = False,
    on_progress: Progress | None = None,
    lidar: bool = True,
    force: bool = False,
    annotations: bool = True,
) -> Conversion:
    """Write one scene (by name, such as scene-0061) of a nuScenes data root to a rosbag2 MCAP folder `out`.

    version: table folder, "auto" = the first that has the scene. keyframes_only: leave the sweeps out. lidar: include
    LIDAR_TOP. force: replace a bag at `out`. annotations: include boxes, whose table is large in v1.0-trainval. The
    bag appears only when it is complete.

    Raises InvalidInput for missing tables or files (listing them and the archive that holds them), an unknown scene, a
    truncated JPEG or lidar file, and an existing `out` without `force`.
    """
    root = Path(dataroot)
    content = load_scene(root, scene, version)
    records = [r for r in content.records if (r.keyframe or not keyframes_only) and (lidar or r.channel != LIDAR)]
    if not records:
        raise InvalidInput("scene", f"{scene} has no camera or lidar files in the tables")
    _check_files(root, records, content)
    poses = _covering_poses(content, records)
    skipped: dict[str, str] = {}
    odometry = can_odometry(root, scene, min(poses), max(poses))
    if odometry is None:
        odometry = list(differentiated(poses))
        skipped["can_bus"] = f"{scene} has no can_bus/{scene}_pose.json; /odom is differentiated from the poses"

    # At equal stamps poses come first, so that a subscriber can transform the messages that follow.
    events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
    for stamp, pose in poses.items():
        events.append((stamp, 0, BagWriter.transforms, (stamp, [("map", "base_link", pose)])))
    for stamp, pose, twist in odometry:
        events.append((stamp, 1, BagWriter.odometry, ("/odom", stamp, "map", pose, twist)))
    for record in records:
        events.append((record.stamp, 2, _write_lidar if record.channel == LIDAR else _write_camera, (root, record)))
    for stamp, token in content.keyframes:
        events.append((stamp, 3, BagWriter.string, ("/nuscenes/sample_token", stamp, token)))
    boxes = _boxes(root / content.version, content) if annotations else {}
    if annotations and not boxes:
        skipped[BOXES] = f"{content.version} has no annotations of {scene}"
    for stamp, token in content.keyframes:
        if token in boxes:
            events.append((stamp, 3, write_cubes, (BOXES, stamp, "map", boxes[token], BOX_SECONDS)))
    file = map_file(root, content.location)
    if file.is_file():
        roads = Roads(file)
        events += [(r.stamp, 3, _write_ground, (roads, r.stamp, poses[r.stamp])) for r in _placed(records, poses)]
    else:
        skipped[GROUND] = f"the map expansion is not there: {file}"
    events.sort(key=lambda e: e[:2])

    start = events[0][0]
    mounted = {r.channel: r.calibration.sensor2ego for r in records}
    with BagWriter(out, force=force) as bag:
        bag.transforms(start, [("base_link", channel, pose) for channel, pose in sorted(mounted.items())], static=True)
        about = {k: getattr(content, k) for k in ("name", "description", "location", "vehicle", "version")}
        bag.write("/nuscenes/scene", bag.construct("std_msgs/msg/String", data=json.dumps(about)), start, LATCHED_QOS)
        for done, (_, _, write, arguments) in enumerate(events, 1):
            write(bag, *arguments)
            if on_progress is not None:
                on_progress(done, len(events))
    return Conversion(Path(out), dict(bag.counts), skipped)


def _boxes(folder: Path, scene: Scene) -> dict[str, list[Cube]]:
    """Boxes by keyframe token, in the global frame; empty if the version has none."""
    if not has_annotations(folder):
        return {}
    names = category_names(folder)
    out: dict[str, list[Cube]] = {}
    for box in annotations_of(folder, frozenset(token for _, token in scene.keyframes)):
        kind = names[box.category]
        out.setdefault(box.sample, []).append(Cube(kind, box.instance, box.pose, box.size, _colour(kind), box.token))
    return out


def _colour(category: str) -> tuple[float, float, float]:
    return next((c for prefix, c in _COLOURS.items() if category.startswith(prefix)), _OTHER)


def _placed(records: Iterable[SensorRecord], poses: dict[int, np.ndarray]) -> list[SensorRecord]:
    """For each keyframe, its first record with a pose at its own stamp."""
    first: dict[str, SensorRecord] = {}
    for record in records:
        if record.keyframe and record.stamp in poses:
            first.setdefault(record.sample_token, record)
    return list(first.values())


def _write_ground(bag: BagWriter, roads: Roads, stamp: int, pose: np.ndarray) -> None:
    flat = geometry.planar(float(pose[0, 3]), float(pose[1, 3]), geometry.yaw_of(pose))
    cells = np.where(roads.drivable(flat, GROUND_EXTENT), 0, 100).astype(np.int8)
    corner = flat @ geometry.planar(-GROUND_EXTENT, -GROUND_EXTENT, 0.0)
    write_occupancy_grid(bag, GROUND, stamp, "map", corner, 0.1, cells)


def _write_camera(bag: BagWriter, root: Path, record: SensorRecord) -> None:
    intrinsics = record.calibration.intrinsics
    assert intrinsics is not None
    data = _read_jpeg(root / record.filename)
    channel = record.channel
    bag.camera_info(f"/{channel}/camera_info", record.stamp, channel, record.width, record.height, intrinsics)
    bag.compressed_image(f"/{channel}/image_rect_compressed", record.stamp, channel, data)


def _write_lidar(bag: BagWriter, root: Path, record: SensorRecord) -> None:
    data = (root / record.filename).read_bytes()
    if not data or len(data) % LIDAR_POINT.itemsize:
        raise InvalidInput("sample_data", f"{record.filename} is cut off: {len(data)} bytes are no whole points")
    bag.point_cloud(f"/{record.channel}", record.stamp, record.channel, np.frombuffer(data, LIDAR_POINT))


def _read_jpeg(path: Path) -> bytes:
    data = path.read_bytes()
    # 0xff is always escaped within the scan data, so an end marker near the end is genuine.
    if data[:2] != b"\xff\xd8" or b"\xff\xd9" not in data[-64:]:
        what = "is no JPEG" if data[:2] != b"\xff\xd8" else "is truncated: the JPEG has no end mark"
        raise InvalidInput("sample_data", f"{path} {what} ({len(data)} bytes); extract its archive again")
    return data


def _check_files(root: Path, records: Iterable[SensorRecord], scene: Scene) -> None:
    """Raise InvalidInput listing the missing files and their archive, before anything is written."""
    records = list(records)
    missing = [r for r in records if not (root / r.filename).is_file()]
    if not missing:
        return
    folders = Counter("/".join(r.filename.split("/")[:2]) for r in missing)
    listed = ", ".join(f"{folder} ({count})" for folder, count in sorted(folders.items()))
    archive = {
        "v1.0-mini": "v1.0-mini.tgz",
        "v1.0-trainval": "the v1.0-trainvalNN_blobs.tgz part of this scene",
        "v1.0-test": "v1.0-test_blobs.tgz",
    }.get(scene.version, f"the file archive of {scene.version}")
    advice = [f"extract {archive} into {root}"]
    if all(not r.keyframe for r in missing):
        advice.append("or convert with --keyframes-only: only sweeps are missing")
    if all(r.channel == LIDAR for r in missing):
        advice.append("or convert with --no-lidar")
    raise InvalidInput(
        "sample_data",
        f"{len(missing)} of {len(records)} files of {scene.name} are missing in {listed}, "
        f"such as {missing[0].filename}; {', '.join(advice)}",
    )


def _covering_poses(scene: Scene, records: Iterable[SensorRecord]) -> dict[int, np.ndarray]:
    """Poses by stamp, extended to cover every sensor stamp (tf does not extrapolate)."""
    poses = dict(scene.poses)
    low, high = min(poses), max(poses)
    for record in records:
        if not low <= record.stamp <= high:
            poses[record.stamp] = scene.poses[scene.pose_stamps[record.pose_token]]
    return dict(sorted(poses.items()))
