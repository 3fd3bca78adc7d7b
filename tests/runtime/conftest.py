"""Encoders whose zero-initialised weights are random (zeros hide mistakes), real frames, and a cache of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice

import pytest
import torch

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.core.types import CameraFrames
from sparseoccvla_ros.data.bags.offline_sync import bag_frames
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.runtime.presets import Preset, load_preset

R50 = OccupancyConfig.opus(
    "t", backbone_width=8, embed_dims=64, queries=24, frames=3, points_per_layer=(2, 4), ffn_dims=64, mixing_points=8
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty cache folder for the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def presets() -> dict[str, Preset]:
    """The tiny preset, and a ResNet-50 one in the compatible ways of OPUS, small, with images that need padding."""
    tiny = load_preset("tiny")
    r50 = dataclasses.replace(tiny, name="r50", occupancy=R50, image=ImageConfig(height=60, width=160), weights={})
    return {"tiny": tiny, "r50": r50}


def random_encoder(preset: Preset) -> OccupancyEncoder:
    """An encoder with every weight random, the same each time."""
    torch.manual_seed(3)
    encoder = OccupancyEncoder(preset.occupancy)
    with torch.no_grad():
        for layer in encoder.decoder.layers:
            for weight in (
                layer.sampling.sampling_offset.weight,
                layer.mixing.parameter_generator.weight,
                layer.self_attn.gen_tau.weight,
            ):
                weight.normal_(0.0, 0.02)
    return encoder.requires_grad_(False)


class Frames(dict[str, list[CameraFrames]]):
    """The first frame sets of the bundled bag as a preset sees them, read when they are first asked for."""

    def __init__(self, presets: dict[str, Preset]) -> None:
        super().__init__()
        self._presets = presets

    def __missing__(self, name: str) -> list[CameraFrames]:
        self[name] = list(islice(bag_frames(bundled_bag(), self._presets[name].image), 7))
        return self[name]


@pytest.fixture(scope="session")
def frames(presets: dict[str, Preset]) -> Frames:
    return Frames(presets)
