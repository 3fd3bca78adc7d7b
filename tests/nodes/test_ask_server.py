"""Questions through the topic and the action: streaming, cancelling, refusing, never blocking the state."""

import dataclasses
import itertools

import numpy as np
import pytest
from sparseoccvla_msgs.action import AskScene
from std_msgs.msg import String

from sparseoccvla_ros.core.types import Command, CommandSource, Plan, PlanStatus
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.reasoning import ReasoningNode
from sparseoccvla_ros.planning.plan_words import plan_action
from sparseoccvla_ros.planning.trajectory import motion_of
from sparseoccvla_ros.reasoning.llm.language_model import LanguageModel
from sparseoccvla_ros.reasoning.serving.generation import Answer
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.throttle import Throttle

pytestmark = pytest.mark.ros
ODD = ("", "   ", "x" * 501, "ring\x07 the bell")
"""What nobody can answer."""


@pytest.fixture
def scene(graph, preset, frames, until):
    graph.add(OccupancyNode, preset=preset)
    node = graph.add(ReasoningNode, preset=preset, question_period=0.0, time_limit=30.0)
    states = graph.probe.listen("reasoning/state")
    graph.probe.send("frames", messages.frames_to_msg(frames(0)))
    assert until(lambda: states, 20)
    client = graph.action_client(AskScene, "reasoning/ask")
    assert client.wait_for_server(timeout_sec=10)
    return graph, node, client, states


@pytest.fixture
def endless(monkeypatch):
    """Answers go on to their token limit: when an untrained model ends one depends on the processor's rounding."""
    monkeypatch.setattr(LanguageModel, "stop_ids", property(lambda self: frozenset()))


def ask(client, until, question, **kwargs):
    pieces = []
    sent = client.send_goal_async(AskScene.Goal(question=question, **kwargs), lambda f: pieces.append(f.feedback.text))
    assert until(sent.done, 10)
    return sent.result(), pieces


def test_answer_streams_and_completes(scene, frames, until):
    _, _, client, _ = scene
    goal, pieces = ask(client, until, "What is ahead?", max_tokens=12)
    assert goal.accepted
    result = goal.get_result_async()
    assert until(result.done, 30)
    answer = result.result().result
    assert answer.reason in ("token_limit", "complete")
    assert until(lambda: "".join(pieces) == answer.answer, 5)
    assert messages.nanoseconds(answer.stamp) == frames(0).stamp
    assert not answer.trained
    assert result.result().status == 4  # SUCCEEDED


@pytest.mark.usefixtures("endless")
def test_cancel_ends_the_answer(scene, until):
    _, node, client, _ = scene
    goal, pieces = ask(client, until, "Tell a long story.", max_tokens=900)
    assert until(lambda: pieces, 20)
    goal.cancel_goal_async()
    result = goal.get_result_async()
    assert until(result.done, 10)
    assert result.result().result.reason == "cancelled"
    assert result.result().status == 5  # CANCELED
    assert node.active


def test_a_question_before_the_first_scene_says_so(graph, preset, until):
    graph.add(ReasoningNode, preset=preset, question_period=0.0)
    client = graph.action_client(AskScene, "reasoning/ask")
    assert client.wait_for_server(timeout_sec=10)
    goal, _ = ask(client, until, "What is ahead?")
    result = goal.get_result_async()
    assert until(result.done, 10)
    assert "no scene" in result.result().result.reason


def test_odd_questions_are_refused(scene, until):
    _, node, client, _ = scene
    for count, question in enumerate(ODD, 1):
        goal, _ = ask(client, until, question)
        assert not goal.accepted, question
        assert node.monitor._counts["refused"] == count, question
        assert "question" in node.monitor.state(1e9)[1]


def test_topic_question_is_answered_on_the_text_topic(scene, until):
    graph, _, _, _ = scene
    texts = graph.probe.listen("reasoning/text")
    marker = graph.probe.listen("reasoning/text_marker")
    graph.probe.send("reasoning/question", String(data="Is the road free?"))
    assert until(lambda: texts and marker, 30)
    assert marker[-1].text == texts[-1].data
    assert marker[-1].header.frame_id == "base_link"


