"""Check of a nuScenes data root: which files it holds and lacks, and which tasks can run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...core.classes import CAMERAS
from ...core.errors import InvalidInput
from .boxes import ANNOTATION_TABLES, has_annotations
from .dataset import missing_files
from .ego_motion import CAN_BLACKLIST, scene_number
from .index import open_index, pick_version
from .labels import occ3d_file, occ3d_folder
from .omnidrive import STORED
from .splits import scene_splits
from .tables import LIDAR, load_scenes

_ARCHIVE = {
    "v1.0-mini": "v1.0-mini.tgz",
    "v1.0-trainval": "the ten v1.0-trainvalNN_blobs.tgz",
    "v1.0-test": "v1.0-test_blobs.tgz",
}


@dataclass(frozen=True)
class Piece:
    """One kind of file. needed_for: its use; place: target folder and source archive; found, wanted: number of files
    present and number required by the tables, by split; optional: every entry of `tasks` works without it; partial:
    not every sample needs it, so one file is enough."""

    name: str
    needed_for: str
    place: str
    found: dict[str, int]
    wanted: dict[str, int]
    optional: bool = False
    partial: bool = False

    def enough(self, split: str) -> bool:
        """Whether enough files for a split are present."""
        wanted, found = self.wanted.get(split, 0), self.found.get(split, 0)
        return found > 0 and (self.partial or found == wanted)

    @property
    def missing(self) -> bool:
        """Whether any required file is missing."""
        return self.found != self.wanted


@dataclass(frozen=True)
class Task:
    """A task that needs a data root. lacks: names of the missing pieces, empty if the task can run."""

    name: str
    lacks: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """Result of `check`. scenes, samples: counts by split; prepared: why the index cannot be used, empty if it can."""

    root: Path
    version: str
    scenes: dict[str, int]
    samples: dict[str, int]
    pieces: tuple[Piece, ...]
    tasks: tuple[Task, ...]
    prepared: str


def check(root: Path, version: str = "auto", on_read: Callable[[int], None] | None = None) -> Check:
    """Check a data root. Raises InvalidInput if the tables themselves are missing or damaged."""
    version = pick_version(root, version)
    scenes = load_scenes(root / version, None, lambda channel, key: key and channel in (*CAMERAS, LIDAR), on_read)
    splits = scene_splits(root, version, [s.name for s in scenes])
    tokens: dict[str, list[tuple[str, str]]] = {}
    images: dict[str, list[str]] = {}
    lidar: dict[str, list[str]] = {}
    motion: dict[str, list[str]] = {}
    route: dict[str, list[str]] = {}
    for scene, split in zip(scenes, splits, strict=True):
        tokens.setdefault(split, []).extend((scene.name, token) for _, token in scene.keyframes)
        images.setdefault(split, []).extend(r.filename for r in scene.records if r.channel != LIDAR)
        lidar.setdefault(split, []).extend(r.filename for r in scene.records if r.channel == LIDAR)
        if scene_number(scene.name) not in CAN_BLACKLIST:
            motion.setdefault(split, []).append(f"can_bus/{scene.name}_pose.json")
            route.setdefault(split, []).append(f"can_bus/{scene.name}_route.json")
    gts = occ3d_folder(root) or root / "gts"
    labelled = {s: [occ3d_file(*pair) for pair in pairs] for s, pairs in tokens.items() if s != "test"}
    asked = {k: {s: [f"{k}/{s}/{t}.json" for _, t in p] for s, p in tokens.items() if s in labelled} for k in STORED}
    blobs = f"{root}/samples, from {_ARCHIVE.get(version, f'the file archive of {version}')}"
    can = f"{root}/can_bus, from the CAN bus expansion (can_bus.zip)"
    clouds, speed = "bags with a point cloud (--no-lidar goes without)", "measured speed; else poses are differentiated"
    said = "language: training and scores"
    routes = "commands from a route; else the present motion is carried on"
    occupancy, gts_archive = "occupancy: training and scores", f"{gts}, from the Occ3D-nuScenes gts archive"
    pieces = [
        _piece("camera images", "everything", blobs, root, images),
        _piece("lidar files", clouds, blobs, root, lidar, True),
        _piece("Occ3D labels", occupancy, gts_archive, gts, labelled),
        _boxes(root, version, {s: len(t) for s, t in tokens.items() if s != "test"}),
        *(
            _piece(f"OmniDrive {k}", said, f"{root / k}, from OmniDrive's data", root, files, partial=True)
            for k, files in asked.items()
        ),
        _piece("CAN motion", speed, can, root, motion, True),
        _piece("CAN routes", routes, can, root, route, True),
    ]
    try:
        open_index(root, version)
        prepared = ""
    except InvalidInput as error:
        prepared = error.reason
    counts = {s: splits.count(s) for s in sorted(set(splits))}
    samples = {s: len(t) for s, t in sorted(tokens.items())}
    return Check(root, version, counts, samples, tuple(pieces), _tasks({p.name: p for p in pieces}), prepared)


def _tasks(pieces: dict[str, Piece]) -> tuple[Task, ...]:
    images, labels, boxes = "camera images", "Occ3D labels", "boxes"
    language = [f"OmniDrive {k}" for k in STORED]
    wanted = [
        ("train stage 1 (occupancy)", "train", [images, labels]),
        ("train stage 2 (language)", "train", [images, *language]),
        ("train stage 3 (forecast and planning)", "train", [images, labels, boxes]),
        ("evaluate occupancy", "val", [images, labels]),
        ("evaluate forecast", "val", [images, labels]),
        ("evaluate planning", "val", [images, boxes]),
        ("evaluate language", "val", [images, "OmniDrive desc", "OmniDrive vqa"]),
    ]
    play = Task("play (./run bag nuscenes)", () if any(pieces[images].found.values()) else (images,))
    rest = []
    for name, split, needs in wanted:
        here = pieces[images].wanted.get(split, 0) > 0
        lacks = tuple(n for n in needs if not pieces[n].enough(split)) if here else (f"scenes of {split}",)
        rest.append(Task(name, lacks))
    return (play, *rest)


def _piece(
    name: str,
    purpose: str,
    place: str,
    folder: Path,
    files: dict[str, list[str]],
    optional: bool = False,
    partial: bool = False,
) -> Piece:
    wanted = {s: len(set(f)) for s, f in files.items()}
    found = {s: wanted[s] - len(missing_files(folder, f)) for s, f in files.items()}
    return Piece(name, purpose, place, found, wanted, optional, partial)


def _boxes(root: Path, version: str, wanted: dict[str, int]) -> Piece:
    there = has_annotations(root / version)
    place = f"{root / version}, from the metadata archive ({', '.join(ANNOTATION_TABLES)}.json)"
    return Piece("boxes", "planning: scores and training", place, wanted if there else dict.fromkeys(wanted, 0), wanted)
