"""Camera rigs: where the six cameras sit and how they see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from ...core.classes import CAMERAS
from ...core.errors import InvalidInput
from ...core.geometry import transform

RIGS_FILE = Path(__file__).with_name("rigs.yaml")
SWEEP, JITTER = 0.05, 0.001
"""Seconds that a lidar sweep takes, and by which the moment of an exposure varies to both sides."""


@dataclass(frozen=True, eq=False)
class Camera:
    """One rectified pinhole camera.

    intrinsics: float64 [3, 3] pixels at the native size (width, height); integer coordinates are pixel centres.
    camera2ego: float64 [4, 4] from the optical frame (z forward, x right, y down) to base_link.
    sweep_offset: seconds from the end of a lidar sweep to this camera's exposure (negative: before it).
    """

    name: str
    width: int
    height: int
    intrinsics: np.ndarray
    camera2ego: np.ndarray
    sweep_offset: float

    def scaled(self, height: int, width: int) -> np.ndarray:
        """K float64 [3, 3] for images of another size that cover the same field of view."""
        if height < 1 or width < 1:
            raise InvalidInput("image size", f"{height} x {width} is no image")
        return np.diag([width / self.width, height / self.height, 1.0]) @ self.intrinsics


@cache
def load_rig(name: str = "n015") -> tuple[Camera, ...]:
    """The six cameras of a car in the order of core.classes.CAMERAS; InvalidInput for an unknown car."""
    table = yaml.safe_load(RIGS_FILE.read_text(encoding="utf-8"))
    if name not in table["rigs"]:
        raise InvalidInput("rig", f"{name!r} is none of {sorted(table['rigs'])}")
    width, height = table["image_size"]
    cameras = []
    for camera in CAMERAS:
        row = table["rigs"][name][camera]
        w, x, y, z = row["rotation"]
        cx, cy = row["centre"]
        k = np.array([[row["focal"], 0.0, cx], [0.0, row["focal"], cy], [0.0, 0.0, 1.0]])
        pose = transform(np.array(row["translation"]), np.array([x, y, z, w]), f"rig {name} {camera}")
        cameras.append(Camera(camera, width, height, k, pose, float(table["sweep_offset"][camera])))
    return tuple(cameras)
