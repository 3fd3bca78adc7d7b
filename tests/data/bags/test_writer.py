"""Bags written by BagWriter, read back with an independent reader."""

import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.data.bags.writer import BagWriter

START = 1_700_000_000_000_000_000


def read(path):
    with AnyReader([path]) as reader:
        return [
            (connection.topic, time, reader.deserialize(raw, connection.msgtype))
            for connection, time, raw in reader.messages()
        ]


def test_every_message_reads_back(tmp_path):
    k = np.array([[300.0, 0, 170], [0, 300, 95], [0, 0, 1]])
    pose = planar(3.0, -2.0, 0.5)
    cloud = np.array([(1, 2, 3, 9), (4, 5, 6, 8)], [("x", "f4"), ("y", "f4"), ("z", "f4"), ("label", "u1")])
    with BagWriter(tmp_path / "bag") as bag:
        bag.transforms(START, [("base_link", "CAM_FRONT", planar(1.7, 0.0, 0.0))], static=True)
        bag.transforms(START, [("map", "base_link", pose)])
        bag.compressed_image("/cam", START + 7, "CAM_FRONT", b"\xff\xd8pixels", record_time=START + 9)
        bag.camera_info("/info", START, "CAM_FRONT", 352, 198, k)
        bag.odometry("/odom", START, "map", pose, np.arange(6.0))
        bag.string("/command", START, "left")
        bag.point_cloud("/points", START, "base_link", cloud)
    messages = {topic: (time, message) for topic, time, message in read(tmp_path / "bag")}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag"]
    assert len(messages) == 7

    time, image = messages["/cam"]
    assert time == START + 9
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (1_700_000_000, 7)
    assert image.data.tobytes() == b"\xff\xd8pixels"
    info = messages["/info"][1]
    assert (info.width, info.height) == (352, 198)
    np.testing.assert_array_equal(info.k.reshape(3, 3), k)
    np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], k)
    odometry = messages["/odom"][1]
    assert odometry.pose.pose.orientation.z == pytest.approx(np.sin(0.25))
    assert odometry.twist.twist.angular.z == 5.0
    edge = messages["/tf"][1].transforms[0]
    assert (edge.header.frame_id, edge.child_frame_id) == ("map", "base_link")
    assert (edge.transform.translation.x, edge.transform.translation.y) == (3.0, -2.0)
    points = messages["/points"][1]
    assert (points.point_step, points.width) == (13, 2)
    assert [f.name for f in points.fields] == ["x", "y", "z", "label"]
    np.testing.assert_array_equal(points.data.view(cloud.dtype), cloud)


def test_profiles_and_compression(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.transforms(START, [("base_link", "CAM_FRONT", np.eye(4))], static=True)
        bag.compressed_image("/cam", START, "CAM_FRONT", b"x")
    with AnyReader([tmp_path / "bag"]) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert offered["/tf_static"].durability == QosDurability.TRANSIENT_LOCAL
    assert offered["/cam"].durability == QosDurability.VOLATILE
    assert {q.reliability for q in offered.values()} == {QosReliability.RELIABLE}
    with (tmp_path / "bag" / "bag.mcap").open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert reader.get_header().profile == "ros2"
    assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}


def test_failure_leaves_nothing(tmp_path):
    def interrupted():
        with BagWriter(tmp_path / "bag") as bag:
            bag.string("/a", START, "x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        interrupted()
    with pytest.raises(InvalidInput, match="no message"), BagWriter(tmp_path / "bag"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_replacing_needs_force_and_a_bag(tmp_path):
    for text in ("one", "two"):
        with BagWriter(tmp_path / "bag", force=text == "two") as bag:
            bag.string("/a", START, text)
    assert read(tmp_path / "bag")[0][2].data == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag"]
    with pytest.raises(InvalidInput, match="exists already"):
        BagWriter(tmp_path / "bag")
    (tmp_path / "precious").mkdir()
    with pytest.raises(InvalidInput, match="is no bag"):
        BagWriter(tmp_path / "precious", force=True)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda bag: bag.transforms(START, [("a", "b", np.eye(4))], static=True), "/tf_static"),
        (lambda bag: bag.odometry("/a", START, "map", np.eye(4), np.zeros(6)), "topic"),
        (lambda bag: bag.string("relative", START, "x"), "topic"),
        (lambda bag: bag.string("/b", -1, "x"), "record_time"),
        (lambda bag: bag.transforms(START, [("a", "b", np.full((4, 4), np.nan))]), "transform"),
        (lambda bag: bag.camera_info("/b", START, "c", 1, 1, np.eye(4)), "intrinsics"),
        (lambda bag: bag.odometry("/b", START, "map", np.eye(4), np.zeros(3)), "twist"),
        (lambda bag: bag.point_cloud("/b", START, "c", np.zeros((2, 3))), "points"),
        (lambda bag: bag.write_cdr("/b", "no_msgs/msg/No", b"", START), "message"),
    ],
)
def test_bad_input_is_named(tmp_path, call, field):
    with BagWriter(tmp_path / "bag") as bag:
        bag.string("/a", START, "x")
        with pytest.raises(InvalidInput) as caught:
            call(bag)
    assert caught.value.field == field
