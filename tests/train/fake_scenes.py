"""Scenes as the renderer would leave them, without rendering."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import FREE, LABEL
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.synthetic.scenes import WorldScene, WorldSettings


def scene_of(seed: int, settings: WorldSettings) -> WorldScene:
    """A scene as the renderer would leave it: a road, a bus across it whose distance the images' brightness tells."""
    rng = np.random.default_rng(seed)
    count = settings.clips * settings.sets
    png, labels, visible = [], [], []
    ego2img = np.tile(np.eye(4), (count, 6, 1, 1))
    for index in range(count):
        x = 104 + 4 * int(rng.integers(12))
        semantics = np.full(OCC3D_GRID.shape, FREE, np.uint8)
        semantics[90:130, 95:105, 2] = LABEL["driveable_surface"]
        semantics[x : x + 8, 60:140, 3:12] = LABEL["bus"]
        mask = np.ones(OCC3D_GRID.shape, bool)
        mask[:100] = False
        labels.append(zlib.compress(semantics.tobytes()))
        visible.append(zlib.compress(np.packbits(mask).tobytes()))
        for camera in range(6):
            image = rng.integers(0, 40, (32, 64, 3), np.uint8) + np.uint8(x - 100)
            png.append(cv2.imencode(".png", image)[1].tobytes())
            # All look forward, each from its own place: u = 32 - 20 y / x, v = 16 - 20 z / x.
            ego2img[index, camera, :3, :3] = [(32, -20, 0), (16, 0, -20), (1, 0, 0)]
            ego2img[index, camera, 0, 3] = 5.0 * camera
    pose = np.stack([geometry.planar(1.5 * i, 0.1 * i, 0.02 * i) for i in range(count)])
    time = 0.5 * np.arange(count)
    future = np.tile(np.eye(4), (count, 6, 1, 1))
    return WorldScene(
        seed, settings, png, np.ones(6, bool), ego2img, pose, np.zeros((count, 6)), time, future,
        np.zeros(count, np.uint8), labels, visible,
    )  # fmt: skip