@pytest.mark.usefixtures("endless")
def test_state_keeps_coming_while_an_answer_streams(scene, frames, until):
    graph, _, client, states = scene
    goal, pieces = ask(client, until, "Tell a long story.", max_tokens=900)
    assert until(lambda: pieces, 20)
    sent = itertools.count(1)

    def another(count: int) -> bool:
        """While an answer is written not every set gets a state (answering_rate), but one comes soon."""
        graph.probe.send("frames", messages.frames_to_msg(frames(next(sent))))
        return until(lambda: len(states) > count, 1)

    for _ in range(3):
        assert until(lambda count=len(states): another(count), 20)
    goal.cancel_goal_async()
    assert until(goal.get_result_async().done, 10)


@pytest.mark.usefixtures("endless")
def test_a_deferred_set_is_reasoned_about_although_none_follows(graph, preset, frames, until):
    """In lockstep the simulator waits for the plan, and the plan for this reasoning: `./run drive` stood still."""
    graph.add(OccupancyNode, preset=preset)
    node = graph.add(ReasoningNode, preset=preset, question_period=0.0, time_limit=60.0, max_tokens=900)
    states = graph.probe.listen("reasoning/state")
    graph.probe.send("frames", messages.frames_to_msg(frames(0)))
    assert until(lambda: states, 20)
    for _ in range(4):
        graph.probe.send("reasoning/question", String(data="Tell a long story."))
    assert until(lambda: node._questions.busy, 10)
    for i in range(1, 12):  # the first one may find that it is its turn
        count = len(states)
        graph.probe.send("frames", messages.frames_to_msg(frames(i)))
        assert until(lambda count=count: len(states) > count, 20)
        if "deferred_for_generation" in node.monitor._counts:
            break
    assert "deferred_for_generation" in node.monitor._counts
    assert node._questions.in_conversation


@pytest.mark.usefixtures("endless")
def test_an_answer_gets_turns_although_sets_keep_coming(graph, preset, frames, until):
    graph.add(OccupancyNode, preset=preset)
    node = graph.add(
        ReasoningNode, preset=preset, question_period=0.0, time_limit=60.0, max_tokens=900, answering_rate=0.1
    )
    states = graph.probe.listen("reasoning/state")
    queries = graph.probe.listen("occupancy/queries")

    def send(index: int) -> None:
        graph.probe.send("frames", messages.frames_to_msg(frames(index)))
        assert until(lambda: len(queries) == index + 1, 20)

    send(0)
    assert until(lambda: states, 20)
    for _ in range(4):  # one after the other: on a fast machine one answer alone is written too soon
        graph.probe.send("reasoning/question", String(data="Tell a long story."))
    assert until(lambda: node._questions.busy, 10)
    for i in range(1, 4):
        send(i)
    assert until(lambda: "deferred_for_generation" in node.monitor._counts, 10)
    assert node._questions.busy, "the answers were too short to tell"
    written = len(states)
    assert written < 3, "while an answer is written, at most a state every ten seconds"
    node._questions.cancel_all()
    assert until(lambda: not node._questions.in_conversation, 10)
    send(4)
    assert until(lambda: len(states) > written, 10), "without an answer every set is reasoned about"


def test_queue_is_bounded(scene, until):
    graph, node, _, _ = scene
    for i in range(12):
        graph.probe.send("reasoning/question", String(data=f"Question {i}?"))
    assert until(lambda: node.monitor._counts.get("questions_refused", 0) > 0, 10)
    assert node.active


def test_odd_questions_on_the_topic_are_refused_with_the_reason(scene, until):
    graph, node, _, _ = scene
    texts = graph.probe.listen("reasoning/text")
    for count, question in enumerate(ODD, 1):
        graph.probe.send("reasoning/question", String(data=question))
        assert until(lambda count=count: node.monitor._counts.get("refused") == count, 10), question
        assert "question" in node.monitor.state(1e9)[1]
    assert not texts
    assert node.active


