"""A camera rig, frame sets of a moving vehicle, and a small encoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.types import CameraFrames, EgoState
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder

YAWS = dict(zip(CAMERAS, (0.0, -55.0, 55.0, 180.0, 110.0, -110.0), strict=True))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def ego2img_of(name: str, height: int, width: int) -> np.ndarray:
    """A pinhole camera 1.6 m over the ground that looks along its yaw."""
    yaw = math.radians(YAWS[name])
    forward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    rotation = np.stack([[math.sin(yaw), -math.cos(yaw), 0.0], [0.0, 0.0, -1.0], forward])
    ego2camera = np.eye(4)
    ego2camera[:3, :3] = rotation
    ego2camera[:3, 3] = -rotation @ (np.array([1.0, 0.0, 1.6]) + 0.5 * forward)
    intrinsics = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, 0.45 * height], [0, 0, 1]])
    return geometry.camera_matrix(intrinsics, ego2camera)


@pytest.fixture
def make_frames() -> Callable[..., CameraFrames]:
    """Frame set number `step`: smooth random images, 0.5 s and about 3 m of a gentle curve apart."""

    def make(
        step: int, names: tuple[str, ...] = CAMERAS, size: tuple[int, int] = (64, 96), epoch: int = 0
    ) -> CameraFrames:
        height, width = size
        images = np.zeros((len(names), height, width, 3), np.uint8)
        for index, name in enumerate(names):
            rng = np.random.default_rng([step, CAMERAS.index(name)])
            coarse = rng.uniform(0, 255, (3, height // 16, width // 16))
            smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], size=size, mode="bilinear")[0]
            images[index] = smooth.permute(1, 2, 0).numpy().astype(np.uint8)
        stamp = 1_700_000_000_000_000_000 + step * 500_000_000
        return CameraFrames(
            stamp=stamp,
            epoch=epoch,
            names=names,
            stamps=np.full(len(names), stamp, np.int64),
            valid=np.ones(len(names), bool),
            images=images,
            ego2img=np.stack([ego2img_of(n, height, width) for n in names]),
            ego=EgoState(
                geometry.planar(500 + 3.0 * step, 80 + 0.2 * step**2, 0.05 * step),
                np.array([6.0, 0, 0, 0, 0, 0.1]),
                "map",
            ),
        )

    return make


@pytest.fixture
def small() -> OccupancyConfig:
    """The tiny preset with fewer queries, some of which start where the images say."""
    return OccupancyConfig(queries=40, image_queries=12, points_per_layer=(2, 4, 8))


@pytest.fixture
def make_encoder() -> Callable[[OccupancyConfig], OccupancyEncoder]:
    """An encoder whose zero-initialised weights are random, since zeros hide mistakes."""

    def make(config: OccupancyConfig) -> OccupancyEncoder:
        torch.manual_seed(3)
        encoder = OccupancyEncoder(config)
        with torch.no_grad():
            for layer in encoder.decoder.layers:
                for weight in (
                    layer.sampling.sampling_offset.weight,
                    layer.mixing.parameter_generator.weight,
                    layer.self_attn.gen_tau.weight,
                ):
                    weight.normal_(0.0, 0.02)
        return encoder

    return make
