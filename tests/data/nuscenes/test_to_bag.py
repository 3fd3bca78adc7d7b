"""Converter tests on made-up tables: several frames, sweeps, two scenes, and everything that can be missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.nuscenes import tables as nuscenes_tables
from sparseoccvla_ros.data.nuscenes.to_bag import convert_scene, list_scenes

CHANNELS = ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP", "RADAR_FRONT")
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(200)) + b"\xff\xd9"
POINTS = np.arange(15, dtype="<f4").tobytes()
SPEED, TURN = 8.0, 0.2
T0 = 1_532_402_927_000_000


def motion(seconds: float) -> tuple[list[float], list[float]]:
    """Position and w, x, y, z rotation on a circle at constant speed and turn rate."""
    yaw, radius = TURN * seconds, SPEED / TURN
    at = [300.0 + radius * np.sin(yaw), 900.0 + radius * (1 - np.cos(yaw)), 0.0]
    return at, [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


@pytest.fixture
def dataroot(tmp_path: Path) -> Path:
    """Two scenes of two keyframes 0.5 s apart, with sweeps every 0.1 s in between, in v1.0-mini."""
    root = tmp_path / "nuscenes"
    tables: dict[str, list[dict]] = {name: [] for name in nuscenes_tables.TABLES}
    tables["log"] = [{"token": "log0", "vehicle": "n015", "location": "singapore-onenorth"}]
    for k, channel in enumerate(CHANNELS):
        tables["sensor"].append({"token": f"s{k}", "channel": channel, "modality": "camera"})
        intrinsics = [[1000.0 + k, 0, 800], [0, 1000.0, 450], [0, 0, 1]] if channel.startswith("CAM") else []
        tables["calibrated_sensor"].append(
            {
                "token": f"c{k}",
                "sensor_token": f"s{k}",
                "translation": [1.5, 0.1 * k, 1.6],
                "rotation": [0.5, -0.5, 0.5, -0.5],
                "camera_intrinsic": intrinsics,
            }
        )
    for number, scene in enumerate(("scene-0001", "scene-0002")):
        tables["scene"].append(
            {"token": f"t{number}", "name": scene, "nbr_samples": 2, "log_token": "log0", "description": "a test"}
        )
        for frame in range(6):
            keyframe = frame in (0, 5)
            sample = f"t{number}-sample{frame // 5}"
            if keyframe:
                tables["sample"].append(
                    {"token": sample, "timestamp": T0 + frame * 100_000, "scene_token": f"t{number}"}
                )
            for k, channel in enumerate(CHANNELS):
                token = f"t{number}-{channel}-{frame}"
                stamp = T0 + frame * 100_000 + k * 7_000
                suffix = "jpg" if channel.startswith("CAM") else "bin"
                folder = "samples" if keyframe else "sweeps"
                filename = f"{folder}/{channel}/{token}.{suffix}"
                (root / filename).parent.mkdir(parents=True, exist_ok=True)
                (root / filename).write_bytes(JPEG + token.encode() if suffix == "jpg" else POINTS)
                if suffix == "jpg":
                    (root / filename).write_bytes(JPEG[:-2] + token.encode() + JPEG[-2:])
                at, turned = motion((stamp - T0) * 1e-6)
                tables["ego_pose"].append({"token": token, "timestamp": stamp, "translation": at, "rotation": turned})
                tables["sample_data"].append(
                    {
                        "token": token,
                        "sample_token": sample,
                        "ego_pose_token": token,
                        "calibrated_sensor_token": f"c{k}",
                        "timestamp": stamp,
                        "is_key_frame": keyframe,
                        "width": 1600,
                        "height": 900,
                        "filename": filename,
                    }
                )
    for name, table in tables.items():
        (root / "v1.0-mini").mkdir(exist_ok=True)
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(table, indent=0))
    return root


def edit(root: Path, table: str, change) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=0))


def read(path: Path, topic: str):
    with AnyReader([path]) as reader:
        wanted = [c for c in reader.connections if c.topic == topic]
        if not wanted:
            return []
        return [(t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages(connections=wanted)]


def refusal(*args, **kwargs) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        convert_scene(*args, **kwargs)
    out = Path(args[2])
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*")), "no half-written bag stays behind"
    return caught.value


def test_sweeps_and_keyframes_of_one_scene_only(dataroot, tmp_path):
    done = []
    result = convert_scene(
        dataroot, "scene-0002", tmp_path / "bag", on_progress=lambda now, total: done.append((now, total))
    )
    assert result.counts["/CAM_FRONT/image_rect_compressed"] == 6
    assert result.counts["/LIDAR_TOP"] == 6
    assert result.counts["/tf"] == 24
    assert "/RADAR_FRONT" not in result.counts
    assert done == [(k, done[-1][1]) for k in range(1, done[-1][1] + 1)]
    texts = [m.data.tobytes() for _, m in read(tmp_path / "bag", "/CAM_BACK/image_rect_compressed")]
    assert [b"t1-CAM_BACK-%d" % k in text for k, text in enumerate(texts)] == [True] * 6
    assert [m.data for _, m in read(tmp_path / "bag", "/nuscenes/sample_token")] == ["t1-sample0", "t1-sample1"]
    ((_, about),) = read(tmp_path / "bag", "/nuscenes/scene")
    assert json.loads(about.data)["location"] == "singapore-onenorth"


def test_the_file_itself_is_in_time_order_with_poses_first(dataroot, tmp_path):
    convert_scene(dataroot, "scene-0001", tmp_path / "bag")
    with next((tmp_path / "bag").glob("*.mcap")).open("rb") as stream:
        stored = [(m.log_time, c.topic) for _, c, m in make_reader(stream).iter_messages(log_time_order=False)]
    assert [t for t, _ in stored] == sorted(t for t, _ in stored)
    at_start = [topic for stamp, topic in stored if stamp == stored[0][0]]
    assert at_start[0] == "/tf_static"
    assert at_start.index("/tf") < at_start.index("/CAM_FRONT/camera_info")


def test_keyframes_only(dataroot, tmp_path):
    result = convert_scene(dataroot, "scene-0001", tmp_path / "bag", keyframes_only=True, lidar=False)
    assert result.counts["/CAM_FRONT/image_rect_compressed"] == 2
    assert "/LIDAR_TOP" not in result.counts
    stamps = [t // 1000 - T0 for t, _ in read(tmp_path / "bag", "/CAM_FRONT/camera_info")]
    assert stamps == [0, 500_000]


def test_differentiated_odometry_is_causal_and_right(dataroot, tmp_path):
    result = convert_scene(dataroot, "scene-0001", tmp_path / "bag")
    assert "can_bus" in result.skipped
    messages = read(tmp_path / "bag", "/odom")
    assert len(messages) == 21, "one per pose, but for those with less than 20 ms of past"
    for stamp, message in messages:
        want, _ = motion((stamp // 1000 - T0) * 1e-6)
        assert message.pose.pose.position.x == pytest.approx(want[0], abs=1e-9)
        assert message.twist.twist.linear.x == pytest.approx(SPEED, rel=1e-4)
        assert message.twist.twist.linear.y == pytest.approx(0.0, abs=1e-9), "a circle has no sideways motion"
        assert message.twist.twist.angular.z == pytest.approx(TURN, rel=1e-6)


def test_can_bus_odometry_wins(dataroot, tmp_path):
    (dataroot / "can_bus").mkdir()
    rows = [
        {
            "utime": T0 + k * 20_000,
            "pos": [1.0, 2.0, 0.0],
            "orientation": [1.0, 0, 0, 0],
            "vel": [7.5, 0.1, 0.0],
            "rotation_rate": [0.0, 0.0, 0.3],
            "accel": [0.0, 0.0, 9.8],
        }
        for k in range(-10, 60)
    ]
    (dataroot / "can_bus" / "scene-0001_pose.json").write_text(json.dumps(rows))
    result = convert_scene(dataroot, "scene-0001", tmp_path / "bag")
    assert set(result.skipped) == {"/markers/annotations", "/drivable_area"}
    messages = read(tmp_path / "bag", "/odom")
    assert [t // 1000 - T0 for t, _ in messages] == [k * 20_000 for k in range(27)], "only while the scene lasts"
    assert {m.twist.twist.linear.x for _, m in messages} == {7.5}
    assert {m.twist.twist.angular.z for _, m in messages} == {0.3}
    del rows[20]["vel"]
    (dataroot / "can_bus" / "scene-0001_pose.json").write_text(json.dumps(rows))
    assert refusal(dataroot, "scene-0001", tmp_path / "other").field == "can_bus"


def test_sensor_stamp_outside_the_poses_is_still_covered(dataroot, tmp_path):
    edit(dataroot, "sample_data", lambda rows: rows[0].update(timestamp=T0 - 3_000))
    convert_scene(dataroot, "scene-0001", tmp_path / "bag")
    tf = [t for t, _ in read(tmp_path / "bag", "/tf")]
    images = [t for t, _ in read(tmp_path / "bag", "/CAM_FRONT/image_rect_compressed")]
    assert min(images) == (T0 - 3_000) * 1000
    assert min(tf) <= min(images)
    ((static, _),) = read(tmp_path / "bag", "/tf_static")
    assert static == min(images)


def test_unknown_scene_and_version_name_the_known_ones(dataroot, tmp_path):
    error = refusal(dataroot, "scene-0099", tmp_path / "bag")
    assert error.field == "scene"
    assert "scene-0001, scene-0002" in error.reason
    assert "v1.0-mini" in refusal(dataroot, "scene-0001", tmp_path / "bag", version="v1.0-test").reason
    assert "v1.0-" in refusal(tmp_path, "scene-0001", tmp_path / "bag").reason
    assert "does not exist" in refusal(tmp_path / "none", "scene-0001", tmp_path / "bag").reason


def test_list_scenes(dataroot):
    assert [(v, n, c) for v, n, c, _ in list_scenes(dataroot)] == [
        ("v1.0-mini", "scene-0001", 2),
        ("v1.0-mini", "scene-0002", 2),
    ]


@pytest.mark.parametrize("table", nuscenes_tables.TABLES[1:])
def test_missing_table_is_named(dataroot, tmp_path, table):
    (dataroot / "v1.0-mini" / f"{table}.json").unlink()
    assert table in refusal(dataroot, "scene-0001", tmp_path / "bag").reason


def test_missing_sweeps_say_which_archive_and_the_way_around(dataroot, tmp_path):
    for path in (dataroot / "sweeps" / "CAM_FRONT").iterdir():
        path.unlink()
    reason = refusal(dataroot, "scene-0001", tmp_path / "bag").reason
    assert "sweeps/CAM_FRONT (4)" in reason
    assert "v1.0-mini.tgz" in reason
    assert "--keyframes-only" in reason
    assert "--no-lidar" not in reason
    convert_scene(dataroot, "scene-0001", tmp_path / "bag", keyframes_only=True)


def test_missing_lidar_can_be_left_out(dataroot, tmp_path):
    for path in dataroot.glob("s*/LIDAR_TOP/*"):
        path.unlink()
    assert "--no-lidar" in refusal(dataroot, "scene-0001", tmp_path / "bag").reason
    convert_scene(dataroot, "scene-0001", tmp_path / "bag", lidar=False)


def test_truncated_jpeg_and_lidar_are_named(dataroot, tmp_path):
    image = dataroot / "sweeps" / "CAM_BACK" / "t0-CAM_BACK-2.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:-40])
    error = refusal(dataroot, "scene-0001", tmp_path / "bag")
    assert image.name in error.reason
    assert "truncated" in error.reason
    image.write_bytes(b"<html>not found</html>")
    assert "no JPEG" in refusal(dataroot, "scene-0001", tmp_path / "bag").reason
    image.write_bytes(whole)
    (dataroot / "sweeps" / "LIDAR_TOP" / "t0-LIDAR_TOP-2.bin").write_bytes(POINTS[:-3])
    assert "cut off" in refusal(dataroot, "scene-0001", tmp_path / "bag").reason


@pytest.mark.parametrize(
    ("table", "change", "field"),
    [
        ("ego_pose", lambda rows: rows[0].update(rotation=[2.0, 0, 0, 0]), "ego_pose"),
        ("ego_pose", lambda rows: rows[0].update(translation=[float("nan"), 0, 0]), "ego_pose"),
        ("ego_pose", lambda rows: rows.pop(0), "ego_pose"),
        ("calibrated_sensor", lambda rows: rows[0].update(camera_intrinsic=[[1, 2], [3, 4]]), "calibrated_sensor"),
        ("calibrated_sensor", lambda rows: rows[0].pop("translation"), "calibrated_sensor CAM_FRONT"),
        ("calibrated_sensor", lambda rows: rows.pop(0), "calibrated_sensor"),
        ("sensor", lambda rows: rows.pop(0), "calibrated_sensor"),
        ("sample_data", lambda rows: rows[0].update(filename="../../secret.jpg"), "sample_data"),
        ("sample_data", lambda rows: rows[0].update(filename="/etc/hostname"), "sample_data"),
        ("sample_data", lambda rows: rows[0].pop("timestamp"), "sample_data"),
        ("sample", lambda rows: rows.clear(), "sample"),
    ],
)
def test_broken_rows_name_their_table(dataroot, tmp_path, table, change, field):
    edit(dataroot, table, change)
    assert refusal(dataroot, "scene-0001", tmp_path / "bag").field == field


def test_cut_off_table(dataroot, tmp_path):
    path = dataroot / "v1.0-mini" / "ego_pose.json"
    path.write_text(path.read_text()[:-200])
    assert "cut off" in refusal(dataroot, "scene-0001", tmp_path / "bag").reason


def test_an_existing_bag_is_not_overwritten_unless_asked(dataroot, tmp_path):
    convert_scene(dataroot, "scene-0001", tmp_path / "bag")
    with pytest.raises(InvalidInput, match="exists"):
        convert_scene(dataroot, "scene-0002", tmp_path / "bag")
    convert_scene(dataroot, "scene-0002", tmp_path / "bag", force=True)
    assert read(tmp_path / "bag", "/nuscenes/sample_token")[0][1].data == "t1-sample0"


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
VALUE = st.one_of(st.integers(), st.booleans(), TEXT, st.lists(st.floats(allow_nan=False, allow_infinity=False)))


@settings(max_examples=40)
@given(
    table=st.lists(st.dictionaries(TEXT, VALUE, max_size=4), max_size=12),
    indent=st.sampled_from([None, 0, 2]),
    block=st.sampled_from([1, 2, 7, 64, 1 << 20]),
    ascii_only=st.booleans(),
)
def test_streamed_rows_equal_json_whatever_the_block_size(tmp_path_factory, table, indent, block, ascii_only):
    path = tmp_path_factory.mktemp("table") / "sample.json"
    path.write_text(json.dumps(table, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nuscenes_tables, "_BLOCK", block)
        assert list(nuscenes_tables.rows(path)) == table


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", "[{", '[{"a": 1}', '[{"a": 1},', "null", '[{"a": 1} x]'])
def test_text_that_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "sample.json"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        list(nuscenes_tables.rows(path))
    assert caught.value.field == "sample"
