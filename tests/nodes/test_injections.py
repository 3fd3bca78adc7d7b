"""Faults of docs/faults.md that need nodes: random lifecycles, quality of service, memory, slow and broken models."""

import itertools
import random
import threading
import time

import psutil
import pytest
import torch
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from std_msgs.msg import String

from sparseoccvla_ros.bringup.security_policy import heard, published, served
from sparseoccvla_ros.nodes import occupancy as occupancy_module
from sparseoccvla_ros.nodes.camera_sync import CameraSyncNode
from sparseoccvla_ros.nodes.follower import FollowerNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.nodes.reasoning import ReasoningNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.qos import PROFILES
from sparseoccvla_ros.ros.topics import BY_NAME, OPTIONAL_PACKAGES

pytestmark = pytest.mark.ros
UNCONFIGURED, INACTIVE, ACTIVE = (
    State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE
)  # fmt: skip
CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP = (
    Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
)  # fmt: skip
ALLOWED = {
    UNCONFIGURED: {CONFIGURE: INACTIVE},
    INACTIVE: {ACTIVATE: ACTIVE, CLEANUP: UNCONFIGURED},
    ACTIVE: {DEACTIVATE: INACTIVE},
}


def test_11_a_slow_language_model_delays_no_plan(graph, preset, frames, until):
    graph.add(OccupancyNode, preset=preset)
    reasoning = graph.add(ReasoningNode, preset=preset, question_period=0.0)
    graph.add(PlanningNode, preset=preset)
    healthy = reasoning._reasoner.reason

    def slow(*arguments):
        time.sleep(2.0)
        return healthy(*arguments)

    reasoning._reasoner.reason = slow
    plans = graph.probe.listen("planning/plan")
    for k in range(3):
        graph.probe.send("frames", messages.frames_to_msg(frames(k)))
        assert until(lambda k=k: len(plans) == k + 1, 20)
    assert plans[0].score_source == "ego"


