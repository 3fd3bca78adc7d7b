"""What the planner hears in training is what the reasoner says on line of the same queries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.types import EgoState, SceneQueries
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner
from sparseoccvla_ros.train.features.reasoning import ReasoningFeatures
from sparseoccvla_ros.train.features.synthetic import HALF, QUERY_FIELDS, write_arrays

SETS, QUERIES, POINTS, WIDTH = 3, 40, 4, 16


def test_readings_are_those_of_the_on_line_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    config = ReasoningConfig(
        language_model="random-tiny", dtype="float32", query_dims=WIDTH, occupancy_tokens=8, global_tokens=2,
        ground_score=0.3, reading_dims=8, reading_counts=2, token_reads=True, lora_r=0,
    )  # fmt: skip
    rng = np.random.default_rng(4)
    anchors = np.cumsum(rng.normal(1, 0.5, (18, 6, 2)), axis=1).astype(np.float32)
    torch.manual_seed(1)
    reasoner = Reasoner(config, load_language_model("random-tiny", dtype="float32"), anchors).eval()
    arrays = {
        "features": rng.normal(size=(SETS, QUERIES, WIDTH)), "centres": rng.uniform(-38, 38, (SETS, QUERIES, 3)),
        "points": rng.uniform(-38, 38, (SETS, QUERIES, POINTS, 3)), "labels": rng.integers(0, 17, (SETS, QUERIES, 1)),
        "scores": rng.uniform(0, 1, (SETS, QUERIES, POINTS)), "view_features": rng.normal(size=(SETS, 6, WIDTH)),
    }  # fmt: skip
    arrays["labels"] = arrays["labels"].repeat(POINTS, -1).astype(np.uint8)
    arrays |= {n: arrays[n].astype(np.float16 if n in HALF else np.float32) for n in QUERY_FIELDS if n != "labels"}
    twist = np.tile(np.array([5.0, 0, 0, 0, 0, 0.1], np.float32), (SETS, 1))
    write_arrays(tmp_path / "scene", arrays | {"twist": twist}, {})
    readings = ReasoningFeatures(SimpleNamespace(key="key", file=lambda seed: tmp_path / "scene"), [])
    readings.prepare(reasoner, 7, rows=(0, 2))
    found = readings.read(7, ("token", "anchor_scores", "occupancy", "chosen"))
    assert found is not None
    assert np.isnan(found["token"][1]).all(), "who asks for it after all hears nothing, and no zeros"
    assert not found["anchor_scores"][1].any()
    for row in (0, 2):
        given = {n: v[row] if n == "labels" else v[row].astype(np.float32) for n, v in arrays.items()}
        ego = EgoState(np.eye(4), twist[row].astype(np.float64), "map")
        said = reasoner.reason(SceneQueries(stamp=row, epoch=0, ego=ego, **given))
        np.testing.assert_allclose(found["token"][row].astype(np.float32), said.token, atol=1e-2)
        np.testing.assert_allclose(found["anchor_scores"][row], said.anchor_scores, atol=1e-4)
