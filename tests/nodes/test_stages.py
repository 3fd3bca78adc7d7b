"""Occupancy, reasoning and planning as nodes: stamps, frames, shapes, faults."""

import importlib.util
import itertools
import math
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid
from rclpy.parameter import Parameter
from std_msgs.msg import String

from sparseoccvla_ros.core.classes import OBSTACLES
from sparseoccvla_ros.core.types import PlanStatus
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.nodes.reasoning import ReasoningNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.qos import PROFILES
from sparseoccvla_ros.ros.topics import OPTIONAL_PACKAGES, OUTPUTS

pytestmark = pytest.mark.ros


def installed(topic) -> bool:
    return importlib.util.find_spec(topic.type.split("/")[0]) is not None


@pytest.fixture
def stack(graph, preset):
    nodes = {
        "occupancy": graph.add(OccupancyNode, preset=preset),
        "reasoning": graph.add(ReasoningNode, preset=preset, question_period=0.0),
        "planning": graph.add(PlanningNode, preset=preset),
    }
    names = ("occupancy/queries", "occupancy/points", "occupancy/grid", "occupancy/markers", "reasoning/state")
    names += ("occupancy/obstacles", "occupancy/costmap")
    names += (
        "occupancy/forecast/points",
        "planning/plan",
        "planning/path",
        "planning/trajectory",
        "planning/candidates",
    )
    names += ("reasoning/text", "planning/markers", "occupancy/legend")
    names += ("occupancy/detections/markers",)
    names += tuple(t.name for t in OUTPUTS if t.type.split("/")[0] in OPTIONAL_PACKAGES and installed(t))
    return graph, nodes, {name: graph.probe.listen(name) for name in (*names, "/diagnostics")}


def play(graph, seen, frames, until, count=4, **kwargs):
    """Send frame sets one by one, each after the plan of the one before."""
    made = [frames(i, **kwargs) for i in range(count)]
    done = len(seen["planning/plan"])
    for frame in made:
        graph.probe.send("frames", messages.frames_to_msg(frame))
        done += 1
        assert until(lambda done=done: len(seen["planning/plan"]) >= done)
    return made


def test_frames_in_everything_out(stack, frames, until, read_cloud):
    graph, _, seen = stack
    made = play(graph, seen, frames, until)
    assert until(lambda: len(seen["reasoning/state"]) >= 2)
    stamps = [f.stamp for f in made]
    # Topics overtake each other: the plan may be here before the path of the same stamp.
    for name in ("planning/path", "planning/trajectory", "occupancy/points", "occupancy/grid"):
        assert until(lambda name=name: stamps[-1] in [messages.nanoseconds(m.header.stamp) for m in seen[name]]), name
    for name in ("occupancy/forecast/points", "planning/markers", "occupancy/legend", "occupancy/detections/markers"):
        assert until(lambda name=name: seen[name]), name
    if "planning/autoware_trajectory" in seen:
        assert until(lambda: seen["planning/autoware_trajectory"] and seen["occupancy/detections"])
        assert seen["planning/autoware_trajectory"][-1].header.frame_id == "map"
        assert seen["occupancy/detections"][-1].header.frame_id == "base_link"
    if "planning/turn_indicators" in seen:
        assert until(lambda: seen["planning/turn_indicators"] and seen["planning/autoware_candidates"])
        assert seen["planning/turn_indicators"][-1].command == 1, "straight on"
        assert len(seen["planning/autoware_candidates"][-1].candidate_trajectories) == 18
    plan = messages.plan_from_msg(seen["planning/plan"][-1])
    path, trajectory = seen["planning/path"][-1], seen["planning/trajectory"][-1]
    for name in ("occupancy/queries", "occupancy/points", "occupancy/grid", "planning/plan", "planning/path"):
        got = [messages.nanoseconds(m.header.stamp) for m in seen[name]]
        assert set(got) <= set(stamps), f"{name} must keep the camera's stamp"
        assert got == sorted(got)
        assert all(m.header.frame_id == "base_link" for m in seen[name])
    assert messages.nanoseconds(path.header.stamp) == stamps[-1]
    times = [messages.nanoseconds(p.header.stamp) - stamps[-1] for p in path.poses]
    assert times == [500_000_000 * k for k in range(1, 7)]
    assert all(math.isclose(p.pose.orientation.z**2 + p.pose.orientation.w**2, 1, abs_tol=1e-6) for p in path.poses)
    np.testing.assert_allclose([(p.pose.position.x, p.pose.position.y) for p in path.poses], plan.waypoints, atol=1e-6)
    assert [p.time_from_start.sec * 10**9 + p.time_from_start.nanosec for p in trajectory.points] == times
    assert plan.candidates.shape == (18, 6, 2)
    assert plan.status is PlanStatus.DEGRADED
    assert "untrained_weights" in plan.reasons
    assert np.abs(plan.waypoints).max() < 40
    cloud = read_cloud(seen["occupancy/points"][-1])
    assert len(cloud)
    assert cloud.dtype.names == ("x", "y", "z", "rgb", "label", "confidence", "horizon")
    assert np.abs(cloud["x"]).max() <= 40
    assert cloud["label"].max() < 17
    assert ((cloud["confidence"] > 0) & (cloud["confidence"] <= 1)).all()
    forecast = read_cloud(seen["occupancy/forecast/points"][-1])
    assert set(np.unique(forecast["horizon"])) == {1.0, 2.0, 3.0}
    grid = seen["occupancy/grid"][-1]
    assert (grid.info.width, grid.info.height) == (200, 200)
    assert len(grid.data) == 40000
    assert set(np.unique(np.array(grid.data))) <= {-1, 0, 100}
    for name in ("occupancy/obstacles", "occupancy/costmap"):
        assert until(lambda name=name: stamps[-1] in [messages.nanoseconds(m.header.stamp) for m in seen[name]]), name
    standing, costs = read_cloud(seen["occupancy/obstacles"][-1]), np.array(seen["occupancy/costmap"][-1].data)
    assert set(np.unique(standing["label"])) <= set(OBSTACLES)
    assert len(standing) == np.isin(cloud["label"], OBSTACLES).sum()
    assert set(np.unique(costs)) <= {-1, 0, 40, 70, 100}
    np.testing.assert_array_equal(costs == 100, np.array(grid.data) == 100)


