"""Scenes, histories and planners for the planning tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.core.types import EgoState, Reasoning, SceneQueries
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.planning import anchor_presets
from sparseoccvla_ros.planning.anchors import AnchorSet, fit_anchors
from sparseoccvla_ros.planning.config import PlanningConfig, ValidatorConfig
from sparseoccvla_ros.planning.ego_history import EgoHistory
from sparseoccvla_ros.planning.planner import Planner

STAMP = 1_700_000_000_000_000_000


@pytest.fixture(scope="session")
def anchors() -> AnchorSet:
    return fit_anchors(*anchor_presets.urban(), seed=0)


@pytest.fixture
def make_planner(anchors: AnchorSet) -> Callable[..., Planner]:
    def make(**settings: object) -> Planner:
        torch.manual_seed(3)
        limits = {k: settings.pop(k) for k in [f.name for f in fields(ValidatorConfig)] if k in settings}
        planner = Planner(PlanningConfig(**settings), anchors, ValidatorConfig(**limits))
        planner.eval()
        planner.trained = True
        return planner

    return make


@pytest.fixture
def make_queries() -> Callable[..., SceneQueries]:
    def make(
        speed: float = 8.0, stamp: int = STAMP, count: int = 24, pose: np.ndarray | None = None, **more
    ) -> SceneQueries:
        rng = np.random.default_rng(11)
        pose = planar(100.0, -40.0, 0.7) if pose is None else pose
        return SceneQueries(
            stamp=stamp,
            epoch=more.pop("epoch", 0),
            ego=EgoState(pose, np.array([speed, 0, 0, 0, 0, more.pop("yaw_rate", 0.0)]), "map"),
            features=rng.standard_normal((count, 128)).astype(np.float32),
            centres=rng.uniform(-30, 30, (count, 3)).astype(np.float32),
            points=np.zeros((count, 2, 3), np.float32),
            labels=np.zeros((count, 2), np.uint8),
            scores=np.zeros((count, 2), np.float32),
            view_features=np.zeros((0, 128), np.float32),
            trained=more.pop("trained", True),
            **more,
        )

    return make


@pytest.fixture
def make_history() -> Callable[..., EgoHistory]:
    def make(queries: SceneQueries, seconds: float = 3.0) -> EgoHistory:
        """Straight driving at the present speed up to the scene's stamp, 20 Hz."""
        history = EgoHistory()
        for age in np.arange(round(seconds * 20), -1, -1) * 0.05:
            behind = planar(-queries.ego.speed * age, 0.0, 0.0)
            history.add(queries.stamp - round(age * 1e9), queries.ego.pose @ behind, queries.ego.twist)
        return history

    return make


@pytest.fixture
def make_reasoning() -> Callable[..., Reasoning]:
    def make(stamp: int = STAMP, epoch: int = 0, scores: np.ndarray | None = None, forecasts=None, **more) -> Reasoning:
        empty = (SparseVoxels.empty(),) * 3
        return Reasoning(
            stamp=stamp,
            epoch=epoch,
            token=np.linspace(-1, 1, 576, dtype=np.float32),
            anchor_scores=np.zeros(18, np.float32) if scores is None else scores.astype(np.float32),
            fused_features=np.zeros((1, 128), np.float32),
            forecasts=empty if forecasts is None else forecasts,
            trained=more.pop("trained", True),
            **more,
        )

    return make


@pytest.fixture
def make_voxels() -> Callable[..., SparseVoxels]:
    def make(points: np.ndarray, label: int, score: float = 1.0) -> SparseVoxels:
        """Voxels at metric points [N, 3] plus a patch of road under the vehicle."""
        road = np.stack(np.meshgrid(np.arange(-8, 20, 0.4), np.arange(-6, 6, 0.4)), -1).reshape(-1, 2)
        road = np.column_stack([road, np.full(len(road), 0.1)])
        index, inside = OCC3D_GRID.index_of(np.concatenate([road, np.asarray(points, float).reshape(-1, 3)]))
        labels = np.concatenate([np.full(len(road), 11), np.full(len(inside) - len(road), label)]).astype(np.uint8)
        return SparseVoxels(index[inside].astype(np.int16), labels[inside], np.full(inside.sum(), score, np.float32))

    return make
