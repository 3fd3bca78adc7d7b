"""Export of the synthetic world as a nuScenes data root: tables, images, lidar, Occ3D and OmniDrive files, CAN bus.

Format nuScenes v1.0 (Caesar et al. 2020; docs/schema_nuscenes.md of the devkit), keyframes only, each camera at its
own time; readable by nuscenes-devkit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...core import geometry
from ...core.classes import CLASSES, FREE
from ...core.errors import InvalidInput
from ...core.voxels import OCC3D_GRID
from ...world.labels.annotations import Boxes, boxes
from ...world.labels.occupancy import dense_labels
from ...world.labels.visibility import camera_visibility
from ...world.qa.questions import questions
from ...world.qa.scene_relations import SceneView
from ...world.render.camera_rig import Camera, load_rig
from ...world.render.renderer import Renderer
from ...world.scene import Scene
from .omnidrive import write_questions
from .splits import SPLITS_FILE
from .tables import LIDAR

VERSION = "v1.0-world"
FIRST_KEYFRAME, KEYFRAME, CAN = 0.1, 0.5, 0.02
"""Seconds: time of the first keyframe's lidar stamp, interval of keyframes, interval of CAN bus messages."""
LEAD = 1.0
"""Seconds of CAN bus before the start of the drive."""
CLOCK = 1_700_000_000_000_000
"""Stamp of the start of scene 0, us; each scene begins 1000 s after the previous one."""
PLACE = geometry.planar(500.0, 900.0, 0.0)
"""map2global of the world; nuScenes coordinates are positive."""
REACH = 60.0
"""Range of annotations around the car, m."""
CATEGORIES = {
    "barrier": "movable_object.barrier",
    "bicycle": "vehicle.bicycle",
    "bus": "vehicle.bus.rigid",
    "car": "vehicle.car",
    "construction_vehicle": "vehicle.construction",
    "motorcycle": "vehicle.motorcycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
    "trailer": "vehicle.trailer",
    "truck": "vehicle.truck",
}
_LIDAR2EGO = geometry.planar(0.94, 0.0, -np.pi / 2)
_LIDAR2EGO[2, 3] = 1.84
_SHARE_VAL = 5
"""Every fifth scene is in the validation split, and so is the last one unless it is the only one."""
Rows = dict[str, list[dict[str, Any]]]


