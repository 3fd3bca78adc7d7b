"""The real pieces of nuScenes and Occ3D through reader, index and samples, against their own tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS, DRIVABLE, FREE, LABEL
from sparseoccvla_ros.data.nuscenes.check import check
from sparseoccvla_ros.data.nuscenes.dataset import NuscenesSamples
from sparseoccvla_ros.data.nuscenes.ego_motion import differentiated
from sparseoccvla_ros.data.nuscenes.index import NuscenesIndex
from sparseoccvla_ros.data.nuscenes.labels import load_occ3d
from sparseoccvla_ros.data.nuscenes.prepare import moments, prepare
from sparseoccvla_ros.data.nuscenes.tables import LIDAR
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES

SENSORS = (*CAMERAS, LIDAR)


def matrix(entry: dict[str, Any]) -> np.ndarray:
    """A table's rotation (w, x, y, z) and translation as [4, 4]; the formula of the quaternion, not our code."""
    w, x, y, z = entry.get("rotation_wxyz") or entry["rotation"]
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = entry["translation"]
    return out


@pytest.fixture(scope="module")
def roots(data_root: Path) -> list[Path]:
    """Every folder with nuScenes tables, one or two levels down."""
    tables = (p for pattern in ("*", "*/*") for p in data_root.glob(f"{pattern}/v1.0-*/scene.json"))
    found = sorted({p.parent.parent for p in tables})
    if not found:
        pytest.skip("no nuScenes root among the recordings")
    return found


def versions_of(roots: list[Path]) -> list[tuple[Path, str]]:
    return [(root, p.parent.name) for root in roots for p in sorted(root.glob("v1.0-*/scene.json"))]


def test_check_names_what_each_root_lacks(roots):
    for root, version in versions_of(roots):
        found = check(root, version)
        pieces = {p.name: p for p in found.pieces}
        assert pieces["camera images"].wanted.keys() == found.samples.keys()
        tasks = {t.name: t.lacks for t in found.tasks}
        assert ("Occ3D labels" in tasks["train stage 1 (occupancy)"]) == bool(pieces["Occ3D labels"].missing)


def test_points_fall_where_the_tables_put_them(roots):
    """Boxes and random points through the index, against K inv(sensor2ego) inv(ego2global) of the tables: 1 px."""
    checked = 0
    for root, version in versions_of(roots):
        index = prepare(root, version)
        tables = {
            t: {r["token"]: r for r in json.loads((root / version / f"{t}.json").read_text())}
            for t in ("sample_data", "calibrated_sensor", "ego_pose", "sample_annotation")
        }
        rows = {r["filename"]: r for r in tables["sample_data"].values()}
        for split in set(index.scene_split.tolist()) - {""}:
            samples = NuscenesSamples(root, index, split, ImageConfig(256, 704), 2, labels=False)
            for number, row in enumerate(samples.rows.tolist()[:4]):
                sample = samples[number]
                notes = [a for a in tables["sample_annotation"].values() if a["sample_token"] == index.token[row]]
                places = np.array([a["translation"] for a in notes]).reshape(-1, 3)
                local = geometry.apply(np.linalg.inv(index.pose[row]), places)
                for k in range(len(CAMERAS)):
                    record = rows[index.image[row, k].decode()]
                    camera = tables["calibrated_sensor"][record["calibrated_sensor_token"]]
                    ego = matrix(tables["ego_pose"][record["ego_pose_token"]])
                    seen = geometry.apply(np.linalg.inv(ego @ matrix(camera)), places)
                    front = seen[:, 2] > 1.0
                    native = seen[front] @ np.array(camera["camera_intrinsic"]).T
                    u, v = native[:, 0] / native[:, 2], native[:, 1] / native[:, 2]
                    inside = (u > 0) & (u < 1600) & (v > 0) & (v < 900)
                    # 1600 x 900 -> 704 x 396 -> the lower 256 rows
                    want = np.stack([(u + 0.5) * 0.44 - 0.5, (v + 0.5) * 0.44 - 0.5 - 140], -1)
                    got, _ = geometry.project(sample.ego2img[0, k].astype(np.float64), local[front])
                    assert np.abs(got - want)[inside].max(initial=0.0) < 1.0
                    checked += int(inside.sum())
    assert checked > 10


