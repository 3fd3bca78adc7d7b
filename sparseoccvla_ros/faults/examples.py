"""Small valid messages and files as seeds for the fuzzers."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, timestamp_pb2
from mcap.writer import CompressionType, Writer

from ..core.types import (
    CameraFrames,
    Command,
    CommandSource,
    EgoState,
    Plan,
    PlanStatus,
    Reasoning,
    SceneQueries,
    TrafficLight,
)
from ..core.voxels import SparseVoxels

_STAMP = 10**18
_FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Vector3": (("x", 1, "double"), ("y", 2, "double"), ("z", 3, "double")),
    "Quaternion": (("x", 1, "double"), ("y", 2, "double"), ("z", 3, "double"), ("w", 4, "double")),
    "CompressedImage": (
        ("timestamp", 1, "Time"), ("frame_id", 4, "string"), ("data", 2, "bytes"), ("format", 3, "string"),
    ),
    "CameraCalibration": (
        ("timestamp", 1, "Time"), ("frame_id", 9, "string"), ("width", 2, "fixed32"), ("height", 3, "fixed32"),
        ("distortion_model", 4, "string"), ("D", 5, "doubles"), ("K", 6, "doubles"), ("R", 7, "doubles"),
        ("P", 8, "doubles"),
    ),
    "FrameTransform": (
        ("timestamp", 1, "Time"), ("parent_frame_id", 2, "string"), ("child_frame_id", 3, "string"),
        ("translation", 4, "Vector3"), ("rotation", 5, "Quaternion"),
    ),
}  # fmt: skip
"""Part of Foxglove's published schemas (foxglove-sdk, schemas/proto): field name, number, type."""
_ODOMETRY = {
    "pos": {"x": 1.0, "y": 2.0, "z": 0.0},
    "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
    "vel": {"x": 9.0, "y": 0.1, "z": 0.0},
    "rotation_rate": {"x": 0.0, "y": 0.0, "z": 0.2},
}


def example_messages() -> list[Any]:
    """One message of every type that nodes convert to types of the core."""
    from ..ros import messages

    ego = EgoState(np.eye(4), np.array([4.0, 0, 0, 0, 0, 0.1]), "map")
    images = np.zeros((2, 4, 6, 3), np.uint8)
    frames = CameraFrames(
        _STAMP, 0, ("left", "right"), np.array([_STAMP] * 2), np.ones(2, bool), images, np.stack([np.eye(4)] * 2), ego
    )
    floats: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in _QUERIES.items()}
    queries = SceneQueries(
        stamp=_STAMP,
        epoch=0,
        ego=ego,
        labels=np.zeros((3, 2), np.uint8),
        traffic_light=TrafficLight("red", 0.5, 12.0),
        **floats,
    )
    empty = (SparseVoxels.empty(),) * 3
    zeros = np.zeros(4, np.float32)
    reasoning = Reasoning(
        stamp=_STAMP, epoch=0, token=zeros, anchor_scores=np.zeros(18, np.float32), fused_features=zeros[None],
        forecasts=empty,
    )  # fmt: skip
    steps: dict[str, Any] = {name: np.zeros(6, np.float32) for name in ("heading", "speed", "acceleration")}
    plan = Plan(
        stamp=_STAMP, epoch=0, waypoints=np.zeros((6, 2), np.float32), candidates=np.zeros((2, 6, 2), np.float32),
        scores=np.zeros(2, np.float32), chosen=1, command=Command.LEFT, command_source=CommandSource.TOPIC,
        status=PlanStatus.OK, **steps,
    )  # fmt: skip
    return [
        messages.frames_to_msg(frames),
        messages.queries_to_msg(queries),
        messages.reasoning_to_msg(reasoning),
        messages.plan_to_msg(plan),
        messages.path_to_msg(plan),
        messages.pose_to_msg(np.eye(4)),
        messages.twist_to_msg(ego.twist),
    ]


_QUERIES = {"features": (3, 4), "centres": (3, 3), "points": (3, 2, 3), "scores": (3, 2), "view_features": (2, 4)}


