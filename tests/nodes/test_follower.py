"""The follower over real DDS: drives along a path, and stops the vehicle when the path ends, is empty or grows old."""

import threading
import time

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path

from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.nodes.follower import FollowerNode
from sparseoccvla_ros.ros import messages

pytestmark = pytest.mark.ros
SPEED = 5.0


def odometry(stamp: int) -> Odometry:
    out = Odometry(header=messages.header(stamp))
    out.pose.pose = messages.pose_to_msg(planar(0.0, 0.0, 0.0))
    out.twist.twist = messages.twist_to_msg(np.array([SPEED, 0, 0, 0, 0, 0.0]))
    return out


def path(stamp: int, left: float = 0.0, count: int = 6) -> Path:
    out = Path(header=messages.header(stamp))
    for k in range(1, count + 1):
        pose = PoseStamped(header=messages.header(stamp + k * 500_000_000))
        pose.pose.position.x, pose.pose.position.y = 0.5 * k * SPEED, left * k**2
        out.poses.append(pose)
    return out


def test_follows_and_stops(graph, until):
    node = graph.add(FollowerNode, max_age=2.0)
    commands = graph.probe.listen("control/cmd_vel")
    ended = threading.Event()

    def now() -> int:
        return graph.probe.get_clock().now().nanoseconds

    def drive() -> None:
        while not ended.is_set():
            graph.probe.send("/odom", odometry(now()))
            time.sleep(0.05)

    source = threading.Thread(target=drive)
    source.start()
    try:
        assert until(lambda: node._ego is not None and commands, 20)
        graph.probe.send("planning/path", path(now(), left=0.3))
        assert until(lambda: commands[-1].linear.x > 4.5 and commands[-1].angular.z > 0.02, 5)
        graph.probe.send("planning/path", path(now(), count=0))
        assert until(lambda: commands[-1].linear.x < SPEED - 0.5, 5)
        # The monitor is told after the command is published.
        assert until(lambda: "no path" in node.monitor.state(10.0)[1], 5)
        graph.probe.send("planning/path", path(now()))
        assert until(lambda: commands[-1].linear.x > 4.5, 5)
        assert until(lambda: commands[-1].linear.x < SPEED - 0.5, 5)  # the path has grown old
        assert until(lambda: "too old" in node.monitor.state(10.0)[1], 5)
    finally:
        ended.set()
        source.join()
    assert until(lambda: commands[-1].linear.x == 0.0, 5)  # odometry ended
