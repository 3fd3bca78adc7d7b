"""Small bags for the tests of readers and playback, and a small nuScenes root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.data.bag_writer import BagWriter
from sparseoccvla_ros.data.nuscenes_index import NuscenesIndex
from sparseoccvla_ros.data.nuscenes_layout import VERSION, write_world_root
from sparseoccvla_ros.data.nuscenes_prepare import prepare

START = 1_700_000_000_000_000_123


@pytest.fixture
def drive(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bag of `seconds`: tf_static once, a 10 Hz string and a 10 Hz tiny image, first stamp START."""

    def write(name: str = "drive", seconds: float = 1.0, static: bool = True) -> Path:
        path = tmp_path / name
        with BagWriter(path) as bag:
            if static:
                bag.transforms(START, [("base_link", "CAM_FRONT", np.eye(4))], static=True)
            for k in range(round(seconds * 10) + 1):
                stamp = START + k * 100_000_000
                bag.string("/count", stamp, str(k))
                bag.compressed_image("/CAM_FRONT/image_rect_compressed", stamp, "CAM_FRONT", b"\xff\xd8" + bytes(50))
        return path

    return write


@pytest.fixture(scope="session")
def world_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nuScenes-layout root of two short drives of the world: seven keyframes each, tiny images; never written to."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return write_world_root(tmp_path_factory.mktemp("world") / "root", [5, 8], 3.2, 72, 128)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def world_index(world_root: Path) -> NuscenesIndex:
    """Its index."""
    return prepare(world_root, VERSION)