@lru_cache(maxsize=1)
def _descriptors() -> descriptor_pb2.FileDescriptorSet:
    kinds = descriptor_pb2.FieldDescriptorProto
    scalar = {"double": kinds.TYPE_DOUBLE, "string": kinds.TYPE_STRING, "bytes": kinds.TYPE_BYTES}
    scalar |= {"fixed32": kinds.TYPE_FIXED32, "doubles": kinds.TYPE_DOUBLE}
    file = descriptor_pb2.FileDescriptorProto(
        name="foxglove/part.proto", package="foxglove", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = kinds.LABEL_REPEATED if kind == "doubles" else kinds.LABEL_OPTIONAL
            if kind in scalar:
                field.type = scalar[kind]
            else:
                field.type = kinds.TYPE_MESSAGE
                field.type_name = ".google.protobuf.Timestamp" if kind == "Time" else f".foxglove.{kind}"
    stamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
    return descriptor_pb2.FileDescriptorSet(file=[stamp, file])


def foxglove_messages() -> list[tuple[str, bytes]]:
    """(schema, serialised message) of an image, a calibration, a transform and a JSON pose."""
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClassesForFiles

    pool = DescriptorPool()
    for file in _descriptors().file:
        pool.Add(file)
    made = GetMessageClassesForFiles(["foxglove/part.proto"], pool)
    image = made["foxglove.CompressedImage"](frame_id="CAM_FRONT", data=b"\xff\xd8\xff\xd9", format="jpeg")
    camera = made["foxglove.CameraCalibration"](frame_id="CAM_FRONT", width=32, height=24)
    camera.K.extend([30.0, 0, 16, 0, 30, 12, 0, 0, 1])
    camera.D.extend([0.1, 0, 0, 0, 0])
    camera.distortion_model = "plumb_bob"
    edge = made["foxglove.FrameTransform"](parent_frame_id="map", child_frame_id="base_link")
    edge.rotation.w = 1.0
    samples = []
    for message in (image, camera, edge):
        message.timestamp.seconds = _STAMP // 10**9
        samples.append((message.DESCRIPTOR.full_name, message.SerializeToString()))
    return [*samples, ("", json.dumps(_ODOMETRY).encode())]


def foxglove_file(path: Path, samples: list[tuple[str, bytes]], instead: dict[int, bytes]) -> None:
    """Write an MCAP file with one message per channel; `instead` replaces the messages of some channels."""
    numbers = {"type": "object", "properties": {axis: {"type": "number"} for axis in "xyzw"}}
    schema_of_json = {"type": "object", "properties": dict.fromkeys(_ODOMETRY, numbers)}
    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.NONE)
        writer.start(profile="")
        for index, (name, data) in enumerate(samples):
            content = _descriptors().SerializeToString() if name else json.dumps(schema_of_json).encode()
            schema = writer.register_schema(name or "Pose", "protobuf" if name else "jsonschema", content)
            channel = writer.register_channel(f"/channel_{index}", "protobuf" if name else "json", schema)
            writer.add_message(channel, _STAMP, instead.get(index, data), _STAMP)
        writer.finish()


def opus_weights() -> dict[str, Any]:
    """Minimal tensors of a public OPUS state dict from which its configuration is derived."""
    import torch

    queries, dims, layer = 3, 8, "pts_bbox_head.transformer.decoder.decoder_layers.0"
    shapes = {
        "pts_bbox_head.init_points.weight": (queries, 3),
        f"{layer}.norm1.weight": (dims,),
        f"{layer}.sampling.sampling_offset.bias": (12,),
        f"{layer}.sampling.scale_weights.bias": (16,),
        f"{layer}.mixing.out_proj.weight": (dims, dims),
        f"{layer}.mixing.parameter_generator.bias": (4 * (4 + 1),),
        f"{layer}.reg_branch.4.bias": (6,),
        f"{layer}.self_attn.gen_tau.bias": (2,),
        f"{layer}.ffn.layers.0.0.bias": (dims,),
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}
