"""Reading the nuScenes JSON tables of some scenes, without the devkit and without holding whole tables in memory.

The format is nuScenes v1.0 (Caesar et al. 2020; docs/schema_nuscenes.md of the devkit): one JSON array of flat rows
per table, linked by tokens. sample_data and ego_pose of the full set are over a gigabyte together, so every table is
streamed and only the rows of the wanted scenes are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput

LIDAR = "LIDAR_TOP"
TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor", "log")
MICROSECOND = 1000
"""Nanoseconds per microsecond, the unit of the tables."""
_BLOCK = 1 << 20
_ROW_LIMIT = 1 << 24

Row = dict[str, Any]
OnRead = Callable[[int], None]
"""Progress callback; receives the number of characters read since the last call."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """One mounted sensor: sensor2ego float64 [4, 4] m; intrinsics float64 [3, 3] px, None for a lidar or radar."""

    channel: str
    sensor2ego: np.ndarray
    intrinsics: np.ndarray | None


@dataclass(frozen=True, eq=False)
class SensorRecord:
    """One file of one sensor: stamp in ns, path relative to the data root, size in px (0 for a lidar).

    sample_token: the keyframe it belongs to (of a sweep: the next one); pose_token: its row of ego_pose.
    """

    channel: str
    stamp: int
    filename: str
    keyframe: bool
    width: int
    height: int
    calibration: Calibration
    pose_token: str
    sample_token: str


@dataclass(frozen=True, eq=False)
class Scene:
    """Table content of one scene.

    keyframes: (stamp ns, sample token); records: cameras and LIDAR_TOP by stamp; poses: stamp ns -> ego2global
    float64 [4, 4] of every ego_pose row of the scene, by stamp; pose_stamps: ego_pose token -> stamp ns.
    """

    name: str
    description: str
    version: str
    location: str
    vehicle: str
    keyframes: tuple[tuple[int, str], ...]
    records: tuple[SensorRecord, ...]
    poses: dict[int, np.ndarray]
    pose_stamps: dict[str, int]


def rows(path: Path, on_read: OnRead | None = None) -> Iterator[Row]:
    """Yields the rows of a table file in constant memory.

    Raises InvalidInput naming the table if the file is missing, cut off or not a JSON array of objects.
    """
    table = path.stem
    if not path.is_file():
        raise InvalidInput(table, f"table {path} is missing; the metadata archive of this version holds it")
    scan = json.JSONDecoder().raw_decode
    with path.open(encoding="utf-8") as stream:
        text, at, opened = "", 0, False
        while True:
            block = stream.read(_BLOCK)
            if on_read is not None:
                on_read(len(block))
            text, at = text[at:] + block, 0
            while True:
                while at < len(text) and (text[at].isspace() or (opened and text[at] == ",")):
                    at += 1
                if at == len(text):
                    break
                if not opened:
                    if text[at] != "[":
                        raise InvalidInput(table, f"{path} is no JSON array")
                    opened, at = True, at + 1
                    continue
                if text[at] == "]":
                    return
                try:
                    row, at = scan(text, at)
                except ValueError as error:
                    # Either the row continues in the next block, or it is malformed.
                    if not block or len(text) - at > _ROW_LIMIT:
                        raise InvalidInput(table, f"{path} is cut off or no JSON: {error}") from error
                    break
                if not isinstance(row, dict):
                    raise InvalidInput(table, f"{path} holds {type(row).__name__} where rows are wanted")
                yield row
            if not block:
                raise InvalidInput(table, f"{path} is cut off: the array has no end")


def versions(dataroot: Path) -> list[str]:
    """Names of the v1.0-* table folders in the data root. Raises InvalidInput("dataroot") if there are none."""
    if not dataroot.is_dir():
        raise InvalidInput("dataroot", f"{dataroot} does not exist")
    found = sorted(p.parent.name for p in dataroot.glob("v1.0-*/scene.json"))
    if not found:
        raise InvalidInput(
            "dataroot", f"{dataroot} holds no v1.0-*/scene.json; give the folder that holds v1.0-mini and samples"
        )
    return found


def list_scenes(dataroot: Path | str, version: str = "auto") -> list[tuple[str, str, int, str]]:
    """Returns (version, scene name, keyframes, description) of every scene, in table order.

    version: a folder name such as v1.0-mini, or "auto" for all.
    """
    root = Path(dataroot)
    out = []
    for name in _wanted_versions(root, version):
        for row in rows(root / name / "scene.json"):
            count, about = int(_get(row, "nbr_samples", "scene")), str(row.get("description", ""))
            out.append((name, str(_get(row, "name", "scene")), count, about))
    return out


def load_scene(dataroot: Path | str, scene: str, version: str = "auto") -> Scene:
    """Read one scene by name, such as scene-0061.

    Raises InvalidInput for a missing table, an unknown scene (listing the known ones) and rows that are inconsistent
    or not finite.
    """
    folder = _find_scene(Path(dataroot), scene, version)
    return load_scenes(folder, {scene})[0]


def load_scenes(
    folder: Path,
    names: Collection[str] | None = None,
    keep: Callable[[str, bool], bool] | None = None,
    on_read: OnRead | None = None,
) -> list[Scene]:
    """Read scenes of a table folder (such as D/v1.0-mini) in one pass over its tables, in table order.

    names: of the scenes, None for all; keep: predicate of (channel, is keyframe) that selects records and their poses,
    None for all. Raises InvalidInput as `load_scene` does.
    """
    missing = [t for t in TABLES if not (folder / f"{t}.json").is_file()]
    if missing:
        raise InvalidInput("dataroot", f"{folder} lacks the tables {missing}; the metadata archive holds them")
    found = {_get(r, "token", "scene"): r for r in rows(folder / "scene.json")}
    found = {token: r for token, r in found.items() if names is None or _get(r, "name", "scene") in names}
    scene_of: dict[str, str] = {}
    keyframes: dict[str, list[tuple[int, str]]] = {token: [] for token in found}
    for row in rows(folder / "sample.json", on_read):
        scene = _get(row, "scene_token", "sample")
        if scene in found:
            token = _get(row, "token", "sample")
            scene_of[token] = scene
            keyframes[scene].append((_stamp(row, "sample"), token))
    empty = [found[token]["name"] for token, stamps in keyframes.items() if not stamps]
    if empty:
        raise InvalidInput("sample", f"{empty[0]} has no sample in {folder}")
    calibrations = _Calibrations(folder)
    records: dict[str, list[SensorRecord]] = {token: [] for token in found}
    pose_tokens: dict[str, str] = {}
    for row in rows(folder / "sample_data.json", on_read):
        scene = scene_of.get(_get(row, "sample_token", "sample_data"), "")
        if not scene:
            continue
        channel = calibrations.channel(_get(row, "calibrated_sensor_token", "sample_data"))
        if keep is not None and not keep(channel, bool(_get(row, "is_key_frame", "sample_data"))):
            continue
        pose_tokens[_get(row, "ego_pose_token", "sample_data")] = scene
        calibration = calibrations.get(row["calibrated_sensor_token"])
        if channel == LIDAR or calibration.intrinsics is not None:
            records[scene].append(_record(row, calibration))
    stamps, poses = _poses(folder, pose_tokens, on_read)
    logs = {r.get("token"): r for r in rows(folder / "log.json")}
    out = []
    for token, row in found.items():
        log = logs.get(row.get("log_token", ""), {})
        out.append(
            Scene(
                name=row["name"],
                description=str(row.get("description", "")),
                version=folder.name,
                location=str(log.get("location", "")),
                vehicle=str(log.get("vehicle", "")),
                keyframes=tuple(sorted(keyframes[token])),
                records=tuple(sorted(records[token], key=lambda r: (r.stamp, r.channel))),
                poses=dict(sorted(poses.get(token, {}).items())),
                pose_stamps=stamps.get(token, {}),
            )
        )
    return out


def table_quaternion(rotation: Sequence[float]) -> np.ndarray:
    """float64 [4] x, y, z, w from the tables' w, x, y, z."""
    w, x, y, z = (float(v) for v in rotation)
    return np.array([x, y, z, w])