def test_a_costmap_that_joins_late_gets_the_last_grid(stack, frames, until):
    graph, _, seen = stack
    play(graph, seen, frames, until, count=1)
    assert until(lambda: seen["occupancy/grid"])
    late: list[OccupancyGrid] = []
    graph.probe.create_subscription(OccupancyGrid, "occupancy/grid", late.append, PROFILES["map"])
    assert until(lambda: late, 10)
    assert late[0].header == seen["occupancy/grid"][-1].header


def test_reasoning_raises_the_score_source(stack, frames, until):
    graph, _, seen = stack
    play(graph, seen, frames, until, count=1)
    assert until(lambda: seen["reasoning/state"])
    play(graph, seen, lambda i: frames(i + 1), until, count=1)
    assert seen["planning/plan"][-1].score_source == "language+ego"
    assert seen["planning/plan"][0].score_source == "ego"


def test_command_travels_with_the_plan(stack, frames, until):
    graph, nodes, seen = stack
    play(graph, seen, frames, until, count=1)
    assert (seen["planning/plan"][-1].command, seen["planning/plan"][-1].command_source) == ("straight", "default")
    graph.probe.send("planning/command", String(data="left"))
    assert until(lambda: nodes["planning"]._route._command is not None)
    play(graph, seen, lambda i: frames(i + 1), until, count=1)
    assert (seen["planning/plan"][-1].command, seen["planning/plan"][-1].command_source) == ("left", "topic")
    graph.probe.send("planning/command", String(data="u-turn!"))
    assert until(lambda: nodes["planning"].monitor._counts.get("refused"))
    assert nodes["planning"].active


def test_stale_input_stops_the_followers(stack, frames, until):
    graph, nodes, seen = stack
    play(graph, seen, frames, until, count=2)
    nodes["planning"].set_parameters([Parameter("stale_after", value=0.5)])
    assert until(lambda: seen["planning/path"] and not seen["planning/path"][-1].poses, 5), "one empty path must follow"
    # On a machine so slow that the input is stale between the two sets, one follows each of them.
    empty = [not p.poses for p in seen["planning/path"]]
    assert not any(a and b for a, b in itertools.pairwise(empty)), "an empty path is sent once"
    assert until(lambda: any("STALE" in s.message for a in seen["/diagnostics"][-6:] for s in a.status))


def standstills(seen) -> list:
    """Autoware's trajectories that do not move: the ego pose twice, where a plan has the ego pose and six waypoints."""
    return [t for t in seen.get("planning/autoware_trajectory", ()) if len(t.points) == 2]


def test_refused_input_stops_the_followers(stack, frames, until):
    """Queries keep coming, so the node is not STALE, but all are older than max_age."""
    graph, nodes, seen = stack
    play(graph, seen, frames, until, count=1)
    assert until(lambda: seen["planning/path"] and seen["occupancy/queries"])
    nodes["reasoning"].trigger_deactivate()  # it would reason about every one of them
    old = seen["occupancy/queries"][-1]
    old.header.stamp = messages.time_msg(time.time_ns() - 10 * 10**9)

    def stopped() -> bool:
        graph.probe.send("occupancy/queries", old, receivers=3)  # planning, reasoning and the probe
        time.sleep(0.1)
        return not seen["planning/path"][-1].poses

    assert until(stopped, 10), "one empty path must follow"
    assert nodes["planning"].monitor._values["followers"].startswith("stopped: no path for")
    for _ in range(5):
        stopped()
    assert until(lambda: nodes["planning"].monitor.state(9)[0].value == "REJECTING")
    assert [bool(p.poses) for p in seen["planning/path"]] == [True, False], "an empty path is sent once"
    if "planning/autoware_trajectory" in seen:
        assert until(lambda: standstills(seen))
        assert len(standstills(seen)) == 1, "a standstill is sent once"


