"""Frame sets for message tests."""

from collections.abc import Callable

import numpy as np
import pytest

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.types import CameraFrames, EgoState


@pytest.fixture
def frames() -> Callable[[int], CameraFrames]:
    def make(index: int) -> CameraFrames:
        r = np.random.default_rng(index)
        ego = EgoState(geometry.planar(1, 2, 0.3), np.arange(6.0), "odom")
        stamps = 10**18 + np.arange(6, dtype=np.int64)
        images = r.integers(0, 255, (6, 8, 12, 3), dtype=np.uint8)
        valid = np.array([1, 1, 0, 1, 1, 1], bool)
        return CameraFrames(int(stamps[0]), 4, CAMERAS, stamps, valid, images, r.random((6, 4, 4)), ego)

    return make
