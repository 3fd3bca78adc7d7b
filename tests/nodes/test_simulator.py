"""The simulator over real DDS with the real follower: lockstep, its equality with headless drives, and fail-safes."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import Trigger

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.eval.closed_loop.policies import BlindLaneKeeping
from sparseoccvla_ros.eval.closed_loop.rollout import drive
from sparseoccvla_ros.nodes import simulator as simulator_module
from sparseoccvla_ros.nodes.follower import FollowerNode
from sparseoccvla_ros.nodes.simulator import SimulatorNode
from sparseoccvla_ros.planning.trajectory_follower import TimedPath
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.world.agents.traffic import STEP

pytestmark = pytest.mark.ros
SEED, SECONDS = 30_001, 3.0
FRONT = "/CAM_FRONT/image_rect_compressed"


class Waypoints(BlindLaneKeeping):
    """Lane keeping that says no more than a path message does: six waypoints in base_link."""

    def waypoints(self) -> np.ndarray:
        poses = self._expert.blind()[np.round(WAYPOINT_TIMES / STEP).astype(int)]
        back = geometry.inverse(geometry.planar(*self._simulator.state.pose))
        return geometry.apply(back, np.column_stack([poses[:, :2], np.zeros(len(poses))]))[:, :2]

    def plan(self) -> TimedPath:
        state = self._simulator.state
        return TimedPath.of_waypoints(self._simulator.time, state.pose, WAYPOINT_TIMES, self.waypoints())


def path(stamp: int, waypoints: np.ndarray) -> Path:
    out = Path(header=messages.header(stamp))
    for t, (x, y) in zip(WAYPOINT_TIMES.tolist(), waypoints.tolist(), strict=True):
        pose = PoseStamped(header=messages.header(stamp + round(t * 1e9)))
        pose.pose.position.x, pose.pose.position.y = x, y
        out.poses.append(pose)
    return out


class Stack:
    """Simulator, follower, and a planner that answers the front camera's images while it `plans`."""

    def __init__(self, graph, **parameters) -> None:
        self.plans, self.late = True, 0.0
        self.loses, self._lost = 0, set[int]()  # how many images do not arrive the first time
        values = {"seed": SEED, "longest": SECONDS, "wait_for": ["follower"], "answer_timeout": 2.0, **parameters}
        self.simulator = graph.add(SimulatorNode, autostart=False, height=18, width=32, **values)
        self.probe, self._policy = graph.probe, Waypoints()
        graph.probe.create_subscription(CompressedImage, FRONT, self._on_image, 10)
        graph.probe.create_subscription(Path, "simulator/route", lambda _: None, 10)
        self.path = graph.probe.create_publisher(Path, "planning/path", 10)
        self.follower = graph.add(FollowerNode, use_sim_time=True)
        self.simulator.autostart()

    def _on_image(self, message: CompressedImage) -> None:
        episode, stamp = self.simulator._episode, messages.nanoseconds(message.header.stamp)
        if len(self._lost) < self.loses and stamp not in self._lost:
            self._lost.add(stamp)
            return
        self.late = (self.simulator._stamp - messages.nanoseconds(message.header.stamp)) / 1e9
        self._policy.begin(episode.simulator, episode.expert)
        if self.plans:
            self.path.publish(path(messages.nanoseconds(message.header.stamp), self._policy.waypoints()))

    @property
    def state(self):
        return self.simulator._episode.simulator.state

    @property
    def time(self) -> float:
        return self.simulator._episode.simulator.time


@pytest.fixture
def rejoins_soon(monkeypatch):
    """Here a node discovers the others at once; a step that goes unanswered before that is allowed."""
    monkeypatch.setattr(simulator_module, "REJOIN", 0.3)


def rows(node: SimulatorNode) -> np.ndarray:
    return np.array([row[:7] for row in node.record.rows])


