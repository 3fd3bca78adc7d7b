"""The parts of the stages that are exported to ONNX: modules with static shapes and named inputs and outputs.

Batch size 1. Only tensor arithmetic is exported, which an engine can replace; streaming memory, checks and
post-processing stay in the stages, and the language model stays in torch.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.classes import CAMERAS
from ..core.types import CameraFrames, SceneQueries
from ..occupancy.encoder import OccupancyEncoder, padded_size
from ..occupancy.sampling.views import SceneViews, level_starts

FORMAT = 1
"""Version of the exported graphs; changing it invalidates every cached engine."""
Shape = tuple[torch.dtype, tuple[int, ...]]
Sample = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Graph:
    """One module to export.

    inputs: dtype and shape by name, in the order of `module.forward`; outputs: names in the order of its result;
    precision: float32, or bfloat16 if the module computes in it; settings: everything else that affects the result, as
    text; room: the package folder whose code it runs.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    settings: str
    room: str
    precision: str = "float32"

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that change with weights, settings, shapes, precision, code and torch version."""
        digest = hashlib.sha256()
        words = (FORMAT, self.name, self.inputs, self.outputs, self.settings, self.precision, torch.__version__)
        digest.update(repr(words).encode())
        for name, tensor in sorted([*self.module.named_parameters(), *self.module.named_buffers()], key=lambda p: p[0]):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        package = Path(__file__).resolve().parents[1]
        for file in sorted((package / self.room).rglob("*.py")):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def run(self, sample: Sample) -> Sample:
        """Run the module on a sample in torch; returns its results by output name."""
        result = self.module(*(sample[name] for name in self.inputs))
        return dict(zip(self.outputs, result, strict=True))


class _Images(nn.Module):
    """Backbone and neck. images uint8 [N, H, W, 3] to one float32 [N, H_l, W_l, C] per level: the layout of
    SceneViews.table, so that the streaming memory copies it without a permutation."""

    def __init__(self, encoder: OccupancyEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # The cast comes first: TensorRT accepts uint8 only as a network input.
        levels = self.encoder.image_features(images.float())
        return tuple(level.permute(0, 2, 3, 1) for level in levels)


class _Decoder(nn.Module):
    """The sparse decoder: table float32 [1, T, rows, C], ego2img float32 [1, T, N, 4, 4], usable bool [1, T, N], slots
    int64 [T] to its last layer's features [1, Q, C], normalised points [1, Q, R, 3] and their logits [1, Q, R, 17], or
    point features [1, Q, R, C_p] of OPUS-V2: a densifier, whose sizes change from scene to scene, stays in torch."""

    def __init__(self, decoder: nn.Module, sizes: tuple[tuple[int, int], ...], image_size: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self.sizes, self.image_size = decoder, sizes, image_size

    def forward(self, table: Tensor, ego2img: Tensor, usable: Tensor, slots: Tensor) -> tuple[Tensor, ...]:
        last = self.decoder(SceneViews(table, self.sizes, ego2img, usable, self.image_size, slots))[-1]
        return last.features, last.points, last.point_features if last.logits is None else last.logits


def level_sizes(encoder: OccupancyEncoder, image: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(H_l, W_l) of the feature levels for images of (H, W) pixels."""
    height, width = padded_size(image)
    return tuple((height // s, width // s) for s in encoder.config.strides)


def image_graph(encoder: OccupancyEncoder, image: tuple[int, int], precision: str = "float32") -> Graph:
    """Backbone and neck for six images of (H, W) pixels; precision as OccupancyConfig.backbone_dtype."""
    plain = copy.copy(encoder)
    plain.__dict__ |= {
        "_modules": {"backbone": encoder.backbone, "neck": encoder.neck},
        "config": encoder.config.replace(backbone_dtype=precision),
    }
    for name in ("image_features", "decode"):  # an engine set in their place must not get into the graph
        plain.__dict__.pop(name, None)
    module = _Images(plain)
    shape = (len(CAMERAS), *image, 3)
    outputs = tuple(f"level{i}" for i in range(len(encoder.config.strides)))
    settings = repr((plain.config, image))
    return Graph("images", module.eval(), {"images": (torch.uint8, shape)}, outputs, settings, "occupancy", precision)


def decoder_graph(encoder: OccupancyEncoder, image: tuple[int, int]) -> Graph:
    """The decoder for features of six images of (H, W) pixels; always float32, because it computes geometry."""
    config, sizes = encoder.config, level_sizes(encoder, image)
    frames, cameras = config.frames, len(CAMERAS)
    inputs = {
        "table": (torch.float32, (1, frames, level_starts(sizes, cameras)[-1], config.embed_dims)),
        "ego2img": (torch.float32, (1, frames, cameras, 4, 4)),
        "usable": (torch.bool, (1, frames, cameras)),
        "slots": (torch.int64, (frames,)),
    }
    module = _Decoder(encoder.decoder, sizes, padded_size(image)).eval()
    # The decoder does not depend on the backbone's precision: one engine serves both.
    settings = repr((config.replace(backbone_dtype="float32"), sizes, encoder.grid))
    outputs = ("features", "points", "point_features" if config.decoder == "opus_v2" else "logits")
    return Graph("decoder", module, inputs, outputs, settings, "occupancy")


@dataclass
class Recording:
    """Inputs of the graphs and resulting queries of a run of the encoder; the newest `keep` of each."""

    keep: int = 3
    images: list[Sample] = field(default_factory=list)
    decoder: list[Sample] = field(default_factory=list)
    queries: list[SceneQueries] = field(default_factory=list)


def record(encoder: OccupancyEncoder, frames: Iterable[CameraFrames], keep: int = 3) -> Recording:
    """Encode frame sets in torch and record graph inputs and queries; resets the encoder before and after."""
    kept = Recording(keep)

    def remember(into: list, item: object) -> None:
        into.append(item)
        del into[:-keep]

    class Listening(OccupancyEncoder):
        def image_features(self, images: Tensor) -> list[Tensor]:
            remember(kept.images, {"images": images.clone()})
            return super().image_features(images)

        def decode(self, scene: SceneViews) -> list:
            remember(kept.decoder, scene_sample(scene))
            return super().decode(scene)

    listener = copy.copy(encoder)
    for name in ("image_features", "decode"):
        listener.__dict__.pop(name, None)
    listener.__class__ = Listening
    listener.reset()
    for item in frames:
        remember(kept.queries, listener.encode(item))
    listener.reset()
    return kept


def scene_sample(scene: SceneViews, clone: bool = True) -> Sample:
    """Returns a SceneViews as the decoder graph's inputs. clone: copy its table, which the memory overwrites later."""
    slots = torch.arange(scene.table.shape[1]) if scene.slots is None else scene.slots
    table = scene.table.clone() if clone else scene.table
    return {"table": table, "ego2img": scene.ego2img, "usable": scene.usable, "slots": slots}
