"""A node's process: services answer while it loads, and it ends cleanly whenever it is told to."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import GetState
from nav_msgs.msg import Path as PathMsg
from rcl_interfaces.srv import ListParameters
from rclpy._rclpy_pybind11 import InvalidHandle

from sparseoccvla_ros.bench.soak import mapped, segments
from sparseoccvla_ros.nodes.follower import FollowerNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.ros import messages, process

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]


def test_services_answer_while_a_node_loads(graph, preset, until):
    load = threading.Event()

    class Loading(PlanningNode):
        def setup(self) -> None:
            assert load.wait(60)
            super().setup()

    node = graph.add(Loading, autostart=False, preset=preset)
    loading = threading.Thread(target=process._autostart, args=([node], threading.Event()), daemon=True)
    loading.start()
    for kind, name in ((ListParameters, "planning/list_parameters"), (GetState, "planning/get_state")):
        client = graph.probe.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=10)
        answer = client.call_async(kind.Request())
        assert until(answer.done, 10), name
        assert not node.active
    load.set()
    assert until(lambda: node.active, 30)
    loading.join(10)


@pytest.fixture
def start(graph, preset, tmp_path):
    """Starts `python -m sparseoccvla_ros.nodes.planning` in the graph's domain; what it says goes to `log`."""
    log = tmp_path / "log"
    started = []

    def go() -> subprocess.Popen:
        words = ["--ros-args", "-r", "__ns:=/sparseoccvla", "-p", f"preset:='{preset}'"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(graph.domain_id)}
        with log.open("w") as stream:
            command = [sys.executable, "-m", "sparseoccvla_ros.nodes.planning", *words]
            started.append(subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, cwd=ROOT))
        return started[-1]

    yield go, log
    for one in started:
        one.kill()
        one.wait(10)


def ended_in_time(one: subprocess.Popen, log: Path) -> float:
    one.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert one.wait(15) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    return time.monotonic() - began


def test_ctrl_c_stops_the_follower_before_the_process_ends(graph, preset, frames, until, start):
    go, log = start
    one = go()
    graph.add(OccupancyNode, preset=preset)
    paths = graph.probe.listen("planning/path")
    assert until(lambda: "configured" in log.read_text(), 120)
    for i in range(20):
        graph.probe.send("frames", messages.frames_to_msg(frames(i)))
        if until(lambda: paths, 1.0):
            break
    assert paths[-1].poses, log.read_text()
    assert ended_in_time(one, log) < 5
    assert until(lambda: not paths[-1].poses, 5), "a follower would drive on"
    assert until(lambda: graph.probe.count_publishers("planning/path") == 0, 5), "others still believe in the node"


def test_an_ended_process_leaves_no_shared_memory(start, until):
    go, log = start
    before = segments()
    one = go()
    assert until(lambda: "configured" in log.read_text(), 120)
    made = (segments() - before) & mapped([psutil.Process(one.pid)])
    assert made
    ended_in_time(one, log)
    assert not made & segments()


def test_ctrl_c_during_imports_is_silent(start, until):
    go, log = start
    one = go()
    assert until(lambda: "libtorch" in Path(f"/proc/{one.pid}/maps").read_text(), 60)
    assert ended_in_time(one, log) < 5
    assert log.read_text() == ""


def test_a_topic_that_goes_while_the_executor_waits_ends_no_node(graph, until, monkeypatch):
    """Seen once in fifty rounds of configure and cleanup from another thread; here it is raised."""
    raised, healthy = [], process.Executor

    class Failing:
        def __init__(self, context):
            self._executor = healthy(context=context)

        def __getattr__(self, name):
            return getattr(self._executor, name)

        def spin_until_future_complete(self, future, timeout_sec=None):
            if len(raised) < 3:
                raised.append(self)
                raise InvalidHandle("cannot use Destroyable because destruction was requested")
            return self._executor.spin_until_future_complete(future, timeout_sec)

    monkeypatch.setattr(process, "Executor", Failing)
    graph.add(FollowerNode)
    assert until(lambda: len(raised) == 3)
    states = graph.probe.listen("/diagnostics")
    assert until(lambda: states, 10)
    assert all(thread.is_alive() for thread in graph._threads)


@pytest.mark.parametrize("latched", [False, True])
def test_goal_of_an_ordinary_and_of_a_latched_publisher_arrives(graph, preset, frames, until, latched):
    """RViz's goal tool and `ros2 topic pub` are volatile; a route server may be latched."""
    graph.add(OccupancyNode, preset=preset)
    planning = graph.add(PlanningNode, preset=preset)
    plans = graph.probe.listen("planning/plan")
    graph.probe.send("frames", messages.frames_to_msg(frames(0)))
    assert until(lambda: plans, 20)
    goal = PoseStamped()
    goal.header.frame_id = "map"
    goal.pose.position.x, goal.pose.position.y, goal.pose.orientation.w = 20.0, 20.0, 1.0
    graph.probe.send("planning/goal", goal, "latched" if latched else "output")
    assert until(lambda: planning._route._route is not None, 10)
    graph.probe.send("frames", messages.frames_to_msg(frames(1)))
    assert until(lambda: len(plans) > 1, 20)
    assert (plans[-1].command, plans[-1].command_source) == ("left", "route")


def test_a_route_that_comes_before_the_first_frames_is_used(graph, preset, frames, until):
    graph.add(OccupancyNode, preset=preset)
    planning = graph.add(PlanningNode, preset=preset)
    plans = graph.probe.listen("planning/plan")
    assert until(lambda: graph.probe.count_subscribers("planning/route"), 10)
    for frame, side in (("elsewhere", -20.0), ("map", 20.0)):
        route = PathMsg()
        route.header.frame_id = frame
        for x, y in ((-5.0, 0.0), (5.0, 0.0), (5.0, side)):
            pose = PoseStamped()
            pose.pose.position.x, pose.pose.position.y, pose.pose.orientation.w = x, y, 1.0
            route.poses.append(pose)
        graph.probe.send("planning/route", route)
        assert until(lambda frame=frame: (planning._next_route or ("",))[0] == frame, 10)
    graph.probe.send("frames", messages.frames_to_msg(frames(0)))
    assert until(lambda: plans, 20)
    assert (plans[-1].command, plans[-1].command_source) == ("left", "route")
    route.header.frame_id = "elsewhere"
    graph.probe.send("planning/route", route)
    assert until(lambda: "in frame 'elsewhere'" in planning.monitor.state(10.0)[1], 10)


@pytest.mark.parametrize(
    ("source", "wrong", "said"),
    [
        ("bag_player", "bag:=/nothing/there", "does not exist"),
        pytest.param("simulator", "scenario:=nonsense", "nonsense", marks=pytest.mark.slow),  # the same way out
    ],
)
def test_a_source_that_cannot_be_configured_ends(graph, source, wrong, said):
    command = [sys.executable, "-m", f"sparseoccvla_ros.nodes.{source}", "--ros-args", "-p", wrong]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(graph.domain_id)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert said in done.stdout + done.stderr
