"""Camera rigs: poses and intrinsics of a vehicle's cameras."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from ...core.classes import CAMERAS
from ...core.errors import InvalidInput
from ...core.geometry import transform

RIGS_FILE = Path(__file__).with_name("rigs.yaml")
SWEEP, JITTER = 0.05, 0.001
"""Duration of a lidar sweep, and largest deviation of an exposure time in either direction, s."""


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
        """Return K float64 [3, 3] for images of another size with the same field of view."""
        if height < 1 or width < 1:
            raise InvalidInput("image size", f"{height} x {width} is no image")
        return np.diag([width / self.width, height / self.height, 1.0]) @ self.intrinsics


@cache
def load_rig(name: str = "n015") -> tuple[Camera, ...]:
    """Load the six cameras of a car in the order of core.classes.CAMERAS. Raises InvalidInput("rig") if unknown."""
    table = yaml.safe_load(RIGS_FILE.read_text(encoding="utf-8"))
    if name not in table["rigs"]:
        raise InvalidInput("rig", f"{name!r} is not one of {sorted(table['rigs'])}")
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


_DIRECTIONS = {"CAM_FRONT": 0.0, "CAM_FRONT_RIGHT": -55.0, "CAM_FRONT_LEFT": 55.0, "CAM_BACK": 180.0,
               "CAM_BACK_LEFT": 110.0, "CAM_BACK_RIGHT": -110.0}  # fmt: skip
"""Viewing directions of the nuScenes cars' cameras, degrees, left positive."""


def random_rig(rng: np.random.Generator, most: int = len(CAMERAS)) -> tuple[Camera, ...]:
    """Draw a rig of 1 to `most` cameras with random viewing directions, mounting height and field of view.

    They are named by viewing direction, in the order of core.classes.CAMERAS; surplus cameras are named from CAM_6 on.
    """
    count = min(int(rng.choice([1, 2, 3, 4, 5, 6, 7, 8], p=[0.06, 0.06, 0.14, 0.20, 0.20, 0.24, 0.05, 0.05])), most)
    apart = 360.0 / count if count > 3 else float(rng.uniform(45.0, 75.0))
    headings = (np.arange(count) - (0 if count > 3 else 0.5 * (count - 1))) * apart + rng.normal(0.0, 6.0, count)
    height, reach = float(rng.uniform(1.2, 2.3)), float(rng.uniform(0.1, 0.9))
    wide = rng.uniform(48.0, 80.0) if count > 4 else rng.uniform(55.0, 112.0)
    width, image_height = 1600, 900
    out = {}
    names = _names(headings)
    for name, heading in zip(names, headings, strict=True):
        turn = Rotation.from_euler("ZYX", [heading, rng.normal(0.0, 3.0), rng.normal(0.0, 1.2)], degrees=True)
        pose = np.eye(4)
        # Optical axes: z forward, x right, y down.
        pose[:3, :3] = turn.as_matrix() @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
        place = turn.apply([reach, 0.0, 0.0])
        pose[:3, 3] = (0.9 + place[0], place[1], height + rng.normal(0.0, 0.05))
        focal = 0.5 * width / np.tan(0.5 * np.radians(wide * rng.uniform(0.9, 1.1)))
        centre = np.array([0.5 * width, 0.5 * image_height]) + rng.normal(0.0, 15.0, 2)
        k = np.array([[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]])
        out[name] = Camera(name, width, image_height, k, pose, float(rng.uniform(-0.05, 0.0)))
    return tuple(out[n] for n in (*CAMERAS, *(n for n in names if n not in CAMERAS)) if n in out)


def _names(headings: np.ndarray) -> list[str]:
    """Return a unique name per camera, that of the nuScenes camera closest in direction."""
    ways = np.array([_DIRECTIONS[c] for c in CAMERAS])
    off = np.abs((headings[:, None] - ways + 180.0) % 360.0 - 180.0)
    rows, columns = linear_sum_assignment(off)
    found = {int(r): CAMERAS[int(c)] for r, c in zip(rows, columns, strict=True)}
    spare = iter(range(len(CAMERAS), len(headings)))
    return [found[i] if i in found else f"CAM_{next(spare)}" for i in range(len(headings))]
