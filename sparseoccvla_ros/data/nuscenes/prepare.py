"""Building of a nuScenes index from the tables and the optional CAN bus files, and of anchors from its training split.

The same root gives the same bytes. Planner inputs at a keyframe use only records up to its stamp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core import geometry
from ...core.classes import CAMERAS
from ...core.errors import InvalidInput
from ...core.types import STEPS, Command
from ...planning.anchors import COMMAND_ORDER, AnchorSet, fit_anchors
from ...planning.ego_history import MAX_AGE_NS, WINDOW_NS, EgoHistory
from ..dataset import COMMANDS
from .boxes import annotations, category_names, has_annotations
from .ego_motion import Odometry, can_odometry, can_route, command_of_motion, command_on_route, differentiated
from .index import COMMAND_SOURCES, MOTION_SOURCES, NuscenesIndex, table_sizes
from .splits import scene_splits
from .tables import LIDAR, Calibration, OnRead, Scene, SensorRecord, load_scenes

Progress = Callable[[int, int], None]
_COMMAND_FIELDS = slice(3, 6)
"""Slice of the command's one-hot encoding in EgoHistory.paper_features."""


@dataclass(frozen=True, eq=False)
class Moment:
    """Planner inputs at a keyframe, from records up to its stamp.

    twist float64 [6]; features float32 [F] and paper float32 [39] of planning.ego_history; command and its source, an
    index into COMMAND_SOURCES.
    """

    twist: np.ndarray
    features: np.ndarray
    paper: np.ndarray
    command: Command
    source: int


def moments(stamps: list[tuple[int, np.ndarray]], odometry: Odometry, route: np.ndarray | None) -> list[Moment]:
    """Compute the moments at (stamp ns, ego2global [4, 4]), ascending, from odometry by stamp and the planned route."""
    history, out, at = EgoHistory(), [], 0
    twist, seen = np.zeros(6), None
    for stamp, pose in stamps:
        while at < len(odometry) and odometry[at][0] <= stamp:
            history.add(*odometry[at])
            seen, twist = odometry[at][0], odometry[at][2]
            at += 1
        known = seen is not None and stamp - seen <= MAX_AGE_NS
        now = twist if known else np.zeros(6)
        paper = history.paper_features(stamp, Command.STRAIGHT)
        paper[_COMMAND_FIELDS] = 0.0
        asked = None if route is None else command_on_route(route, pose, float(now[0]))
        source = COMMAND_SOURCES.index("motion" if asked is None else "route")
        out.append(Moment(now, history.features(stamp), paper, asked or command_of_motion(now), source))
    return out


def oracle_command(future: np.ndarray, mask: np.ndarray) -> Command:
    """Command from the true future, as in public code bases: a turn if its last valid pose [6, 4, 4] is 2 m aside."""
    valid = np.flatnonzero(mask)
    return Command.of_offset(float(future[valid[-1], 1, 3]) if len(valid) else 0.0)


def prepare(root: Path, version: str, on_progress: Progress | None = None) -> NuscenesIndex:
    """Build the index of a version from its tables.

    on_progress: called with (done, total) in bytes of tables. Raises InvalidInput naming the table, scene or file.
    """
    folder = root / version
    report = _reader(folder, on_progress)
    # Lidar sweeps provide ego poses at 20 Hz; images between keyframes are not used.
    scenes = load_scenes(folder, None, lambda channel, key: channel == LIDAR or (key and channel in CAMERAS), report)
    scenes = sorted(scenes, key=lambda s: s.name)
    columns: dict[str, list[Any]] = {}
    calibrations: dict[int, tuple[int, SensorRecord]] = {}
    lidars = [_add_scene(columns, calibrations, root, number, scene) for number, scene in enumerate(scenes)]
    mounted = [record for _, record in calibrations.values()]
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    types = {"token": "U32", "scene": "i4", "motion_source": "u1", "features": "f4", "paper": "f4", "previous": "i4"}
    types |= {"command": "u1", "command_source": "u1", "oracle": "u1", "calibration": "i4"}
    arrays |= {name: arrays[name].astype(kind) for name, kind in types.items()}
    names = [s.name for s in scenes]
    return NuscenesIndex(
        **arrays,
        **_annotations(folder, {t: k for k, t in enumerate(columns["token"])}, report),
        intrinsics=np.array([r.calibration.intrinsics for r in mounted], np.float64),
        camera2ego=np.stack([r.calibration.sensor2ego for r in mounted]),
        lidar2ego=np.stack(lidars),
        size=np.array([(r.width, r.height) for r in mounted], np.int32),
        scene_name=np.array(names),
        scene_split=np.array(scene_splits(root, version, names)),
        location=np.array([s.location for s in scenes]),
        vehicle=np.array([s.vehicle for s in scenes]),
        description=np.array([s.description for s in scenes]),
        version=version,
        tables=table_sizes(folder),
    )


def training_anchors(index: NuscenesIndex, seed: int = 0) -> AnchorSet:
    """Fit anchors to the complete futures of the training split, grouped by oracle command.

    Raises InvalidInput if a command has too few different trajectories, as on v1.0-mini.
    """
    train = index.rows("train")
    train = train[index.future_mask[train].all(1)]
    order = np.array([COMMAND_ORDER.index(c) for c in COMMANDS])
    return fit_anchors(index.future[train][:, :, :2, 3], order[index.oracle[train]], seed)


