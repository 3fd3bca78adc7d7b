"""A preset with which a whole evaluation takes seconds, and made-up samples for the planning evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.eval.tasks.planning_samples import AgentBoxes, Sample
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES

CONFIG = {
    "format_version": 1,
    "name": "micro",
    "seed": 3,
    "image": {"height": 64, "width": 176},
    "occupancy": {
        "pretrained": False, "strides": [16, 32], "embed_dims": 32, "groups": 2, "heads": 2, "frames": 2, "queries": 24,
        "points_per_group": 2, "points_per_layer": [2, 8], "ffn_dims": 32, "mixing_points": 4, "score_threshold": 0.01,
    },
    "reasoning": {"language_model": "random-tiny", "dtype": "float32", "query_dims": 32, "occupancy_tokens": 16},
    "planning": {"reasoning_dims": 64, "query_dims": 32},
}  # fmt: skip


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a preset with few queries and a random language model."""
    folder = tmp_path_factory.mktemp("presets") / "micro"
    folder.mkdir()
    tiny = Path(__file__).resolve().parents[2] / "models" / "tiny"
    (folder / "anchors.npz").write_bytes((tiny / "anchors.npz").read_bytes())
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return str(folder)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def features() -> Callable[..., np.ndarray]:
    def make(vx: float = 5.0, vy: float = 0.0, yaw_rate: float = 0.0, **more: float) -> np.ndarray:
        values = {"vx": vx, "vy": vy, "yaw_rate": yaw_rate, "has_velocity": 1.0, **more}
        return np.array([values.get(name, 0.0) for name in FEATURE_NAMES], np.float32)

    return make


@pytest.fixture
def parked() -> Callable[..., AgentBoxes]:
    def make(
        centre: tuple[float, float], yaw: float = 0.0, size: tuple[float, float] = (4.0, 2.0), **more
    ) -> AgentBoxes:
        """One box that stays where it is."""
        present = np.ones((1, 7), bool)
        present[0, list(more.get("absent", ()))] = False
        return AgentBoxes(
            centres=np.tile(np.array(centre, float), (1, 7, 1)),
            yaws=np.full((1, 7), yaw),
            present=present,
            sizes=np.array([size]),
            categories=(more.get("category", "vehicle.car"),),
            visibility=np.array([more.get("visibility", 4)], np.int8),
        )

    return make


@pytest.fixture
def make_sample(features) -> Callable[..., Sample]:
    def make(token: str = "a", truth: np.ndarray | None = None, **more) -> Sample:
        """Straight on at 5 m/s through an empty street, unless told otherwise."""
        straight = np.stack([5.0 * WAYPOINT_TIMES, np.zeros(6)], -1)
        return Sample(
            token=token,
            scene=more.pop("scene", "scene-1"),
            truth=straight if truth is None else truth,
            mask=more.pop("mask", np.ones(6, bool)),
            agents=more.pop("agents", AgentBoxes.none()),
            ego_features=more.pop("ego_features", features()),
            **more,
        )

    return make
