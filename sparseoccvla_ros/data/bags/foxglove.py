"""Conversion of the public Foxglove nuScenes MCAP (protobuf and JSON) to a ROS 2 bag of the `nuscenes` input profile.

`ros2 bag play` cannot play that file because its channels have no ROS types. They are converted to CDR messages; JPEG
bytes and point data are copied unchanged. Both naming schemes of its converter (foxglove/nuscenes2mcap) are supported:
/CAM_FRONT and, since 2026-05, /cam_front; sensor names and frames are written in capitals.

    foxglove.CompressedImage    sensor_msgs/CompressedImage
    foxglove.CameraCalibration  sensor_msgs/CameraInfo
    foxglove.FrameTransform(s)  base_link -> sensor: /tf_static (first value); everything else: /tf
    foxglove.PointCloud         sensor_msgs/PointCloud2
    foxglove.PoseInFrame        geometry_msgs/PoseStamped
    JSON with pos, orientation, vel, rotation_rate (CAN bus pose)   nav_msgs/Odometry, map -> base_link

Other channels (maps, markers, annotations, radar diagnostics) are skipped and listed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import McapReader, make_reader
from mcap.records import Channel, Schema
from mcap_protobuf.decoder import DecoderFactory

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.files import BoundedFile
from ...core.types import NANOSECONDS
from ..nuscenes.to_bag import Conversion, Progress
from .storage import MCAP_MAGIC
from .writer import BagWriter

SENSOR_PREFIXES = ("CAM_", "LIDAR_", "RADAR_")
NUMERIC_TYPES = {1: "u1", 2: "i1", 3: "<u2", 4: "<i2", 5: "<u4", 6: "<i4", 7: "<f4", 8: "<f8"}
"""foxglove.PackedElementField.NumericType -> numpy"""
ODOMETRY_KEYS = {"pos": "xyz", "orientation": "xyzw", "vel": "xyz", "rotation_rate": "xyz"}
_FIRST_SECOND = NANOSECONDS

Write = Callable[[BagWriter, str, int, Any], None]
"""Function that writes a decoded message: (bag, topic, log time ns, message)."""


@dataclass(frozen=True)
class Route:
    """Conversion of one channel; source, topic: its topic name in the source and in the bag."""

    source: str
    topic: str
    decode: Callable[[bytes], Any]
    write: Write


def convert_foxglove(
    mcap_file: Path | str, out: Path | str, on_progress: Progress | None = None, force: bool = False
) -> Conversion:
    """Convert a Foxglove MCAP file to the rosbag2 MCAP folder `out`.

    The record time of a message is its own stamp (the source logs keyframes at the lidar's), or its log time if it has
    none. force: replace a bag at `out`, which appears only when it is complete.

    Raises InvalidInput for a file that is missing, cut off, corrupt, already a ROS bag, or without any convertible
    channel.
    """
    path = Path(mcap_file)
    _refuse(path)
    with BoundedFile(path) as stream:
        reader = _guard(path, make_reader, stream)
        summary = _guard(path, reader.get_summary)
        if summary is None or summary.statistics is None:
            raise InvalidInput("mcap", f"{path} has no index; run `mcap recover {path.name} -o recovered.mcap` first")
        if reader.get_header().profile in ("ros1", "ros2"):
            raise InvalidInput("mcap", f"{path} is a {reader.get_header().profile} bag already, not a Foxglove file")
        factory = DecoderFactory()
        routes: dict[int, Route] = {}
        skipped: dict[str, str] = {}
        for channel in summary.channels.values():
            schema = summary.schemas.get(channel.schema_id)
            route = _guard(path, _route, factory, channel, schema)
            if route is None:
                skipped[channel.topic] = f"{schema.name if schema else 'no schema'} ({channel.message_encoding})"
            else:
                routes[channel.id] = route
        if not routes:
            raise InvalidInput("mcap", f"{path} holds nothing that can be converted, only {skipped}")
        counts = summary.statistics.channel_message_counts
        total = sum(counts.get(channel, 0) for channel in routes)
        start, mounted = _first_look(path, reader, routes, summary.statistics.message_start_time)
        with BagWriter(out, force=force) as bag:
            if mounted:
                edges = [("base_link", child, pose) for child, pose in sorted(mounted.items())]
                bag.transforms(start, edges, static=True)
            for done, (log_time, route, message) in enumerate(_messages(path, reader, routes), 1):
                route.write(bag, route.topic, log_time, message)
                if on_progress is not None:
                    on_progress(done, total)
            return Conversion(Path(out), dict(bag.counts), skipped)


def _refuse(path: Path) -> None:
    if not path.is_file():
        raise InvalidInput("mcap", f"{path} is no file; want the .mcap file itself")
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(8) != MCAP_MAGIC:
            raise InvalidInput("mcap", f"{path} is no MCAP file")
        stream.seek(max(0, size - 8))
        if stream.read(8) != MCAP_MAGIC:
            raise InvalidInput("mcap", f"{path} is cut off: it has no end mark; download it again")


def _guard(path: Path, action: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return action(*arguments)
    except InvalidInput:
        raise
    except Exception as error:  # the mcap, protobuf and JSON parsers raise various types: all mean damaged content
        raise InvalidInput("mcap", f"{path} cannot be read: {error or type(error).__name__}") from error


def _messages(
    path: Path, reader: McapReader, routes: dict[int, Route], stop: int | None = None
) -> Iterator[tuple[int, Route, Any]]:
    """Yields (log time ns, route, decoded message) in log order, before `stop`."""
    source = reader.iter_messages(topics=[r.source for r in routes.values()], end_time=stop)
    while True:
        item = _guard(path, next, source, None)
        if item is None:
            return
        _, channel, record = item
        route = routes.get(channel.id)
        if route is not None:
            yield record.log_time, route, _guard(path, route.decode, record.data)


def _first_look(
    path: Path, reader: McapReader, routes: dict[int, Route], begin: int
) -> tuple[int, dict[str, np.ndarray]]:
    """Returns (earliest stamp ns, sensor -> sensor2ego), from all of /tf and the first second of every channel."""
    transforms = {c: r for c, r in routes.items() if r.write is _write_transforms}
    mounted: dict[str, np.ndarray] = {}
    for _, _, message in _messages(path, reader, transforms):
        for edge in _edges(message):
            if _is_mount(edge):
                mounted.setdefault(_frame(edge.child_frame_id), _matrix(edge.translation, edge.rotation))
    earliest = begin
    for log_time, route, message in _messages(path, reader, routes, begin + _FIRST_SECOND):
        if route.write is _write_transforms:
            stamps = [_stamp(e, log_time) for e in _edges(message) if not _is_mount(e)]
        else:
            stamps = [_stamp(message, log_time)]
        earliest = min([earliest, *stamps])
    return earliest, mounted


def _route(factory: DecoderFactory, channel: Channel, schema: Schema | None) -> Route | None:
    """Conversion of a channel; None if its type is not supported."""
    if schema is None:
        return None
    topic = _topic(channel.topic)
    if channel.message_encoding == "protobuf":
        write = _WRITERS.get(schema.name)
        decode = factory.decoder_for("protobuf", schema) if write is not None else None
        return None if write is None or decode is None else Route(channel.topic, topic, decode, write)
    if channel.message_encoding == "json":
        properties = json.loads(schema.data or b"{}").get("properties", {})
        if all(set(axes) <= set(properties.get(k, {}).get("properties", {})) for k, axes in ODOMETRY_KEYS.items()):
            return Route(channel.topic, topic, json.loads, _write_odometry)
    return None


def _frame(name: str) -> str:
    """Frame id as spelled in the profile: sensors in capitals, without a leading slash."""
    bare = name.lstrip("/")
    return bare.upper() if bare.upper().startswith(SENSOR_PREFIXES) else bare


def _topic(name: str) -> str:
    first, *rest = name.lstrip("/").split("/")
    return "/" + "/".join([_frame(first), *rest])


def _stamp(message: Any, log_time: int) -> int:
    """The message's own stamp in ns, or the log time if it has none."""
    stamp = getattr(message, "timestamp", None)
    own = stamp.seconds * NANOSECONDS + stamp.nanos if stamp is not None else 0
    return own or log_time


def _matrix(translation: Any, rotation: Any) -> np.ndarray:
    quaternion = (rotation.x, rotation.y, rotation.z, rotation.w)
    return geometry.transform(np.array([translation.x, translation.y, translation.z]), np.array(quaternion))


def _edges(message: Any) -> list[Any]:
    """The transforms of a FrameTransform or FrameTransforms."""
    return list(message.transforms) if hasattr(message, "transforms") else [message]


def _is_mount(edge: Any) -> bool:
    return _frame(edge.parent_frame_id) == "base_link" and _frame(edge.child_frame_id).startswith(SENSOR_PREFIXES)


def _write_transforms(bag: BagWriter, topic: str, log_time: int, message: Any) -> None:
    for edge in _edges(message):
        if not _is_mount(edge):
            pose = _matrix(edge.translation, edge.rotation)
            parent, child = _frame(edge.parent_frame_id), _frame(edge.child_frame_id)
            bag.transforms(_stamp(edge, log_time), [(parent, child, pose)])


def _write_image(bag: BagWriter, topic: str, log_time: int, message: Any) -> None:
    bag.compressed_image(topic, _stamp(message, log_time), _frame(message.frame_id), message.data, message.format)


def _write_calibration(bag: BagWriter, topic: str, log_time: int, message: Any) -> None:
    stamp, frame = _stamp(message, log_time), _frame(message.frame_id)
    if len(message.K) != 9:
        raise InvalidInput(topic, f"want 9 numbers in K, got {len(message.K)}")
    if len(message.D) == 0 and not message.distortion_model:
        # A rectified camera, as BagWriter.camera_info describes it.
        bag.camera_info(topic, stamp, frame, message.width, message.height, np.reshape(message.K, (3, 3)))
        return
    k = np.asarray(message.K, np.float64)
    projection = np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).ravel()
    region = bag.construct("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
    info = bag.construct(
        "sensor_msgs/msg/CameraInfo",
        header=bag.header(stamp, frame),
        height=message.height,
        width=message.width,
        distortion_model=message.distortion_model or "plumb_bob",
        d=np.asarray(message.D, np.float64),
        k=k,
        r=np.asarray(message.R, np.float64) if len(message.R) == 9 else np.eye(3).ravel(),
        p=np.asarray(message.P, np.float64) if len(message.P) == 12 else projection,
        binning_x=0,
        binning_y=0,
        roi=region,
    )
    bag.write(topic, info, stamp)


def _write_cloud(bag: BagWriter, topic: str, log_time: int, message: Any) -> None:
    stride = message.point_stride
    if not stride or len(message.data) % stride or not message.fields:
        raise InvalidInput(topic, f"{len(message.data)} bytes are no whole points of {stride} bytes")
    try:
        layout = np.dtype(
            {
                "names": [f.name for f in message.fields],
                "formats": [NUMERIC_TYPES[f.type] for f in message.fields],
                "offsets": [f.offset for f in message.fields],
                "itemsize": stride,
            }
        )
    except (KeyError, ValueError) as error:
        raise InvalidInput(topic, f"the point layout is malformed: {error}") from error
    points = np.frombuffer(message.data, layout)
    if message.HasField("pose"):
        origin = _matrix(message.pose.position, message.pose.orientation)
        if not np.array_equal(origin, np.eye(4)) and {"x", "y", "z"} <= set(points.dtype.names or ()):
            points = points.copy()
            moved = geometry.apply(origin, np.stack([points[a] for a in "xyz"], axis=1).astype(np.float64))
            for axis, name in enumerate("xyz"):
                points[name] = moved[:, axis]
    bag.point_cloud(topic, _stamp(message, log_time), _frame(message.frame_id), points)


def _write_pose(bag: BagWriter, topic: str, log_time: int, message: Any) -> None:
    stamp = _stamp(message, log_time)
    at, turned = message.pose.position, message.pose.orientation
    pose = bag.construct(
        "geometry_msgs/msg/Pose",
        position=bag.construct("geometry_msgs/msg/Point", x=at.x, y=at.y, z=at.z),
        orientation=bag.construct("geometry_msgs/msg/Quaternion", x=turned.x, y=turned.y, z=turned.z, w=turned.w),
    )
    header = bag.header(stamp, _frame(message.frame_id))
    bag.write(topic, bag.construct("geometry_msgs/msg/PoseStamped", header=header, pose=pose), stamp)


def _write_odometry(bag: BagWriter, topic: str, log_time: int, message: Any) -> None:
    try:
        values = {k: np.array([float(message[k][a]) for a in axes]) for k, axes in ODOMETRY_KEYS.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(topic, f"the JSON pose is malformed: {error!r}") from error
    pose = geometry.transform(values["pos"], values["orientation"], topic)
    twist = np.concatenate([values["vel"], values["rotation_rate"]])
    bag.odometry(topic, log_time, "map", pose, twist)


_WRITERS: dict[str, Write] = {
    "foxglove.CompressedImage": _write_image,
    "foxglove.CameraCalibration": _write_calibration,
    "foxglove.FrameTransform": _write_transforms,
    "foxglove.FrameTransforms": _write_transforms,
    "foxglove.PointCloud": _write_cloud,
    "foxglove.PoseInFrame": _write_pose,
}
