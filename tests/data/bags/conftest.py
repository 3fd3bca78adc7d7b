"""Small bags for the tests of readers and playback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.data.bags.writer import BagWriter

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
