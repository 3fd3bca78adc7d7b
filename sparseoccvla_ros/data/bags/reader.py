"""Reading ROS 2 bags without ROS: rosbag2 folders and single .mcap or .db3 files, as raw CDR or as typed messages.

Unsupported or damaged content raises InvalidInput with advice on how to fix it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
)
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS
from .storage import guard, name_problem, open_files, root_name
from .writer import typestore

STATIC_TF_DEPTH = 100
"""Minimum depth of /tf_static, as in tf2; a bag may lack QoS profiles (converters store none)."""
DEPTH_LIMIT = 1000
"""Maximum number of latched messages kept per topic, also for keep-all."""
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_IDL_RULE = "=" * 80 + "\n"


@dataclass(frozen=True)
class BagTopic:
    """One topic of a bag.

    count: messages; qos: offered profiles, empty if the recorder stored none; latched: a late subscriber must receive
    the last `depth` messages (transient local, or /tf_static by convention).
    """

    name: str
    type: str
    count: int
    qos: tuple[Qos, ...]
    latched: bool
    depth: int


@dataclass(frozen=True, eq=False)
class BagMessage:
    """A serialised message: raw is CDR with its 4-byte header, stamp the record time in ns."""

    topic: str
    type: str
    stamp: int
    raw: bytes


@dataclass(frozen=True)
class TopicSummary:
    """Traffic of one topic: bytes of payload, rate in Hz (0 with fewer than two messages), frame ids found."""

    topic: BagTopic
    bytes: int
    rate: float
    frames: tuple[str, ...]


@dataclass(frozen=True)
class BagSummary:
    """Summary of a bag: file_bytes on disk, start in ns since the epoch, duration in s, and the traffic per topic.

    left_out: topics that are not read, with the reason; notes: differences between the bag's index and its content.
    """

    path: Path
    storage: str
    file_bytes: int
    start: int
    duration: float
    message_count: int
    topics: tuple[TopicSummary, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]


class BagReader:
    """Reader of an open bag; a context manager, or closed with close().

    path: rosbag2 folder (with metadata.yaml) or a single .mcap / .db3 file.

    Raises InvalidInput("bag"), with advice, if the bag is missing, cut off, corrupt, or not a ROS 2 bag. Messages are
    read from disk chunk by chunk; only the index is held in memory. Iterators of one reader may be interleaved, but
    only in one thread.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._reader = open_files(self.path)
        self.left_out: dict[str, str] = {}
        """Topics that cannot be played or decoded, with the reason."""
        try:
            self._connections: dict[str, list[Connection]] = {}
            for connection in self._reader.connections:
                name = root_name(connection.topic)
                problem = _encoding_problem(connection) or name_problem(name)
                if problem is None:
                    self._connections.setdefault(name, []).append(connection)
                else:
                    self.left_out[name] = problem
            self.topics: dict[str, BagTopic] = {
                name: _topic(self.path, name, group) for name, group in sorted(self._connections.items())
            }
            if self.left_out and not self.topics:
                text = "; ".join(f"{name}: {problem}" for name, problem in self.left_out.items())
                raise InvalidInput("bag", f"{self.path} holds nothing to play: {text}")
            self._refuse_disagreement()
        except BaseException:
            self.close()
            raise
        self.notes: list[str] = self._reader.notes
        """Differences between metadata.yaml and the content of the files; `summary` may append more."""
        self._types: dict[str, Typestore] = {}

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the reader is unusable afterwards. May be called twice."""
        with suppress(Exception):
            self._reader.close()

    @property
    def message_count(self) -> int:
        """Number of messages of all topics."""
        return sum(topic.count for topic in self.topics.values())

    @property
    def start(self) -> int:
        """Record time of the first message, ns since the epoch; 0 in an empty bag."""
        return int(self._reader.start_time) if self.message_count else 0

    @property
    def end(self) -> int:
        """Record time of the last message, ns (inclusive); 0 in an empty bag."""
        return int(self._reader.end_time) - 1 if self.message_count else 0

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        return (self.end - self.start) / NANOSECONDS

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """Streams messages in the order of their record times.

        topics: only these (None = all). start, stop: ns, start inclusive, stop exclusive. Raises InvalidInput for a
        topic that the bag lacks and for a damaged file.
        """
        wanted = self._select(topics)
        if not wanted:
            return
        source = self._reader.messages(connections=wanted, start=start, stop=stop)
        while True:
            item = guard(self.path, lambda: next(source, None))
            if item is None:
                return
            connection, stamp, raw = item
            yield BagMessage(root_name(connection.topic), connection.msgtype, stamp, bytes(raw))

    def latched(self, before: int, topics: Collection[str] | None = None) -> list[BagMessage]:
        """Latched messages for a subscriber that joins at `before` (ns): the last `depth` per latched topic."""
        names = [n for n, t in self.topics.items() if t.latched and (topics is None or n in topics)]
        kept: dict[str, list[BagMessage]] = {name: [] for name in names}
        for message in self.messages(names, stop=before) if names else ():
            queue = kept[message.topic]
            queue.append(message)
            del queue[: -self.topics[message.topic].depth]
        return sorted((m for queue in kept.values() for m in queue), key=lambda m: m.stamp)

    def decode(self, raw: bytes | memoryview, msgtype: str) -> Any:
        """Deserialise CDR bytes to a message object with fields as attributes (numeric arrays as numpy).

        Types come from the bag's own definitions, or else from ROS 2 Jazzy and this project's messages. Raises
        InvalidInput naming the type if the bytes do not match it or it is not defined.
        """
        store = self._types.get(msgtype)
        if store is None:
            store = self._types[msgtype] = self._typestore(msgtype)
        try:
            return store.deserialize_cdr(raw, msgtype)
        except (SerdeError, IndexError, KeyError, OverflowError, MemoryError) as error:
            raise InvalidInput(msgtype, f"message does not decode: {error}") from error

    def summary(self) -> BagSummary:
        """Compute sizes, rates and frames of every topic; reads the whole bag once."""
        sizes: dict[str, int] = dict.fromkeys(self.topics, 0)
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        frames: dict[str, dict[str, None]] = {name: {} for name in self.topics}
        read: dict[str, int] = dict.fromkeys(self.topics, 0)
        for message in self.messages():
            name = message.topic
            read[name] += 1
            sizes[name] += len(message.raw)
            first.setdefault(name, message.stamp)
            last[name] = message.stamp
            # Frame ids rarely change within a topic: the first messages suffice and avoid decoding gigabytes.
            if len(frames[name]) < 20 and sizes[name] < 5_000_000:
                frames[name].update(dict.fromkeys(self._frames(message)))
        rows = []
        for name, topic in self.topics.items():
            if read[name] != topic.count:
                self.notes.append(f"{read[name]} messages of {name} could be read, its index declares {topic.count}")
            span = (last[name] - first[name]) / NANOSECONDS if name in first else 0.0
            rate = (topic.count - 1) / span if span > 0 else 0.0
            rows.append(TopicSummary(topic, sizes[name], rate, tuple(frames[name])))
        files = [f for f in self.path.rglob("*") if f.is_file()] if self.path.is_dir() else [self.path]
        return BagSummary(
            path=self.path,
            storage=self._reader.format,
            file_bytes=sum(f.stat().st_size for f in files),
            start=self.start,
            duration=self.duration,
            message_count=self.message_count,
            topics=tuple(rows),
            left_out=dict(self.left_out),
            notes=tuple(self.notes),
        )

    def _frames(self, message: BagMessage) -> list[str]:
        """Frame ids of a message: its header's, or "parent -> child" per transform; empty if it does not decode."""
        if message.type in _IMAGE_TYPES or message.type == "sensor_msgs/msg/PointCloud2":
            return [_header_frame(message.raw)]
        try:
            decoded = self.decode(message.raw, message.type)
        except InvalidInput:
            return []
        if message.type == "tf2_msgs/msg/TFMessage":
            return [f"{t.header.frame_id} -> {t.child_frame_id}" for t in decoded.transforms]
        frame = getattr(getattr(decoded, "header", None), "frame_id", "")
        return [frame] if frame else []

    def _refuse_disagreement(self) -> None:
        """Raise if metadata.yaml states another type for a topic; the bag library silently skips such topics."""
        storages = getattr(self._reader.storage, "storages", None)
        if storages is None:
            return
        stored = {c.topic: c.msgtype for storage in storages for c in storage.connections}
        for group in self._connections.values():
            for c in group:
                if stored.get(c.topic, c.msgtype) != c.msgtype:
                    text = f"{self.path}: metadata.yaml and the file disagree about {c.topic}; open the file itself"
                    raise InvalidInput("bag", text)

    def _select(self, topics: Collection[str] | None) -> list[Connection]:
        if topics is None:
            return [c for group in self._connections.values() for c in group]
        missing = sorted(set(topics) - set(self.topics))
        if missing:
            raise InvalidInput("topics", f"{self.path} lacks {missing}; it holds {list(self.topics)}")
        return [c for name in dict.fromkeys(topics) for c in self._connections[name]]

    def _typestore(self, msgtype: str) -> Typestore:
        """Typestore for `msgtype`; the bag's definition takes precedence, since its messages were written with it."""
        definitions = (c.msgdef for group in self._connections.values() for c in group if c.msgtype == msgtype)
        for definition in definitions:
            if definition.format == MessageDefinitionFormat.NONE or not definition.data:
                continue
            store = get_typestore(Stores.EMPTY)
            try:
                if definition.format == MessageDefinitionFormat.MSG:
                    store.register(get_types_from_msg(definition.data, msgtype))
                else:
                    for part in definition.data.split(_IDL_RULE):
                        text = part.split("\n", 1)[-1] if part.startswith("IDL: ") else part
                        if text.strip():
                            store.register(get_types_from_idl(text))
            except Exception as error:  # untrusted text: any error of the parser means a damaged bag
                raise InvalidInput(msgtype, f"the definition in {self.path} does not parse: {error}") from error
            if msgtype in store.fielddefs:
                return store
        if msgtype not in typestore().fielddefs:
            raise InvalidInput(msgtype, f"{self.path} does not define it, and it is no type of ROS 2 Jazzy")
        return typestore()


