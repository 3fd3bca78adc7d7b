"""First run of each stage on synthetic input, so that the first real frame set is not slow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.types import CameraFrames, Command, CommandSource, EgoState, SceneQueries
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.planning.ego_history import EgoHistory
from sparseoccvla_ros.planning.planner import Planner
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner

from .presets import Preset

_STAMP = 10**9
_STEP = 400_000_000
_EGO = EgoState(np.eye(4), np.zeros(6), "map")
_TWIST = np.array([5.0, 0, 0, 0, 0, 0])


def made_up_drive(preset: Preset) -> Iterator[CameraFrames]:
    """Yields endless frame sets of noise from six cameras around a moving vehicle, 0.4 s and 2 m apart."""
    first = _frames(preset)
    for i in itertools.count():
        yield replace(first, stamp=first.stamp + i * _STEP, ego=EgoState(geometry.planar(2.0 * i, 0, 0), _TWIST, "map"))


def made_up_frames(preset: Preset, count: int) -> list[CameraFrames]:
    """Returns the first `count` frame sets of made_up_drive."""
    return list(itertools.islice(made_up_drive(preset), count))


def _frames(preset: Preset) -> CameraFrames:
    """A frame set of noise from six cameras around the vehicle."""
    height, width = preset.image.height, preset.image.width
    images = np.random.default_rng(0).integers(0, 255, (len(CAMERAS), height, width, 3), dtype=np.uint8)
    intrinsics = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 3], [0, 0, 1]])
    matrices = []
    for yaw in np.radians((0, -55, 55, 180, 110, -110)):
        camera2ego = np.eye(4)
        camera2ego[:3, 0] = np.sin(yaw), -np.cos(yaw), 0
        camera2ego[:3, 1] = 0, 0, -1
        camera2ego[:3, 2] = np.cos(yaw), np.sin(yaw), 0
        camera2ego[2, 3] = 1.5
        matrices.append(geometry.camera_matrix(intrinsics, geometry.inverse(camera2ego)))
    count = len(CAMERAS)
    stamps = np.full(count, _STAMP, np.int64)
    return CameraFrames(_STAMP, 0, CAMERAS, stamps, np.ones(count, np.bool_), images, np.stack(matrices), _EGO)


def made_up_queries(preset: Preset) -> SceneQueries:
    """Returns queries of the preset's shape, spread over the scene."""
    config = preset.occupancy
    r = np.random.default_rng(0)
    count, channels, points = config.queries, config.embed_dims, config.points_per_layer[-1]
    centres = (r.random((count, 3)) * (60, 60, 4) - (30, 30, 1)).astype(np.float32)
    return SceneQueries(
        stamp=_STAMP,
        epoch=0,
        ego=_EGO,
        features=r.standard_normal((count, channels)).astype(np.float32),
        centres=centres,
        points=np.repeat(centres[:, None], points, 1),
        labels=np.zeros((count, points), np.uint8),
        scores=np.full((count, points), 0.6, np.float32),
        view_features=np.zeros((2 * len(CAMERAS), channels), np.float32),
    )


def warm_up_occupancy(encoder: OccupancyEncoder, preset: Preset) -> None:
    """Encode twice: the second time with a frame in memory."""
    for _ in range(2):
        encoder.encode(_frames(preset))
    encoder.reset()


def warm_up_reasoning(reasoner: Reasoner, preset: Preset) -> None:
    """Run one prefill, which also caches the constant prompt."""
    reasoner.reason(made_up_queries(preset), None)
    reasoner.reset()


def warm_up_planning(planner: Planner, preset: Preset) -> None:
    """Plan once from standstill."""
    history = EgoHistory()
    history.add(_STAMP, _EGO.pose, _EGO.twist)
    planner.plan(made_up_queries(preset), SparseVoxels.empty(), None, history, Command.STRAIGHT, CommandSource.DEFAULT)
    planner.reset()
