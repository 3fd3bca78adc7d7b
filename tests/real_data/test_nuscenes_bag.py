"""Every nuScenes root among the shared recordings, converted and compared with its own tables."""

import itertools
import json
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.nuscenes.to_bag import convert_scene, list_scenes

TOLERANCE = 1e-9


def scenes(root: Path) -> list[tuple[Path, str, str]]:
    """(data root, version, scene) of every devkit root one or two levels below the shared data."""
    roots = sorted({p.parent.parent for pattern in ("*", "*/*") for p in root.glob(f"{pattern}/v1.0-*/scene.json")})
    return [(r, version, name) for r in roots for version, name, _, _ in list_scenes(r)]


@pytest.fixture(scope="module")
def every_scene(data_root):
    found = scenes(data_root)
    if not found:
        pytest.skip("no nuScenes root among the recordings")
    return found


@pytest.fixture(scope="module")
def converted(every_scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuscenes")
    out = []
    for k, (root, version, name) in enumerate(every_scene):
        convert_scene(root, name, folder / str(k), version)
        out.append((folder / str(k), Tables(root / version), root, name))
    return out


class Tables:
    """The tables as plain dictionaries: an independent way to the same numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @lru_cache  # noqa: B019
    def get(self, table: str) -> dict[str, dict]:
        return {row["token"]: row for row in json.loads((self.folder / f"{table}.json").read_text())}

    def records(self, scene: str) -> list[tuple[str, dict]]:
        token = next(s["token"] for s in self.get("scene").values() if s["name"] == scene)
        samples = {s["token"] for s in self.get("sample").values() if s["scene_token"] == token}
        out = []
        for row in self.get("sample_data").values():
            calibrated = self.get("calibrated_sensor")[row["calibrated_sensor_token"]]
            channel = self.get("sensor")[calibrated["sensor_token"]]["channel"]
            if row["sample_token"] in samples:
                out.append((channel, row))
        return out


def read(bag: Path, *topics: str) -> list[tuple[str, int, object]]:
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic in topics]
        return [(c.topic, t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages(connections=wanted)]


def nanoseconds(stamp) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def same_pose(transform, row) -> bool:
    t, q = transform.translation, transform.rotation
    got = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    w, x, y, z = row["rotation"]
    want = Rotation.from_quat([x, y, z, w]).as_matrix()
    near = np.allclose([t.x, t.y, t.z], row["translation"], rtol=0, atol=TOLERANCE)
    return near and np.allclose(got, want, rtol=0, atol=TOLERANCE)


def test_images_pass_through_at_their_own_stamps(converted):
    for bag, tables, root, name in converted:
        cameras = [(c, r) for c, r in tables.records(name) if c.startswith("CAM_")]
        images = {
            (topic, record_time): message
            for topic, record_time, message in read(bag, *{f"/{c}/image_rect_compressed" for c, _ in cameras})
        }
        assert len(images) == len(cameras)
        for channel, row in cameras:
            message = images[f"/{channel}/image_rect_compressed", row["timestamp"] * 1000]
            assert message.data.tobytes() == (root / row["filename"]).read_bytes()
            assert nanoseconds(message.header.stamp) == row["timestamp"] * 1000
            assert message.header.frame_id == channel
            assert message.format == "jpeg"


def test_intrinsics_equal_the_tables(converted):
    for bag, tables, _, name in converted:
        cameras = {c: r for c, r in tables.records(name) if c.startswith("CAM_")}
        messages = read(bag, *(f"/{c}/camera_info" for c in cameras))
        assert {m.header.frame_id for _, _, m in messages} == set(cameras)
        for _, record_time, message in messages:
            row = cameras[message.header.frame_id]
            want = tables.get("calibrated_sensor")[row["calibrated_sensor_token"]]["camera_intrinsic"]
            np.testing.assert_allclose(message.k.reshape(3, 3), want, rtol=0, atol=TOLERANCE)
            np.testing.assert_allclose(message.p.reshape(3, 4), np.hstack([want, np.zeros((3, 1))]), atol=TOLERANCE)
            np.testing.assert_array_equal(message.r.reshape(3, 3), np.eye(3))
            np.testing.assert_array_equal(message.d, np.zeros(5))
            assert (message.width, message.height) == (row["width"], row["height"])
            assert message.distortion_model == "plumb_bob"
            assert nanoseconds(message.header.stamp) == record_time


def test_transforms_equal_the_tables(converted):
    for bag, tables, _, name in converted:
        records = tables.records(name)
        ((_, first, static),) = read(bag, "/tf_static")
        mounted = {t.child_frame_id: t for t in static.transforms}
        wanted = {c: r for c, r in records if c.startswith("CAM_") or c == "LIDAR_TOP"}
        assert set(mounted) == set(wanted)
        for channel, row in wanted.items():
            assert mounted[channel].header.frame_id == "base_link"
            calibrated = tables.get("calibrated_sensor")[row["calibrated_sensor_token"]]
            assert same_pose(mounted[channel].transform, calibrated)
        moving = [t for _, _, m in read(bag, "/tf") for t in m.transforms]
        at = {nanoseconds(t.header.stamp): t for t in moving}
        poses = [tables.get("ego_pose")[r["ego_pose_token"]] for _, r in records]
        assert set(at) >= {p["timestamp"] * 1000 for p in poses}
        for pose in poses:
            edge = at[pose["timestamp"] * 1000]
            assert (edge.header.frame_id, edge.child_frame_id) == ("map", "base_link")
            assert same_pose(edge.transform, pose)
        # Every sensor stamp can be looked up without extrapolating, and nothing precedes the static transforms.
        assert all(min(at) <= r["timestamp"] * 1000 <= max(at) for r in wanted.values())
        assert first == min(at)


def test_lidar_points_are_the_file(converted):
    for bag, tables, root, name in converted:
        rows = {r["timestamp"] * 1000: r for c, r in tables.records(name) if c == "LIDAR_TOP"}
        clouds = read(bag, "/LIDAR_TOP")
        assert {t for _, t, _ in clouds} == set(rows)
        for _, record_time, cloud in clouds:
            assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
                (n, 4 * k, 7) for k, n in enumerate(("x", "y", "z", "intensity", "ring"))
            ]
            assert cloud.data.tobytes() == (root / rows[record_time]["filename"]).read_bytes()


def test_sample_tokens_mark_the_keyframes(converted):
    for bag, tables, _, name in converted:
        token = next(s["token"] for s in tables.get("scene").values() if s["name"] == name)
        samples = {s["token"]: s for s in tables.get("sample").values() if s["scene_token"] == token}
        got = {m.data: t for _, t, m in read(bag, "/nuscenes/sample_token")}
        assert got == {token: s["timestamp"] * 1000 for token, s in samples.items()}


def test_boxes_equal_the_tables(converted):
    checked = 0
    for bag, tables, _, _ in converted:
        rows = tables.get("sample_annotation") if (tables.folder / "sample_annotation.json").is_file() else {}
        for _, stamp, message in read(bag, "/markers/annotations"):
            for marker in message.markers:
                row = rows[marker.text]
                sample = tables.get("sample")[row["sample_token"]]
                assert stamp == nanoseconds(marker.header.stamp) == sample["timestamp"] * 1000
                transform = SimpleNamespace(translation=marker.pose.position, rotation=marker.pose.orientation)
                assert same_pose(transform, row)
                assert [marker.scale.y, marker.scale.x, marker.scale.z] == row["size"]
                instance = tables.get("instance")[row["instance_token"]]
                assert marker.ns == tables.get("category")[instance["category_token"]]["name"]
                checked += 1
    if not checked:
        pytest.skip("no scene with boxes among the recordings")


def test_odometry_agrees_with_the_motion_of_the_poses(converted):
    for bag, tables, _, name in converted:
        poses = {tables.get("ego_pose")[r["ego_pose_token"]]["timestamp"]: r for _, r in tables.records(name)}
        rows = [tables.get("ego_pose")[poses[t]["ego_pose_token"]] for t in sorted(poses)]
        speeds = [
            np.hypot(*np.subtract(b["translation"], a["translation"])[:2]) / (b["timestamp"] - a["timestamp"]) * 1e6
            for a, b in itertools.pairwise(rows)
        ]
        messages = [m for _, _, m in read(bag, "/odom")]
        assert messages
        for message in messages:
            linear = message.twist.twist.linear
            assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
            assert min(speeds) - 0.5 <= np.hypot(linear.x, linear.y) <= max(speeds) + 0.5
            assert abs(linear.y) <= 0.05 * abs(linear.x) + 0.1, "a car hardly moves sideways"


def test_mcap_and_metadata_are_what_rosbag2_reads(converted):
    for bag, _, _, _ in converted:
        data = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        (name,) = data["relative_file_paths"]
        assert data["version"] == 9
        assert data["storage_identifier"] == "mcap"
        assert data["compression_mode"] == ""
        assert data["custom_data"] is None
        assert [f["path"] for f in data["files"]] == [name]
        topics = {t["topic_metadata"]["name"]: t for t in data["topics_with_message_count"]}
        with (bag / name).open("rb") as stream:
            reader = make_reader(stream)
            assert reader.get_header().profile == "ros2"
            assert "rosbag2" in {m.name for m in reader.iter_metadata()}
            summary = reader.get_summary()
            counts = dict.fromkeys(topics, 0)
            for schema, channel, message in reader.iter_messages():
                counts[channel.topic] += 1
                assert (schema.encoding, channel.message_encoding) == ("ros2msg", "cdr")
                assert message.log_time >= data["starting_time"]["nanoseconds_since_epoch"]
        assert counts == {n: t["message_count"] for n, t in topics.items()}
        assert sum(counts.values()) == data["message_count"] == summary.statistics.message_count
        for topic in topics.values():
            meta = topic["topic_metadata"]
            assert meta["serialization_format"] == "cdr"
            assert meta["type_description_hash"].startswith("RIHS01_")
            assert isinstance(meta["offered_qos_profiles"], list)
            for profile in meta["offered_qos_profiles"]:
                assert all(isinstance(profile[k], str) for k in ("history", "reliability", "durability", "liveliness"))
                assert set(profile["deadline"]) == {"sec", "nsec"}
        (profile,) = topics["/tf_static"]["topic_metadata"]["offered_qos_profiles"]
        assert profile["durability"] == "transient_local"


def test_our_reader_and_rosbags_agree(converted):
    for bag, _, _, _ in converted:
        with BagReader(bag) as ours, AnyReader([bag]) as theirs:
            a = [(m.topic, m.type, m.stamp, m.raw) for m in ours.messages()]
            b = [(c.topic, c.msgtype, t, bytes(raw)) for c, t, raw in theirs.messages()]
        assert a == b
