import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import Writer as McapWriter
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.writer import BagWriter, typestore

START = 1_700_000_000_000_000_123
IMAGE = "/CAM_FRONT/image_rect_compressed"


def refusal(path: Path) -> str:
    with pytest.raises(InvalidInput) as caught, BagReader(path) as reader:
        list(reader.messages())
    assert caught.value.field == "bag"
    return caught.value.reason


def test_topics_counts_and_times(drive):
    with BagReader(drive()) as reader:
        assert {n: (t.type, t.count) for n, t in reader.topics.items()} == {
            "/tf_static": ("tf2_msgs/msg/TFMessage", 1),
            "/count": ("std_msgs/msg/String", 11),
            IMAGE: ("sensor_msgs/msg/CompressedImage", 11),
        }
        assert [n for n, t in reader.topics.items() if t.latched] == ["/tf_static"]
        assert (reader.start, reader.end, reader.duration) == (START, START + 10**9, 1.0)
        assert reader.message_count == 23


@pytest.mark.parametrize("pattern", ["*.mcap", None])
def test_folder_and_single_file_give_the_same_messages(drive, pattern):
    folder = drive()
    path = next(folder.glob(pattern)) if pattern else folder
    with BagReader(path) as reader:
        stamps = [m.stamp for m in reader.messages()]
        texts = [reader.decode(m.raw, m.type).data for m in reader.messages(["/count"])]
    assert stamps == sorted(stamps)
    assert len(stamps) == 23
    assert texts == [str(k) for k in range(11)]


def test_window_is_half_open(drive):
    with BagReader(drive()) as reader:
        window = reader.messages(["/count"], start=START + 200_000_000, stop=START + 500_000_000)
        assert [m.stamp - START for m in window] == [200_000_000, 300_000_000, 400_000_000]


def test_interleaved_iterators_do_not_disturb_each_other(drive):
    with BagReader(drive(seconds=3)) as reader:
        pairs = list(zip(reader.messages(["/count"]), reader.messages([IMAGE]), strict=True))
    assert len(pairs) == 31
    assert all(a.stamp == b.stamp for a, b in pairs)


def test_sqlite_bag_from_a_recorder_without_definitions(tmp_path):
    store = typestore()
    path = tmp_path / "old"
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/count", "std_msgs/msg/String", typestore=store)
        message = store.types["std_msgs/msg/String"](data="seven")
        writer.write(connection, 7, store.serialize_cdr(message, "std_msgs/msg/String"))
    for source in (path, next(path.glob("*.db3"))):
        with BagReader(source) as reader:
            (message,) = reader.messages()
            assert (message.stamp, reader.decode(message.raw, message.type).data) == (7, "seven")
            assert reader.summary().storage == "sqlite3"


def test_latched_depth_adds_up_over_publishers(tmp_path):
    forever = QosTime(0, 0)
    profile = Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
    store, path = typestore(), tmp_path / "two"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            "/map", "std_msgs/msg/String", typestore=store, offered_qos_profiles=[profile, profile]
        )
        for k in range(5):
            message = store.types["std_msgs/msg/String"](data=str(k))
            writer.write(connection, k, store.serialize_cdr(message, "std_msgs/msg/String"))
    with BagReader(path) as reader:
        assert (reader.topics["/map"].latched, reader.topics["/map"].depth) == (True, 2)
        assert [reader.decode(m.raw, m.type).data for m in reader.latched(4)] == ["2", "3"]
        assert reader.latched(0) == []


def test_tf_static_without_profiles_is_latched_by_its_meaning(tmp_path):
    store, path = typestore(), tmp_path / "bare"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/tf_static", "tf2_msgs/msg/TFMessage", typestore=store)
        message = store.types["tf2_msgs/msg/TFMessage"](transforms=[])
        writer.write(connection, 5, store.serialize_cdr(message, "tf2_msgs/msg/TFMessage"))
    with BagReader(path) as reader:
        assert reader.topics["/tf_static"].latched
        assert reader.topics["/tf_static"].depth == 100


def test_summary_counts_bytes_rates_and_frames(drive):
    path = drive()
    with BagReader(path) as reader:
        summary = reader.summary()
    rows = {row.topic.name: row for row in summary.topics}
    assert rows["/count"].rate == pytest.approx(10.0)
    assert rows["/tf_static"].rate == 0.0
    assert rows[IMAGE].frames == ("CAM_FRONT",)
    assert rows["/tf_static"].frames == ("base_link -> CAM_FRONT",)
    assert summary.file_bytes == sum(f.stat().st_size for f in path.iterdir())
    assert rows["/count"].bytes == sum(4 + 4 + len(str(k)) + 1 for k in range(11))


def test_decode_refuses_bytes_that_do_not_fit(drive):
    with BagReader(drive()) as reader:
        with pytest.raises(InvalidInput, match="std_msgs/msg/String"):
            reader.decode(b"\x00\x01\x00\x00\xff\xff\xff\x00a", "std_msgs/msg/String")
        with pytest.raises(InvalidInput, match="no_msgs"):
            reader.decode(b"\x00\x01\x00\x00", "no_msgs/msg/Nothing")


