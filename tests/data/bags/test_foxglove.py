"""The Foxglove converter on a file written here with foxglove's published schemas (foxglove-sdk, schemas/proto)."""

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClassesForFiles
from mcap.writer import CompressionType, Writer
from rosbags.highlevel import AnyReader

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.bags.foxglove import convert_foxglove
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.writer import BagWriter

T = FieldDescriptorProto
STAMP = ".google.protobuf.Timestamp"
# Message -> (name, number, type or message name, repeated); numbers as published in foxglove-sdk.
SCHEMAS = {
    "Vector3": [("x", 1, T.TYPE_DOUBLE), ("y", 2, T.TYPE_DOUBLE), ("z", 3, T.TYPE_DOUBLE)],
    "Quaternion": [(a, k + 1, T.TYPE_DOUBLE) for k, a in enumerate("xyzw")],
    "Pose": [("position", 1, ".foxglove.Vector3"), ("orientation", 2, ".foxglove.Quaternion")],
    "PackedElementField": [
        ("name", 1, T.TYPE_STRING),
        ("offset", 2, T.TYPE_FIXED32),
        ("type", 3, ".foxglove.PackedElementField.NumericType"),
    ],
    "CompressedImage": [
        ("timestamp", 1, STAMP),
        ("frame_id", 4, T.TYPE_STRING),
        ("data", 2, T.TYPE_BYTES),
        ("format", 3, T.TYPE_STRING),
    ],
    "CameraCalibration": [
        ("timestamp", 1, STAMP),
        ("frame_id", 9, T.TYPE_STRING),
        ("width", 2, T.TYPE_FIXED32),
        ("height", 3, T.TYPE_FIXED32),
        ("distortion_model", 4, T.TYPE_STRING),
        *[(name, 5 + k, T.TYPE_DOUBLE, True) for k, name in enumerate("DKRP")],
    ],
    "FrameTransform": [
        ("timestamp", 1, STAMP),
        ("parent_frame_id", 2, T.TYPE_STRING),
        ("child_frame_id", 3, T.TYPE_STRING),
        ("translation", 4, ".foxglove.Vector3"),
        ("rotation", 5, ".foxglove.Quaternion"),
    ],
    "FrameTransforms": [("transforms", 1, ".foxglove.FrameTransform", True)],
    "PointCloud": [
        ("timestamp", 1, STAMP),
        ("frame_id", 2, T.TYPE_STRING),
        ("pose", 3, ".foxglove.Pose"),
        ("point_stride", 4, T.TYPE_FIXED32),
        ("fields", 5, ".foxglove.PackedElementField", True),
        ("data", 6, T.TYPE_BYTES),
    ],
    "PoseInFrame": [("timestamp", 1, STAMP), ("frame_id", 2, T.TYPE_STRING), ("pose", 3, ".foxglove.Pose")],
    "LocationFix": [("latitude", 1, T.TYPE_DOUBLE)],
}
NUMERIC = ("UNKNOWN", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "FLOAT64")
VECTOR = {"type": "object", "properties": {a: {"type": "number"} for a in "xyz"}}
ODOMETRY_SCHEMA = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("accel", "pos", "rotation_rate", "vel"), VECTOR),
        "orientation": {"type": "object", "properties": {a: {"type": "number"} for a in "xyzw"}},
    },
}
T0 = 1_532_402_927_647_951_000


def describe() -> FileDescriptorSet:
    file = FileDescriptorProto(
        name="foxglove/all.proto",
        package="foxglove",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto"],
    )
    for name, fields in SCHEMAS.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, *repeated in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = T.LABEL_REPEATED if repeated else T.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type = T.TYPE_ENUM if "NumericType" in kind else T.TYPE_MESSAGE
                field.type_name = kind
            else:
                field.type = kind
        if name == "PackedElementField":
            enum = message.enum_type.add(name="NumericType")
            for k, value in enumerate(NUMERIC):
                enum.value.add(name=value, number=k)
    stamp = FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
    return FileDescriptorSet(file=[stamp, file])


DESCRIPTORS = describe()
_pool = DescriptorPool()
for _file in DESCRIPTORS.file:
    _pool.Add(_file)
MESSAGES = GetMessageClassesForFiles(["foxglove/all.proto"], _pool)


def make(name: str, stamp: int | None = None, **fields):
    message = MESSAGES[f"foxglove.{name}"](**fields)
    if stamp is not None:
        message.timestamp.seconds, message.timestamp.nanos = divmod(stamp, 10**9)
    return message