def test_lockstep_is_the_headless_drive_and_two_drives_are_equal(graph, until, tmp_path):
    headless = drive(Waypoints(), SEED, longest=SECONDS)
    stack = Stack(graph, out=str(tmp_path))
    node = stack.simulator
    assert until(node.finished.is_set, 180), node.monitor.state(5.0)
    first, log = rows(node), (tmp_path / "log.csv").read_text()
    assert not any(row[7] for row in node.record.rows)
    states = headless.states[: len(first)]
    np.testing.assert_allclose(first[:, 1:4], states[:, :3], rtol=0, atol=1e-9)
    assert np.hypot(*(first[-1, 1:3] - first[0, 1:3])) > 4.0 * SECONDS  # it went somewhere
    rollout = node.record.rollout()
    assert len(rollout.planned) == len(headless.planned)
    np.testing.assert_allclose(rollout.planned[-1].poses, headless.planned[-1].poses, rtol=0, atol=1e-9)
    reset = graph.probe.create_client(Trigger, "simulator/reset")
    assert reset.wait_for_service(10)
    node.finished.clear()
    reset.call_async(Trigger.Request())
    assert until(node.finished.is_set, 180), node.monitor.state(5.0)
    assert (tmp_path / "log.csv").read_text() == log


@pytest.mark.usefixtures("rejoins_soon")
def test_an_image_that_was_lost_is_sent_again(graph, until, monkeypatch):
    monkeypatch.setattr(simulator_module, "SHOW_AGAIN", 0.3)
    stack = Stack(graph, longest=60.0, answer_timeout=20.0)
    stack.loses = 2
    assert until(lambda: stack.time > 1.6, 60), stack.simulator.monitor.state(5.0)
    assert len(stack._lost) == 2
    assert not any(row[7] for row in stack.simulator._record.rows)


@pytest.mark.usefixtures("rejoins_soon")
@pytest.mark.parametrize("who", [pytest.param("planner", marks=pytest.mark.slow), "follower"])
def test_it_stops_without_a_node_and_goes_on_with_it(graph, until, who):
    stack = Stack(graph, longest=60.0, answer_timeout=0.3)
    assert until(lambda: stack.time > 1.0 and stack.state.speed > 3.0, 60)
    (stack.follower.trigger_deactivate() if who == "follower" else setattr(stack, "plans", False))
    began, speed = stack.time, stack.state.speed
    assert until(lambda: stack.state.speed < 0.05, 60), stack.simulator.monitor.state(5.0)
    log = [row for row in stack.simulator._record.rows if row[0] >= began]
    braking = next(row[0] for row in log if row[5] <= -2.0)
    assert braking - began < 1.5
    assert stack.time - began < 1.5 + speed / 3.0 + 0.5
    state = stack.simulator.monitor.state(5.0)[1]
    assert ("follower" if who == "follower" else "no planning/path") in state
    (stack.follower.trigger_activate() if who == "follower" else setattr(stack, "plans", True))
    assert until(lambda: stack.state.speed > 2.0, 60), stack.simulator.monitor.state(5.0)


@pytest.mark.usefixtures("rejoins_soon")
def test_late_images_make_late_paths_and_too_late_ones_a_stop(graph, until):
    stack = Stack(graph, longest=60.0, image_delay=0.4)
    assert until(lambda: stack.time > 1.0 and stack.state.speed > 3.0, 60), stack.simulator.monitor.state(5.0)
    assert stack.late == pytest.approx(0.4)
    stack.simulator.set_parameters([Parameter("image_delay", value=2.0)])
    assert until(lambda: stack.state.speed < 0.05, 60), stack.simulator.monitor.state(5.0)
    stack.simulator.set_parameters([Parameter("image_delay", value=0.0)])
    assert until(lambda: stack.state.speed > 2.0, 60), stack.simulator.monitor.state(5.0)
    assert stack.late == 0.0


def test_unknown_scenario_is_said(graph):
    node = graph.add(SimulatorNode, scenario="nonsense")
    assert "nonsense" in node.monitor.state(5.0)[1]
    assert not node.active
    (mended, refused) = node.set_parameters(
        [Parameter("scenario", value="cut_in,red_light"), Parameter("scenario", value="cut_in,typo")]
    )
    assert mended.successful
    assert (refused.successful, refused.reason) == (False, "scenario: typo is none")
