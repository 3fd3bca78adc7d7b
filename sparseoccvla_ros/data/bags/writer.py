"""Writing rosbag2 MCAP bags without ROS: a thin layer over `rosbags`, shared by all converters.

Bags have the format of `ros2 bag record` of Jazzy or later: metadata version 9, MCAP with zstd chunks, type hashes and
offered QoS profiles per topic. Stamps are integer nanoseconds.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.paths import message_folder, optional_message_folders
from ...core.types import NANOSECONDS

MESSAGE_PACKAGE = "sparseoccvla_msgs"
POINT_FIELD_TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
"""numpy kind and width -> sensor_msgs/PointField datatype."""
_STAMP_LIMIT = 2**31 * NANOSECONDS
_FOREVER = QosTime(2147483647, 4294967295)
"""rosbag2's value for an unset duration."""


def qos(depth: int = 10, durability: QosDurability = QosDurability.VOLATILE) -> Qos:
    """Reliable, keep-last QoS profile, volatile by default."""
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        durability,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


SENSOR_QOS = qos(5)
TF_QOS = qos(100)
LATCHED_QOS = qos(1, QosDurability.TRANSIENT_LOCAL)
"""For /tf_static: a late subscriber still receives the last message."""


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Typestore with the messages of Jazzy, of this project and of other stacks that it publishes.

    Raises FileNotFoundError if the .msg files of sparseoccvla_msgs are missing.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    own: dict[str, Any] = {}
    for path in sorted(message_folder().glob("*.msg")):
        own.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{MESSAGE_PACKAGE}/msg/{path.stem}"))
    for path in sorted(p for folder in optional_message_folders() for p in folder.glob("*.msg")):
        own.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{path.parents[1].name}/msg/{path.stem}"))
    store.register(own)
    return store


