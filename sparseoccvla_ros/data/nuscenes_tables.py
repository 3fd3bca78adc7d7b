"""The nuScenes JSON tables of one scene, without the devkit and without holding whole tables in memory.

The format is nuScenes v1.0 (Caesar et al. 2020; docs/schema_nuscenes.md of the devkit): one JSON array of flat rows
per table, linked by tokens. sample_data and ego_pose of the full set are over a gigabyte together, so every table is
streamed and only the rows of the wanted scene are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..core import geometry
from ..core.errors import InvalidInput

LIDAR = "LIDAR_TOP"
TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor", "log")
MICROSECOND = 1000
"""nanoseconds; the tables count microseconds"""
_BLOCK = 1 << 20
_ROW_LIMIT = 1 << 24

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Calibration:
    """One mounted sensor: sensor2ego float64 [4, 4] m; intrinsics float64 [3, 3] px, None for a lidar or radar."""

    channel: str
    sensor2ego: np.ndarray
    intrinsics: np.ndarray | None


@dataclass(frozen=True, eq=False)
class SensorRecord:
    """One file of one sensor: stamp in ns, path relative to the data root, size in px (0 for a lidar)."""

    channel: str
    stamp: int
    filename: str
    keyframe: bool
    width: int
    height: int
    calibration: Calibration
    pose_token: str


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything the tables say about one scene.

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


def rows(path: Path) -> Iterator[Row]:
    """The rows of a table file, one by one, in constant memory.

    Raises InvalidInput naming the table when the file is missing, cut off or no JSON array of objects.
    """
    table = path.stem
    if not path.is_file():
        raise InvalidInput(table, f"table {path} is missing; the metadata archive of this version holds it")
    scan = json.JSONDecoder().raw_decode
    with path.open(encoding="utf-8") as stream:
        text, at, opened = "", 0, False
        while True:
            block = stream.read(_BLOCK)
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
                    # Either the row goes on in the next block, or it is broken.
                    if not block or len(text) - at > _ROW_LIMIT:
                        raise InvalidInput(table, f"{path} is cut off or no JSON: {error}") from error
                    break
                if not isinstance(row, dict):
                    raise InvalidInput(table, f"{path} holds {type(row).__name__} where rows are wanted")
                yield row
            if not block:
                raise InvalidInput(table, f"{path} is cut off: the array has no end")


def versions(dataroot: Path) -> list[str]:
    """Names of the v1.0-* table folders below the data root; InvalidInput where there is none."""
    if not dataroot.is_dir():
        raise InvalidInput("dataroot", f"{dataroot} does not exist")
    found = sorted(p.parent.name for p in dataroot.glob("v1.0-*/scene.json"))
    if not found:
        raise InvalidInput(
            "dataroot", f"{dataroot} holds no v1.0-*/scene.json; give the folder that holds v1.0-mini and samples"
        )
    return found


def list_scenes(dataroot: Path | str, version: str = "auto") -> list[tuple[str, str, int, str]]:
    """(version, scene name, keyframes, description) of every scene, in table order.

    version: a folder name such as v1.0-mini, or "auto" for all that are there.
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

    Raises InvalidInput for a missing table, an unknown scene (naming those that are there) and rows that do not fit
    together or are not finite.
    """
    root = Path(dataroot)
    folder, row = _find_scene(root, scene, version)
    missing = [t for t in TABLES if not (folder / f"{t}.json").is_file()]
    if missing:
        raise InvalidInput("dataroot", f"{folder} lacks the tables {missing}; the metadata archive holds them")
    scene_token = _get(row, "token", "scene")
    samples = {
        _get(s, "token", "sample"): int(_get(s, "timestamp", "sample")) * MICROSECOND
        for s in rows(folder / "sample.json")
        if _get(s, "scene_token", "sample") == scene_token
    }
    if not samples:
        raise InvalidInput("sample", f"{scene} has no sample in {folder}")
    data = [r for r in rows(folder / "sample_data.json") if _get(r, "sample_token", "sample_data") in samples]
    calibrations = _calibrations(folder, {_get(r, "calibrated_sensor_token", "sample_data") for r in data})
    records = sorted(
        (
            record
            for record in (_record(r, calibrations) for r in data)
            if record.channel == LIDAR or record.calibration.intrinsics is not None
        ),
        key=lambda r: (r.stamp, r.channel),
    )
    pose_stamps, poses = _poses(folder, {_get(r, "ego_pose_token", "sample_data") for r in data})
    log_token = row.get("log_token", "")
    log = next((r for r in rows(folder / "log.json") if r.get("token") == log_token), {})
    return Scene(
        name=scene,
        description=str(row.get("description", "")),
        version=folder.name,
        location=str(log.get("location", "")),
        vehicle=str(log.get("vehicle", "")),
        keyframes=tuple(sorted((stamp, token) for token, stamp in samples.items())),
        records=tuple(records),
        poses=dict(sorted(poses.items())),
        pose_stamps=pose_stamps,
    )


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


def _find_scene(root: Path, scene: str, version: str) -> tuple[Path, Row]:
    known: list[str] = []
    for name in _wanted_versions(root, version):
        for row in rows(root / name / "scene.json"):
            if _get(row, "name", "scene") == scene:
                return root / name, row
            known.append(row["name"])
    shown = ", ".join(sorted(set(known))[:20]) + (f" and {len(set(known)) - 20} more" if len(set(known)) > 20 else "")
    raise InvalidInput("scene", f"{scene} is not among the scenes of {root}: {shown or 'none'}")


def _calibrations(folder: Path, tokens: set[str]) -> dict[str, Calibration]:
    channels = {_get(s, "token", "sensor"): _get(s, "channel", "sensor") for s in rows(folder / "sensor.json")}
    out = {}
    for row in rows(folder / "calibrated_sensor.json"):
        token = _get(row, "token", "calibrated_sensor")
        if token not in tokens:
            continue
        channel = channels.get(_get(row, "sensor_token", "calibrated_sensor"))
        if channel is None:
            raise InvalidInput("calibrated_sensor", f"{token} points to a sensor that {folder}/sensor.json lacks")
        k = np.asarray(row.get("camera_intrinsic") or [], np.float64)
        if channel.startswith("CAM_") and (k.shape != (3, 3) or not np.isfinite(k).all()):
            raise InvalidInput("calibrated_sensor", f"{channel} {token}: want finite intrinsics [3, 3], got {k.shape}")
        out[token] = Calibration(channel, _pose(row, f"calibrated_sensor {channel}"), k if k.size else None)
    absent = tokens - out.keys()
    if absent:
        raise InvalidInput("calibrated_sensor", f"{folder} lacks {len(absent)} rows, such as {min(absent)}")
    return out


def _record(row: Row, calibrations: dict[str, Calibration]) -> SensorRecord:
    calibration = calibrations[row["calibrated_sensor_token"]]
    filename = str(_get(row, "filename", "sample_data"))
    path = PurePosixPath(filename)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidInput("sample_data", f"file name {filename} leaves the data root")
    return SensorRecord(
        channel=calibration.channel,
        stamp=int(_get(row, "timestamp", "sample_data")) * MICROSECOND,
        filename=filename,
        keyframe=bool(_get(row, "is_key_frame", "sample_data")),
        width=int(row.get("width") or 0),
        height=int(row.get("height") or 0),
        calibration=calibration,
        pose_token=_get(row, "ego_pose_token", "sample_data"),
    )


def _poses(folder: Path, tokens: set[str]) -> tuple[dict[str, int], dict[int, np.ndarray]]:
    stamps: dict[str, int] = {}
    poses: dict[int, np.ndarray] = {}
    for row in rows(folder / "ego_pose.json"):
        token = _get(row, "token", "ego_pose")
        if token in tokens:
            stamp = int(_get(row, "timestamp", "ego_pose")) * MICROSECOND
            stamps[token] = stamp
            poses[stamp] = _pose(row, "ego_pose")
    absent = tokens - stamps.keys()
    if absent:
        raise InvalidInput("ego_pose", f"{folder} lacks {len(absent)} rows, such as {min(absent)}")
    return stamps, poses


def _pose(row: Row, field: str) -> np.ndarray:
    try:
        return geometry.transform(np.asarray(row["translation"]), table_quaternion(row["rotation"]), field)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(field, f"row {row.get('token')} has no proper pose: {error}") from error


def _get(row: Row, key: str, table: str) -> Any:
    try:
        return row[key]
    except KeyError:
        raise InvalidInput(table, f"a row lacks {key!r}: {str(row)[:80]}") from None