def _encoding_problem(connection: Connection) -> str | None:
    encoding = getattr(connection.ext, "serialization_format", "cdr")
    return None if encoding == "cdr" else f"its messages are {encoding or 'of no named encoding'}, not cdr"


def _topic(path: Path, name: str, connections: list[Connection]) -> BagTopic:
    types = sorted({c.msgtype for c in connections})
    if len(types) > 1:
        raise InvalidInput("bag", f"{path}: topic {name} carries {' and '.join(types)}")
    profiles: list[Qos] = []
    for connection in connections:
        if isinstance(connection.ext, ConnectionExtRosbag2):
            profiles += connection.ext.offered_qos_profiles
    latched = any(p.durability == QosDurability.TRANSIENT_LOCAL for p in profiles)
    # A recorder stores one profile per publisher, each with a queue of its own: the depths add up.
    kept = [DEPTH_LIMIT if p.history == QosHistory.KEEP_ALL else p.depth for p in profiles]
    if not all(isinstance(number, int) for number in kept):
        raise InvalidInput("bag", f"{path}: the QoS depth of {name} is no whole number")
    depth = min(max(sum(kept), 1), DEPTH_LIMIT)
    if name.rsplit("/", 1)[-1] == "tf_static":
        latched, depth = True, max(depth, STATIC_TF_DEPTH)
    return BagTopic(
        name=name,
        type=types[0],
        count=sum(c.msgcount for c in connections),
        qos=tuple(profiles),
        latched=latched,
        depth=depth,
    )


def _header_frame(raw: bytes) -> str:
    """frame_id of a CDR message that begins with a std_msgs/Header, without decoding its payload."""
    order = "little" if raw[1:2] == b"\x01" else "big"
    length = int.from_bytes(raw[12:16], order)  # type: ignore[arg-type]
    return raw[16 : 16 + max(length - 1, 0)].decode("utf-8", "replace")