def write_world_root(
    out: Path,
    seeds: Sequence[int],
    seconds: float = 20.0,
    height: int = 450,
    width: int = 800,
    rig: str = "n015",
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a data root with the drives of these seeds, `seconds` long each; returns its path.

    height, width: of the images in px, 16:9 as the cars' cameras. The same arguments give the same files. Raises
    InvalidInput for an existing `out`, another aspect ratio, no or repeated seeds, and as Scene.generate does.
    """
    if out.exists():
        raise InvalidInput("out", f"{out} exists")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InvalidInput("seeds", "want one or more, none of them twice")
    if abs(width * 9 - height * 16) > 16:
        raise InvalidInput("width", f"{height} x {width} is not the cameras' 9:16")
    keyframes = int((seconds - FIRST_KEYFRAME) / KEYFRAME + 1e-6) + 1
    cameras = load_rig(rig)
    tables = _fixed_tables(cameras, rig, height, width)
    names = [f"scene-{9000 + k}" for k in range(len(seeds))]
    held = set(names[_SHARE_VAL - 1 :: _SHARE_VAL]) | (set(names[-1:]) if len(names) > 1 else set())
    done = 0
    for number, (seed, name) in enumerate(zip(seeds, names, strict=True)):
        writer = _SceneWriter(out, tables, Scene.generate(seed, seconds), name, number, cameras, (height, width))
        for k in range(keyframes):
            writer.keyframe(FIRST_KEYFRAME + k * KEYFRAME, "val" if name in held else "train")
            done += 1
            if on_progress is not None:
                on_progress(done, keyframes * len(seeds))
        writer.finish(f"world {seed}, {writer.scene.maneuver}")
    for name, rows in tables.items():
        _json(out / VERSION / f"{name}.json", rows)
    _json(out / SPLITS_FILE, {"train": [n for n in names if n not in held], "val": sorted(held)})
    (out / "maps").mkdir()
    cv2.imwrite(str(out / "maps" / "none.png"), np.zeros((8, 8), np.uint8))
    return out


class _SceneWriter:
    """Writes one drive and appends its rows to `tables`."""

    def __init__(
        self,
        out: Path,
        tables: Rows,
        scene: Scene,
        name: str,
        number: int,
        cameras: tuple[Camera, ...],
        size: tuple[int, int],
    ) -> None:
        self.out, self.tables, self.scene, self.name = out, tables, scene, name
        self._cameras, self._size = cameras, size
        self._renderer = Renderer(scene)
        self._start = CLOCK + number * 1_000_000_000
        self._samples: list[dict[str, Any]] = []
        self._seen: dict[int, list[dict[str, Any]]] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def keyframe(self, time: float, split: str) -> None:
        """Write one sample at `time` s of the drive: six images, lidar, boxes, occupancy and questions."""
        token = _token(self.name, "sample", len(self._samples))
        stamp = self._stamp(time)
        pose = self.scene.ego.at(time)[0]
        self._samples.append({"token": token, "timestamp": stamp, "scene_token": _token(self.name)})
        depths, matrices, mounts = [], [], []
        for camera in self._cameras:
            moment = round((time + camera.sweep_offset) * 1e6) / 1e6
            k = camera.scaled(*self._size)
            camera2map = self.scene.ego.at(moment)[0] @ camera.camera2ego
            picture = self._renderer.render(k, camera2map, *self._size, moment, 1)
            done, jpeg = cv2.imencode(".jpg", picture.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
            assert done
            self._data(camera.name, token, moment, "jpg", jpeg.tobytes())
            depths.append(picture.depth)
            matrices.append(k)
            mounts.append(geometry.inverse(pose) @ camera2map)
        labels = dense_labels(self.scene, time, pose)
        seen = camera_visibility(np.stack(depths), np.stack(matrices), np.stack(mounts))
        file = self.out / "gts" / self.name / token / "labels.npz"
        file.parent.mkdir(parents=True)
        mask = seen.astype(np.uint8)
        np.savez_compressed(file, semantics=labels, mask_lidar=mask, mask_camera=mask)
        points = OCC3D_GRID.centre_of(np.argwhere(seen & (labels < FREE))).astype(np.float64)
        cloud = np.zeros((len(points), 5), "<f4")
        cloud[:, :3] = geometry.apply(geometry.inverse(_LIDAR2EGO), points)
        self._data(LIDAR, token, time, "pcd.bin", cloud.tobytes())
        self._annotate(boxes(self.scene, time, None, REACH), token, pose, points)
        write_questions(self.out, split, token, questions(SceneView(self.scene, time, self._cameras)))

    def finish(self, description: str) -> None:
        """Link the rows, add the scene and its instances to the tables, and write the CAN bus files."""
        _link(self._samples)
        self.tables["sample"] += self._samples
        for instance, found in self._seen.items():
            _link(found)
            token = _token(self.name, "instance", instance)
            ends = {"first_annotation_token": found[0]["token"], "last_annotation_token": found[-1]["token"]}
            category = _token("category", found[0].pop("category"))
            for row in found[1:]:
                row.pop("category")
            count = {"nbr_annotations": len(found)}
            self.tables["instance"].append({"token": token, "category_token": category, **count, **ends})
            self.tables["sample_annotation"] += found
        self.tables["scene"].append(
            {
                "token": _token(self.name),
                "log_token": _token("log"),
                "nbr_samples": len(self._samples),
                "first_sample_token": self._samples[0]["token"],
                "last_sample_token": self._samples[-1]["token"],
                "name": self.name,
                "description": description,
            }
        )
        path = self.scene.ego.mover.path
        reach = self.scene.ego.mover.motion(np.array([-LEAD, self.scene.duration]))[0]
        along = np.arange(max(0.0, reach[0] - 50.0), min(path.length, reach[1] + 50.0), 0.5)
        route = geometry.apply(PLACE, np.column_stack([path.at(along)[:, :2], np.zeros(len(along))]))[:, :2]
        _json(self.out / "can_bus" / f"{self.name}_route.json", route.tolist())
        _json(self.out / "can_bus" / f"{self.name}_pose.json", self._can())

    def _can(self) -> list[dict[str, Any]]:
        out = []
        for time in np.arange(-LEAD, self.scene.duration, CAN).round(6).tolist():
            pose, twist = self.scene.ego.at(time)
            row = {"utime": self._stamp(time), "accel": [0.0, 0.0, 9.81], "vel": twist[:3].tolist()}
            flat = _pose_row(PLACE @ pose)
            motion = {"rotation_rate": twist[3:].tolist(), "pos": flat["translation"], "orientation": flat["rotation"]}
            out.append(row | motion)
        return out

    def _stamp(self, time: float) -> int:
        return self._start + round(time * 1e6)

    def _data(self, channel: str, sample: str, time: float, kind: str, content: bytes) -> None:
        """Write a sensor file and add its rows to sample_data and ego_pose, which share a token as in nuScenes."""
        stamp = self._stamp(time)
        token = _token(self.name, channel, stamp)
        name = f"samples/{channel}/{self.name}__{channel}__{stamp}.{kind}"
        file = self.out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        pose = _pose_row(PLACE @ self.scene.ego.at(time)[0])
        self.tables["ego_pose"].append({"token": token, "timestamp": stamp, **pose})
        height, width = self._size if kind == "jpg" else (0, 0)
        row = {
            "token": token,
            "sample_token": sample,
            "ego_pose_token": token,
            "calibrated_sensor_token": _token("calibrated", channel),
            "timestamp": stamp,
            "fileformat": kind.split(".")[0],
            "is_key_frame": True,
            "height": height,
            "width": width,
            "filename": name,
            "prev": "",
            "next": "",
        }
        if channel in self._last:
            _link([self._last[channel], row], ends=False)
        self._last[channel] = row
        self.tables["sample_data"].append(row)

    def _annotate(self, found: Boxes, sample: str, pose: np.ndarray, points: np.ndarray) -> None:
        for k in range(len(found)):
            box2ego = geometry.planar(float(found.centre[k, 0]), float(found.centre[k, 1]), float(found.yaw[k]))
            box2ego[2, 3] = found.centre[k, 2]
            inside = np.abs(geometry.apply(geometry.inverse(box2ego), points)) <= 0.5 * found.size[k] + 0.2
            length, width, height = (float(v) for v in found.size[k])
            instance = int(found.instance[k])
            row = {
                "token": _token(self.name, "box", sample, instance),
                "sample_token": sample,
                "instance_token": _token(self.name, "instance", instance),
                "attribute_tokens": [_token("attribute", found.attributes[k])] if found.attributes[k] else [],
                "visibility_token": "4",
                **_pose_row(PLACE @ pose @ box2ego),
                "size": [width, length, height],
                "num_lidar_pts": int(inside.all(1).sum()),
                "num_radar_pts": 0,
                "category": CATEGORIES[CLASSES[int(found.label[k])]],
            }
            self._seen.setdefault(instance, []).append(row)


def _fixed_tables(cameras: tuple[Camera, ...], rig: str, height: int, width: int) -> Rows:
    """All thirteen tables, with those filled in that do not depend on a drive."""
    attributes = ["vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider"]
    attributes += ["pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down"]
    mounted = [(c.name, "camera", c.camera2ego, c.scaled(height, width).tolist()) for c in cameras]
    mounted.append((LIDAR, "lidar", _LIDAR2EGO, []))
    levels = ("0-40", "40-60", "60-80", "80-100")
    return {
        "attribute": [{"token": _token("attribute", a), "name": a, "description": a} for a in attributes],
        "category": [
            {"token": _token("category", c), "name": c, "description": c} for c in sorted(CATEGORIES.values())
        ],
        "visibility": [
            {"token": str(k), "level": f"v{r}", "description": f"visible to {r} %"} for k, r in enumerate(levels, 1)
        ],
        "sensor": [{"token": _token("sensor", c), "channel": c, "modality": kind} for c, kind, _, _ in mounted],
        "calibrated_sensor": [
            {
                "token": _token("calibrated", c),
                "sensor_token": _token("sensor", c),
                **_pose_row(pose),
                "camera_intrinsic": k,
            }
            for c, _, pose, k in mounted
        ],
        "log": [
            {
                "token": _token("log"),
                "logfile": "world",
                "vehicle": rig,
                "date_captured": "2023-11-14",
                "location": "world",
            }
        ],
        "map": [
            {
                "token": _token("map"),
                "log_tokens": [_token("log")],
                "category": "semantic_prior",
                "filename": "maps/none.png",
            }
        ],
        "scene": [],
        "sample": [],
        "sample_data": [],
        "ego_pose": [],
        "instance": [],
        "sample_annotation": [],
    }


def _token(*parts: Any) -> str:
    return hashlib.sha256("/".join(str(p) for p in parts).encode()).hexdigest()[:32]


def _link(rows: list[dict[str, Any]], ends: bool = True) -> None:
    """Set prev and next of consecutive rows."""
    for before, after in itertools.pairwise(rows):
        before["next"], after["prev"] = after["token"], before["token"]
    if ends:
        rows[0]["prev"] = rows[-1]["next"] = ""


def _pose_row(pose: np.ndarray) -> dict[str, list[float]]:
    x, y, z, w = geometry.quaternion(pose).tolist()
    return {"translation": pose[:3, 3].tolist(), "rotation": [w, x, y, z]}


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=0), encoding="utf-8")