def _wanted_versions(root: Path, version: str) -> list[str]:
    found = versions(root)
    if version == "auto":
        return found
    if version not in found:
        raise InvalidInput("version", f"{root} holds {found}, not {version}")
    return [version]


def _find_scene(root: Path, scene: str, version: str) -> Path:
    known: list[str] = []
    for name in _wanted_versions(root, version):
        for row in rows(root / name / "scene.json"):
            if _get(row, "name", "scene") == scene:
                return root / name
            known.append(row["name"])
    shown = ", ".join(sorted(set(known))[:20]) + (f" and {len(set(known)) - 20} more" if len(set(known)) > 20 else "")
    raise InvalidInput("scene", f"{scene} is not among the scenes of {root}: {shown or 'none'}")


class _Calibrations:
    """The calibrated_sensor table; a row is validated on first access."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._channels = {
            _get(s, "token", "sensor"): _get(s, "channel", "sensor") for s in rows(folder / "sensor.json")
        }
        table = rows(folder / "calibrated_sensor.json")
        self._rows = {_get(r, "token", "calibrated_sensor"): r for r in table}
        self._made: dict[str, Calibration] = {}

    def channel(self, token: str) -> str:
        if token not in self._rows:
            raise InvalidInput("calibrated_sensor", f"{self._folder} lacks the row {token}")
        channel = self._channels.get(_get(self._rows[token], "sensor_token", "calibrated_sensor"))
        if channel is None:
            raise InvalidInput("calibrated_sensor", f"{token} points to a sensor that {self._folder}/sensor.json lacks")
        return channel

    def get(self, token: str) -> Calibration:
        if token not in self._made:
            channel, row = self.channel(token), self._rows[token]
            k = np.asarray(row.get("camera_intrinsic") or [], np.float64)
            if channel.startswith("CAM_") and (k.shape != (3, 3) or not np.isfinite(k).all()):
                raise InvalidInput("calibrated_sensor", f"{channel} {token}: want finite K [3, 3], got {k.shape}")
            pose = _pose(row, f"calibrated_sensor {channel}")
            self._made[token] = Calibration(channel, pose, k if k.size else None)
        return self._made[token]


def _record(row: Row, calibration: Calibration) -> SensorRecord:
    filename = str(_get(row, "filename", "sample_data"))
    path = PurePosixPath(filename)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidInput("sample_data", f"file name {filename} leaves the data root")
    return SensorRecord(
        channel=calibration.channel,
        stamp=_stamp(row, "sample_data"),
        filename=filename,
        keyframe=bool(_get(row, "is_key_frame", "sample_data")),
        width=int(row.get("width") or 0),
        height=int(row.get("height") or 0),
        calibration=calibration,
        pose_token=_get(row, "ego_pose_token", "sample_data"),
        sample_token=row["sample_token"],
    )


def _poses(
    folder: Path, scenes: dict[str, str], on_read: OnRead | None
) -> tuple[dict[str, dict[str, int]], dict[str, dict[int, np.ndarray]]]:
    """Returns (stamps by pose token, poses by stamp) per scene. scenes: scene token of each wanted pose token."""
    stamps: dict[str, dict[str, int]] = {}
    poses: dict[str, dict[int, np.ndarray]] = {}
    count = 0
    for row in rows(folder / "ego_pose.json", on_read):
        token = _get(row, "token", "ego_pose")
        scene = scenes.get(token)
        if scene is not None:
            stamp = _stamp(row, "ego_pose")
            stamps.setdefault(scene, {})[token] = stamp
            poses.setdefault(scene, {})[stamp] = _pose(row, "ego_pose")
            count += 1
    if count < len(scenes):
        known = {token for found in stamps.values() for token in found}
        absent = scenes.keys() - known
        raise InvalidInput("ego_pose", f"{folder} lacks {len(absent)} rows, such as {min(absent)}")
    return stamps, poses


def _pose(row: Row, field: str) -> np.ndarray:
    try:
        return geometry.transform(np.asarray(row["translation"]), table_quaternion(row["rotation"]), field)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(field, f"row {row.get('token')} has no proper pose: {error}") from error


_YEARS = (946_684_800, 4_102_444_800)
"""Seconds since the epoch of the years 2000 and 2100."""
_UNITS = {"seconds": 1.0, "milliseconds": 1e3, "nanoseconds": 1e9}


def _stamp(row: Row, table: str) -> int:
    """A row's timestamp in ns. Raises InvalidInput, naming the likely unit, if it is outside the years 2000..2100."""
    value = _get(row, "timestamp", table)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(table, f"timestamp {str(value)[:40]!r} is no number of microseconds")
    if not _YEARS[0] <= value / 1e6 < _YEARS[1]:
        likely = [name for name, scale in _UNITS.items() if _YEARS[0] <= value / scale < _YEARS[1]]
        hint = f"; it looks like {likely[0]}" if likely else ""
        raise InvalidInput(table, f"timestamp {value} in microseconds is not within the years 2000 to 2100{hint}")
    return int(value) * MICROSECOND


def _get(row: Row, key: str, table: str) -> Any:
    try:
        return row[key]
    except KeyError:
        raise InvalidInput(table, f"a row lacks {key!r}: {str(row)[:80]}") from None
