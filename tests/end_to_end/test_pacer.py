"""When the demo pauses the bag: by stamps that arrived, without nodes."""

import pytest

from sparseoccvla_ros.bringup.run_on_bag import Pacer

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


class Graph:
    """What the pacer sees of a graph: stamps that arrived, and the player's pause service."""

    def __init__(self) -> None:
        self.arrived = {"frames": [], "planning/plan": [], "reasoning/state": []}
        self.paused = self.ended = False
        self.asked = 0

    def stamps(self, topic: str) -> list[int]:
        return self.arrived[topic]

    def pause_player(self, paused: bool, timeout: float) -> None:
        self.asked += 1
        if self.ended:
            raise RuntimeError("no answer")
        self.paused = paused

    def arrive(self, topic: str, seconds: float) -> None:
        self.arrived[topic].append(START + round(seconds * SECOND))


@pytest.fixture
def graph():
    return Graph()


def test_a_machine_that_keeps_up_is_never_waited_for(graph):
    pacer = Pacer(graph)
    for k in range(20):
        graph.arrive("frames", 0.5 * k)
        pacer.update(0.5 * k)
        assert not graph.paused
        for topic in ("planning/plan", "reasoning/state"):
            graph.arrive(topic, 0.5 * k)
    assert pacer.seconds == 0


@pytest.mark.parametrize("late", ["planning/plan", "reasoning/state"])
def test_playback_waits_for_plans_and_for_reasoning(graph, late):
    pacer = Pacer(graph)
    for k in range(4):
        graph.arrive("frames", 0.5 * k)
        graph.arrive("planning/plan" if late == "reasoning/state" else "reasoning/state", 0.5 * k)
        pacer.update(0.5 * k)
    assert graph.paused, "1.5 s of the bag without an answer"
    graph.arrive(late, 0.5)
    pacer.update(2.0)
    assert graph.paused, "still a second behind"
    graph.arrive(late, 1.0)
    pacer.update(2.5)
    assert not graph.paused
    assert pacer.seconds == 1.0


def test_what_never_comes_does_not_hold_the_bag_for_ever(graph):
    pacer = Pacer(graph)
    for second in range(40):
        if not graph.paused:
            graph.arrive("frames", second)
        pacer.update(second)
    assert not graph.arrived["planning/plan"]
    assert len(graph.arrived["frames"]) >= 6, "playback goes on"
    assert pacer.seconds > 20


def test_the_end_of_the_bag_is_no_error(graph):
    pacer = Pacer(graph)
    graph.arrive("frames", 0.0)
    graph.arrive("frames", 2.0)
    graph.ended = True
    for now in (2.0, 30.0, 60.0):
        pacer.update(now)
    assert graph.asked == 3, "to pause once, then to resume until it is heard"
    assert not graph.paused
    assert pacer.seconds == 0
