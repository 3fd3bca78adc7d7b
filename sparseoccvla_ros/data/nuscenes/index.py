"""Prepared index of a nuScenes version: all table content that samples need, as one file of plain arrays.

Written by `./run data prepare` (prepare.py); loads in a second, while the tables take minutes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.files import written
from ...core.paths import cache_folder
from ...core.types import STEPS
from .tables import TABLES, versions

INDEX_VERSION = 2
"""Increment when the content derived from a root changes; files of another version are rejected."""
MOTION_SOURCES = ("poses", "can_bus")
COMMAND_SOURCES = ("motion", "route")
"""Source of the causal command: the present twist extrapolated, or the CAN bus expansion's baseline route."""


@dataclass(frozen=True, eq=False)
class NuscenesIndex:
    """S samples (keyframes) by scene and stamp; C scenes; K calibrations; B boxes. Ego frames are at the lidar stamp.

    Causal: token U32 [S]; scene int32 [S], row of the scene arrays; stamp int64 [S] ns, of the lidar; pose float64
    [S, 4, 4] ego2global; twist float64 [S, 6] m/s and rad/s; motion_source uint8 [S], MOTION_SOURCES; features float32
    [S, F], planning.ego_history.FEATURE_NAMES; paper float32 [S, 39], EgoHistory.paper_features with a zero command;
    command uint8 [S] (index into dataset.COMMANDS) and command_source uint8 [S], COMMAND_SOURCES; previous int32 [S],
    row of the previous keyframe, -1 at a scene's start; image S [S, 6], files relative to the data root in the order
    of core.classes.CAMERAS; camera_stamp int64 [S, 6] ns; camera_pose float64 [S, 6, 4, 4], ego2global at that stamp;
    calibration int32 [S, 6], row of: intrinsics float64 [K, 3, 3], camera2ego float64 [K, 4, 4], size int32 [K, 2]
    (width, height); lidar2ego float64 [C, 4, 4]; scene_name, scene_split, location, vehicle, description U [C].

    Future, for training and evaluation only: oracle uint8 [S], command derived from the true future; future float64
    [S, 6, 4, 4], ego at the next six keyframes to present ego; future_mask bool [S, 6], False past the scene's end,
    where the last pose is repeated; future_stamp int64 [S, 6].

    Annotations: box_end int64 [S], boxes of sample s are box_end[s - 1]..box_end[s]; box_instance int32 [B];
    box_centre float64 [B, 3] and box_yaw float64 [B], global; box_size float32 [B, 3] length, width, height;
    box_category uint8 [B], row of category_name U; box_visibility int8 [B], 1 (least) .. 4, 0 unknown; box_points
    int32 [B], lidar points inside.
    """

    token: np.ndarray
    scene: np.ndarray
    stamp: np.ndarray
    pose: np.ndarray
    twist: np.ndarray
    motion_source: np.ndarray
    features: np.ndarray
    paper: np.ndarray
    command: np.ndarray
    command_source: np.ndarray
    previous: np.ndarray
    image: np.ndarray
    camera_stamp: np.ndarray
    camera_pose: np.ndarray
    calibration: np.ndarray
    intrinsics: np.ndarray
    camera2ego: np.ndarray
    size: np.ndarray
    lidar2ego: np.ndarray
    scene_name: np.ndarray
    scene_split: np.ndarray
    location: np.ndarray
    vehicle: np.ndarray
    description: np.ndarray
    oracle: np.ndarray
    future: np.ndarray
    future_mask: np.ndarray
    future_stamp: np.ndarray
    box_end: np.ndarray
    box_instance: np.ndarray
    box_centre: np.ndarray
    box_yaw: np.ndarray
    box_size: np.ndarray
    box_category: np.ndarray
    box_visibility: np.ndarray
    box_points: np.ndarray
    category_name: np.ndarray
    version: str
    tables: str

    def __len__(self) -> int:
        return len(self.token)

    def rows(self, split: str) -> np.ndarray:
        """Rows of the samples of a split, int64, ascending. Raises InvalidInput("split") if there are none."""
        found = np.flatnonzero(self.scene_split[self.scene] == split)
        if not len(found):
            here = ", ".join(sorted(set(self.scene_split[self.scene].tolist()) - {""}))
            raise InvalidInput("split", f"{self.version} has no sample in {split!r}, only in {here or 'no split'}")
        return found

    def history(self, row: int, frames: int) -> list[int]:
        """Rows of a sample and the keyframes before it, newest first; at a scene's start the oldest is repeated."""
        out = [row]
        while len(out) < frames:
            before = int(self.previous[out[-1]])
            out.append(out[-1] if before < 0 else before)
        return out

    def boxes(self, row: int) -> slice:
        """Slice of a sample's boxes in the box arrays."""
        return slice(int(self.box_end[row - 1]) if row else 0, int(self.box_end[row]))

    def tracks(self, row: int) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
        """Tracks of the objects annotated at a sample, at it and the next six keyframes, in the sample's ego frame.

        Returns (boxes(row), centres float64 [A, 7, 2] m, yaws float64 [A, 7] rad, present bool [A, 7]); NaN where an
        object is not annotated. Ground truth for evaluation, never an input.
        """
        here = self.boxes(row)
        count = here.stop - here.start
        centres, yaws = np.full((count, STEPS + 1, 2), np.nan), np.full((count, STEPS + 1), np.nan)
        place = {int(i): k for k, i in enumerate(self.box_instance[here])}
        back, turn = geometry.inverse(self.pose[row]), geometry.yaw_of(self.pose[row])
        for step in range(STEPS + 1):
            then = row + step
            if then >= len(self) or self.scene[then] != self.scene[row]:
                break
            there = self.boxes(then)
            local = geometry.apply(back, self.box_centre[there])[:, :2]
            for k, instance in enumerate(self.box_instance[there].tolist()):
                if instance in place:
                    centres[place[instance], step] = local[k]
                    yaws[place[instance], step] = self.box_yaw[there][k] - turn
        yaws = np.arctan2(np.sin(yaws), np.cos(yaws))
        return here, centres, yaws, np.isfinite(yaws)

    @property
    def digest(self) -> int:
        """Integer hash of the samples and their order."""
        return int(hashlib.sha256("".join(self.token.tolist()).encode()).hexdigest()[:12], 16)

    def save(self, path: Path) -> None:
        """Write the index atomically; equal indices give equal bytes."""
        content: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        with written(path) as part, part.open("wb") as stream:  # numpy would append .npz to a name
            np.savez_compressed(stream, format_version=np.int64(INDEX_VERSION), **content)

    @classmethod
    def load(cls, path: Path) -> NuscenesIndex:
        """Read a saved index without unpickling. Raises InvalidInput("index") naming the problem."""
        again = "run ./run data prepare"
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = int(stored["format_version"])
                if found != INDEX_VERSION:
                    raise InvalidInput("index", f"{path} has format {found}, want {INDEX_VERSION}: {again} again")
                content = {f.name: stored[f.name] for f in fields(cls)}
        except FileNotFoundError:
            raise InvalidInput("index", f"{path} is missing: {again} first") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput("index", f"{path} cannot be read ({error}): {again} again") from error
        content |= {name: str(content[name]) for name in ("version", "tables")}
        return cls(**content)


