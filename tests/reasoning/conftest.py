"""Scenes and language models for the reasoning tests."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.types import EgoState, SceneQueries
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def only_new():
    """The collector leaves out what lives already: to look through every module's objects takes a second each time."""
    gc.freeze()
    yield
    gc.unfreeze()


def scene(
    seed: int = 0, count: int = 150, points: int = 4, channels: int = 128, views: int = 6, stamp: int | None = None
):
    """A random SceneQueries driving at 5 m/s in a slight left turn."""
    rng = np.random.default_rng(seed)
    centres = np.column_stack(
        [rng.uniform(-38, 38, count), rng.uniform(-38, 38, count), rng.uniform(-0.5, 4, count)]
    ).astype(np.float32)
    offsets = rng.normal(0, 0.6, (count, points, 3))
    return SceneQueries(
        stamp=seed if stamp is None else stamp,
        epoch=0,
        ego=EgoState(np.eye(4), np.array([5.0, 0, 0, 0, 0, 0.1]), "map"),
        features=rng.normal(size=(count, channels)).astype(np.float32),
        centres=centres,
        points=(centres[:, None] + offsets).astype(np.float32),
        labels=rng.integers(0, 17, (count, points)).astype(np.uint8),
        scores=rng.uniform(0, 1, (count, points)).astype(np.float32),
        view_features=rng.normal(size=(views, channels)).astype(np.float32),
    )


@pytest.fixture(scope="session")
def make_scene():
    return scene


@pytest.fixture(scope="session")
def tiny_model():
    return load_language_model("random-tiny", dtype="float32")


@pytest.fixture(scope="session")
def anchors():
    return np.cumsum(np.random.default_rng(7).normal(1, 0.5, (18, 6, 2)), axis=1).astype(np.float32)


@pytest.fixture
def make_reasoner(tiny_model, anchors):
    def make(**changes) -> Reasoner:
        torch.manual_seed(1)
        config = ReasoningConfig(language_model="random-tiny", dtype="float32", **changes)
        return Reasoner(config, tiny_model, anchors).eval()

    return make


@pytest.fixture
def reasoner(make_reasoner):
    return make_reasoner()


def as_batch(queries: SceneQueries, motion: np.ndarray) -> list[torch.Tensor]:
    arrays = (queries.features, queries.centres, queries.scores, queries.view_features, motion)
    return [torch.from_numpy(a)[None] for a in arrays]


@pytest.fixture(scope="session")
def batch():
    return as_batch
