"""Input profiles: topics and frames of the recordings and stacks people have, as data in config/profiles.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.classes import CAMERAS
from ..core.errors import InvalidInput
from ..core.paths import share
from ..core.yaml_file import read_yaml
from .config import SyncConfig

TRANSPORTS = ("raw", "compressed")
MOUNTS = ("tf", "file")
_FORMAT = "profiles-1"
_TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_CAMERA_KEYS = {"image_topic", "transport", "info_topic", "frame_id", "rectified"}
_EGO_KEYS = {"base_frame", "fixed_frames", "odometry_topic"}


@dataclass(frozen=True)
class CameraInput:
    """Where one camera comes from.

    image_topic: Image or CompressedImage by `transport` (raw, compressed); info_topic: CameraInfo, empty where the
    intrinsics come from a calibration file; frame_id: its optical frame where messages leave it empty, or always if
    `frame_wins`; rectified: the images are, so P of the CameraInfo describes them and D is not undone again.
    """

    name: str
    image_topic: str
    transport: str
    info_topic: str
    frame_id: str
    rectified: bool = False
    frame_wins: bool = False


@dataclass(frozen=True)
class Profile:
    """Where everything comes from.

    cameras: by name, in order; mounts: "tf" or "file", where the cameras' poses on the vehicle come from; base_frame:
    the ego frame; fixed_frames: looked up in tf, best first, may be empty; odometry_topic: may be empty.
    """

    name: str
    description: str
    cameras: dict[str, CameraInput]
    mounts: str
    base_frame: str
    fixed_frames: tuple[str, ...]
    odometry_topic: str

    @property
    def needs_calibration_file(self) -> bool:
        """Intrinsics or mounts are not on any topic."""
        return self.mounts == "file" or any(not camera.info_topic for camera in self.cameras.values())

    def sync_config(self, **settings: Any) -> SyncConfig:
        """How frame sets are formed from this profile; `settings` that are given win over its frames."""
        return SyncConfig(**{"base_frame": self.base_frame, "fixed_frames": self.fixed_frames} | settings)


def profile_names(path: str | Path | None = None) -> tuple[str, ...]:
    """Names of the profiles in a file, default the installed config/profiles.yaml."""
    return tuple(map(str, _read(path)["profiles"]))


def profile(name: str = "", path: str | Path | None = None, cameras: tuple[str, ...] = CAMERAS) -> Profile:
    """One profile by name, the file's default where the name is empty. Raises InvalidInput listing the names."""
    content = _read(path)
    wanted = name or str(content.get("default", ""))
    if wanted not in content["profiles"]:
        raise InvalidInput("profile", f"{wanted!r} is none of {', '.join(map(str, content['profiles']))}")
    return _profile(wanted, content["profiles"][wanted], cameras)


def _read(path: str | Path | None) -> dict[str, Any]:
    file = Path(path) if path is not None else share("config", "profiles.yaml")
    content = read_yaml(file, "profiles")
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InvalidInput("profiles", f"{file} is no file of format {_FORMAT}")
    if not isinstance(content.get("profiles"), dict) or not content["profiles"]:
        raise InvalidInput("profiles", f"{file} holds no profiles")
    return content


def _profile(name: str, entry: Any, names: tuple[str, ...]) -> Profile:
    where = f"profiles.{name}"
    entry = _mapping(entry, where, {"description", "cameras", "each", "mounts", "ego"})
    template = _mapping(entry.get("cameras"), f"{where}.cameras", _CAMERA_KEYS)
    single = entry.get("each") or {}
    if not isinstance(single, dict) or set(single) - set(names):
        raise InvalidInput(f"{where}.each", f"want cameras of {', '.join(names)}")
    ego = _mapping(entry.get("ego"), f"{where}.ego", _EGO_KEYS)
    mounts = entry.get("mounts", "tf")
    if mounts not in MOUNTS:
        raise InvalidInput(f"{where}.mounts", f"want one of {', '.join(MOUNTS)}, got {mounts!r}")
    fixed = ego.get("fixed_frames", [])
    if not isinstance(fixed, list) or not all(isinstance(frame, str) and frame for frame in fixed):
        raise InvalidInput(f"{where}.ego.fixed_frames", "want a list of frame names")
    odometry = ego.get("odometry_topic", "")
    if odometry:
        _topic(odometry, f"{where}.ego.odometry_topic")
    if not fixed and not odometry:
        raise InvalidInput(f"{where}.ego", "names neither a fixed frame nor an odometry topic")
    cameras = {}
    for camera in names:
        own = _mapping(single.get(camera, {}), f"{where}.each.{camera}", _CAMERA_KEYS)
        cameras[camera] = _camera(camera, template | own, f"{where}.cameras")
    topics = [camera.image_topic for camera in cameras.values()]
    if len(set(topics)) != len(topics):
        raise InvalidInput(f"{where}.cameras", "two cameras share an image topic")
    base = ego.get("base_frame", "base_link")
    if not isinstance(base, str) or not base:
        raise InvalidInput(f"{where}.ego.base_frame", "want a frame name")
    return Profile(name, str(entry.get("description", "")), cameras, mounts, base, tuple(fixed), odometry)


def _camera(name: str, values: dict[str, Any], where: str) -> CameraInput:
    rectified = values.get("rectified", False)
    if not isinstance(rectified, bool):
        raise InvalidInput(f"{where}.rectified", f"want true or false, got {rectified!r}")
    filled = {key: str(value).replace("{NAME}", name).replace("{name}", name.lower()) for key, value in values.items()}
    missing = sorted({"image_topic", "transport", "frame_id"} - set(filled))
    if missing:
        raise InvalidInput(where, f"{', '.join(missing)} is missing")
    if filled["transport"] not in TRANSPORTS:
        raise InvalidInput(f"{where}.transport", f"want one of {', '.join(TRANSPORTS)}, got {filled['transport']!r}")
    _topic(filled["image_topic"], f"{where}.image_topic")
    info = filled.get("info_topic", "")
    if info:
        _topic(info, f"{where}.info_topic")
    if not filled["frame_id"]:
        raise InvalidInput(f"{where}.frame_id", "is empty")
    return CameraInput(name, filled["image_topic"], filled["transport"], info, filled["frame_id"], rectified)


def _mapping(value: Any, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(where, f"want a mapping of {', '.join(sorted(keys))}")
    unknown = sorted(map(str, set(value) - keys))
    if unknown:
        raise InvalidInput(where, f"unknown keys {', '.join(unknown)}; these are known: {', '.join(sorted(keys))}")
    return value


def _topic(name: Any, where: str) -> None:
    if not isinstance(name, str) or not _TOPIC.fullmatch(name):
        raise InvalidInput(where, f"{name!r} is no topic name")
