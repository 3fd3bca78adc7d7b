"""Opening the files of a bag, including those left by crashes and manual edits, and rejecting what cannot be read.

Wraps the readers of the rosbags library to handle five cases that they do not: a sqlite file whose last messages are
still in its write-ahead log, special characters in its path, channels that are not CDR, lengths beyond the end of the
file, and QoS profiles edited in metadata.yaml (as the rosbag2 manual recommends).
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import quote

from mcap.reader import make_reader
from mcap.records import Channel
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from ...core.errors import InvalidInput
from ...core.files import BoundedFile, read_yaml

MCAP_MAGIC = b"\x89MCAP0\r\n"
NAME_LIMIT = 247
"""Maximum length of a topic name (RMW_TOPIC_MAX_NAME_LENGTH)."""
_NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")
_SCHEMAS = ("ros2msg", "ros2idl", "omgidl", "")
_T = TypeVar("_T")


def root_name(topic: str) -> str:
    """Absolute name of a topic; names recorded without a leading slash are in the root namespace, as in rosbag2."""
    return topic if topic.startswith("/") else f"/{topic}"


def name_problem(topic: str) -> str | None:
    """Why an absolute topic name is invalid in ROS 2 (rmw_validate_full_topic_name), or None."""
    if not _NAME.fullmatch(topic):
        return "ROS 2 forbids the name"
    return f"its name has more than {NAME_LIMIT} characters" if len(topic) > NAME_LIMIT else None


class _Schemas(dict[int, Any]):
    """Schemas by id; a schema with an unsupported encoding is stored empty."""

    def __setitem__(self, key: int, schema: Any) -> None:
        known = schema.encoding in _SCHEMAS
        super().__setitem__(key, schema if known else schema._replace(encoding="", data=""))


class _Mcap(McapReader):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.schemas = _Schemas()

    def _open(self) -> None:
        if self.bio is not None:
            self.bio.close()
        self.bio = BoundedFile(str(self.path))
        super()._open()


class _Sqlite(Sqlite3Reader):
    """Reader that includes the write-ahead log, merged in a copy to leave the recording unchanged."""

    def __init__(self, path: Path) -> None:
        super().__init__(Path(quote(str(path))))  # the path becomes part of a URI
        self._file = path
        self._copy: TemporaryDirectory[str] | None = None

    def open(self) -> None:
        log = Path(f"{self._file}-wal")
        if log.is_file() and log.stat().st_size:
            self.path = Path(quote(str(self._merged(log))))
        try:
            super().open()
        except BaseException:
            self._forget()
            raise

    def close(self) -> None:
        super().close()
        self._forget()

    def _merged(self, log: Path) -> Path:
        self._copy = TemporaryDirectory(prefix="sparseoccvla-bag-")
        target = Path(self._copy.name) / "merged.db3"
        needed = self._file.stat().st_size + 2 * log.stat().st_size
        free = shutil.disk_usage(self._copy.name).free
        if needed > free:
            self._forget()
            raise InvalidInput(
                "bag",
                f"{log} holds messages, and {needed / 1e9:.1f} GB to merge them in a copy are not free; "
                f"""merge them in place with: sqlite3 '{self._file}' 'PRAGMA wal_checkpoint(TRUNCATE)'""",
            )
        shutil.copyfile(self._file, target)
        shutil.copyfile(log, f"{target}-wal")
        with closing(sqlite3.connect(target)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return target

    def _forget(self) -> None:
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None


class _Folder(DirectoryReader):
    """Folder reader that takes QoS profiles from metadata.yaml, but message counts and times from the files."""

    STORAGE_PLUGINS = {"mcap": _Mcap, "sqlite3": _Sqlite}

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.notes: list[str] = []

    def open(self) -> None:
        super().open()
        _refuse_nameless(self.path / "metadata.yaml", self.connections)
        stated = {(c.topic, c.msgtype): c for c in self.connections}
        for storage in self.storages:
            storage.connections[:] = [
                c._replace(ext=stated[key].ext) if (key := (c.topic, c.msgtype)) in stated else c
                for c in storage.connections
            ]
        held = [c for storage in self.storages for c in storage.connections]
        for index, connection in enumerate(self.connections):
            key = connection.topic, connection.msgtype
            count = sum(c.msgcount for c in held if (c.topic, c.msgtype) == key)
            if count != connection.msgcount:
                self.notes.append(
                    f"metadata.yaml declares {connection.msgcount} messages on {connection.topic}, "
                    f"{'the file holds' if len(self.storages) == 1 else 'the files hold'} {count}"
                )
            # The type hashes need not match: messages are decoded by the file's own definition.
            self.connections[index] = connection._replace(msgcount=count, digest="")
        unlisted = sorted({c.topic for c in held if c.msgcount and (c.topic, c.msgtype) not in stated})
        if unlisted:
            self.notes.append(f"metadata.yaml does not list {', '.join(unlisted)}: not read")
        self._take_times()

    def _take_times(self) -> None:
        parts = [s.metadata for s in self.storages if s.metadata.message_count]
        if not parts:
            return
        start, end = min(m.start_time for m in parts), max(m.end_time for m in parts)
        count = sum(m.message_count for m in parts)
        self.metadata = self.metadata._replace(
            start_time=start, end_time=end, duration=end - start, message_count=count
        )


class BagFiles(Reader):
    """The library's reader with the five cases above handled."""

    STORAGE_PLUGINS = {"dir": _Folder, ".mcap": _Mcap, ".db3": _Sqlite}

    @property
    def notes(self) -> list[str]:
        """Differences between metadata.yaml and the files, for the user."""
        return list(getattr(self.storage, "notes", ()))

    @property
    def format(self) -> str:
        """rosbag2's name of the storage plugin: mcap or sqlite3."""
        parts = getattr(self.storage, "storages", None) or [self.storage]
        return "sqlite3" if isinstance(parts[0], Sqlite3Reader) else "mcap"