def test_boxes_equal_the_recording(keyframe_1):
    versions = sorted(keyframe_1.folder.glob("v1.0-*"))
    if not versions:
        pytest.skip("this keyframe has no tables")
    index = prepare(keyframe_1.folder, versions[0].name)
    row = index.token.tolist().index(keyframe_1.content["sample_token"])
    here, centres, yaws, _ = index.tracks(row)
    boxes = keyframe_1.content["boxes_ego"]
    assert len(boxes) == here.stop - here.start
    want = np.array([[*b["center"][:2], *b["size_lwh"], b["yaw"], b["num_lidar_pts"]] for b in boxes])
    for k in range(len(boxes)):
        nearest = int(np.linalg.norm(want[:, :2] - centres[k, 0], axis=1).argmin())
        np.testing.assert_allclose(centres[k, 0], want[nearest, :2], atol=5e-3)
        np.testing.assert_allclose(index.box_size[here][k], want[nearest, 2:5], atol=1e-3)
        assert np.cos(yaws[k, 0] - want[nearest, 5]) == pytest.approx(1.0, abs=1e-3)
        assert index.box_points[here][k] == want[nearest, 6]


def drive_root(recording: Any, folder: Path) -> Path:
    """A nuScenes root with the stamps, poses and calibration of a poses recording; images are never opened.

    The recording gives the pose at each CAM_FRONT stamp; other sensors' poses lie on the chord or beyond its ends.
    """
    content = recording.content
    keyframes = content["keyframes"]
    stamps = [k["timestamps_us"] for k in keyframes]
    known = [(k["timestamps_us"]["CAM_FRONT"], matrix(k["ego2global_at_cam_front"])) for k in keyframes]

    def pose_at(stamp: int) -> np.ndarray:
        later = next((i for i, (s, _) in enumerate(known) if s >= stamp), len(known) - 1)
        first, second = known[max(later - 1, 0)], known[max(later, 1)]
        fraction = (stamp - first[0]) / (second[0] - first[0])
        return geometry.interpolate(first[1], second[1], min(max(fraction, 0.0), 1.0))

    tables: dict[str, list[dict[str, Any]]] = {
        "log": [{"token": "log", "vehicle": content["vehicle"], "location": content["location"]}],
        "scene": [{"token": "scene", "name": content["scene"], "log_token": "log", "nbr_samples": len(stamps)}],
        "sample": [{"token": f"k{i}", "timestamp": s[LIDAR], "scene_token": "scene"} for i, s in enumerate(stamps)],
        "sensor": [{"token": c, "channel": c} for c in SENSORS],
        "calibrated_sensor": [], "sample_data": [], "ego_pose": [],
    }  # fmt: skip
    for channel in SENSORS:
        sensor = content["sensors"][channel]
        mount = sensor.get("sensor2ego", sensor)
        tables["calibrated_sensor"].append(
            {
                "token": channel,
                "sensor_token": channel,
                "translation": mount["translation"],
                "rotation": mount["rotation_wxyz"],
                "camera_intrinsic": sensor.get("K") or [],
            }
        )
        for i, s in enumerate(stamps):
            pose, token = pose_at(s[channel]), f"{channel}{i}"
            x, y, z, w = geometry.quaternion(pose)
            row = {"token": token, "translation": pose[:3, 3].tolist(), "rotation": [w, x, y, z]}
            tables["ego_pose"].append({**row, "timestamp": s[channel]})
            name = f"samples/{channel}/{i}.{'bin' if channel == LIDAR else 'jpg'}"
            tables["sample_data"].append(
                {
                    "token": token, "sample_token": f"k{i}", "ego_pose_token": token, "timestamp": s[channel],
                    "calibrated_sensor_token": channel, "is_key_frame": True, "filename": name,
                    "width": 0 if channel == LIDAR else 1600, "height": 0 if channel == LIDAR else 900,
                }
            )  # fmt: skip
    (folder / "v1.0-mini").mkdir(parents=True)
    for name, table in tables.items():
        (folder / "v1.0-mini" / f"{name}.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def drive(poses_1, tmp_path) -> tuple[Any, NuscenesIndex]:
    """A recording of poses and the index of its root."""
    return poses_1, prepare(drive_root(poses_1, tmp_path / "root"), "v1.0-mini")


def test_poses_are_those_of_the_tables_at_each_sensors_stamp(drive):
    recording, index = drive
    front = CAMERAS.index("CAM_FRONT")
    for row, keyframe in enumerate(recording.content["keyframes"]):
        assert index.stamp[row] == keyframe["timestamps_us"][LIDAR] * 1000
        want = [keyframe["timestamps_us"][c] * 1000 for c in CAMERAS]
        assert index.camera_stamp[row].tolist() == want
        np.testing.assert_allclose(
            index.camera_pose[row, front], matrix(keyframe["ego2global_at_cam_front"]), atol=1e-6
        )
    # Interpolated: between the keyframes around it, and never faster than the car drives.
    moved = np.linalg.norm(np.diff(index.pose[:, :2, 3], axis=0), axis=1)
    assert (moved <= 15.0 * np.diff(index.stamp) / 1e9).all()


def test_future_and_commands_follow_the_drive(drive):
    recording, index = drive
    count = len(recording.content["keyframes"])
    assert index.future_mask.sum() == 6 * count - 21
    for row in range(0, count - 6, 5):
        for step in range(6):
            want = np.linalg.inv(index.pose[row]) @ index.pose[row + 1 + step]
            np.testing.assert_allclose(index.future[row, step], want, atol=1e-9)
    turned = abs(recording.content["keyframes"][-1]["yaw"] - recording.content["keyframes"][0]["yaw"])
    straight = (index.oracle == 1).mean()
    assert (straight == 1.0) if turned < 0.02 else (straight < 0.95)


def test_features_are_causal_and_finite(drive):
    _, index = drive
    assert np.isfinite(index.features).all()
    assert np.isfinite(index.paper).all()
    poses = {int(s): p for s, p in zip(index.stamp, index.pose, strict=True)}
    odometry = list(differentiated(poses))
    stamps = list(poses.items())
    whole = moments(stamps, odometry, None)
    for row in range(0, len(stamps), 4):
        now = stamps[row][0]
        cut = moments(stamps[: row + 1], [o for o in odometry if o[0] <= now], None)
        assert cut[-1].features.tobytes() == whole[row].features.tobytes()
        assert cut[-1].twist.tobytes() == whole[row].twist.tobytes()


def test_features_of_a_20_hz_drive(motion_1):
    """vx of the features against the distance driven in the 0.1 s before; later frames change nothing."""
    ego = motion_1.content["ego"]
    poses = {int(e["t_us"]) * 1000: geometry.planar(*e["xy"], e["roll_pitch_yaw"][2]) for e in ego}
    stamps, odometry = list(poses.items()), list(differentiated(poses))
    chosen = stamps[10::10]
    found = moments(chosen, odometry, None)
    features = np.stack([m.features for m in found])
    assert np.isfinite(features).all()
    assert (features[1:, FEATURE_NAMES.index("has_velocity")] == 1).all()
    vx = features[:, FEATURE_NAMES.index("vx")]
    for k, (stamp, pose) in enumerate(chosen):
        before = [(s, p) for s, p in stamps if stamp - 110_000_000 <= s < stamp]
        if k and before:
            driven = np.linalg.norm((pose - before[0][1])[:2, 3])
            assert vx[k] == pytest.approx(driven / (stamp - before[0][0]) * 1e9, abs=0.35)
        cut = moments(chosen[: k + 1], [o for o in odometry if o[0] <= stamp], None)[-1]
        assert cut.features.tobytes() == features[k].tobytes()
        assert cut.command is found[k].command


def test_occ3d_axes_and_masks(occ3d_labels):
    """The camera mask lies within the lidar mask; the road is low, wide and under the car: index [x, y, z]."""
    labels = load_occ3d(occ3d_labels)
    assert not (labels.camera & ~labels.lidar).any()
    assert labels.camera.sum() < labels.lidar.sum()
    road = np.isin(labels.semantics, DRIVABLE)
    heights = np.argwhere(road)[:, 2]
    assert heights.max() <= 4, "the last axis is height"
    column = road.any(2)
    ahead, aside = column[100:140, 98:102].mean(), column[98:102, 100:140].mean()
    assert ahead > aside, "the road goes on along the first axis, where the car drives"
    assert (labels.semantics < FREE).sum() > 1000
    cars = np.argwhere(labels.semantics == LABEL["car"])
    assert len(cars) == 0 or np.ptp(cars[:, 2]) <= 8


def test_the_devkit_reads_the_same(roots):
    module = pytest.importorskip("nuscenes.nuscenes")
    for root, version in versions_of(roots):
        kit, index = module.NuScenes(version, str(root), verbose=False), prepare(root, version)
        for row in range(len(index)):
            sample = kit.get("sample", str(index.token[row]))
            for k, channel in enumerate(CAMERAS):
                record = kit.get("sample_data", sample["data"][channel])
                pose = kit.get("ego_pose", record["ego_pose_token"])
                assert record["filename"] == index.image[row, k].decode()
                np.testing.assert_allclose(index.camera_pose[row, k], matrix(pose), atol=1e-9)
                _, _, intrinsics = kit.get_sample_data(record["token"])
                np.testing.assert_allclose(index.intrinsics[index.calibration[row, k]], intrinsics, atol=1e-9)
            boxes = kit.get_boxes(sample["data"][LIDAR])
            mine = index.boxes(row)
            assert len(boxes) == mine.stop - mine.start
            theirs = np.array(sorted(b.center.tolist() for b in boxes))
            np.testing.assert_allclose(np.array(sorted(index.box_centre[mine].tolist())), theirs, atol=1e-6)
