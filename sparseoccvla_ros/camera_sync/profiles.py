"""Input profiles: topics and frames of a recording or vehicle, one file each in config/profiles."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import InvalidInput
from ..core.files import read_yaml
from ..core.paths import share
from .config import SyncConfig

TRANSPORTS = ("raw", "compressed")
MOUNTS = ("tf", "file")
DEFAULT = "nuscenes"
FORMAT = "profile-1"
MOST_CAMERAS = 8
"""Most cameras of a rig: the weights were trained for one camera up to this number."""
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_KEYS = {"format", "description", "cameras", "shared", "reference", "mounts", "ego"}
_CAMERA_KEYS = {"image_topic", "transport", "info_topic", "frame_id", "frame_wins", "rectified", "views"}
_EGO_KEYS = {"base_frame", "fixed_frames", "odometry_topic"}


@dataclass(frozen=True)
class CameraInput:
    """Topics and frame of one camera.

    image_topic: Image or CompressedImage by `transport` (raw, compressed); info_topic: CameraInfo, empty if the
    intrinsics come from a calibration file; frame_id: its optical frame if messages leave it empty, or always if
    `frame_wins`; rectified: images are rectified, so P of the CameraInfo describes them and D is not undone; views:
    cameras of a frame set that are cut out of a wide lens, with the yaw of each in degrees, left positive.
    """

    name: str
    image_topic: str
    transport: str
    info_topic: str
    frame_id: str
    rectified: bool = False
    frame_wins: bool = False
    views: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its cameras in a frame set: its own, or those of its views."""
        return tuple(self.views) or (self.name,)