def open_files(path: Path) -> BagFiles:
    """Open a rosbag2 folder or a single .mcap or .db3 file. Raises InvalidInput("bag") with advice."""
    _refuse_foreign(path)

    def attempt() -> BagFiles:
        reader = BagFiles(path)
        reader.open()
        try:
            _refuse_nameless(path, reader.connections)
        except InvalidInput:
            reader.close()
            raise
        return reader

    return guard(path, attempt)


def guard(path: Path, action: Callable[[], _T]) -> _T:
    """Call the bag library; all of its exceptions on damaged bytes are raised as InvalidInput("bag")."""
    try:
        return action()
    except (InvalidInput, PermissionError):
        raise
    except Exception as error:  # struct, zstd, sqlite, yaml, key and type errors: all mean damaged content
        raise InvalidInput(
            "bag", f"{path} cannot be read: {error or type(error).__name__}. {_salvage(path)}"
        ) from error


def _refuse_nameless(path: Any, connections: Iterable[Connection]) -> None:
    if not all(isinstance(text, str) for c in connections for text in (c.topic, c.msgtype)):
        raise InvalidInput("bag", f"{path} has a topic whose name or type is no text")


def _salvage(path: Path) -> str:
    if path.is_dir() or path.suffix == ".db3":
        return "Record or convert it again, or try `ros2 bag reindex` on a machine with ROS"
    return f"Record or convert it again, or save what is whole with `mcap recover {path.name} -o recovered.mcap`"


def _refuse_foreign(path: Path) -> None:
    """Raise InvalidInput, with advice, unless name, magic and channel encodings are those of a ROS 2 bag."""
    if not path.exists():
        raise InvalidInput("bag", f"{path} does not exist")
    if path.is_dir():
        if not (path / "metadata.yaml").is_file():
            inside = sorted(p.name for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
            if inside:
                raise InvalidInput(
                    "bag",
                    f"{path} has no metadata.yaml: its recording was interrupted. Open {path / inside[0]} itself, "
                    "or run `ros2 bag reindex` on a machine with ROS",
                )
            raise InvalidInput("bag", f"{path} is no bag: it holds neither metadata.yaml nor an .mcap or .db3 file")
        _confine(path)
        files = sorted(path.glob("*.mcap"))
    elif path.suffix == ".bag":
        raise InvalidInput("bag", f"{path} is a ROS 1 bag; convert it with `rosbags-convert --src {path} --dst NEW`")
    elif path.suffix not in (".mcap", ".db3"):
        raise InvalidInput("bag", f"{path} is no bag: want a rosbag2 folder or an .mcap or .db3 file")
    else:
        files = [path] if path.suffix == ".mcap" else []
    for file in files:
        _check_mcap(file)


def _confine(path: Path) -> None:
    """Raise InvalidInput if metadata.yaml names files outside the bag's folder."""
    content = read_yaml(path / "metadata.yaml", "bag")
    information = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
    named = information.get("relative_file_paths") if isinstance(information, dict) else None
    for name in named if isinstance(named, list) else ():
        # Before metadata version 4, rosbag2 included the folder in these paths.
        if Path(str(name)).is_absolute() or ".." in Path(str(name)).parts:
            raise InvalidInput("bag", f"{path}: metadata.yaml names {name}, which lies outside of the bag")


def _check_mcap(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        if size == 0:
            raise InvalidInput("bag", f"{file} is empty")
        if head != MCAP_MAGIC[: len(head)]:
            raise InvalidInput("bag", f"{file} is no MCAP file: it begins with {head!r}")
        stream.seek(max(0, size - 8))
        if size < 2 * len(MCAP_MAGIC) or stream.read(8) != MCAP_MAGIC:
            raise InvalidInput("bag", f"{file} is cut off: it has no end mark. {_salvage(file)}")
    profile, encodings = guard(file, lambda: _encodings(file))
    if profile == "ros2" and "cdr" in encodings:
        return
    foreign = sorted(encodings - {"cdr"})
    if {"protobuf", "json"} & encodings:
        raise InvalidInput(
            "bag",
            f"{file} holds {' and '.join(foreign)} channels, which ROS cannot play; "
            f"convert it with ./run bag foxglove {file}",
        )
    if foreign:
        raise InvalidInput("bag", f"{file} holds {' and '.join(foreign)} messages; only ROS 2 (cdr) can be read")
    if profile != "ros2":
        raise InvalidInput("bag", f"{file} has the MCAP profile {profile!r}, want 'ros2': it is no ROS 2 recording")


def _encodings(file: Path) -> tuple[str, set[str]]:
    """Returns (profile, message encodings of all channels) of an MCAP file."""
    with BoundedFile(file) as stream:
        reader = make_reader(stream)
        profile = reader.get_header().profile
        summary = reader.get_summary()
        if summary is not None and summary.channels:
            return profile, {c.message_encoding for c in summary.channels.values()}
        # Without a summary the channel records are among the messages: rare, needs one pass over the file.
        stream.seek(0)
        return profile, {r.message_encoding for r in StreamReader(stream).records if isinstance(r, Channel)}