def test_without_the_empty_path_autoware_stops_all_the_same(stack, frames, until):
    graph, nodes, seen = stack
    if "planning/autoware_trajectory" not in seen:
        pytest.skip("autoware_planning_msgs is not installed")
    nodes["planning"].set_parameters([Parameter("publish_empty_on_stop", value=False)])
    play(graph, seen, frames, until, count=1)
    assert until(lambda: standstills(seen), 10)
    assert all(p.poses for p in seen["planning/path"])
    assert all(point.longitudinal_velocity_mps == 0 for point in standstills(seen)[0].points)


def test_bad_frames_are_refused_and_survived(stack, frames, until):
    graph, nodes, seen = stack
    play(graph, seen, frames, until, count=1)
    broken = messages.frames_to_msg(frames(1))
    broken.images.shape[1] += 1
    graph.probe.send("frames", broken)
    assert until(lambda: "images" in nodes["occupancy"].monitor.state(9)[1])
    assert nodes["occupancy"].monitor.state(9)[0].value == "REJECTING"
    nan = messages.frames_to_msg(frames(2))
    matrix = np.full((6, 4, 4), np.nan)
    nan.ego2img = messages.tensor_to_msg(matrix)
    graph.probe.send("frames", nan)
    assert until(lambda: nodes["occupancy"].monitor._counts.get("refused") == 2)
    play(graph, seen, lambda i: frames(i + 3), until, count=1)
    # The plan may be here before the encoder's node has counted its own output.
    assert until(lambda: nodes["occupancy"].monitor.state(9)[0].value == "DEGRADED")


def test_three_exceptions_are_a_fault_and_activate_recovers(stack, frames, until, monkeypatch):
    graph, nodes, seen = stack
    node = nodes["occupancy"]
    play(graph, seen, frames, until, count=1)
    healthy = node._encoder.encode

    def explode(_):
        raise RuntimeError("out of memory")

    node._encoder.encode = explode
    for i in range(3):
        graph.probe.send("frames", messages.frames_to_msg(frames(i + 1)))
        assert until(lambda i=i: node.monitor._counts.get("exceptions", 0) >= i + 1)
    assert until(lambda: not node.active)
    assert node.monitor.state(9)[0].value == "FAULT"
    assert "out of memory" in node.monitor.state(9)[1]
    node._encoder.encode = healthy
    node.trigger_activate()
    play(graph, seen, lambda i: frames(i + 5), until, count=1)


def test_new_epoch_forgets_reasoning_of_the_old(stack, frames, until):
    graph, nodes, seen = stack
    play(graph, seen, frames, until, count=2)
    assert until(lambda: seen["reasoning/state"])
    # Else the reasoning of the new epoch's own set may be there before its plan.
    nodes["reasoning"].trigger_deactivate()
    play(graph, seen, lambda i: frames(i, epoch=1), until, count=1)
    plan = seen["planning/plan"][-1]
    assert plan.epoch == 1
    assert plan.score_source == "ego", "reasoning of the old epoch must not score a plan of the new one"


def test_lifecycle_round_trip_frees_and_reloads(graph, preset, frames, until):
    node = graph.add(OccupancyNode, autostart=False, preset=preset)
    queries = graph.probe.listen("occupancy/queries")
    for _ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        graph.probe.send("frames", messages.frames_to_msg(frames(0)))
        seen = len(queries)
        assert until(lambda seen=seen: len(queries) > seen or bool(queries))
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert not hasattr(node, "_encoder")
        queries.clear()


def test_inactive_node_is_silent(graph, preset, frames, until):
    node = graph.add(OccupancyNode, autostart=False, preset=preset)
    queries = graph.probe.listen("occupancy/queries")
    node.trigger_configure()
    graph.probe.send("frames", messages.frames_to_msg(frames(0)))
    assert not until(lambda: queries, 0.5)


def test_diagnostics_name_every_node(stack, until):
    _, _, seen = stack

    def names() -> set[str]:
        return {s.name for a in seen["/diagnostics"] for s in a.status}

    wanted = {f"/sparseoccvla/{n}: state" for n in ("occupancy", "reasoning", "planning")}
    assert until(lambda: wanted <= names())
    assert isinstance(seen["/diagnostics"][0], DiagnosticArray)


def test_wrong_parameters_are_refused_by_name(graph, preset):
    with pytest.raises(ValueError, match="on_reject"):
        PlanningNode(context=graph.context, parameters={"on_reject": "fly"})
    with pytest.raises(Exception, match="max_age"):
        PlanningNode(context=graph.context, parameters={"max_age": 1e9})
    node = graph.add(OccupancyNode, autostart=False, preset="no/such/preset")
    node.trigger_configure()
    assert "no/such/preset" in node.monitor.status(9).values[-1].value or any(
        "no/such/preset" in v.value for v in node.monitor.status(9).values
    )