class BagWriter:
    """Context manager that writes one bag folder; it appears at `path` only if the block ends without an error.

    path: the bag folder (metadata.yaml and one .mcap are created in it). force: replace an existing bag. The storage is
    always MCAP with zstd-compressed chunks.

    Messages may be written in any order, as players sort by record time. Only /tf_static must come first, so that
    players latch it before the messages that need it. `record_time` is the bag time in nanoseconds; it is the
    stamp unless given.

    Raises InvalidInput for an existing path without `force` (or with it, if the path is not a bag), a topic written
    with two types, static transforms after other messages, malformed arrays and a bag without messages.
    """

    def __init__(self, path: Path | str, force: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists():
            if not force:
                raise InvalidInput("path", f"{self.path} exists already; ask for force to replace it")
            if not (self.path / "metadata.yaml").is_file():
                raise InvalidInput("path", f"{self.path} exists and is no bag; it stays as it is")
        self.types = typestore()
        self.counts: dict[str, int] = {}
        """Messages written so far, per topic."""
        self._connections: dict[str, Connection] = {}
        self._writer: Writer | None = None
        self._workplace: Path | None = None

    def __enter__(self) -> BagWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the final rename stays on the same file system.
        self._workplace = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        self._writer = Writer(self._workplace / self.path.name, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        writer, workplace = self._open_writer(), self._workplace
        self._writer = self._workplace = None
        assert workplace is not None
        try:
            if exc_type is not None:
                writer.abort()
                return
            if not self.counts:
                writer.abort()
                raise InvalidInput("bag", "no message was written")
            writer.close()
            old = workplace / "replaced"
            if self.path.exists():
                self.path.rename(old)
            (workplace / self.path.name).rename(self.path)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise InvalidInput("bag", "is not open; use BagWriter in a with block")
        return self._writer

    # -- any message ---------------------------------------------------------------------------------------------

    def construct(self, msgtype: str, *args: Any, **kwargs: Any) -> Any:
        """Create a message object of the typestore, e.g. construct("std_msgs/msg/String", data="left")."""
        return self.types.types[msgtype](*args, **kwargs)

    def write(self, topic: str, message: Any, record_time: int, profile: Qos = SENSOR_QOS) -> None:
        """Write a typestore message. A topic keeps the QoS profile of its first message."""
        msgtype: str = message.__msgtype__
        self.write_cdr(topic, msgtype, self.types.serialize_cdr(message, msgtype), record_time, profile)

    def write_cdr(
        self, topic: str, msgtype: str, data: bytes | memoryview, record_time: int, profile: Qos = SENSOR_QOS
    ) -> None:
        """Write an already serialised message (CDR with its 4-byte header) of a known type, unchanged."""
        writer = self._open_writer()
        if not 0 <= record_time < _STAMP_LIMIT:
            raise InvalidInput("record_time", f"{record_time} ns does not fit a ROS time")
        connection = self._connections.get(topic)
        if connection is None:
            if not topic.startswith("/"):
                raise InvalidInput("topic", f"{topic!r} is not absolute")
            if msgtype not in self.types.fielddefs:
                raise InvalidInput("message", f"type {msgtype} is unknown")
            connection = writer.add_connection(topic, msgtype, typestore=self.types, offered_qos_profiles=[profile])
            self._connections[topic] = connection
        elif connection.msgtype != msgtype:
            raise InvalidInput("topic", f"{topic} holds {connection.msgtype}, got {msgtype}")
        writer.write(connection, int(record_time), data)
        self.counts[topic] = self.counts.get(topic, 0) + 1

    def stamp(self, stamp_ns: int) -> Any:
        """builtin_interfaces/Time of integer nanoseconds."""
        if not 0 <= stamp_ns < _STAMP_LIMIT:
            raise InvalidInput("stamp", f"{stamp_ns} ns does not fit a ROS time")
        sec, nanosec = divmod(int(stamp_ns), NANOSECONDS)
        return self.construct("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """std_msgs/Header."""
        return self.construct("std_msgs/msg/Header", stamp=self.stamp(stamp_ns), frame_id=frame_id)

    # -- cameras -------------------------------------------------------------------------------------------------

    def compressed_image(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        data: bytes,
        image_format: str = "jpeg",
        record_time: int | None = None,
    ) -> None:
        """Write a sensor_msgs/CompressedImage; `data`: content of the image file, stored unchanged."""
        message = self.construct(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns, frame_id),
            format=image_format,
            data=np.frombuffer(data, np.uint8),
        )
        self.write(topic, message, stamp_ns if record_time is None else record_time)

    def camera_info(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        width: int,
        height: int,
        intrinsics: np.ndarray,
    ) -> None:
        """Write the sensor_msgs/CameraInfo of a rectified camera: R = identity, P = [K 0], five distortion zeros.

        intrinsics: K [3, 3] in pixels of the published image.
        """
        k = np.asarray(intrinsics, np.float64)
        if k.shape != (3, 3) or not np.isfinite(k).all():
            raise InvalidInput("intrinsics", f"want finite [3, 3], got shape {k.shape}")
        roi = self.construct(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        message = self.construct(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame_id),
            height=int(height),
            width=int(width),
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=k.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([k, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )
        self.write(topic, message, stamp_ns)

    # -- motion --------------------------------------------------------------------------------------------------

    def transforms(self, stamp_ns: int, edges: Sequence[tuple[str, str, np.ndarray]], static: bool = False) -> None:
        """Write a tf2_msgs/TFMessage on /tf, or on /tf_static (transient local) if `static`.

        edges: (parent frame, child frame, child2parent float64 [4, 4] in metres), all at the same stamp.
        """
        if static and any(topic != "/tf_static" for topic in self._connections):
            raise InvalidInput("/tf_static", "must be written before every other message")
        header_of = {parent: self.header(stamp_ns, parent) for parent, _, _ in edges}
        message = self.construct(
            "tf2_msgs/msg/TFMessage",
            transforms=[
                self.construct(
                    "geometry_msgs/msg/TransformStamped",
                    header=header_of[parent],
                    child_frame_id=child,
                    transform=self.construct(
                        "geometry_msgs/msg/Transform",
                        translation=self._xyz("Vector3", matrix[:3, 3]),
                        rotation=self._quaternion(matrix),
                    ),
                )
                for parent, child, matrix in edges
            ],
        )
        topic, profile = ("/tf_static", LATCHED_QOS) if static else ("/tf", TF_QOS)
        self.write(topic, message, stamp_ns, profile)

    def odometry(self, topic: str, stamp_ns: int, fixed_frame: str, pose: np.ndarray, twist: np.ndarray) -> None:
        """Write a nav_msgs/Odometry of base_link. pose: ego2fixed float64 [4, 4] m; twist: [6] vx vy vz (m/s) wx wy wz
        (rad/s) in base_link; covariances are zero (unknown)."""
        v = np.asarray(twist, np.float64)
        if v.shape != (6,) or not np.isfinite(v).all():
            raise InvalidInput("twist", f"want 6 finite numbers, got shape {v.shape}")
        twist_message = self.construct(
            "geometry_msgs/msg/Twist", linear=self._xyz("Vector3", v[:3]), angular=self._xyz("Vector3", v[3:])
        )
        message = self.construct(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, fixed_frame),
            child_frame_id="base_link",
            pose=self.construct("geometry_msgs/msg/PoseWithCovariance", pose=self.pose(pose), covariance=np.zeros(36)),
            twist=self.construct("geometry_msgs/msg/TwistWithCovariance", twist=twist_message, covariance=np.zeros(36)),
        )
        self.write(topic, message, stamp_ns)

    def trajectory(
        self, topic: str, frame_id: str, stamp_ns: int, times: np.ndarray, poses: Sequence[np.ndarray] | np.ndarray
    ) -> None:
        """Write a nav_msgs/Path of poses x, y, yaw [N, 3] (m, rad) in a frame, at times [N] s after the stamp."""
        stamped = [
            self.construct(
                "geometry_msgs/msg/PoseStamped",
                header=self.header(stamp_ns + round(t * NANOSECONDS), frame_id),
                pose=self.pose(geometry.planar(*pose)),
            )
            for t, pose in zip(times, poses, strict=True)
        ]
        header = self.header(stamp_ns, frame_id)
        self.write(topic, self.construct("nav_msgs/msg/Path", header=header, poses=stamped), stamp_ns, qos())

    def pose(self, matrix: np.ndarray) -> Any:
        """geometry_msgs/Pose of a transform float64 [4, 4] in metres."""
        return self.construct(
            "geometry_msgs/msg/Pose", position=self._xyz("Point", matrix[:3, 3]), orientation=self._quaternion(matrix)
        )

    def _xyz(self, name: str, values: Iterable[float]) -> Any:
        x, y, z = (float(v) for v in values)
        return self.construct(f"geometry_msgs/msg/{name}", x=x, y=y, z=z)

    def _quaternion(self, matrix: np.ndarray) -> Any:
        if np.shape(matrix) != (4, 4) or not np.isfinite(matrix).all():
            raise InvalidInput("transform", f"want finite [4, 4], got shape {np.shape(matrix)}")
        x, y, z, w = (float(v) for v in geometry.quaternion(np.asarray(matrix, np.float64)))
        return self.construct("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    # -- everything else -----------------------------------------------------------------------------------------

    def string(self, topic: str, stamp_ns: int, text: str) -> None:
        """Write a std_msgs/String; it has no header, so the stamp is only its record time."""
        message = self.construct("std_msgs/msg/String", data=text)
        self.write(topic, message, stamp_ns, qos())

    def point_cloud(self, topic: str, stamp_ns: int, frame_id: str, points: np.ndarray) -> None:
        """Write a sensor_msgs/PointCloud2, unordered and dense.

        points: structured array [N] whose fields become the cloud's, e.g. dtype [("x", "f4"), ("y", "f4"), ...].
        """
        if points.ndim != 1 or points.dtype.fields is None:
            raise InvalidInput("points", f"want a structured array [N], got {points.dtype} {points.shape}")
        fields = []
        for name, (kind, offset, *_) in points.dtype.fields.items():
            datatype = POINT_FIELD_TYPES.get(kind.str[1:])
            if datatype is None or kind.str[0] == ">":
                raise InvalidInput("points", f"field {name} has type {kind.str}, which PointField lacks")
            fields.append(
                self.construct("sensor_msgs/msg/PointField", name=name, offset=int(offset), datatype=datatype, count=1)
            )
        step = points.dtype.itemsize
        message = self.construct(
            "sensor_msgs/msg/PointCloud2",
            header=self.header(stamp_ns, frame_id),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=step,
            row_step=step * len(points),
            data=np.ascontiguousarray(points).view(np.uint8).reshape(-1),
            is_dense=True,
        )
        self.write(topic, message, stamp_ns)
