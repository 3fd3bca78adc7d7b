"""Training sees the sequences of the on-line path, token for token, and its loss counts answers only."""

import threading
import time

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.llm.lora import adapter_parameters
from sparseoccvla_ros.reasoning.model.ego_motion import constant_velocity
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner
from sparseoccvla_ros.reasoning.serving.generation import decode
from sparseoccvla_ros.reasoning.serving.priority_lock import PriorityLock
from sparseoccvla_ros.reasoning.serving.text_stream import TextStream
from sparseoccvla_ros.train.language_batch import IGNORED, TextBatch, continue_scenes, text_batch, training_forward

CONVERSATIONS = (
    (("Is the road ahead free?", "Yes."), ("What needs attention?", "The bus at (+12.30, -0.45), because it brakes.")),
    (),
    (("Name the next driving action in a few words.", "stop\nand wait"),),
)


@pytest.fixture
def scenes(make_scene, batch):
    queries = [make_scene(seed) for seed in range(3)]
    parts = [batch(q, constant_velocity(q.ego.twist)) for q in queries]
    return queries, [torch.cat(column) for column in zip(*parts, strict=True)]


def test_hidden_states_equal_the_online_path(reasoner, scenes):
    queries, inputs = scenes
    text = text_batch(reasoner, CONVERSATIONS)
    with torch.inference_mode():
        out = training_forward(reasoner, *inputs, text)
        readout, layers = reasoner.prefill(*inputs)
        hidden = continue_scenes(reasoner, layers, text)
    model, row = reasoner.language_model, 0
    for place, conversation in enumerate(CONVERSATIONS):
        online = reasoner.reason(queries[place])
        np.testing.assert_allclose(out.readout.token[place].numpy(), online.token, atol=1e-4)
        np.testing.assert_allclose(out.readout.anchor_logits[place].numpy(), online.anchor_scores, atol=1e-4)
        np.testing.assert_allclose(out.readout.fused[place].numpy(), online.fused_features, atol=1e-4)
        for question, answer in conversation:
            # As `ask` does it: the question behind the cached scene, then token by token.
            asked, answered = reasoner.question_ids(question), [*model.tokens(answer), model.answer_end()]
            loss = []
            with torch.inference_mode():
                states, past = model.forward(model.embed(asked), reasoner._scene.layers)
                states = [states[0]]
                for token in answered:
                    loss.append(-model.logits(states[-1][-1]).log_softmax(-1)[token].item())
                    state, past = model.forward(model.embed([token]), past)
                    states.append(state[0])
            states = torch.cat(states)
            torch.testing.assert_close(hidden[row, : len(states)], states, atol=1e-4, rtol=1e-4)
            assert out.pair_loss[row].item() == pytest.approx(np.mean(loss), abs=1e-4)
            row += 1
    assert row == len(text.scene)
    assert readout.occupancy.shape == (3, 100, model.dims)


def test_an_answer_given_online_is_the_likeliest_in_training(reasoner, scenes):
    """What `ask` says greedily is, as truth, the most likely next token at every place."""
    queries, inputs = scenes
    reasoner.reason(queries[0])
    model, ids = reasoner.language_model, []
    stream = TextStream(model.text, 1000)
    push, stream.push = stream.push, lambda token: (ids.append(token), push(token))[1]
    asked = reasoner.question_ids("What is near?")
    decode(
        model, reasoner._scene.layers, asked, stream, str, threading.Event(), PriorityLock(), 6, time.monotonic() + 60
    )
    labels = [IGNORED] * len(asked) + ids
    text = TextBatch(torch.tensor([asked + ids]), torch.tensor([labels]), torch.zeros(1, dtype=torch.long))
    with torch.inference_mode():
        _, layers = reasoner.prefill(*(x[:1] for x in inputs))
        logits = model.logits(continue_scenes(reasoner, layers, text))
    assert len(ids) == 6
    assert logits[0, len(asked) - 1 : -1].argmax(-1).tolist() == ids


