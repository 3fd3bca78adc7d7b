"""Targets of ./run fuzz: for each decoder, valid seed inputs and a function that reads one input."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from .mutations import damaged, reworded

Attempt = Callable[[bytes], Any]
Mutate = Callable[[random.Random, Sequence[bytes]], bytes]


@dataclass(frozen=True)
class Decoder:
    """A fuzz target. make: (folder for files) -> (seeds, attempt); share: of the budget, larger for cheap inputs."""

    make: Callable[[Path], tuple[list[bytes], Attempt]]
    share: float
    mutate: Mutate = damaged


def _jpeg(_: Path) -> tuple[list[bytes], Attempt]:
    import cv2

    from ..camera_sync.images import decode_compressed

    colours = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    options: tuple[list[int], ...] = (
        [],
        [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
        [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
    )
    seeds = [cv2.imencode(".jpg", colours, option)[1].tobytes() for option in options]
    return [*seeds, cv2.imencode(".jpg", colours[..., 0])[1].tobytes()], decode_compressed


def _png(_: Path) -> tuple[list[bytes], Attempt]:
    import cv2

    from ..camera_sync.images import decode_compressed

    colours = np.random.default_rng(0).integers(0, 255, (12, 16, 4), np.uint8)
    kinds = (colours, colours[..., :3], colours[..., 0], colours[..., :3].astype(np.uint16))
    seeds = [cv2.imencode(".png", np.ascontiguousarray(kind))[1].tobytes() for kind in kinds]
    return seeds, lambda data: decode_compressed(data, format="bayer_rggb8; png compressed ")


def _raw_image(_: Path) -> tuple[list[bytes], Attempt]:
    from ..camera_sync.encodings import ENCODINGS
    from ..camera_sync.images import decode_raw

    names = [*ENCODINGS, "32FC1", ""]

    def attempt(data: bytes) -> None:
        height, width, step, kind = np.frombuffer(data[:16].ljust(16, b"\0"), "<i4").tolist()
        decode_raw(data[17:], height, width, step, names[kind % len(names)], data[16:17] == b"\1")

    def seed(kind: int, rows: int) -> bytes:
        return np.array([4, 6, 48, kind], "<i4").tobytes() + bytes(1 + 48 * rows)

    return [seed(k, 4 + 2 * entry.chroma_rows) for k, entry in enumerate(ENCODINGS.values())], attempt


def _bag_messages(_: Path) -> tuple[list[bytes], Attempt]:
    """CDR of bag messages passed to the synchroniser; the first byte selects the topic."""
    from ..camera_sync.frame_assembler import CameraSync
    from ..camera_sync.message_adapter import MessageAdapter
    from ..camera_sync.profiles import profile
    from ..core.paths import bundled_bag
    from ..data.bags.reader import BagReader

    chosen = profile("nuscenes")
    sync = CameraSync(chosen.sync_config(), threads=1)
    adapter = MessageAdapter(sync, chosen)
    reader = BagReader(bundled_bag())
    front = chosen.cameras["CAM_FRONT"]
    readers: list[tuple[str, Callable[[Any], Any]]] = [
        (front.info_topic, lambda m: adapter.add_camera_info(front, m)),
        ("/tf", lambda m: adapter.add_transforms(m, static=False)),
        ("/tf_static", lambda m: adapter.add_transforms(m, static=True)),
        ("/odom", adapter.add_odometry),
        (front.image_topic, lambda m: adapter.add_image(front, m, 1)),
    ]
    readers = [(topic, call) for topic, call in readers if topic in reader.topics]
    seeds = []
    for index, (topic, _call) in enumerate(readers):
        found = [message.raw for _, message in zip(range(3), reader.messages([topic]), strict=False)]
        seeds += [bytes([index]) + raw for raw in found]

    def attempt(data: bytes) -> None:
        topic, call = readers[data[0] % len(readers)] if data else readers[0]
        message = reader.decode(data[1:], reader.topics[topic].type)
        try:
            call(message)
            sync.take()
        finally:
            sync.messages()

    return seeds, attempt


def _graph_messages(_: Path) -> tuple[list[bytes], Attempt]:
    """CDR of messages between the nodes, converted to types of the core; the first byte selects the type."""
    from rclpy.serialization import serialize_message

    from ..ros import messages
    from ..ros.msg_utils import decode
    from .examples import example_messages

    readers: dict[str, Callable[[Any], Any]] = {
        "CameraFrames": messages.frames_from_msg,
        "SceneQueries": messages.queries_from_msg,
        "Reasoning": messages.reasoning_from_msg,
        "Plan": messages.plan_from_msg,
        "Path": messages.path_from_msg,
        "Pose": messages.pose_from_msg,
        "Twist": messages.twist_from_msg,
    }
    examples = example_messages()
    kinds = [(type(e), readers[type(e).__name__]) for e in examples]
    seeds = [bytes([k]) + serialize_message(example) for k, example in enumerate(examples)]

    def attempt(data: bytes) -> None:
        kind, read = kinds[data[0] % len(kinds)] if data else kinds[0]
        read(decode(data[1:], kind))

    return seeds, attempt


def _small_bag(folder: Path) -> Path:
    from ..data.bags.writer import BagWriter

    path = folder / "seed"
    shutil.rmtree(path, ignore_errors=True)
    with BagWriter(path) as bag:
        bag.transforms(10**18, [("base_link", "CAM_FRONT", np.eye(4))], static=True)
        for k in range(4):
            bag.string("/count", 10**18 + k * 10**8, str(k))
            bag.compressed_image("/CAM_FRONT/image_rect_compressed", 10**18 + k * 10**8, "CAM_FRONT", bytes(50))
    return path


def _read_bag(path: Path) -> None:
    from ..data.bags.reader import BagReader

    with BagReader(path) as reader:
        for message in reader.messages():
            reader.decode(message.raw, message.type)
        reader.latched(reader.end)


def _file_attempt(path: Path, read: Callable[[Path], Any]) -> Attempt:
    path.parent.mkdir(parents=True, exist_ok=True)

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return attempt


def _mcap(folder: Path) -> tuple[list[bytes], Attempt]:
    from mcap.reader import make_reader
    from mcap.writer import CompressionType, Writer

    source = next(_small_bag(folder).glob("*.mcap"))
    seeds = [source.read_bytes()]
    for compression in (CompressionType.NONE, CompressionType.LZ4):
        file = folder / "plain.mcap"
        with file.open("wb") as out, source.open("rb") as stream:
            writer = Writer(out, compression=compression)
            writer.start(profile="ros2")
            channels: dict[int, int] = {}
            for schema, channel, message in make_reader(stream).iter_messages():
                if channel.id not in channels and schema is not None:
                    known = writer.register_schema(schema.name, schema.encoding, schema.data)
                    channels[channel.id] = writer.register_channel(channel.topic, "cdr", known, {})
                writer.add_message(channels[channel.id], message.log_time, message.data, message.publish_time)
            writer.finish()
        seeds.append(file.read_bytes())
    return seeds, _file_attempt(folder / "fuzzed.mcap", _read_bag)


def _db3(folder: Path) -> tuple[list[bytes], Attempt]:
    from rosbags.rosbag2 import StoragePlugin, Writer

    from ..data.bags.reader import BagReader
    from ..data.bags.writer import typestore

    path = folder / "sqlite"
    shutil.rmtree(path, ignore_errors=True)
    with BagReader(_small_bag(folder)) as reader, Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as bag:
        made = {n: bag.add_connection(n, t.type, typestore=typestore()) for n, t in reader.topics.items()}
        for message in reader.messages():
            bag.write(made[message.topic], message.stamp, message.raw)
    return [next(path.glob("*.db3")).read_bytes()], _file_attempt(folder / "fuzzed.db3", _read_bag)


def _metadata(folder: Path) -> tuple[list[bytes], Attempt]:
    path = _small_bag(folder)
    seed = (path / "metadata.yaml").read_bytes()
    return [seed], _file_attempt(path / "metadata.yaml", lambda _: _read_bag(path))


def _foxglove(folder: Path) -> tuple[list[bytes], Attempt]:
    """Protobuf and JSON messages of the public file, each in a new small file; the first byte selects the channel."""
    from ..data.bags.foxglove import convert_foxglove
    from .examples import foxglove_file, foxglove_messages

    samples = foxglove_messages()
    seeds = [bytes([k]) + data for k, (_, data) in enumerate(samples)]

    def attempt(data: bytes) -> None:
        index = data[0] % len(samples) if data else 0
        file = folder / "foxglove.mcap"
        foxglove_file(file, samples, {index: data[1:]})
        convert_foxglove(file, folder / "converted", force=True)

    return seeds, attempt


def _checkpoint(folder: Path, name: str, seeds: list[bytes]) -> tuple[list[bytes], Attempt]:
    from ..occupancy.checkpoints import opus_config, public_state, read_state

    def read(path: Path) -> None:
        opus_config(public_state(read_state(path)[0]))

    return seeds, _file_attempt(folder / name, read)


def _safetensors(folder: Path) -> tuple[list[bytes], Attempt]:
    from safetensors.torch import save

    from .examples import opus_weights

    return _checkpoint(folder, "fuzzed.safetensors", [save(opus_weights(), {"stage": "occupancy"})])


def _pth(folder: Path) -> tuple[list[bytes], Attempt]:
    import io

    import torch

    from .examples import opus_weights

    seeds = []
    for new in (True, False):
        stream = io.BytesIO()
        content = {"state_dict": opus_weights(), "meta": {"epoch": 1}}
        torch.save(content, stream, _use_new_zipfile_serialization=new)
        seeds.append(stream.getvalue())
    return _checkpoint(folder, "fuzzed.pth", seeds)


def _anchors(folder: Path) -> tuple[list[bytes], Attempt]:
    from ..core.paths import share
    from ..planning.anchors import AnchorSet

    seeds = [share("models", "tiny", "anchors.npz").read_bytes()]
    return seeds, _file_attempt(folder / "anchors.npz", AnchorSet.load)


def _preset(folder: Path) -> tuple[list[bytes], Attempt]:
    from ..core.paths import share
    from ..runtime.presets import ADAPTER, STAGES, load_preset

    content = share("models", "tiny", "anchors.npz").read_bytes()
    for name in ("anchors.npz", *(f"{stage}.safetensors" for stage in (*STAGES, ADAPTER))):
        (folder / name).write_bytes(content)
    digest = sha256(content).hexdigest()
    texts = [file.read_text().replace("../tiny/", "") for file in sorted(share("models").glob("*/config.yaml"))]
    seeds = [re.sub(r"sha256: \w+", f"sha256: {digest}", text).encode() for text in texts]
    return seeds, _file_attempt(folder / "config.yaml", lambda _: load_preset(str(folder)))


def _calibration(folder: Path) -> tuple[list[bytes], Attempt]:
    from ..camera_sync.calibration import load_calibration

    entry = "{width: 352, height: 198, k: [280.0, 0, 176, 0, 280, 99, 0, 0, 1]"
    mount = "translation: [1.0, 0, 1.5], rotation_xyzw: [-0.5, 0.5, -0.5, 0.5]"
    seed = f"format: cameras-1\ncameras:\n  CAM_FRONT: {entry}, {mount}, frame_id: front}}\n"
    seed += f"  CAM_BACK: {entry}, {mount}, d: [0.1, 0.2, 0, 0, 0], model: plumb_bob}}\n"
    fish = f"cameras:\n  CAM_FRONT: {entry}, d: [0.1, 0.0, 0.0, 0.0], model: equidistant, {mount}}}\n"
    return [seed.encode(), fish.encode()], _file_attempt(folder / "rig.yaml", load_calibration)


def _profiles(folder: Path) -> tuple[list[bytes], Attempt]:
    from ..camera_sync.profiles import profile
    from ..core.paths import share

    seeds = [file.read_bytes() for file in sorted(share("config", "profiles").glob("*.yaml"))]
    return seeds, _file_attempt(folder / "profile.yaml", profile)


def _questions(_: Path) -> tuple[list[bytes], Attempt]:
    from ..reasoning.serving.text_stream import check_question, escape

    def attempt(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
        escaped = escape(text)
        if escape(escaped) != escaped:
            raise AssertionError(f"an escaped text is not plain: {escaped!r}")
        check_question(text)

    words = ("What is ahead?", "  \u00bfQu\u00e9 hay delante?", "\u524d\u306b\u4f55", "x" * 500)
    return [word.encode() for word in words], attempt


def _routes(_: Path) -> tuple[list[bytes], Attempt]:
    """Commands, routes and goals; the first byte selects which, the rest is read as text or float64."""
    from ..core.geometry import planar
    from ..planning.route_command import RouteCommand, parse_command

    pose, route = planar(1.0, 2.0, 0.3), RouteCommand()

    def attempt(data: bytes) -> None:
        kind, values = data[:1], np.frombuffer(data[1 : 1 + (len(data) - 1) // 8 * 8] or bytes(8), "<f8")
        if kind == b"c":
            route.set_command(
                int.from_bytes(data[-8:], "little", signed=True), parse_command(data[1:].decode("latin-1"))
            )
        elif kind == b"g":
            route.set_goal(pose, values)
        else:
            route.set_route(values[: len(values) // 2 * 2].reshape(-1, 2))
        speed = float(values[0]) if np.isfinite(values[0]) and abs(values[0]) < 70 else 5.0
        route.choose(int.from_bytes(data[:8], "little", signed=True), pose, speed)

    line = np.stack([np.linspace(0, 50, 8), np.linspace(0, 9, 8)], 1).astype("<f8").tobytes()
    return [b"cleft", b"c right ", b"r" + line, b"g" + line[:16]], attempt


DECODERS: dict[str, Decoder] = {
    "jpeg": Decoder(_jpeg, 150),
    "png": Decoder(_png, 120),
    "raw_image": Decoder(_raw_image, 120),
    "bag_messages": Decoder(_bag_messages, 120),
    "graph_messages": Decoder(_graph_messages, 120),
    "mcap": Decoder(_mcap, 4),
    "db3": Decoder(_db3, 2),
    "bag_metadata": Decoder(_metadata, 2, reworded),
    "foxglove": Decoder(_foxglove, 3),
    "safetensors": Decoder(_safetensors, 60),
    "pth": Decoder(_pth, 10),
    "anchors": Decoder(_anchors, 40),
    "preset": Decoder(_preset, 6, reworded),
    "calibration": Decoder(_calibration, 8, reworded),
    "profiles": Decoder(_profiles, 2, reworded),
    "questions": Decoder(_questions, 100),
    "routes": Decoder(_routes, 100),
}