@pytest.mark.parametrize("when", ["on load", "mid-run"])
def test_12_out_of_memory_is_a_fault_and_recovers(graph, preset, frames, until, monkeypatch, when):
    """With torch's own error, which CUDA raises; without a GPU it cannot come about by itself."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    queries = graph.probe.listen("occupancy/queries")
    if when == "on load":
        with monkeypatch.context() as patched:
            patched.setattr(occupancy_module, "build_occupancy", full)
            node = graph.add(OccupancyNode, preset=preset)
            assert not node.configured
            assert "CUDA out of memory" in node.monitor.state(9)[1]
        node.autostart()
    else:
        node = graph.add(OccupancyNode, preset=preset)
        healthy, node._encoder.encode = node._encoder.encode, full
        for k in range(3):
            graph.probe.send("frames", messages.frames_to_msg(frames(k)))
            assert until(lambda k=k: node.monitor._counts.get("exceptions", 0) > k)
        assert until(lambda: not node.active)
        state, reason = node.monitor.state(9)
        assert state.value == "FAULT"
        assert "CUDA out of memory" in reason
        node._encoder.encode = healthy
        node.trigger_activate()
    graph.probe.send("frames", messages.frames_to_msg(frames(9)))
    assert until(lambda: queries, 20)


def test_13_random_lifecycle_transitions_never_kill_a_node(graph):
    """200 sequences of valid and invalid transitions through the services, as a lifecycle manager sends them."""
    node = graph.add(FollowerNode, autostart=False)
    change = graph.probe.create_client(ChangeState, "follower/change_state")
    get = graph.probe.create_client(GetState, "follower/get_state")
    assert change.wait_for_service(timeout_sec=20)
    assert get.wait_for_service(timeout_sec=20)

    def call(client, request):
        answered = threading.Event()
        answer = client.call_async(request)
        answer.add_done_callback(lambda _: answered.set())
        assert answered.wait(20), "no answer"
        return answer.result()

    rng, state = random.Random(13), UNCONFIGURED
    for _ in range(200):
        for _ in range(rng.randint(1, 3)):
            kind = rng.choice((CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP, 77))
            done = call(change, ChangeState.Request(transition=Transition(id=kind))).success
            assert done == (kind in ALLOWED[state]), (state, kind)
            state = ALLOWED[state].get(kind, state)
    assert call(get, GetState.Request()).current_state.id == state
    assert node.active == (state == ACTIVE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_14_fifty_rounds_of_configure_and_cleanup_leak_nothing(graph, preset):
    """Resident memory once the libraries have filled their caches; that of a GPU needs one."""
    nodes = [graph.add(kind, autostart=False, preset=preset) for kind in (OccupancyNode, PlanningNode)]
    process, sizes = psutil.Process(), []
    for _ in range(50):
        for node in nodes:
            node.trigger_configure()
            assert node.configured
            node.trigger_cleanup()
        sizes.append(process.memory_info().rss)
    assert sizes[-1] / sizes[10] - 1 < 0.01, [round(s / 1e6, 1) for s in sizes]


def test_16_legal_quality_of_service_delivers_and_the_rest_is_an_event(graph, until):
    """Every profile of ours against eight publishers."""
    pairs = []
    for (name, ours), reliable, latched, depth in itertools.product(
        PROFILES.items(), (False, True), (False, True), (1, 5)
    ):
        offered = QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        got, events = [], []
        topic = f"qos/{name}_{'reliable' if reliable else 'best_effort'}_{'latched' if latched else 'volatile'}_{depth}"
        told = {"incompatible_qos": events.append, "use_default_callbacks": False}
        graph.probe.create_subscription(
            String, topic, got.append, ours, event_callbacks=SubscriptionEventCallbacks(**told)
        )
        publisher = graph.probe.create_publisher(
            String, topic, offered, event_callbacks=PublisherEventCallbacks(**told)
        )
        legal = qos_check_compatible(offered, ours)[0] != QoSCompatibility.ERROR
        pairs.append((topic, legal, publisher, got, events))
    assert {legal for _, legal, *_ in pairs} == {True, False}
    for topic, legal, publisher, _, events in pairs:
        if legal:
            assert until(lambda p=publisher: p.get_subscription_count() == 1, 20), topic
        else:
            assert until(lambda e=events: len(e) >= 2, 20), f"{topic}: both sides have to hear of it"
    for _, _, publisher, _, _ in pairs:
        publisher.publish(String(data="x"))
    assert until(lambda: all(bool(got) == legal for _, legal, _, got, _ in pairs), 10), [
        topic for topic, legal, _, got, _ in pairs if bool(got) != legal
    ]
    assert not any(events for _, legal, _, _, events in pairs if legal)


def test_22_the_policy_allows_what_the_nodes_do_and_nothing_else(graph, preset, until):
    """Enforcing it needs the security plugins of DDS, which the wheels lack: here nodes are held against the policy."""
    kinds = (CameraSyncNode, OccupancyNode, ReasoningNode, PlanningNode, FollowerNode)
    nodes = [graph.add(kind, **({} if kind is FollowerNode else {"preset": preset})) for kind in kinds]
    absent = {t.full_name for t in BY_NAME.values() if t.type.split("/")[0] in OPTIONAL_PACKAGES}
    ask = graph.probe
    for node in nodes:
        name, place = node.get_name(), node.get_namespace()
        assert until(lambda n=name, p=place: len(ask.get_service_names_and_types_by_node(n, p)) >= len(served(n)), 20)
        writes = {topic for topic, _ in ask.get_publisher_names_and_types_by_node(name, place)}
        reads = {topic for topic, _ in ask.get_subscriber_names_and_types_by_node(name, place)}
        answers = {topic for topic, _ in ask.get_service_names_and_types_by_node(name, place)}
        action = {topic for topic in writes | answers if "/_action/" in topic}
        executed = {"/sparseoccvla/reasoning/ask"} if name == "reasoning" else set()
        assert {topic.split("/_action/")[0] for topic in action} == executed
        assert writes - action <= published(name), name
        assert published(name) - writes <= absent, name
        assert reads <= heard(name), name
        assert heard(name) - reads <= {"/clock", "/parameter_events"}, name
        assert answers - action == served(name), name
