"""A micro network and samples without rendering, so that a training step takes milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import FREE, LABEL
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.dataset import Sample
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.train.settings import TrainSettings
from sparseoccvla_ros.train.stages.occupancy import OccupancyStage, OccupancyStageSettings

MICRO = OccupancyConfig(
    pretrained=False, strides=(16, 32), embed_dims=32, groups=2, heads=2, frames=2, queries=24, points_per_group=2,
    points_per_layer=(2, 8), ffn_dims=32, mixing_points=4,
)  # fmt: skip


def few_steps(steps: int, **options: Any) -> TrainSettings:
    """Settings of a run that is over in seconds and validates at its end only."""
    return TrainSettings(**{"steps": steps, "batch_size": 2, "validate_every": 1000, "seed": 5} | options)


class Boxes:
    """Samples with a road and one box each, whose place can be read off the images' brightness."""

    def __init__(self, count: int = 6) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        semantics = np.full(OCC3D_GRID.shape, FREE, np.uint8)
        semantics[90:130, 95:105, 2] = LABEL["driveable_surface"]
        x = 100 + 4 * (index % 6)
        semantics[x : x + 8, 96:100, 3:6] = LABEL["car"]
        images = rng.integers(0, 40, (2, 6, 32, 64, 3), np.uint8) + np.uint8(30 * (index % 6))
        ego2img = np.tile(np.eye(4, dtype=np.float32), (2, 6, 1, 1))
        # Every camera looks forward from the origin: u = 32 - 20 y / x, v = 16 - 20 z / x.
        ego2img[..., :3, :3] = np.array([(32, -20, 0), (16, 0, -20), (1, 0, 0)], np.float32)
        future = np.tile(np.eye(4, dtype=np.float32), (6, 1, 1))
        visible = np.ones(OCC3D_GRID.shape, bool)
        return Sample(f"box {index}", images, ego2img, semantics, visible, np.zeros(6, np.float32), 1, future)

    def state(self) -> list[int]:
        return [self.count]

    def refresh(self, state: list[int] | None = None) -> None:
        self.count = state[0] if state else self.count


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def micro() -> OccupancyStage:
    """Stage 1 of a micro network, always from the same weights."""
    torch.manual_seed(3)
    return OccupancyStage(OccupancyEncoder(MICRO), OccupancyStageSettings(frozen=2))