def transform(stamp, parent, child, at, turned=(0.0, 0.0, 0.0, 1.0)):
    message = make("FrameTransform", stamp, parent_frame_id=parent, child_frame_id=child)
    message.translation.x, message.translation.y, message.translation.z = at
    message.rotation.x, message.rotation.y, message.rotation.z, message.rotation.w = turned
    return message


class Source:
    """Writes channels the way foxglove/nuscenes2mcap does: protobuf and JSON mixed, no profile."""

    def __init__(self, path: Path, profile: str = "") -> None:
        self.stream = path.open("wb")
        self.writer = Writer(self.stream, compression=CompressionType.ZSTD)
        self.writer.start(profile=profile)
        self.channels: dict[str, int] = {}

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_) -> None:
        self.writer.finish()
        self.stream.close()

    def log(self, topic: str, log_time: int, message) -> None:
        if topic not in self.channels:
            schema = self.writer.register_schema(
                message.DESCRIPTOR.full_name, "protobuf", DESCRIPTORS.SerializeToString()
            )
            self.channels[topic] = self.writer.register_channel(topic, "protobuf", schema)
        self.writer.add_message(self.channels[topic], log_time, message.SerializeToString(), log_time)

    def log_json(self, topic: str, log_time: int, message, schema=ODOMETRY_SCHEMA) -> None:
        if topic not in self.channels:
            identifier = self.writer.register_schema("Pose", "jsonschema", json.dumps(schema).encode())
            self.channels[topic] = self.writer.register_channel(topic, "json", identifier)
        self.writer.add_message(self.channels[topic], log_time, json.dumps(message).encode(), log_time)


K = [1266.4, 0.0, 816.2, 0.0, 1266.4, 491.5, 0.0, 0.0, 1.0]
P = [*K[:3], 0.0, *K[3:6], 0.0, *K[6:], 0.0]
R = list(np.eye(3).ravel())
JPEG = b"\xff\xd8\xff" + bytes(range(256)) + b"\xff\xd9"
POINTS = np.arange(20, dtype="<f4")
QUARTER = (0.0, 0.0, np.sin(0.25), np.cos(0.25))
ODOMETRY = {
    "pos": {"x": 411.0, "y": 1180.0, "z": 0.0},
    "orientation": dict(zip("xyzw", QUARTER, strict=True)),
    "vel": {"x": 9.0, "y": 0.1, "z": 0.0},
    "rotation_rate": {"x": 0.0, "y": 0.0, "z": 0.2},
    "accel": {"x": 0.0, "y": 0.0, "z": 9.8},
}


def cloud(stamp: int, names=("x", "y", "z", "intensity", "ring"), kind=7):
    message = make("PointCloud", stamp, frame_id="lidar_top", point_stride=20, data=POINTS.tobytes())
    for k, name in enumerate(names):
        message.fields.add(name=name, offset=4 * k, type=kind)
    message.pose.orientation.w = 1.0
    return message


def write_source(path: Path, upper: bool, frames: int = 3) -> Path:
    """Keyframes at 2 Hz: everything at the lidar's log time, with the sensors' own stamps inside."""
    name = str.upper if upper else str.lower
    camera, lidar = name("cam_front"), name("lidar_top")
    with Source(path) as source:
        for k in range(frames):
            log = T0 + k * 500_000_000
            own = log - 35_000_000
            source.log_json("/odom", log - 1_000_000, ODOMETRY)
            source.log("/tf", log, transform(log, "map", "base_link", (411.0 + k, 1180.0, 0.0), QUARTER))
            source.log("/tf", log, transform(own, "base_link", camera, (1.7 + k, 0.0, 1.5), (0.5, -0.5, 0.5, -0.5)))
            source.log("/tf", log, transform(log, "base_link", lidar, (0.94, 0.0, 1.84)))
            image = make("CompressedImage", own, frame_id=camera, data=JPEG + bytes([k]), format="jpeg")
            source.log(f"/{camera}/image_rect_compressed", log, image)
            calibration = make("CameraCalibration", own, frame_id=camera, width=1600, height=900, K=K, R=R, P=P)
            source.log(f"/{camera}/camera_info", log, calibration)
            source.log(f"/{lidar}", log, cloud(log))
            pose = make("PoseInFrame", log, frame_id="base_link")
            pose.pose.orientation.w = 1.0
            source.log("/pose", log, pose)
            source.log("/gps", log, make("LocationFix", latitude=1.3))
            source.log_json("/diagnostics", log, {"status": []}, {"type": "object", "properties": {"status": {}}})
    return path


