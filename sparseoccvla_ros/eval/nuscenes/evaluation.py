"""Evaluates a preset on nuScenes scenes: available tasks, distribution over processes, report.

Each of n processes evaluates every n-th scene; parts are merged in scene order, so the numbers do not depend on the
number of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ...data.nuscenes.dataset import NuscenesImages, missing_files
from ...data.nuscenes.index import COMMAND_SOURCES, NuscenesIndex, open_index
from ...data.nuscenes.labels import occ3d_file, occ3d_folder
from ...data.nuscenes.map import Roads, map_file
from ...data.nuscenes.omnidrive import STORED
from ...pipeline import SparseOccVLA
from ...runtime.presets import load_preset
from ..metrics.ray_iou import ORIGINS
from ..report.page import facts_of, head_of
from ..tasks.evaluator import EvalConfig, EvaluationReport, Evaluator, Gather, Progress, plain
from .drives import NuscenesDrive
from .priors import known


@dataclass(frozen=True)
class Request:
    """Evaluation request. preset: name or folder; root: nuScenes folder; index: its prepared index, default in the
    cache; scenes: maximum number of scenes of the split, evenly spread; untrained: also run stages without weights;
    origins: maximum number of RayIoU ray origins, 8 as published; device: cpu or cuda. Raises InvalidInput."""

    preset: str
    root: Path
    version: str = "auto"
    index: Path | None = None
    split: str = "val"
    scenes: int | None = None
    wanted: EvalConfig = field(default_factory=EvalConfig)
    untrained: bool = False
    origins: int = ORIGINS
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.origins < 1:
            raise InvalidInput("origins", f"want 1 or more, got {self.origins}")
        if self.scenes is not None and self.scenes < 1:
            raise InvalidInput("scenes", f"want 1 or more, got {self.scenes}")


@dataclass(frozen=True)
class Available:
    """The feasible part of a request. scenes: rows of the index's scene arrays; tasks; dropped: omitted tasks with
    reasons; missing: counts of other missing data by name; labels: Occ3D folder; maps: vector map by location."""

    scenes: tuple[int, ...]
    tasks: tuple[str, ...]
    dropped: dict[str, str]
    missing: dict[str, int]
    labels: Path | None
    maps: dict[str, Path]


def available(request: Request, index: NuscenesIndex) -> Available:
    """Checks what the root has for a request. Raises InvalidInput if no scene has its images or no task its truth."""
    root, split = request.root, request.split
    scenes = np.unique(index.scene[index.rows(split)])
    whole = [s for s in scenes.tolist() if not missing_files(root, _images(index, s))]
    if not whole:
        raise InvalidInput("images", f"no scene of {split} has all its images below {root}: run ./run data check")
    chosen = whole
    if request.scenes is not None and request.scenes < len(whole):
        chosen = [whole[k] for k in np.linspace(0, len(whole) - 1, request.scenes).round().astype(int)]
    rows = np.flatnonzero(np.isin(index.scene, chosen))
    missing = {"scenes whose images are not all there": len(scenes) - len(whole)}
    labels, dropped = occ3d_folder(root), {}
    names = [occ3d_file(str(index.scene_name[index.scene[r]]), str(index.token[r])) for r in rows]
    lost = len(names) if labels is None else len(missing_files(labels, names))
    if lost == len(names):
        reason = f"no Occ3D labels of {split} below {root / 'gts'} (from the Occ3D-nuScenes gts archive)"
        dropped |= dict.fromkeys(("occupancy", "forecast"), reason)
        labels = None
    if not len(index.category_name):
        dropped["planning"] = f"{index.version} has no annotations (from the metadata archive)"
    families = (*STORED, "kinds")
    silent = sum(not any((root / f / split / f"{index.token[r]}.json").is_file() for f in families) for r in rows)
    if silent == len(rows):
        places = ", ".join(str(root / f / split) for f in STORED)
        dropped["language"] = f"no questions in {places} (from OmniDrive's data)"
    dropped = {task: why for task, why in dropped.items() if task in request.wanted.tasks}
    tasks = tuple(t for t in request.wanted.tasks if t not in dropped)
    if not tasks:
        raise InvalidInput("tasks", "; ".join(f"{task}: {why}" for task, why in dropped.items()))
    if {"occupancy", "forecast"} & set(tasks):
        missing["samples without Occ3D labels"] = lost
    if "language" in tasks:
        missing["samples without questions"] = silent
    maps = {}
    if "planning" in tasks:
        used = {str(index.location[s]) for s in chosen}
        maps = {place: map_file(root, place) for place in used if map_file(root, place).is_file()}
        missing["locations without vector map (no road tests there)"] = len(used - maps.keys())
    return Available(tuple(chosen), tasks, dropped, missing, labels, maps)


def evaluate_nuscenes(
    request: Request,
    on_progress: Progress = lambda what, done, total: None,
    share: tuple[int, int] = (0, 1),
    gather: Gather[Any] = list,
    on_start: Callable[[], None] = lambda: None,
) -> EvaluationReport | None:
    """Evaluates a preset on a split, with torch's configured number of threads; returns None except in process 0.

    share: (rank, number of processes); gather: concatenates the lists of all processes; on_start: called once the
    request is validated. Raises InvalidInput naming the field.
    """
    preset = load_preset(request.preset)
    index = open_index(request.root, request.version, request.index)
    there = available(request, index)
    rays = f"up to {request.origins} lidar places of the scene"
    rays += ", as published" if request.origins == ORIGINS else ": published numbers use up to 8 and do not compare"
    wanted = replace(request.wanted, tasks=there.tasks, rays_from=rays)
    if "planning" not in there.tasks:
        wanted = replace(wanted, csv=None)
    on_start()
    on_progress("building the stages", 0, 1)
    model = SparseOccVLA.from_preset(preset, wanted.stages, request.untrained, request.device)
    learned = known(
        request.root, index, there.labels, lambda done, total: on_progress("reading the training split", done, total)
    )
    run = Evaluator(preset, model, wanted, learned, len(there.scenes))
    images = NuscenesImages(request.root, index, preset.image)
    roads = {place: Roads(path) for place, path in there.maps.items()}
    own = range(share[0], len(there.scenes), share[1])
    parts = []
    for done, place in enumerate(own):
        on_progress("driving", done, len(own))
        scene = there.scenes[place]
        road = roads.get(str(index.location[scene]))
        drive = NuscenesDrive(images, scene, there.labels, request.split, request.origins, road)
        parts.append(run.judge(place, drive))
    on_progress("driving", len(own), len(own))
    finished = run.finish(parts, on_progress, share, gather)
    if finished is None:
        return None
    numbers, sections, shown = finished
    rows = np.flatnonzero(np.isin(index.scene, there.scenes))
    sources = dict(Counter(COMMAND_SOURCES[k] for k in index.command_source[rows].tolist()))
    warnings = _warnings(request)
    head = {
        "version": index.version, "split": request.split, "scenes": [str(index.scene_name[s]) for s in there.scenes],
        "frames": len(rows), "dropped": there.dropped, "missing": there.missing, "command_sources": sources,
        "processes": share[1], "device": request.device.split(":")[0], **head_of(run), "warnings": warnings,
    }  # fmt: skip
    told = ", ".join(f"{name} {count}" for name, count in sources.items())
    facts = [
        f"{index.version}, split {request.split}: {len(there.scenes)} scenes, {len(rows)} keyframes.",
        f"Commands come from: {told} (route: the CAN bus expansion's baseline route; motion: the present motion "
        "carried on). The future is never asked, except in rows marked oracle.",
        *facts_of(run),
        *(f"NOT JUDGED: {task}: {why}." for task, why in there.dropped.items()),
        *(f"Missing: {count} {name}." for name, count in there.missing.items() if count),
    ]
    title = f"Preset {preset.name} on nuScenes"
    return EvaluationReport(title, facts, plain(head | numbers), sections, warnings, shown)


def _images(index: NuscenesIndex, scene: int) -> list[str]:
    return [name.decode() for name in index.image[index.scene == scene].ravel().tolist()]


def _warnings(request: Request) -> list[str]:
    """Returns why numbers must not be quoted as results."""
    return ["the training split was judged"] if request.split == "train" else []
