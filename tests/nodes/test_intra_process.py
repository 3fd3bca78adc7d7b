"""Composed stages exchange dataclasses in memory; camera_sync decodes only what the encoder will take."""

import time

import numpy as np
import pytest
from std_msgs.msg import Header

from sparseoccvla_ros.nodes.camera_sync import CameraSyncNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.nodes.reasoning import ReasoningNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.intra_process import Handover

pytestmark = pytest.mark.ros


@pytest.fixture
def composed(graph, preset):
    handover = Handover()
    nodes = {
        kind.__name__: graph.add(kind, handover=handover, preset=preset, **parameters)
        # While it asks itself not every set gets a state.
        for kind, parameters in ((OccupancyNode, {}), (ReasoningNode, {"question_period": 0.0}), (PlanningNode, {}))
    }
    return graph, handover, nodes


def test_stages_pass_the_objects_themselves(composed, frames, until, monkeypatch):
    _, handover, nodes = composed
    made = []
    for node in nodes.values():
        for publisher in node._made_publishers:
            send = publisher.publish
            monkeypatch.setattr(publisher, "publish", lambda m, send=send: made.append(type(m).__name__) or send(m))
    given = {name: [] for name in ("occupancy/queries", "reasoning/state", "planning/plan", "occupancy/ready")}
    for name, items in given.items():
        handover.add(name, lambda item, items=items: items.append(item()))
    first = frames(0)
    pixels = first.images.copy()
    handover.give("frames", first)
    assert until(lambda: all(given.values()), 30)
    assert given["occupancy/ready"] == [first.stamp]
    assert [item.stamp for name in list(given)[:3] for item in given[name]] == [first.stamp] * 3
    assert not {"SceneQueries", "Reasoning", "Plan"} & set(made), "messages are for outsiders, and there are none"
    assert "Path" in made
    # The next stage gets the object, not a copy, so a stage that wrote into its input would change another's.
    queries = given["occupancy/queries"][0]
    before = {n: getattr(queries, n).copy() for n in ("features", "centres", "points", "scores")}
    handover.give("frames", frames(1))
    assert until(lambda: len(given["planning/plan"]) == 2, 30)
    assert until(lambda: len(given["reasoning/state"]) == 2, 30)
    np.testing.assert_array_equal(first.images, pixels)
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(queries, name), values)


def test_outsiders_still_get_messages(composed, frames, until):
    graph, handover, nodes = composed
    seen = graph.probe.listen("planning/plan")
    assert until(lambda: nodes["PlanningNode"]._plan_pub._publisher.get_subscription_count())
    handover.give("frames", frames(0))
    assert until(lambda: seen, 30)
    assert messages.plan_from_msg(seen[0]).stamp == frames(0).stamp


def test_a_stage_that_was_cleaned_up_receives_nothing(composed, frames, until):
    _, handover, nodes = composed
    plans = []
    handover.add("planning/plan", lambda item: plans.append(item()))
    nodes["OccupancyNode"].trigger_deactivate()
    nodes["OccupancyNode"].trigger_cleanup()
    handover.give("frames", frames(0))
    time.sleep(0.5)
    assert not plans
    nodes["OccupancyNode"].autostart()
    handover.give("frames", frames(1))
    assert until(lambda: plans, 30)


class Counted:
    """An image that knows when it is decoded."""

    decoded = 0

    def __call__(self) -> np.ndarray:
        Counted.decoded += 1
        return np.zeros((198, 352, 3), np.uint8)


@pytest.fixture
def cameras(graph, frames):
    """(node, call that makes a whole frame set arrive): images are counted when they are decoded."""
    from sparseoccvla_ros.camera_sync.calibration import CameraModel
    from sparseoccvla_ros.core.classes import CAMERAS
    from sparseoccvla_ros.world.render.camera_rig import load_rig

    node = graph.add(CameraSyncNode, mosaic_rate=0.0)
    rig = {camera.name: camera for camera in load_rig("n015")}
    for name in CAMERAS:
        model = CameraModel(name=name, width=352, height=198, intrinsics=rig[name].scaled(198, 352), frame_id=name)
        node._sync.set_camera(model.mounted(rig[name].camera2ego))
    Counted.decoded = 0

    def arrive(index: int) -> int:
        frame = frames(index, step=0.1)
        node._sync.add_odometry(frame.stamp, frame.ego.pose, frame.ego.twist, "odom")
        for name in CAMERAS:
            if node._sync.add_image(name, frame.stamp, Counted()):
                node._worker.submit(True)
        return frame.stamp

    return graph, node, arrive


def test_sets_that_the_encoder_will_not_take_are_not_decoded(cameras, until):
    graph, node, arrive = cameras
    sent = graph.probe.listen("frames")
    ready = graph.probe.create_publisher(Header, "occupancy/ready", 1)
    assert until(lambda: node.count_publishers("occupancy/ready") and node._frames._publisher.get_subscription_count())
    first = arrive(0)
    assert until(lambda: len(sent) == 1)
    stamps = [arrive(i) for i in range(1, 5)]
    time.sleep(0.3)
    assert (len(sent), Counted.decoded) == (1, 6), "the encoder is busy with the first set"
    ready.publish(messages.header(first))
    assert until(lambda: len(sent) == 2)
    assert messages.nanoseconds(sent[1].header.stamp) == stamps[-1], "the newest set is the one to take"
    assert Counted.decoded == 12
    assert node._sync.statistics()["dropped.overload"] == 3
    # An encoder that fell silent does not stop the stream for good.
    arrive(5)
    assert until(lambda: len(sent) == 3, 5)


def test_without_an_encoder_every_set_is_decoded(cameras, until):
    graph, _, arrive = cameras
    sent = graph.probe.listen("frames")
    for i in range(3):
        arrive(i)
        assert until(lambda i=i: len(sent) == i + 1)
