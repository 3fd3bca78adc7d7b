"""Scene tokens learn what questions are about before the language model is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.synthetic.qa_cache import QaPair
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.model.question_pooling import QuestionPooling
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner
from sparseoccvla_ros.train.features.dataset import FeatureSample
from sparseoccvla_ros.train.stages.question_pretraining import common_answers, pretrain_on_questions

WIDTH = 32
KINDS_OF_SCENE = ("Clear.", "Foggy.", "Overcast.")


@pytest.fixture(params=[pytest.param(0, id="plain", marks=pytest.mark.slow), pytest.param(32, id="reading token")])
def reasoner(request: pytest.FixtureRequest, tmp_path: Path) -> Reasoner:
    torch.manual_seed(0)
    config = ReasoningConfig(
        query_dims=WIDTH, language_model="random-tiny", dtype="float32", occupancy_tokens=12, global_tokens=4,
        reading_dims=request.param,
    )  # fmt: skip
    return Reasoner(config, load_language_model("random-tiny", tmp_path, "float32"), np.zeros((3, 6, 2), np.float32))


def sample(seed: int) -> FeatureSample:
    """The weather lies in the views, what is there in one query; the question alone tells neither."""
    rng = np.random.default_rng([seed, 2])
    vectors = np.random.default_rng(5).normal(size=(5, WIDTH))
    weather, car = int(rng.integers(3)), bool(rng.integers(2))
    features = rng.normal(0, 0.3, (20, WIDTH))
    if car:
        features[rng.integers(20)] += 3 * vectors[4]
    arrays = {
        "features": features.astype(np.float32),
        "centres": rng.uniform((-40, -40, 0), (40, 40, 2), (20, 3)).astype(np.float32),
        "labels": np.zeros((20, 4), np.uint8),
        # What is there is surer than the rest, so that it becomes a token.
        "scores": np.repeat(np.abs(features).max(1, keepdims=True) / 20, 4, 1).astype(np.float32),
        "view_features": (vectors[weather] + rng.normal(0, 0.3, (2, WIDTH))).astype(np.float32),
        "questions": [
            QaPair("What is the weather like?", KINDS_OF_SCENE[weather], "text"),
            QaPair("Is there a car?", "Yes." if car else "No.", "yes_no"),
            QaPair("Describe the scene.", f"Scene {seed}.", "free_text"),
        ],
    }
    nothing = np.zeros(6, np.float32)
    return FeatureSample(seed, 0.0, nothing, nothing, 1, np.zeros((6, 4, 4), np.float32), arrays)


@pytest.mark.slow
def test_answers_that_occur_often_are_read(reasoner: Reasoner) -> None:
    data = [sample(k) for k in range(200)]
    assert set(common_answers(data)) == {*KINDS_OF_SCENE, "Yes.", "No."}
    # Guessing gets 0.42: a third of the weathers, half of the cars.
    assert pretrain_on_questions(reasoner, data, 0, 40) < 0.7
    assert pretrain_on_questions(reasoner, data, 0, 300) > 0.9


def test_where_there_is_nothing_to_read_nothing_changes(reasoner: Reasoner) -> None:
    before = {k: v.clone() for k, v in reasoner.state_dict().items()}
    captions = [replace(s, arrays=s.arrays | {"questions": s.arrays["questions"][2:]}) for s in map(sample, range(20))]
    assert pretrain_on_questions(reasoner, captions, 0, 5) == 0.0
    assert all(torch.equal(v, before[k]) for k, v in reasoner.state_dict().items())


def test_a_question_is_read_as_it_will_be_heard_and_the_action_scores_anchors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ReasoningConfig(
        query_dims=WIDTH, language_model="random-tiny", dtype="float32", occupancy_tokens=12, global_tokens=4,
        reading_dims=16, reading_counts=2, token_reads=True,
    )  # fmt: skip
    anchors = np.random.default_rng(0).normal(size=(18, 6, 2)).astype(np.float32)
    reasoner = Reasoner(config, load_language_model("random-tiny", tmp_path, "float32"), anchors)
    before = reasoner.anchor_head.score[0].weight.detach().clone()
    heard: list[str] = []

    def told(question: str, about: FeatureSample, draw: np.random.Generator) -> str:
        heard.append(f"{about.seed}: {question}")
        return question

    pretrain_on_questions(reasoner, [sample(k) for k in range(20)], 0, 2, told)
    assert len(heard) == 2 * 16 * 10
    assert not any("Describe" in text for text in heard)
    assert not torch.equal(before, reasoner.anchor_head.score[0].weight)


def test_padding_of_a_question_is_not_read() -> None:
    torch.manual_seed(0)
    reading, tokens, scene = QuestionPooling(16, 8, 6, 1.0), torch.randn(2, 6, 16), torch.tensor([0, 1])
    short, long = torch.randn(5, 16), torch.randn(9, 16)
    together = reading([short, long], tokens, scene)
    for k, words in enumerate((short, long)):
        alone = reading([words], tokens[k : k + 1], torch.tensor([0]))
        torch.testing.assert_close(together[k], alone[0])


def test_steps_are_checked(reasoner: Reasoner) -> None:
    with pytest.raises(InvalidInput, match="steps"):
        pretrain_on_questions(reasoner, [sample(0)], 0, 0)