def test_asks_itself_at_its_period_and_not_while_others_wait(graph, preset, frames, until):
    graph.add(OccupancyNode, preset=preset)
    node = graph.add(
        ReasoningNode, preset=preset, question_period=0.2, self_question="Describe the scene.", max_tokens=4,
        answering_rate=60.0,
    )  # fmt: skip
    states, texts = graph.probe.listen("reasoning/state"), graph.probe.listen("reasoning/text")
    # A question goes with a new state once its period is over; a state that comes before that asks nothing.
    sent = 0
    while len(texts) < 3 and sent < 60:
        done = len(states)
        graph.probe.send("frames", messages.frames_to_msg(frames(sent)))
        sent += 1
        assert until(lambda done=done: len(states) > done, 20)
        until(lambda: len(texts) >= 3, 0.3)
    assert len(texts) >= 3
    assert node.monitor._counts["questions_answered"] >= 3
    node.values.self_question = ""
    assert until(lambda: node._questions._current is None, 20)
    graph.probe.send("frames", messages.frames_to_msg(frames(sent, epoch=1)))
    assert until(lambda: states[-1].epoch == 1, 20)
    assert (states[-2].text != "", states[-1].text) == (True, ""), "what was said of another drive"
    node._questions._current = object()
    assert not node._questions.enqueue("Describe the scene.", from_itself=True)
    node._questions._current = None


@pytest.mark.usefixtures("endless")
def test_an_answer_of_a_drive_that_is_over_is_no_text_of_the_next(scene, frames, until):
    graph, node, client, states = scene
    texts = graph.probe.listen("reasoning/text")
    goal, pieces = ask(client, until, "Tell a long story.", max_tokens=900)
    waiting, _ = ask(client, until, "And then?", max_tokens=2)
    assert until(lambda: pieces, 20)
    node._answering_throttle = Throttle(lambda: 1e9)  # the new drive's first set is reasoned about at once
    graph.probe.send("frames", messages.frames_to_msg(frames(1, epoch=1)))
    for result in [goal.get_result_async(), waiting.get_result_async()]:
        assert until(result.done, 10), "the language model goes on about a drive that is over"
        assert result.result().result.reason == "cancelled"
    assert until(lambda: states[-1].epoch == 1, 20)
    assert node._text == ""
    assert not texts
    late = Answer("Of before.", "complete", 2, 0.1, frames(0).stamp, epoch=0)
    node._on_answer(late)  # it ended in the moment in which it was cancelled
    assert node._text == ""
    node._on_answer(dataclasses.replace(late, text="Of now.", epoch=1))
    assert node._text == "Of now."


def test_a_question_hears_the_plan_and_the_answer_is_held_against_it(scene, frames, until, monkeypatch):
    graph, node, client, _ = scene
    speed = node._ego_speed
    points = np.stack([np.cumsum(np.full(6, speed)) * 0.5, np.zeros(6)], -1)
    moved = motion_of(points, speed)
    plan = Plan(
        frames(0).stamp, frames(0).epoch, moved.waypoints, moved.heading, moved.speed, moved.acceleration,
        np.zeros((1, 6, 2), np.float32), np.ones(1, np.float32), 0, Command.STRAIGHT, CommandSource.TOPIC,
        PlanStatus.OK,
    )  # fmt: skip
    graph.probe.send("planning/plan", messages.plan_to_msg(plan))
    assert until(lambda: node._plan is not None, 10)
    heard = []
    ask_it = node._reasoner.ask

    def recording(text, *args):
        heard.append(text)
        return dataclasses.replace(ask_it("What is ahead?", *args), text="Speed up, because the road is free.")

    monkeypatch.setattr(node._reasoner, "ask", recording)
    for hears in (False, True):
        node._reasoner.plan_in_prompt = hears
        goal, _ = ask(client, until, "Why?", max_tokens=2)
        result = goal.get_result_async()
        assert until(result.done, 30)
    assert heard == ["Why?", f"The car is about to {plan_action(plan, speed)}. Why?"]
    shown = {v.key: v.value for v in node.monitor.status(60.0).values}
    assert shown["text_agrees_with_plan"] == "0 of 2 answers"