def read(path: Path, topic: str):
    with AnyReader([path]) as reader:
        wanted = [c for c in reader.connections if c.topic == topic]
        return [(t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages(connections=wanted)]


@pytest.fixture(params=[True, False], ids=["old names", "new names"])
def converted(request, tmp_path):
    source = write_source(tmp_path / "NuScenes-v1.0-mini-scene-0061.mcap", upper=request.param)
    return convert_foxglove(source, tmp_path / "bag")


def test_images_pass_through_under_the_profiles_names(converted):
    images = read(converted.path, "/CAM_FRONT/image_rect_compressed")
    assert [m.data.tobytes() for _, m in images] == [JPEG + bytes([k]) for k in range(3)]
    for k, (record_time, message) in enumerate(images):
        own = T0 + k * 500_000_000 - 35_000_000
        assert record_time == own, "not the lidar's log time"
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == own
        assert (message.header.frame_id, message.format) == ("CAM_FRONT", "jpeg")


def test_camera_info_has_the_profiles_fields(converted):
    (_, info), *_ = read(converted.path, "/CAM_FRONT/camera_info")
    np.testing.assert_array_equal(info.k, K)
    np.testing.assert_array_equal(info.p, P)
    np.testing.assert_array_equal(info.r, R)
    np.testing.assert_array_equal(info.d, np.zeros(5))
    assert (info.width, info.height, info.distortion_model) == (1600, 900, "plumb_bob")


def test_mounts_become_static_and_first(converted):
    ((record_time, static),) = read(converted.path, "/tf_static")
    edges = {t.child_frame_id: t for t in static.transforms}
    assert set(edges) == {"CAM_FRONT", "LIDAR_TOP"}
    assert edges["CAM_FRONT"].transform.translation.x == pytest.approx(1.7), "the first value"
    assert abs(edges["CAM_FRONT"].transform.rotation.y) == pytest.approx(0.5)
    with BagReader(converted.path) as reader:
        assert record_time == reader.start
        assert next(reader.messages()).topic == "/tf_static"
    moving = [t for _, m in read(converted.path, "/tf") for t in m.transforms]
    assert {(t.header.frame_id, t.child_frame_id) for t in moving} == {("map", "base_link")}
    assert [t.transform.translation.x for t in moving] == [411.0, 412.0, 413.0]
    assert moving[0].transform.rotation.z == pytest.approx(QUARTER[2], abs=1e-12)


def test_json_odometry_point_clouds_and_poses(converted):
    (record_time, odometry), *_ = read(converted.path, "/odom")
    assert record_time == T0 - 1_000_000
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("map", "base_link")
    assert odometry.twist.twist.linear.x == 9.0
    assert odometry.twist.twist.angular.z == 0.2
    assert odometry.pose.pose.orientation.z == pytest.approx(QUARTER[2])
    (_, points), *_ = read(converted.path, "/LIDAR_TOP")
    assert points.data.tobytes() == POINTS.tobytes()
    assert [(f.name, f.offset, f.datatype) for f in points.fields][::4] == [("x", 0, 7), ("ring", 16, 7)]
    assert (points.width, points.point_step, points.header.frame_id) == (4, 20, "LIDAR_TOP")
    (_, pose), *_ = read(converted.path, "/pose")
    assert pose.header.frame_id == "base_link"
    assert pose.pose.orientation.w == 1.0


def test_what_is_left_out_is_listed(converted):
    assert set(converted.skipped) == {"/gps", "/diagnostics"}
    assert "LocationFix" in converted.skipped["/gps"]
    assert converted.counts["/tf"] == 3


def test_progress_counts_to_the_end(tmp_path):
    steps = []
    convert_foxglove(
        write_source(tmp_path / "a.mcap", upper=False),
        tmp_path / "bag",
        lambda done, total: steps.append((done, total)),
    )
    assert steps[-1][0] == steps[-1][1] == len(steps)


def test_transform_lists_and_fisheye_calibration(tmp_path):
    path = tmp_path / "other.mcap"
    with Source(path) as source:
        both = make("FrameTransforms")
        both.transforms.extend(
            [
                transform(T0, "map", "base_link", (1.0, 2.0, 0.0)),
                transform(T0, "/base_link", "/cam_back", (0.0, 0, 1.6)),
            ]
        )
        source.log("/tf", T0, both)
        fisheye = make(
            "CameraCalibration", T0, frame_id="cam_back", width=8, height=4, K=K, distortion_model="kannala_brandt"
        )
        fisheye.D.extend([0.1, 0.2, 0.3, 0.4])
        source.log("/cam_back/camera_info", T0, fisheye)
    convert_foxglove(path, tmp_path / "bag")
    ((_, info),) = read(tmp_path / "bag", "/CAM_BACK/camera_info")
    assert info.distortion_model == "kannala_brandt"
    np.testing.assert_array_equal(info.d, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(info.p, P)
    assert len(read(tmp_path / "bag", "/tf")) == 1
    assert len(read(tmp_path / "bag", "/tf_static")) == 1


def test_the_clouds_own_pose_is_applied(tmp_path):
    path = tmp_path / "cloud.mcap"
    with Source(path) as source:
        moved = cloud(T0)
        moved.pose.position.x = 10.0
        source.log("/lidar_top", T0, moved)
    convert_foxglove(path, tmp_path / "bag")
    ((_, points),) = read(tmp_path / "bag", "/LIDAR_TOP")
    got = points.data.view("<f4").reshape(-1, 5)
    np.testing.assert_allclose(got, POINTS.reshape(-1, 5) + np.array([10, 0, 0, 0, 0]), atol=1e-5)


def test_messages_without_a_stamp_take_the_log_time(tmp_path):
    path = tmp_path / "bare.mcap"
    with Source(path) as source:
        source.log("/cam_front/image_rect_compressed", T0, make("CompressedImage", data=JPEG, format="jpeg"))
    convert_foxglove(path, tmp_path / "bag")
    ((record_time, image),) = read(tmp_path / "bag", "/CAM_FRONT/image_rect_compressed")
    assert record_time == T0
    assert image.header.stamp.sec == T0 // 10**9


def refusal(path: Path, out: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        convert_foxglove(path, out)
    assert not out.exists()
    return str(caught.value)


def test_truncated_corrupt_and_wrong_files(tmp_path):
    whole = write_source(tmp_path / "whole.mcap", upper=True).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[: len(whole) // 2])
    assert "cut off" in refusal(tmp_path / "cut.mcap", tmp_path / "bag")
    (tmp_path / "text.mcap").write_bytes(b"no bag at all")
    assert "no MCAP" in refusal(tmp_path / "text.mcap", tmp_path / "bag")
    assert "no file" in refusal(tmp_path / "none.mcap", tmp_path / "bag")
    scratched = bytearray(whole)
    spot = whole.index(b"\x28\xb5\x2f\xfd") + 20
    scratched[spot : spot + 60] = bytes(60)
    (tmp_path / "scratched.mcap").write_bytes(scratched)
    assert "cannot be read" in refusal(tmp_path / "scratched.mcap", tmp_path / "bag")


def test_a_ros_bag_is_not_converted_again(tmp_path):
    with BagWriter(tmp_path / "ros") as bag:
        bag.string("/count", T0, "1")
    assert "ros2 bag already" in refusal(next((tmp_path / "ros").glob("*.mcap")), tmp_path / "bag")


def test_a_file_without_anything_known(tmp_path):
    with Source(tmp_path / "gps.mcap") as source:
        source.log("/gps", T0, make("LocationFix", latitude=1.0))
    assert "nothing that can be converted" in refusal(tmp_path / "gps.mcap", tmp_path / "bag")


@pytest.mark.parametrize(
    ("topic", "message", "word"),
    [
        ("/cam_front/camera_info", make("CameraCalibration", T0, K=[1.0]), "K"),
        ("/lidar_top", make("PointCloud", T0, point_stride=20, data=b"123"), "whole points"),
        ("/lidar_top", cloud(T0, kind=0), "layout"),
        ("/tf", transform(T0, "map", "base_link", (0.0, 0, 0), (0.0, 0, 0, 0)), "norm"),
    ],
)
def test_malformed_messages_are_refused(tmp_path, topic, message, word):
    with Source(tmp_path / "bad.mcap") as source:
        source.log(topic, T0, message)
    assert word in refusal(tmp_path / "bad.mcap", tmp_path / "bag")


def test_malformed_json_odometry(tmp_path):
    with Source(tmp_path / "bad.mcap") as source:
        source.log_json("/odom", T0, {**ODOMETRY, "vel": None})
    assert "malformed" in refusal(tmp_path / "bad.mcap", tmp_path / "bag")
