"""Frames, QoS and names that people had trouble with, in the graph."""

from dataclasses import replace

import pytest
from geometry_msgs.msg import TransformStamped
from tf2_msgs.msg import TFMessage

from sparseoccvla_ros.nodes.bag_player import BagPlayerNode
from sparseoccvla_ros.nodes.camera_sync import CameraSyncNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.nodes.reasoning import ReasoningNode
from sparseoccvla_ros.ros import messages

pytestmark = pytest.mark.ros
OUTPUTS = (
    *("occupancy/queries", "occupancy/points", "occupancy/grid", "occupancy/markers", "reasoning/state"),
    *("occupancy/forecast/points", "occupancy/forecast/markers", "reasoning/text_marker"),
    *("planning/plan", "planning/path", "planning/trajectory", "planning/candidates"),
)


def frame_ids(message) -> set[str]:
    """Every frame a message is in."""
    found = {part.header.frame_id for part in getattr(message, "markers", ())}
    found |= {part.header.frame_id for part in getattr(message, "poses", ())}
    found |= {part.header.frame_id for part in getattr(message, "forecasts", ())}
    found |= set(getattr(message, "joint_names", ()))
    return found | ({message.header.frame_id} if hasattr(message, "header") else set())


def test_the_vehicle_frame_is_the_same_everywhere(graph, preset, frames, until):
    for kind, settings in (
        (OccupancyNode, {}),
        (ReasoningNode, {"question_period": 0.1, "max_tokens": 2}),
        (PlanningNode, {}),
    ):
        graph.add(kind, preset=preset, **settings)
    seen = {name: graph.probe.listen(name) for name in OUTPUTS}
    for index in range(40):
        made = frames(index)
        made = replace(made, ego=replace(made.ego, base_frame="ego_vehicle"))
        graph.probe.send("frames", messages.frames_to_msg(made))
        count = len(seen["planning/path"])
        assert until(lambda count=count: len(seen["planning/path"]) > count, 20)
        if all(seen.values()):
            break
    assert [name for name, got in seen.items() if not got] == []
    graph.nodes[-1].trigger_deactivate()  # tells followers to stop
    assert until(lambda: not seen["planning/path"][-1].poses)
    for name, got in seen.items():
        assert {frame for message in got for frame in frame_ids(message)} == {"ego_vehicle"}, name


def test_a_volatile_tf_static_is_heard(graph, preset, until):
    node = graph.add(CameraSyncNode, preset=preset)
    item = TransformStamped(header=messages.header(0, "base_link"), child_frame_id="CAM_FRONT")
    item.transform.rotation.w = 1.0
    graph.probe.send("/tf_static", TFMessage(transforms=[item]), "output")

    def known() -> bool:
        graph.probe.send("/tf_static", TFMessage(transforms=[item]), "output")
        return "CAM_FRONT" in node._sync.transforms.frames()

    assert until(known, 10)


def test_two_nodes_of_one_name_are_said(graph, until):
    first = graph.add(BagPlayerNode, autostart=False)
    heard = graph.probe.listen("/diagnostics")

    def said() -> list[str]:
        return [s.message for m in heard for s in m.status if "another node is called" in s.message]

    assert not until(said, 0.8)  # four rounds of diagnostics
    graph.add(BagPlayerNode, autostart=False)
    assert until(said, 10)
    assert first.get_fully_qualified_name() in said()[0]
