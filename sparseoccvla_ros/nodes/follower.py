"""follower node: the planned path in, vehicle commands out; stops the vehicle when it has no path to follow."""

from __future__ import annotations

import sys
import time

import numpy as np
from ackermann_msgs.msg import AckermannDriveStamped
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry, Path

from sparseoccvla_ros.core.errors import InvalidInput, with_code
from sparseoccvla_ros.core.geometry import yaw_of
from sparseoccvla_ros.planning.ego_history import EgoHistory
from sparseoccvla_ros.planning.trajectory_follower import Control, FollowerConfig, TimedPath, TrajectoryFollower
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.msg_utils import nanoseconds
from sparseoccvla_ros.ros.process import run

SPEED_PREVIEW = 0.3
"""s: the commanded speed is the one that the commanded acceleration reaches after this time."""
ODOMETRY_AGE = 0.5
"""s without odometry after which the vehicle is stopped."""


class FollowerNode(StageNode):
    """Pure pursuit on planning/path: publishes a command per odometry message, at most at `rate` Hz, and per path.

    A timer on the node's clock stops the vehicle when odometry is missing.
    """

    stage = "follower"
    waiting_for = "planning/path from planning"

    def setup(self) -> None:
        """Create the follower, its topics and its timer."""
        config = FollowerConfig(wheelbase=self.values.wheelbase, max_age=self.values.max_age)
        self._follower = TrajectoryFollower(config)
        self._history = EgoHistory()
        self._ego: tuple[int, np.ndarray, float] | None = None  # stamp [ns], pose (x, y, yaw), speed [m/s]
        self._path: tuple[int, TimedPath] | None = None  # stamp [ns], path in the fixed frame
        # stamp [ns], times [N] s after it, points [N, 2] m in base_link then
        self._pending_path: tuple[int, np.ndarray, np.ndarray] | None = None
        self._commanded_stamp = 0
        self._velocity = self.output("control/cmd_vel")
        self._command = self.output("control/command")
        self.input("planning/path", self._on_path)
        self.input("/odom", self._on_odometry, topic=self.values.odometry_topic)
        self._timer = self.create_timer(1.0 / self.values.rate, self._on_timer)

    def stopped(self) -> None:
        """Drop the path and command a stop."""
        self._path = self._pending_path = None
        self._follower.reset()
        stamp = self.get_clock().now().nanoseconds if self._ego is None else self._ego[0]
        self._publish(stamp, 0.0, Control(-self._follower.config.stop_brake, 0.0, "deactivated"))

    def teardown(self) -> None:
        """Destroy the timer."""
        timer = getattr(self, "_timer", None)
        if timer is not None:
            self.destroy_timer(timer)
            self._timer = None

    def _on_odometry(self, message: Odometry) -> None:
        stamp = nanoseconds(message.header.stamp)
        pose = messages.pose_from_msg(message.pose.pose, "odometry")
        twist = messages.twist_from_msg(message.twist.twist, "odometry.twist")
        self._history.add(stamp, pose, twist)
        self._ego = stamp, np.array([pose[0, 3], pose[1, 3], yaw_of(pose)]), float(twist[0])
        # A repeated stamp is a repeated request (lockstep); an earlier one means that the clock was set back.
        if not 0 < stamp - self._commanded_stamp < 0.99e9 / self.values.rate:
            self._command_vehicle()

    def _on_path(self, message: Path) -> None:
        self.monitor.received()
        self._path = self._pending_path = None  # until the new one is parsed; an empty one means stop
        if message.poses:
            stamp = nanoseconds(message.header.stamp)
            times = np.array([nanoseconds(p.header.stamp) - stamp for p in message.poses]) / 1e9
            points = np.array([(p.pose.position.x, p.pose.position.y) for p in message.poses], np.float64)
            if not (np.isfinite(points).all() and times[0] > 0 and (np.diff(times) > 0).all()):
                raise InvalidInput("path", "its poses are not finite or their stamps do not rise")
            self._pending_path = stamp, times, points
        if self._ego is not None:
            self._command_vehicle()

    def _transform_pending_path(self, now: int) -> None:
        """Transform the waiting path into the fixed frame once odometry has reached its stamp."""
        if self._pending_path is None or self._pending_path[0] > now:
            return
        (stamp, times, points), self._pending_path = self._pending_path, None
        pose = self._history.pose_at(stamp, now)
        if pose is None:
            raise InvalidInput("path", "no odometry reaches back to its stamp")
        start = np.array([pose[0, 3], pose[1, 3], yaw_of(pose)])
        # Seconds since 1970 in float64 (0.2 us steps) are too coarse for reproducible steering: count from the path.
        self._path = stamp, TimedPath.of_waypoints(0.0, start, times, points)

    def _command_vehicle(self) -> None:
        """Compute and publish the command for the newest odometry."""
        began = time.monotonic()
        assert self._ego is not None
        stamp, pose, speed = self._ego
        self._commanded_stamp = stamp
        try:
            self._transform_pending_path(stamp)
        finally:  # also when the path is refused, so that the vehicle brakes
            begun, path = self._path or (stamp, None)
            control = self._follower.control(path, (stamp - begun) / 1e9, pose, speed)
            self._publish(stamp, speed, control)
        self.monitor.finished(time.monotonic() - began, (control.stopped_by,) if control.stopped_by else ())

    def _on_timer(self) -> None:
        now = self.get_clock().now().nanoseconds
        if self.active and (self._ego is None or abs(now - self._ego[0]) > ODOMETRY_AGE * 1e9):
            # Commands carry the stamp of the odometry they are based on, so this one never answers a newer odometry.
            stamp = 0 if self._ego is None else self._ego[0]
            self._publish(stamp, 0.0, Control(-self._follower.config.stop_brake, 0.0, "no odometry"))
            self.monitor.finished(0.0, ("no odometry",))

    def _publish(self, stamp: int, speed: float, control: Control) -> None:
        velocity, command = Twist(), AckermannDriveStamped(header=messages.header(stamp))
        velocity.linear.x = max(0.0, speed + SPEED_PREVIEW * control.acceleration)
        velocity.angular.z = velocity.linear.x * float(np.tan(control.steering)) / self.values.wheelbase
        command.drive.speed, command.drive.steering_angle = velocity.linear.x, control.steering
        command.drive.acceleration = control.acceleration
        self._velocity.publish(velocity)
        self._command.publish(command)
        if control.stopped_by:
            self.get_logger().warning(with_code("stopping", control.stopped_by), throttle_duration_sec=2.0)


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros follower`."""
    return run(FollowerNode, args=args)


if __name__ == "__main__":
    sys.exit(main())