def test_unknown_topic_lists_the_known_ones(drive):
    with BagReader(drive()) as reader, pytest.raises(InvalidInput, match="/count"):
        list(reader.messages(["/nothing"]))


def test_truncated_file_names_the_way_out(drive, tmp_path):
    data = next(drive().glob("*.mcap")).read_bytes()
    assert "mcap recover" in refusal_of_bytes(tmp_path / "cut.mcap", data[: len(data) // 2])
    assert "empty" in refusal_of_bytes(tmp_path / "empty.mcap", b"")
    assert "no MCAP file" in refusal_of_bytes(tmp_path / "text.mcap", b"hello, this is text, not a bag at all")


def refusal_of_bytes(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return refusal(path)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_every_cut_is_an_invalid_input(drive, tmp_path, keep):
    data = next(drive().glob("*.mcap")).read_bytes()
    # The end mark is put back, so that the cut shows only inside.
    refusal_of_bytes(tmp_path / "cut.mcap", data[: int(len(data) * keep)] + data[-8:])


def test_damage_in_the_middle_surfaces_as_invalid_input(drive, tmp_path):
    data = bytearray(next(drive().glob("*.mcap")).read_bytes())
    chunk = data.index(b"zstd") + 12
    data[chunk : chunk + 40] = bytes(40)
    assert "cannot be read" in refusal_of_bytes(tmp_path / "scratch.mcap", bytes(data))


def test_interrupted_recording_without_metadata(drive, tmp_path):
    folder = tmp_path / "interrupted"
    shutil.copytree(drive(), folder)
    (folder / "metadata.yaml").unlink()
    assert "interrupted" in refusal(folder)
    assert ".mcap" in refusal(folder)
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9")
    assert "YAML" in refusal(folder)
    assert "no bag" in refusal(tmp_path)


def test_profiles_of_metadata_win_over_the_file(drive):
    path = drive()
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(text.replace("depth: 10", "depth: 11"))
    with BagReader(path) as reader:
        assert len(list(reader.messages())) == 23
        assert [p.depth for p in reader.topics["/count"].qos] == [11]


def test_types_that_contradict_the_file_are_no_silent_loss(drive):
    path = drive()
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(text.replace("std_msgs/msg/String", "std_msgs/msg/Empty"))
    assert "disagree about /count" in refusal(path)
    with BagReader(next(path.glob("*.mcap"))) as reader:
        assert len(list(reader.messages())) == 23


def test_missing_and_foreign_paths(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "ROS 1" in refusal_of_bytes(tmp_path / "old.bag", b"#ROSBAG V2.0")
    assert "want a rosbag2 folder" in refusal_of_bytes(tmp_path / "notes.txt", b"hi")


@pytest.mark.parametrize(
    ("profile", "encoding", "advice"),
    [("", "protobuf", "./run bag foxglove"), ("ros1", "ros1", "only ROS 2"), ("", "cdr", "profile")],
)
@pytest.mark.parametrize("index", [True, False])
def test_foreign_mcap_says_what_to_do(tmp_path, profile, encoding, advice, index):
    path = tmp_path / "foreign.mcap"
    with path.open("wb") as stream:
        switches = {} if index else {"use_summary_offsets": False, "repeat_channels": False, "repeat_schemas": False}
        writer = McapWriter(stream, **switches)
        writer.start(profile=profile)
        schema = writer.register_schema("foxglove.Log", encoding, b"")
        channel = writer.register_channel("/log", encoding, schema)
        writer.add_message(channel, 1, b"abc", 1)
        writer.finish()
    assert advice in refusal(path)


def test_two_types_on_one_topic_are_refused(tmp_path):
    store, path = typestore(), tmp_path / "clash"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/x", "std_msgs/msg/String", typestore=store)
        writer.add_connection("/x", "std_msgs/msg/Int32", typestore=store)
    assert "std_msgs/msg/Int32 and std_msgs/msg/String" in refusal(path)


def test_messages_written_out_of_order_are_read_in_order(tmp_path):
    path = tmp_path / "shuffled"
    with BagWriter(path) as bag:
        for k in (3, 1, 2, 0):
            bag.string("/count", START + k, str(k))
    with BagReader(path) as reader:
        assert [reader.decode(m.raw, m.type).data for m in reader.messages()] == ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "bag"
    with BagWriter(path) as bag:
        for k in range(5):
            bag.string("/count", START + k, str(k))
    return next(path.glob("*.mcap")).read_bytes()


@settings(max_examples=50)
@given(data=st.data())
def test_flipped_bytes_never_surprise(small, tmp_path_factory, data):
    damaged = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(small) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flip") / "bag.mcap"
    path.write_bytes(damaged)
    with suppress(InvalidInput), BagReader(path) as reader:
        reader.summary()
        for message in reader.messages():
            reader.decode(message.raw, message.type)
