"""The connector's tokens say what their queries are before the language model has been asked anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import CLASSES, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import LanguageModel, load_language_model
from sparseoccvla_ros.reasoning.model.connector import Connector
from sparseoccvla_ros.train.features.dataset import FeatureSample
from sparseoccvla_ros.train.stages.connector_pretraining import (
    DIRECTIONS,
    METRES,
    WordTable,
    pretrain_connector,
    words_of,
)

WIDTH, SHOWN = 32, (LABEL["car"], LABEL["pedestrian"], LABEL["driveable_surface"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model("random-tiny", Path(tmp_path_factory.mktemp("cache")), "float32")


def sample(seed: int) -> FeatureSample:
    """Queries whose features are a fixed vector per class, somewhere in the grid."""
    vectors = np.random.default_rng(5).normal(size=(len(CLASSES), WIDTH))
    rng = np.random.default_rng([seed, 1])
    classes = rng.choice(SHOWN, 40)
    arrays = {
        "features": (vectors[classes] + rng.normal(0, 0.1, (40, WIDTH))).astype(np.float32),
        "centres": rng.uniform((-40, -40, 0), (40, 40, 2), (40, 3)).astype(np.float32),
        "labels": np.repeat(classes[:, None], 4, 1).astype(np.uint8),
        "scores": np.full((40, 4), 0.7, np.float32),
    }
    nothing = np.zeros(6, np.float32)
    return FeatureSample(seed, 0.0, nothing, nothing, 1, np.zeros((6, 4, 4), np.float32), arrays)


def test_words_name_class_direction_and_distance() -> None:
    labels = np.array([[LABEL["car"], LABEL["bus"], LABEL["bus"]], [LABEL["bus"]] * 3], np.uint8)
    scores = np.array([[0.9, 0.4, 0.3], [0.1, 0.1, 0.1]], np.float32)
    centres = np.array([[8.0, 8.0, 1.0], [-0.1, -33.0, 0.0]], np.float32)
    found = words_of(labels, scores, centres)
    said = [(CLASSES[c], DIRECTIONS[d], METRES[m]) for c, d, m in found]
    assert said == [("car", "front left", 10), ("bus", "right", 30)]


def test_tokens_of_unseen_queries_are_nearest_to_their_own_words(model: LanguageModel) -> None:
    torch.manual_seed(0)
    connector = Connector(ReasoningConfig(query_dims=WIDTH), model.dims, 0.02)
    table, seen = WordTable(model), sample(99).arrays
    words = torch.from_numpy(words_of(seen["labels"], seen["scores"], seen["centres"]))
    every = torch.cartesian_prod(torch.tensor(SHOWN), torch.arange(8), torch.arange(7))
    captions = torch.nn.functional.normalize(table.tokens(every), dim=-1)

    def named() -> float:
        with torch.no_grad():
            tokens = connector(torch.from_numpy(seen["features"]), torch.from_numpy(seen["centres"]))
        nearest = every[(torch.nn.functional.normalize(tokens, dim=-1) @ captions.T).argmax(1)]
        return float((nearest[:, :2] == words[:, :2]).all(-1).float().mean())

    before = named()
    cosine = pretrain_connector(connector, model, [sample(k) for k in range(40)], 0, 250)
    assert before < 0.3
    assert named() > 0.75
    assert cosine > 0.8


def test_steps_are_checked(model: LanguageModel) -> None:
    with pytest.raises(InvalidInput, match="steps"):
        pretrain_connector(Connector(ReasoningConfig(), model.dims, 1.0), model, [sample(0)], 0, 0)
