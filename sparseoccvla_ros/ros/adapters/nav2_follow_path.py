"""nav2_follow_path node: makes Nav2 follow the planned path, as a client of its FollowPath action.

    ros2 launch sparseoccvla_ros nav2.launch.py fixed_frame:=odom

Every path is transformed from base_link at its stamp to the fixed frame and sent as a goal, which replaces the last
one. An empty path, an old path and a missing path cancel the goal: Nav2 then stops the vehicle. Needs a ROS 2 install
with nav2_msgs and tf2_ros (sudo apt install ros-$ROS_DISTRO-nav2-msgs).
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import Path
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.ros.topics import NAMESPACE

try:
    from nav2_msgs.action import FollowPath
    from tf2_ros import Buffer, TransformException, TransformListener
except ImportError as error:
    FollowPath = None
    MISSING = f"{error.name} is not installed: sudo apt install ros-$ROS_DISTRO-nav2-msgs ros-$ROS_DISTRO-tf2-ros"


def moved(path: Path, base2fixed: np.ndarray, fixed_frame: str) -> Path:
    """Return a path in `fixed_frame`, modifying its poses; base2fixed: float64 [4, 4], path frame to fixed frame."""
    out = Path()
    out.header.stamp, out.header.frame_id = path.header.stamp, fixed_frame
    for pose in path.poses:
        p, q = pose.pose.position, pose.pose.orientation
        matrix = base2fixed @ geometry.transform(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]), "path")
        pose.header.frame_id = fixed_frame
        p.x, p.y, p.z = matrix[:3, 3].tolist()
        q.x, q.y, q.z, q.w = geometry.quaternion(matrix).tolist()
        out.poses.append(pose)
    return out


class FollowPlannedPath(Node):
    """Sends every planned path to Nav2, and cancels the goal if there is none to follow."""

    def __init__(self) -> None:
        super().__init__("nav2_follow_path", namespace=NAMESPACE)
        self._frame = self.declare_parameter("fixed_frame", "odom").value
        self._max_age = self.declare_parameter("max_age", 0.8).value
        self._controller = self.declare_parameter("controller_id", "FollowPath").value
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, self)
        self._client = ActionClient(self, FollowPath, "/follow_path")
        self._goal: Any = None
        self._sent = self._withdrawn = 0
        self._heard = time.monotonic()
        self.create_subscription(Path, "planning/path", self._on_path, qos_profile_sensor_data)
        # Silence is told by a steady clock: a dead or jumping /clock must not keep the goal alive.
        self.create_timer(0.1, self._check_silence, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_path(self, path: Path) -> None:
        self._heard = time.monotonic()
        age = (self.get_clock().now() - Time.from_msg(path.header.stamp)).nanoseconds * 1e-9
        if not path.poses or age > self._max_age:
            self._stop(f"path of {age:.2f} s with {len(path.poses)} poses")
            return
        try:
            found = self._buffer.lookup_transform(self._frame, path.header.frame_id, Time.from_msg(path.header.stamp))
        except TransformException as error:
            self._stop(str(error))
            return
        t, q = found.transform.translation, found.transform.rotation
        base2fixed = geometry.transform(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))
        goal = FollowPath.Goal(path=moved(path, base2fixed, self._frame), controller_id=self._controller)
        if self._client.server_is_ready():
            self._sent += 1
            self._client.send_goal_async(goal).add_done_callback(partial(self._on_answer, self._sent))

    def _on_answer(self, number: int, future: Any) -> None:
        handle = future.result()
        if handle.accepted and number <= self._withdrawn:
            handle.cancel_goal_async()  # stopped before Nav2 accepted it
        elif handle.accepted:
            self._goal = handle
        else:
            self.get_logger().warning("Nav2 refused the path", throttle_duration_sec=2.0)

    def _check_silence(self) -> None:
        if time.monotonic() - self._heard > self._max_age:
            self._stop("no path arrives")

    def _stop(self, reason: str) -> None:
        self._withdrawn = self._sent
        if self._goal is not None:
            self.get_logger().warning(f"stopping: {reason}")
            self._goal.cancel_goal_async()
            self._goal = None


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros nav2_follow_path`."""
    if FollowPath is None:
        print(f"error: {MISSING}", file=sys.stderr)
        return 2
    rclpy.init(args=args)
    try:
        rclpy.spin(FollowPlannedPath())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
