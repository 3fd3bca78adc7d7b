"""The reading token: made of scene tokens alone, the same on line, in batches and in training."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.model.question_pooling import POOLED_TOKEN, QuestionPooling
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner
from sparseoccvla_ros.reasoning.prompts import ACTION
from sparseoccvla_ros.reasoning.serving.generation import decode
from sparseoccvla_ros.reasoning.serving.text_stream import TextStream
from sparseoccvla_ros.train.language_batch import IGNORED, continue_scenes, text_batch, training_forward
from sparseoccvla_ros.world.qa.questions import templates

QUESTIONS = ("What is near?", "How is the weather, and is there a car ahead of us?")


@pytest.fixture
def reasoner(tmp_path: Path) -> Reasoner:
    torch.manual_seed(0)
    config = ReasoningConfig(language_model="random-tiny", dtype="float32", reading_dims=16)
    anchors = np.zeros((3, 6, 2), np.float32)
    return Reasoner(config, load_language_model("random-tiny", tmp_path, "float32"), anchors).eval()


def test_training_and_decoding_read_the_same(reasoner: Reasoner, make_scene) -> None:
    queries = make_scene(0)
    reasoner.reason(queries)
    scene = reasoner._scene
    assert scene is not None
    text = text_batch(reasoner, [[(q, "Nothing.") for q in QUESTIONS]])
    assert ((text.ids == POOLED_TOKEN).sum(1) == 1).all()
    with torch.inference_mode():
        hidden = continue_scenes(reasoner, scene.layers, text, scene.tokens)
        read = reasoner.pool_question(QUESTIONS, scene.tokens, torch.zeros(2, dtype=torch.long))
    assert read is not None
    # The state before the first token of the answer, whose label is the first that counts.
    place = (text.labels != IGNORED).int().argmax(1) - 1
    said = reasoner.language_model.logits(hidden[torch.arange(2), place]).argmax(-1)
    for k, question in enumerate(QUESTIONS):
        stream = TextStream(reasoner.language_model.text, 2000)
        pushed: list[int] = []
        stream.push = lambda token, pushed=pushed: pushed.append(token) or ""  # type: ignore[method-assign]
        decode(
            reasoner.language_model, scene.layers, reasoner.question_ids(question), stream, str, threading.Event(),
            reasoner._model_lock, 1, time.monotonic() + 60, read[k],
        )  # fmt: skip
        assert pushed in ([int(said[k])], [])
    one, both = [reasoner.ask(q, max_tokens=8) for q in QUESTIONS], reasoner.ask_batch(QUESTIONS, max_tokens=8)
    assert [a.text for a in one] == [a.text for a in both]


def test_another_scene_reads_differently(reasoner: Reasoner, make_scene) -> None:
    scene = torch.zeros(1, dtype=torch.long)
    found = []
    for seed in (0, 1):
        reasoner.reason(make_scene(seed))
        assert reasoner._scene is not None
        with torch.inference_mode():
            found.append(reasoner.pool_question(QUESTIONS[:1], reasoner._scene.tokens, scene))
    assert not torch.allclose(found[0], found[1])
    size = reasoner.language_model.embedding_weight.pow(2).mean().sqrt()
    torch.testing.assert_close(found[0].pow(2).mean().sqrt(), size, rtol=1e-3, atol=0.0)


def test_the_loss_reaches_tokens_and_reading(reasoner: Reasoner, make_scene) -> None:
    queries = make_scene(0)
    inputs = [torch.from_numpy(getattr(queries, n))[None] for n in ("features", "centres", "scores", "view_features")]
    text = text_batch(reasoner, [[(QUESTIONS[0], "A car.")]])
    training_forward(reasoner, *inputs, torch.zeros(1, 6, 2), text).language_loss.backward()
    for name in ("reading.gain.weight", "reading.place", "connector.mlp.0.weight", "global_tokens.queries"):
        gradient = reasoner.get_parameter(name).grad
        assert gradient is not None, name
        assert bool(gradient.abs().sum() > 0), name


def test_without_it_nothing_is_read(reasoner: Reasoner) -> None:
    plain = Reasoner(replace(reasoner.config, reading_dims=0), reasoner.language_model, np.zeros((3, 6, 2), np.float32))
    tokens = torch.zeros(1, 4, plain.language_model.dims)
    assert plain.pool_question(QUESTIONS, tokens, torch.zeros(2, dtype=torch.long)) is None
    assert not any(name.startswith("reading") for name in plain.state_dict())


def test_sums_tell_five_alike_from_two_and_a_mean_does_not() -> None:
    torch.manual_seed(0)
    words, car = [torch.randn(4, 16)], torch.randn(1, 1, 16)
    for counts in (0, 3):
        reading = QuestionPooling(16, 8, 9, 1.0, counts).eval()
        torch.nn.init.zeros_(reading.place)
        with torch.inference_mode():
            few, many = (reading.read(words, car.repeat(1, n, 1), torch.tensor([0])) for n in (2, 5))
        torch.testing.assert_close(few[0], many[0])
        torch.testing.assert_close(few[1][:, :16], many[1][:, :16])
        torch.testing.assert_close(few[1][:, 16:] * 2.5, many[1][:, 16:])
        assert few[1].shape[1] == reading.code == 16 + counts


def test_the_reasoning_token_reads_on_line_as_in_training(reasoner: Reasoner, make_scene) -> None:
    assert ACTION in templates()["questions"]["keywords"]["texts"]
    found = {}
    for reads in (False, True):
        torch.manual_seed(1)
        config = replace(reasoner.config, token_reads=reads, reading_counts=2)
        own = Reasoner(config, reasoner.language_model, reasoner.anchors.numpy()).eval()
        queries = make_scene(0)
        names = ("features", "centres", "scores", "view_features")
        inputs = [torch.from_numpy(getattr(queries, n))[None] for n in names]
        batch = own(*inputs, torch.zeros(1, 6, 2))
        torch.testing.assert_close(
            torch.from_numpy(own.reason(queries).token), batch.token[0].detach(), rtol=1e-3, atol=1e-4
        )
        batch.anchor_logits.sum().backward()
        found[reads] = own.get_parameter("reading.word.weight").grad
    assert found[False] is None
    assert bool(found[True].abs().sum() > 0), "what the token reads learns from the plan"
