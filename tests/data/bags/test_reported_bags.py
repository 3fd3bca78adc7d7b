"""Bags that people had trouble with: each gives what it holds, and says what it leaves out."""

import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.storage import name_problem, root_name
from sparseoccvla_ros.data.bags.writer import BagWriter, typestore
from tests.reported import BUGS, bags

STRING = "std_msgs/msg/String"


@pytest.mark.parametrize(("path", "entry"), bags())
def test_gives_what_it_holds(path, entry):
    with BagReader(path) as reader:
        assert Counter(m.topic for m in reader.messages()) == entry["topics"]
        assert reader.message_count == sum(entry["topics"].values())
        assert set(entry.get("left_out", ())) <= set(reader.left_out)
        summary = reader.summary()
        assert summary.storage == entry.get("storage", summary.storage)
        assert summary.notes == ()


@pytest.mark.parametrize("index", sorted(BUGS.rglob("bags.json")), ids=lambda p: p.parent.name)
def test_every_bag_of_the_folder_is_listed(index):
    listed = {entry["bag"] for entry in json.loads(index.read_text())}
    files = [p for pattern in ("*.mcap", "*.db3", "metadata.yaml") for p in index.parent.rglob(pattern)]
    inside = {p.parent if (p.parent / "metadata.yaml").is_file() else p for p in files}
    assert {str(p.relative_to(index.parent)) for p in inside} == listed


@pytest.mark.parametrize(
    ("topic", "good"),
    [
        ("/a", True),
        ("/a/_b1/C", True),
        ("/", False),
        ("/a/", False),
        ("//a", False),
        ("/a//b", False),
        ("/2d", False),
        ("/a/2d", False),
        ("/a b", False),
        ("/a-b", False),
        ("/ä", False),
        ("/~a", False),
        ("/a\n", False),
        ("/" + "a" * 246, True),
        ("/" + "a" * 247, False),
    ],
)
def test_names_are_judged_as_by_ros(topic, good):
    assert (name_problem(topic) is None) is good


def test_names_without_slash_belong_to_the_root():
    assert [root_name(n) for n in ("tf", "/tf", "a/b")] == ["/tf", "/tf", "/a/b"]


def test_a_bag_of_forbidden_names_only_says_so(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.string("/2d", 1, "x")
    with pytest.raises(InvalidInput, match="/2d: ROS 2 forbids the name"):
        BagReader(tmp_path / "bag")


def record(path: Path, count: int) -> Path:
    """A sqlite bag of one topic; returns its file."""
    store = typestore()
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/count", STRING, typestore=store)
        for k in range(count):
            writer.write(connection, 10 + k, store.serialize_cdr(store.types[STRING](data=str(k)), STRING))
    return next(path.glob("*.db3"))


def crash(file: Path, count: int) -> None:
    """Let a recorder die that has `count` more messages in its write-ahead log."""
    last = {}
    work = file.with_name("work")
    shutil.move(file, work)
    with sqlite3.connect(work) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        (topic, data) = connection.execute("SELECT topic_id, data FROM messages LIMIT 1").fetchone()
        for k in range(count):
            connection.execute(
                "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", (topic, 100 + k, data)
            )
        connection.commit()
        for end in ("", "-wal", "-shm"):
            last[end] = Path(f"{work}{end}").read_bytes()
    for end, content in last.items():
        Path(f"{file}{end}").write_bytes(content)
        Path(f"{work}{end}").unlink(missing_ok=True)


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_messages_in_the_write_ahead_log_are_read(tmp_path, whole):
    file = record(tmp_path / "bag", 5)
    crash(file, 7)
    before = {f.name: f.read_bytes() for f in file.parent.iterdir()}
    with BagReader(file.parent if whole else file) as reader:
        assert [m.stamp for m in reader.messages()] == [*range(10, 15), *range(100, 107)]
        assert (reader.message_count, reader.start, reader.end) == (12, 10, 106)
        assert any("declares 5" in note and "holds 12" in note for note in reader.notes) is whole
    assert {f.name: f.read_bytes() for f in file.parent.iterdir()} == before, "a recording is never written to"


def test_declared_and_read_counts_that_differ_are_said(tmp_path):
    file = record(tmp_path / "bag", 5)
    with sqlite3.connect(file) as connection:
        connection.execute("DELETE FROM messages WHERE timestamp > 12")
    with BagReader(file.parent) as reader:
        (note,) = reader.summary().notes
    assert "declares 5 messages on /count" in note
    assert "holds 3" in note


@pytest.mark.parametrize("name", ["a b", "50% #1?", "übung", "it's"])
def test_any_path_can_hold_a_bag(tmp_path, name):
    record(tmp_path / "bag", 3)
    file = (tmp_path / "bag").rename(tmp_path / name) / "bag.db3"
    crash(file, 1)
    for path in (file.parent, file):
        with BagReader(path) as reader:
            assert len(list(reader.messages())) == 4
