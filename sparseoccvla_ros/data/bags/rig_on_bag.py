"""./run rig on a bag: check a profile against the bag, or draft a profile for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...camera_sync.calibration import is_fisheye
from ...camera_sync.config import ImageConfig
from ...camera_sync.message_adapter import stamp_ns
from ...camera_sync.profiles import FORMAT, MOST_CAMERAS, Profile
from ...camera_sync.rig.check import IMAGE_TYPES, INFO_TYPE, ODOMETRY_TYPE, RigCheck, RigReport
from ...core import geometry
from ...core.errors import InvalidInput
from ...core.tf_buffer import TransformBuffer, TransformError
from ...core.types import NANOSECONDS
from .reader import BagReader

_TRANSPORT = {kind: transport for transport, kind in IMAGE_TYPES.items()}
_NOT_COLOUR = ("depth", "disparity", "segment", "label", "mask", "range_image", "mosaic", "debug", "thumbnail")
"""Substrings of topic names that mark images other than colour camera images."""
_FIXED = ("map", "odom", "world")
_BASES = ("base_link", "base_footprint", "ego_vehicle", "imu_link")


def check_bag(
    bag: Path, profile: Profile, image: ImageConfig, seconds: float = 10.0, calibration_file: str = ""
) -> RigReport:
    """Check a profile against the first `seconds` of a bag. Raises InvalidInput for an unreadable bag."""
    with BagReader(bag) as reader:
        kinds = {name: topic.type for name, topic in reader.topics.items()}
        check = RigCheck(profile, image, kinds, calibration_file)
        stop = reader.start + round(seconds * NANOSECONDS) + 1
        for record in reader.messages(check.wanted, stop=stop) if check.wanted else ():
            check.add(record.topic, reader.decode(record.raw, record.type), record.stamp)
        return check.report()


@dataclass(frozen=True)
class Draft:
    """Drafted profile: its YAML text, and notes on assumptions and missing parts, one line each."""

    text: str
    notes: tuple[str, ...]


def draft_profile(bag: Path) -> Draft:
    """Draft a profile from the topics and transforms of a bag. Raises InvalidInput("bag") for one without images."""
    with BagReader(bag) as reader:
        kinds = {name: topic.type for name, topic in reader.topics.items() if topic.count}
        notes: list[str] = []
        topics = _image_topics(kinds, notes)
        if not topics:
            raise InvalidInput("bag", f"{bag} holds no sensor_msgs images; ./run bag info {bag} lists its topics")
        tf, edges = _transforms(reader, kinds)
        first = {topic: _first(reader, topic) for topic in topics}
        infos = {topic: _info_topic(topic, kinds) for topic in topics}
        wide = {t for t, info in infos.items() if info and is_fisheye(_first(reader, info).distortion_model)}
        odometry = sorted(name for name, kind in kinds.items() if kind == ODOMETRY_TYPE)
        sample = _first(reader, odometry[0]) if odometry else None
        if len(odometry) > 1:
            notes.append(f"took {odometry[0]} of {len(odometry)} odometry topics: {', '.join(odometry)}")
    frames = {frame for edge in edges for frame in edge}
    child = sample.child_frame_id.lstrip("/") if sample is not None else ""
    base = next((name for name in _BASES if name in frames), child or "base_link")
    fixed = [name for name in _FIXED if name in frames and _connected(tf, name, base)]
    if not fixed and not odometry:
        notes.append("neither tf nor an odometry topic gives the ego's motion: frame sets need one of them")
        fixed = ["map"]
    cameras: dict[str, dict[str, Any]] = {}
    headings: dict[str, float] = {}
    for name, topic in zip(_names(topics), topics, strict=True):
        frame = first[topic].header.frame_id.lstrip("/")
        info = infos[topic]
        entry: dict[str, Any] = {"image_topic": topic, "transport": _TRANSPORT[kinds[topic]], "info_topic": info}
        entry |= {"frame_id": frame or name}
        if is_rectified(topic):
            entry["rectified"] = True
        cameras[name] = entry
        if not info:
            notes.append(f"{name}: no CameraInfo beside {topic}: a calibration file has to give its intrinsics")
        if topic in wide:
            notes.append(f"{name}: of a fisheye its middle is shown; `views` of the profile show its full angle")
        if _connected(tf, base, frame):
            headings[name] = geometry.yaw_of(_axes(tf.latest(base, frame)[1]))
        else:
            notes.append(
                f"{name}: tf does not lead from {base} to {frame or 'its empty frame'}: give a calibration file"
            )
    content: dict[str, Any] = {"format": FORMAT, "description": f"drafted from {bag.name}", "cameras": cameras}
    content["reference"] = min(headings, key=lambda n: abs(headings[n]), default=next(iter(cameras)))
    content["mounts"] = "tf" if len(headings) == len(cameras) else "file"
    content["ego"] = {"base_frame": base, "fixed_frames": fixed, "odometry_topic": odometry[0] if odometry else ""}
    return Draft(yaml.safe_dump(content, sort_keys=False), tuple(notes))


def _image_topics(kinds: dict[str, str], notes: list[str]) -> list[str]:
    """One topic per camera; prefers the compressed variant of a raw topic, whose messages are smaller."""
    found = [t for t, k in kinds.items() if k in _TRANSPORT and not any(word in t.lower() for word in _NOT_COLOUR)]
    best: dict[str, str] = {}
    for topic in sorted(found):
        key = topic.removesuffix("/compressed")
        if key not in best or kinds[topic] == IMAGE_TYPES["compressed"]:
            best[key] = topic
    # A rectified and a raw stream of one camera share a namespace; one is enough, since camera_sync undistorts.
    folders: dict[str, str] = {}
    for topic in best.values():
        folder = topic.removesuffix("/compressed").rsplit("/", 1)[0]
        kept = folders.get(folder)
        if kept is not None and folder:
            notes.append(f"{topic} is left out: {kept} is the same camera")
            continue
        folders[folder or topic] = topic
    topics = list(folders.values())
    if len(topics) > MOST_CAMERAS:
        notes.append(f"left out beyond {MOST_CAMERAS} cameras: {', '.join(topics[MOST_CAMERAS:])}")
    return topics[:MOST_CAMERAS]


def is_rectified(topic: str) -> bool:
    """Whether an image topic is named rectified, as by image_proc ("rect" must be a word, unlike in "direct")."""
    return re.search(r"(^|[/_])rect(ified)?(_|/|$)", topic.lower()) is not None


def _names(topics: list[str]) -> list[str]:
    """Camera names from topics: the first level at which all differ, else all levels joined; one topic: its parent."""
    levels = [topic.strip("/").split("/") for topic in topics]
    if len(topics) == 1:
        return [levels[0][-2] if len(levels[0]) > 1 else levels[0][0]]
    for i in range(min(map(len, levels))):
        column = [row[i] for row in levels]
        if len(set(column)) == len(column):
            return column
    return ["_".join(row) for row in levels]


def _info_topic(image: str, kinds: dict[str, str]) -> str:
    """CameraInfo topic in the nearest namespace of an image topic that holds exactly one; "" if none does."""
    folder = image.removesuffix("/compressed")
    while "/" in folder:
        folder = folder.rsplit("/", 1)[0]
        inside = [t for t, k in kinds.items() if k == INFO_TYPE and t.rsplit("/", 1)[0] == folder]
        if len(inside) == 1 and folder:
            return inside[0]
    return ""


def _transforms(reader: BagReader, kinds: dict[str, str]) -> tuple[TransformBuffer, set[tuple[str, str]]]:
    """Transforms of the bag's first 5 s as static ones (the first of each frame pair), and the set of frame pairs."""
    buffer, edges = TransformBuffer(), set()
    for topic in ("/tf_static", "/tf"):
        if kinds.get(topic) != "tf2_msgs/msg/TFMessage":
            continue
        for record in reader.messages([topic], stop=reader.start + 5 * NANOSECONDS):
            for item in reader.decode(record.raw, record.type).transforms:
                pair = (item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/"))
                t, q = item.transform.translation, item.transform.rotation
                if pair not in edges:
                    edges.add(pair)
                    buffer.insert(
                        *pair, stamp_ns(item.header.stamp), (t.x, t.y, t.z), (q.x, q.y, q.z, q.w), static=True
                    )
    return buffer, edges


def _connected(tf: TransformBuffer, target: str, source: str) -> bool:
    try:
        tf.latest(target, source)
    except (TransformError, InvalidInput):
        return False
    return True


def _first(reader: BagReader, topic: str) -> Any:
    record = next(iter(reader.messages([topic])))
    return reader.decode(record.raw, record.type)


def _axes(camera2ego: np.ndarray) -> np.ndarray:
    """Matrix [4, 4] with the optical axis as its first column, so that its yaw is the camera's heading."""
    out = np.eye(4)
    out[:3, 0] = camera2ego[:3, 2]
    return out