def summary(index: NuscenesIndex) -> dict[str, dict[str, Any]]:
    """Counts per split: scenes, samples, complete futures, motion sources, causal commands with source, oracle ones."""
    out = {}
    for split in sorted(set(index.scene_split.tolist())):
        chosen = np.flatnonzero(index.scene_split[index.scene] == split)
        out[split or "none"] = {
            "scenes": int((index.scene_split == split).sum()),
            "samples": len(chosen),
            "complete futures": int(index.future_mask[chosen].all(1).sum()),
            "motion": dict(Counter(MOTION_SOURCES[k] for k in index.motion_source[chosen])),
            "command from": dict(Counter(COMMAND_SOURCES[k] for k in index.command_source[chosen])),
            "command": dict(Counter(COMMANDS[k].value for k in index.command[chosen])),
            "oracle command": dict(Counter(COMMANDS[k].value for k in index.oracle[chosen])),
        }
    return out


def _reader(folder: Path, on_progress: Progress | None) -> OnRead | None:
    """Callback that adds up the characters read of the large tables and reports progress; None without on_progress."""
    if on_progress is None:
        return None
    large = ("sample", "sample_data", "ego_pose", "sample_annotation")
    total = sum((folder / f"{n}.json").stat().st_size for n in large if (folder / f"{n}.json").is_file())
    done = 0

    def report(read: int) -> None:
        nonlocal done
        done += read
        on_progress(min(done, total), total)

    return report


def _add_scene(
    columns: dict[str, list[Any]],
    calibrations: dict[int, tuple[int, SensorRecord]],
    root: Path,
    number: int,
    scene: Scene,
) -> np.ndarray:
    """Append a scene's rows; returns its lidar2ego. calibrations: (row, a record with it) by id of the calibration."""
    records: dict[str, dict[str, SensorRecord]] = {}
    for record in scene.records:
        if record.keyframe:
            records.setdefault(record.sample_token, {})[record.channel] = record
    keyframes = []
    for _, token in scene.keyframes:
        found = records.get(token, {})
        missing = [c for c in (*CAMERAS, LIDAR) if c not in found]
        if missing:
            raise InvalidInput("sample_data", f"{scene.name}: keyframe {token} has no {', '.join(missing)}")
        keyframes.append((token, found))

    def pose_of(record: SensorRecord) -> np.ndarray:
        return scene.poses[scene.pose_stamps[record.pose_token]]

    stamps = [found[LIDAR].stamp for _, found in keyframes]
    poses = np.stack([pose_of(found[LIDAR]) for _, found in keyframes])
    odometry = can_odometry(root, scene.name, min(scene.poses) - WINDOW_NS, max(scene.poses))
    source = MOTION_SOURCES.index("poses" if odometry is None else "can_bus")
    if odometry is None:
        odometry = list(differentiated(scene.poses))
    given = moments(list(zip(stamps, poses, strict=True)), odometry, can_route(root, scene.name))
    begin, count = len(columns.setdefault("token", [])), len(keyframes)
    for k, ((token, found), moment) in enumerate(zip(keyframes, given, strict=True)):
        ahead = np.minimum(np.arange(k + 1, k + 1 + STEPS), count - 1)
        mask = np.arange(k + 1, k + 1 + STEPS) < count
        future = geometry.inverse(poses[k]) @ poses[ahead]
        cameras = [found[c] for c in CAMERAS]
        row = {
            "token": token,
            "scene": number,
            "stamp": stamps[k],
            "pose": poses[k],
            "twist": moment.twist,
            "motion_source": source,
            "features": moment.features,
            "paper": moment.paper,
            "command": COMMANDS.index(moment.command),
            "command_source": moment.source,
            "previous": begin + k - 1 if k else -1,
            "image": [r.filename.encode() for r in cameras],
            "camera_stamp": [r.stamp for r in cameras],
            "camera_pose": np.stack([pose_of(r) for r in cameras]),
            "calibration": [_row_of(calibrations, r) for r in cameras],
            "oracle": COMMANDS.index(oracle_command(future, mask)),
            "future": future,
            "future_mask": mask,
            "future_stamp": [stamps[a] for a in ahead],
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return keyframes[0][1][LIDAR].calibration.sensor2ego


def _row_of(calibrations: dict[int, tuple[int, SensorRecord]], record: SensorRecord) -> int:
    calibration: Calibration = record.calibration
    return calibrations.setdefault(id(calibration), (len(calibrations), record))[0]


def _annotations(folder: Path, sample_rows: dict[str, int], report: OnRead | None) -> dict[str, np.ndarray]:
    """Box arrays of the index; empty if the version has no annotations (v1.0-test)."""
    names: list[str] = []
    boxes: list[tuple[float, ...]] = []
    if has_annotations(folder):
        names = category_names(folder)
        for box in annotations(folder, sample_rows, report):
            flat = (*box.pose[:3, 3], geometry.yaw_of(box.pose), *box.size)
            boxes.append((sample_rows[box.sample], box.instance, box.category, box.visibility, box.points, *flat))
    table = np.array(sorted(boxes), np.float64).reshape(-1, 12)
    return {
        "box_end": np.cumsum(np.bincount(table[:, 0].astype(np.int64), minlength=len(sample_rows))).astype(np.int64),
        "box_instance": table[:, 1].astype(np.int32),
        "box_category": table[:, 2].astype(np.uint8),
        "box_visibility": table[:, 3].astype(np.int8),
        "box_points": table[:, 4].astype(np.int32),
        "box_centre": table[:, 5:8],
        "box_yaw": table[:, 8],
        "box_size": table[:, 9:].astype(np.float32),
        "category_name": np.array(names, "U48"),
    }