@dataclass(frozen=True)
class Profile:
    """Topics and frames of a recording or vehicle.

    cameras: by name, in order; reference: the reference camera; mounts: source of the cameras' poses on the vehicle,
    "tf" or "file"; base_frame: the ego frame; fixed_frames: looked up in tf, in order of preference, may be empty;
    odometry_topic: may be empty.
    """

    name: str
    description: str
    cameras: dict[str, CameraInput]
    reference: str
    mounts: str
    base_frame: str
    fixed_frames: tuple[str, ...]
    odometry_topic: str

    @property
    def names(self) -> tuple[str, ...]:
        """Cameras of a frame set, in order."""
        return tuple(name for camera in self.cameras.values() for name in camera.names)

    @property
    def reference_topic(self) -> str:
        """Image topic of the reference camera."""
        return self.cameras[self.reference].image_topic

    @property
    def needs_calibration_file(self) -> bool:
        """Whether intrinsics or mounts are not on any topic."""
        return self.mounts == "file" or any(not camera.info_topic for camera in self.cameras.values())

    def sync_config(self, **settings: Any) -> SyncConfig:
        """Build the SyncConfig of this profile; `settings` override the values of the profile."""
        own: dict[str, Any] = {"cameras": self.names, "reference": self.cameras[self.reference].names[0]}
        own |= {"base_frame": self.base_frame, "fixed_frames": self.fixed_frames}
        return SyncConfig(**own | settings)


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles bundled with the package, the default first."""
    found = {path.stem for path in share("config", "profiles").glob("*.yaml")}
    return (DEFAULT, *sorted(found - {DEFAULT}))


def profile(name: str | Path = "") -> Profile:
    """Load a profile by name, or from a file by path; an empty name loads the default.

    Raises InvalidInput listing the names, or naming the file and the key.
    """
    wanted = str(name) or DEFAULT
    if wanted in profile_names():
        return _profile(wanted, _read(share("config", "profiles", f"{wanted}.yaml")))
    path = Path(wanted)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        known = ", ".join(profile_names())
        raise InvalidInput("profile", f"{wanted!r} is neither the path of a .yaml file nor one of {known}")
    return _profile(path.stem, _read(path))


def _read(file: Path) -> dict[str, Any]:
    content = read_yaml(file, "profile")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InvalidInput("profile", f"{file} is no file of format {FORMAT}")
    return content


def _profile(name: str, content: dict[str, Any]) -> Profile:
    entry = _mapping(content, name, _KEYS)
    shared = _mapping(entry.get("shared") or {}, f"{name}.shared", _CAMERA_KEYS)
    own = entry.get("cameras")
    if not isinstance(own, dict) or not 1 <= len(own) <= MOST_CAMERAS:
        raise InvalidInput(f"{name}.cameras", f"want a mapping of 1 to {MOST_CAMERAS} camera names")
    cameras = {}
    for camera, values in own.items():
        if not isinstance(camera, str) or not _NAME.fullmatch(camera):
            raise InvalidInput(f"{name}.cameras", f"{camera!r} is no name: want letters, digits, _, - and .")
        where = f"{name}.cameras.{camera}"
        cameras[camera] = _camera(camera, shared | _mapping(values or {}, where, _CAMERA_KEYS), where)
    topics = [camera.image_topic for camera in cameras.values()]
    if len(set(topics)) != len(topics):
        raise InvalidInput(f"{name}.cameras", "two cameras share an image topic (views of one lens are `views`)")
    names = Counter(known for camera in cameras.values() for known in camera.names)
    if max(names.values()) > 1 or len(names) > MOST_CAMERAS:
        raise InvalidInput(f"{name}.cameras", f"want at most {MOST_CAMERAS} cameras and views, of distinct names")
    reference = entry.get("reference", next(iter(cameras)))
    if reference not in cameras:
        raise InvalidInput(f"{name}.reference", f"{reference!r} is not one of {', '.join(cameras)}")
    mounts = entry.get("mounts", "tf")
    if mounts not in MOUNTS:
        raise InvalidInput(f"{name}.mounts", f"want one of {', '.join(MOUNTS)}, got {mounts!r}")
    ego = _ego(name, _mapping(entry.get("ego"), f"{name}.ego", _EGO_KEYS))
    return Profile(name, str(entry.get("description", "")), cameras, reference, mounts, *ego)


def _ego(name: str, ego: dict[str, Any]) -> tuple[str, tuple[str, ...], str]:
    """Return base frame, fixed frames and odometry topic."""
    fixed = ego.get("fixed_frames", [])
    if not isinstance(fixed, list) or not all(isinstance(frame, str) and frame for frame in fixed):
        raise InvalidInput(f"{name}.ego.fixed_frames", "want a list of frame names")
    odometry = ego.get("odometry_topic", "")
    if odometry:
        _topic(odometry, f"{name}.ego.odometry_topic")
    if not fixed and not odometry:
        raise InvalidInput(f"{name}.ego", "names neither a fixed frame nor an odometry topic")
    base = ego.get("base_frame", "base_link")
    if not isinstance(base, str) or not base:
        raise InvalidInput(f"{name}.ego.base_frame", "want a frame name")
    return base, tuple(fixed), odometry


def _camera(name: str, values: dict[str, Any], where: str) -> CameraInput:
    switches = {key: values.get(key, False) for key in ("rectified", "frame_wins")}
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise InvalidInput(f"{where}.{key}", f"want true or false, got {value!r}")
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
    views = _views(values.get("views") or {}, f"{where}.views")
    if views and switches["rectified"]:
        raise InvalidInput(f"{where}.views", "a rectified image has no wide lens left to take views out of")
    return CameraInput(
        name, filled["image_topic"], filled["transport"], info, filled["frame_id"], **switches, views=views
    )


def _views(values: Any, where: str) -> dict[str, float]:
    """Return the views: degrees by name."""
    if not isinstance(values, dict):
        raise InvalidInput(where, "want a mapping of names to degrees, left positive")
    for name, yaw in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput(where, f"{name!r} is no name: want letters, digits, _, - and .")
        if isinstance(yaw, bool) or not isinstance(yaw, (int, float)) or not -180 <= yaw <= 180:
            raise InvalidInput(f"{where}.{name}", f"want -180..180 degrees, left positive, got {yaw!r}")
    return {name: float(yaw) for name, yaw in values.items()}


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