def test_labels_are_answers_and_their_end_only(reasoner):
    model = reasoner.language_model
    text = text_batch(reasoner, CONVERSATIONS)
    assert text.ids.shape == text.labels.shape
    assert text.scene.tolist() == [0, 0, 2]
    pairs = [pair for conversation in CONVERSATIONS for pair in conversation]
    for ids, labels, (question, answer) in zip(text.ids, text.labels, pairs, strict=True):
        counted = labels != IGNORED
        assert torch.equal(ids[counted], labels[counted])
        assert labels[counted].tolist() == [*model.tokens(answer), model.answer_end()]
        start = int(counted.nonzero()[0])
        assert ids[:start].tolist() == reasoner.question_ids(question)
    assert model.answer_end() in model.stop_ids


def test_padding_and_company_change_nothing(reasoner, scenes):
    _, inputs = scenes
    with torch.inference_mode():
        together = training_forward(reasoner, *inputs, text_batch(reasoner, CONVERSATIONS)).pair_loss
        alone = []
        for place, conversation in enumerate(CONVERSATIONS):
            for pair in conversation:
                one = training_forward(
                    reasoner, *(x[place : place + 1] for x in inputs), text_batch(reasoner, [[pair]])
                )
                alone.append(one.language_loss)
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_gradients_reach_bridge_and_adapters_through_answers_alone(anchors, scenes):
    _, inputs = scenes
    torch.manual_seed(0)
    config = ReasoningConfig(language_model="random-tiny", dtype="float32", lora_r=4)
    reasoner = Reasoner(config, load_language_model("random-tiny", dtype="float32"), anchors)
    reasoner.add_adapter()
    reasoner.train()
    training_forward(reasoner, *inputs, text_batch(reasoner, CONVERSATIONS)).language_loss.backward()
    groups = {
        "bridge": list(reasoner.parameters()),
        "adapter": [p for _, p in adapter_parameters(reasoner.language_model)],
    }
    # B of an adapter starts at zero, so only B has a gradient at first.
    assert sum(p.grad is not None and p.grad.abs().sum() > 0 for p in groups["adapter"]) == len(groups["adapter"]) // 2
    for part in (reasoner.connector, reasoner.global_tokens):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    frozen = [p for p in reasoner.language_model.model.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.grad is None for p in frozen)


def test_a_batch_without_questions(reasoner, scenes):
    _, inputs = scenes
    text = text_batch(reasoner, [(), (), ()])
    out = training_forward(reasoner, *inputs, text)
    assert out.language_loss.item() == 0
    assert out.pair_loss.shape == (0,)
    (out.language_loss + out.readout.token.sum()).backward()
    assert text.to("cpu").ids.shape[0] == 0


def test_long_answers_are_cut_and_odd_pairs_refused(reasoner):
    text = text_batch(reasoner, [[("What is near?", "a car " * 200)]], max_tokens=40)
    assert text.ids.shape == (1, 40)
    assert text.ids[0, -1] != reasoner.language_model.answer_end()
    for pair, field in ((("bell\x07", "x"), "question"), (("fine?", ""), "answer"), (("x" * 300, "y"), "question")):
        with pytest.raises(InvalidInput) as error:
            text_batch(reasoner, [[pair]], max_tokens=60)
        assert error.value.field == field


def test_a_bridge_learns_to_answer(make_reasoner, scenes):
    """Three scenes, one question, three answers: only the scene's tokens can tell them apart."""
    _, inputs = scenes
    reasoner = make_reasoner()
    text = text_batch(reasoner, [[("Is the road ahead free?", answer)] for answer in ("yes", "no", "bus")])
    optimiser = torch.optim.Adam(list(reasoner.parameters()), 3e-3)
    first = None
    for _ in range(60):
        loss = training_forward(reasoner, *inputs, text).language_loss
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first