def table_sizes(folder: Path) -> str:
    """File sizes of a table folder as JSON, to detect changed tables."""
    names = sorted({*TABLES, "sample_annotation", "instance", "category"})
    return json.dumps({n: (folder / f"{n}.json").stat().st_size for n in names if (folder / f"{n}.json").is_file()})


def pick_version(root: Path, version: str = "auto") -> str:
    """Table folder to use; "auto" prefers v1.0-trainval, then v1.0-mini. Raises InvalidInput if it is missing."""
    found = versions(root)
    if version != "auto":
        if version not in found:
            raise InvalidInput("version", f"{root} holds {', '.join(found)}, not {version}")
        return version
    return next((v for v in ("v1.0-trainval", "v1.0-mini") if v in found), found[0])


def index_path(root: Path, version: str) -> Path:
    """Default path of a root's index: in the cache, since data roots are often read-only."""
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return cache_folder() / "nuscenes" / key / f"{version}.npz"


def open_index(root: Path, version: str = "auto", path: Path | None = None) -> NuscenesIndex:
    """Load the prepared index of a data root. Raises InvalidInput if it is missing or the tables have changed since."""
    version = pick_version(root, version)
    where = path or index_path(root, version)
    index = NuscenesIndex.load(where)
    if index.version != version or index.tables != table_sizes(root / version):
        raise InvalidInput("index", f"{where} was made of other tables than {root / version}: prepare it again")
    return index
