"""A small scene every test of this room can draw: six cameras around a car, a plan that turns, a few voxels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS, LABEL
from sparseoccvla_ros.core.types import CameraFrames, Command, CommandSource, EgoState, Plan, PlanStatus
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels

YAW = {"FRONT": 0, "FRONT_RIGHT": -55, "FRONT_LEFT": 55, "BACK": 180, "BACK_LEFT": 110, "BACK_RIGHT": -110}


def camera(yaw: float, width: int, height: int) -> np.ndarray:
    """ego2img of a camera 1.5 m up, 1.5 m ahead of the rear axle, tilted 8 degrees down."""
    focal = 0.8 * width
    intrinsics = np.array([(focal, 0, width / 2 - 0.5), (0, focal, height / 2 - 0.5), (0, 0, 1)])
    tilt = np.radians(8)
    optical = np.array([(0, 0, 1, 0), (-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 0, 1)], float)
    down = np.eye(4)
    down[:3, :3] = [(np.cos(tilt), 0, np.sin(tilt)), (0, 1, 0), (-np.sin(tilt), 0, np.cos(tilt))]
    camera2ego = geometry.planar(0, 0, yaw) @ down @ optical
    camera2ego[:3, 3] = (1.5, 0, 1.5)
    return geometry.camera_matrix(intrinsics, geometry.inverse(camera2ego))


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., CameraFrames]:
    def make(
        names: tuple[str, ...] = CAMERAS,
        size: tuple[int, int] = (128, 352),
        missing: tuple[str, ...] = (),
        yaws: tuple[float, ...] | None = None,
    ) -> CameraFrames:
        height, width = size
        angles = yaws or tuple(np.radians(YAW[n.removeprefix("CAM_")]) for n in names)
        ramp = np.linspace(40, 110, width).astype(np.uint8)
        images = np.broadcast_to(ramp[None, None, :, None], (len(names), height, width, 3)).copy()
        return CameraFrames(
            stamp=1_500_000_000,
            epoch=0,
            names=names,
            stamps=np.full(len(names), 1_500_000_000),
            valid=np.array([n not in missing for n in names]),
            images=images,
            ego2img=np.stack([camera(a, width, height) for a in angles]),
            ego=EgoState(geometry.planar(3, 4, 0.3), np.array([6.0, 0, 0, 0, 0, 0.1]), "map"),
        )

    return make


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    def make(status: PlanStatus = PlanStatus.OK, turn: float = 0.25, candidates: int = 6, empty: bool = False) -> Plan:
        times = np.arange(1, 7) * 0.5
        turns = np.linspace(-turn, turn, candidates) if candidates else np.zeros(0)
        radius = 1 / np.where(np.abs(turns) < 1e-6, 1e-6, turns / 6)
        angle = 6 * times / radius[:, None]
        paths = np.stack([radius[:, None] * np.sin(angle), radius[:, None] * (1 - np.cos(angle))], -1).astype(
            np.float32
        )
        steps = 0 if empty or not candidates else 6
        waypoints = paths[-1][:steps] if candidates else np.zeros((0, 2), np.float32)
        return Plan(
            stamp=1_500_000_000,
            epoch=0,
            waypoints=waypoints,
            heading=(turn * times)[:steps].astype(np.float32),
            speed=np.full(steps, 6, np.float32),
            acceleration=np.zeros(steps, np.float32),
            candidates=paths,
            scores=np.linspace(0.1, 0.9, candidates).astype(np.float32),
            chosen=candidates - 1 if steps else -1,
            command=Command.LEFT,
            command_source=CommandSource.TOPIC,
            status=status,
            reasons=() if status is PlanStatus.OK else ("reasoning_late",),
        )

    return make


@pytest.fixture(scope="session")
def voxels() -> SparseVoxels:
    """A road of 16 m around the ego and a car 12 m ahead, 3 m to the left."""
    index = np.stack(np.meshgrid(np.arange(60, 190), np.arange(80, 120), [2], indexing="ij"), -1).reshape(-1, 3)
    car = np.stack(np.meshgrid(np.arange(125, 136), np.arange(105, 110), [3, 4, 5], indexing="ij"), -1).reshape(-1, 3)
    labels = np.repeat([LABEL["driveable_surface"], LABEL["car"]], [len(index), len(car)]).astype(np.uint8)
    indices = np.concatenate([index, car]).astype(np.int16)
    return SparseVoxels(indices, labels, np.full(len(labels), 0.8, np.float32), OCC3D_GRID)


@pytest.fixture
def one_voxel() -> Callable[..., SparseVoxels]:
    """A single voxel at x, y, z metres."""

    def make(x: float, y: float, z: float, name: str) -> SparseVoxels:
        index, inside = OCC3D_GRID.index_of(np.array([(x, y, z)]))
        assert inside.all()
        return SparseVoxels(index.astype(np.int16), np.array([LABEL[name]], np.uint8), np.ones(1, np.float32))

    return make
