"""Ego trajectory and route commands of a recorded bag."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...camera_sync.message_adapter import stamp_ns
from ...camera_sync.profiles import Profile
from ...core import geometry
from ...core.errors import InvalidInput
from ...core.tf_buffer import TransformBuffer, TransformError
from ...core.types import NANOSECONDS, Command
from ...planning.ego_history import JUMP_FLOOR, MAX_SPEED
from .reader import BagReader

COMMAND_TOPIC = "/sparseoccvla/planning/command"
_CLOCK_EVERY = 0.1
"""Record time in s between two samples of a clock."""


@dataclass(frozen=True, eq=False)
class RecordClock:
    """Mapping of record times to header stamps: records int64 [N] ns, increasing, and stamps int64 [N] ns.

    Under simulated time, or in the recording of a replay, record times and header stamps come from different clocks;
    messages without a stamp (a command, an empty list) need the mapping to fall within the drive.
    """

    records: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    stamps: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def at(self, record: int) -> int:
        """Header stamp in ns that corresponds to a record time; the record time itself if the mapping is empty."""
        if not len(self.records):
            return record
        off = (self.stamps - self.records).astype(np.float64)
        return record + round(float(np.interp(record - self.records[0], self.records - self.records[0], off)))


@dataclass(frozen=True, eq=False)
class Drive:
    """Trajectory of the vehicle: stamps int64 [T] ns, increasing; poses float64 [T, 3], x, y m and yaw rad (continuous)
    of the vehicle frame `base` in `frame`; clock: maps record times to these stamps."""

    frame: str
    base: str
    stamps: np.ndarray
    poses: np.ndarray
    clock: RecordClock = field(default_factory=RecordClock)

    def at(self, stamps: np.ndarray) -> np.ndarray:
        """Poses [..., 3] at stamps [...] ns, linearly interpolated; NaN outside the drive."""
        times = (np.asarray(stamps, np.int64) - self.stamps[0]) / NANOSECONDS
        own = (self.stamps - self.stamps[0]) / NANOSECONDS
        return np.stack([np.interp(times, own, c, left=np.nan, right=np.nan) for c in self.poses.T], -1)

    def motion(self, stamp: int) -> tuple[float, float]:
        """Mean speed m/s and yaw rate rad/s over the 0.25 s before a stamp, or after it at the start of the drive.

        NaN outside the drive.
        """
        for first, last in ((-NANOSECONDS // 4, 0), (0, NANOSECONDS // 4)):
            ends = self.at(np.array([stamp + first, stamp + last]))
            if np.isfinite(ends).all():
                x, y, yaw = ends[1] - ends[0]
                return float(np.hypot(x, y) * 4.0), float(yaw * 4.0)
        return float("nan"), float("nan")

    def speed(self, stamp: int) -> float:
        """Speed m/s as returned by `motion`."""
        return self.motion(stamp)[0]

    def broken(self, first: int, last: int, longest: float) -> str:
        """Returns why the motion between two stamps within the drive is not continuous, or "" if it is.

        longest: longest accepted gap between poses, in s.
        """
        begin, end = np.searchsorted(self.stamps, (first, last), side="left")
        rows = slice(max(int(begin) - 1, 0), int(end) + 1)
        seconds = np.diff(self.stamps[rows]) / NANOSECONDS
        if (seconds > longest).any():
            return f"the motion is not recorded for more than {longest} s of what follows"
        jumps = np.hypot(*np.diff(self.poses[rows, :2], axis=0).T) > MAX_SPEED * seconds + JUMP_FLOOR
        return "the pose jumps in what follows" if jumps.any() else ""


@dataclass(frozen=True, eq=False)
class Commands:
    """Commands of the route: stamps int64 [C] ns, increasing, and the command that is valid from each of them on."""

    stamps: np.ndarray
    words: tuple[Command, ...]

    def at(self, stamp: int) -> Command | None:
        """Latest command at a stamp; None before the first one."""
        before = int(np.searchsorted(self.stamps, stamp, side="right")) - 1
        return self.words[before] if before >= 0 else None


def read_drive(reader: BagReader, profile: Profile) -> Drive:
    """Read the trajectory from tf, or else from odometry. Raises InvalidInput("bag") if the bag has neither."""
    tf = TransformBuffer(cache_seconds=1e9)
    moving: dict[tuple[str, str], list[int]] = {}
    kinds = {name: topic.type for name, topic in reader.topics.items()}
    for topic in ("/tf_static", "/tf"):
        if kinds.get(topic) == "tf2_msgs/msg/TFMessage":
            for item in (t for _, message in decoded(reader, [topic]) for t in message.transforms):
                t, q, at = item.transform.translation, item.transform.rotation, stamp_ns(item.header.stamp)
                edge = (item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/"))
                tf.insert(*edge, at, (t.x, t.y, t.z), (q.x, q.y, q.z, q.w), static=topic == "/tf_static")
                if topic == "/tf":
                    moving.setdefault(edge, []).append(at)
    for frame in profile.fixed_frames:
        found = _from_tf(tf, moving, frame, profile.base_frame)
        if found is not None:
            return replace(found, clock=read_clock(reader, profile))
    if kinds.get(profile.odometry_topic) == "nav_msgs/msg/Odometry":
        return replace(_from_odometry(reader, profile, tf), clock=read_clock(reader, profile))
    tried = f"tf from {' or '.join(profile.fixed_frames) or 'no frame'} to {profile.base_frame}"
    raise InvalidInput(
        "bag", f"tells no motion: neither {tried} nor odometry on {profile.odometry_topic or 'no topic'}"
    )


def _from_tf(tf: TransformBuffer, moving: dict[tuple[str, str], list[int]], frame: str, base: str) -> Drive | None:
    stamps, poses = [], []
    for stamp in sorted({s for samples in moving.values() for s in samples}):
        try:
            matrix = tf.lookup(frame, base, stamp)
        except TransformError:
            continue
        stamps.append(stamp)
        poses.append((matrix[0, 3], matrix[1, 3], geometry.yaw_of(matrix)))
    return _drive(frame, base, stamps, poses) if len(stamps) > 1 else None


def _from_odometry(reader: BagReader, profile: Profile, tf: TransformBuffer) -> Drive:
    stamps, poses, frame = [], [], ""
    for _, message in decoded(reader, [profile.odometry_topic]):
        p, q = message.pose.pose.position, message.pose.pose.orientation
        matrix = geometry.transform(np.array((p.x, p.y, p.z)), np.array((q.x, q.y, q.z, q.w)), "odometry")
        child = message.child_frame_id.lstrip("/")
        if child and child != profile.base_frame:
            try:
                matrix = matrix @ geometry.inverse(tf.latest(profile.base_frame, child)[1])
            except TransformError as error:
                raise InvalidInput("odometry", f"is of {child}, not of {profile.base_frame}: {error}") from None
        frame = message.header.frame_id.lstrip("/") or "odom"
        stamps.append(stamp_ns(message.header.stamp))
        poses.append((matrix[0, 3], matrix[1, 3], geometry.yaw_of(matrix)))
    return _drive(frame, profile.base_frame, stamps, poses)


def _drive(frame: str, base: str, stamps: list[int], poses: list[tuple[float, float, float]]) -> Drive:
    order, first = np.unique(np.array(stamps, np.int64), return_index=True)
    if len(order) < 2:
        raise InvalidInput("bag", f"holds {len(order)} poses of {base} in {frame}: too few for a drive")
    places = np.array(poses)[first]
    places[:, 2] = np.unwrap(places[:, 2])
    return Drive(frame, base, order, places)


def read_clock(reader: BagReader, profile: Profile) -> RecordClock:
    """Mapping of record times to the header stamps of odometry, or else of tf; empty if the bag has neither."""
    kinds = {name: topic.type for name, topic in reader.topics.items() if topic.count}
    rows: list[tuple[int, int]] = []
    if kinds.get(profile.odometry_topic) == "nav_msgs/msg/Odometry":
        topic = profile.odometry_topic
    elif kinds.get("/tf") == "tf2_msgs/msg/TFMessage":
        topic = "/tf"
    else:
        return RecordClock()
    for record in reader.messages([topic]):
        if rows and record.stamp - rows[-1][0] < _CLOCK_EVERY * NANOSECONDS:
            continue
        message = reader.decode(record.raw, record.type)
        headers = [item.header for item in message.transforms] if topic == "/tf" else [message.header]
        if headers and (stamp := stamp_ns(headers[-1].stamp)):
            rows.append((record.stamp, stamp))
    records, stamps = np.array(rows, np.int64).reshape(-1, 2).T
    return RecordClock(records, stamps)


def read_commands(reader: BagReader, clock: RecordClock) -> Commands:
    """Read the commands on planning/command, with stamps from a clock; empty if the bag lacks the topic."""
    stamps, words = [], []
    known = reader.topics.get(COMMAND_TOPIC)
    if known is not None and known.type == "std_msgs/msg/String":
        for stamp, message in decoded(reader, [COMMAND_TOPIC]):
            if message.data in set(Command):
                stamps.append(clock.at(stamp))
                words.append(Command(message.data))
    return Commands(np.array(stamps, np.int64), tuple(words))


def decoded(reader: BagReader, topics: Collection[str]) -> Iterator[tuple[int, Any]]:
    """Yields (record time ns, message) of the topics. Raises InvalidInput for a message that does not decode."""
    for record in reader.messages(topics):
        yield record.stamp, reader.decode(record.raw, record.type)
