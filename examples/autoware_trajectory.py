#!/usr/bin/env python3
"""Gives the planned trajectory to Autoware: MultiDOFJointTrajectory in, autoware_planning_msgs/Trajectory out.

    python3 examples/autoware_trajectory.py --ros-args -r planning/trajectory:=/sparseoccvla/planning/trajectory \
        -r trajectory:=/planning/scenario_planning/trajectory

Autoware wants map coordinates, and speeds along the path. An empty plan becomes a trajectory that stands still where
the vehicle is, since Autoware keeps following the last one it got. Needs autoware_planning_msgs and tf2_ros.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from trajectory_msgs.msg import MultiDOFJointTrajectory

from sparseoccvla_ros.core import geometry

try:
    from autoware_planning_msgs.msg import Trajectory, TrajectoryPoint
    from tf2_ros import Buffer, TransformException, TransformListener
except ImportError as error:
    Trajectory = None
    MISSING = f"{error.name} is not installed: build Autoware's messages, and sudo apt install ros-$ROS_DISTRO-tf2-ros"


@dataclass(frozen=True)
class Point:
    """One point for Autoware: seconds from the stamp, pose [4, 4] in the map, m/s and m/s^2 along it, rad/s."""

    time: float
    pose: np.ndarray
    speed: float
    acceleration: float
    heading_rate: float


def points_of(trajectory: MultiDOFJointTrajectory, base2map: np.ndarray) -> list[Point]:
    """The trajectory in map coordinates, with the present pose in front; speed 0 everywhere when it is empty.

    base2map: float64 [4, 4], the trajectory's frame at its stamp to the map.
    """
    if not trajectory.points:
        return [Point(t, base2map, 0.0, 0.0, 0.0) for t in (0.0, 0.5)]
    rows = []
    for point in trajectory.points:
        place, velocity, change = point.transforms[0], point.velocities[0].linear, point.accelerations[0].linear
        t, q = place.translation, place.rotation
        pose = geometry.transform(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]), "trajectory")
        along = pose[:2, 0]
        time = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
        speed = float(along @ (velocity.x, velocity.y))
        rows.append((time, pose, speed, float(along @ (change.x, change.y))))
    first = rows[0]
    begin = max(0.0, first[2] - first[3] * first[0])
    rows.insert(0, (0.0, np.eye(4), begin, first[3]))
    points = []
    for here, there in zip(rows, [*rows[1:], rows[-1]], strict=True):
        turn = geometry.yaw_of(there[1]) - geometry.yaw_of(here[1])
        turn = math.atan2(math.sin(turn), math.cos(turn))
        rate = turn / (there[0] - here[0]) if there[0] > here[0] else 0.0
        points.append(Point(here[0], base2map @ here[1], here[2], here[3], rate))
    return points


class ToAutoware(Node):
    """Republishes every planned trajectory for Autoware."""

    def __init__(self) -> None:
        super().__init__("to_autoware")
        self._map = self.declare_parameter("map_frame", "map").value
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, self)
        self._out = self.create_publisher(Trajectory, "trajectory", 1)
        self.create_subscription(
            MultiDOFJointTrajectory, "planning/trajectory", self._on_trajectory, qos_profile_sensor_data
        )

    def _on_trajectory(self, trajectory: MultiDOFJointTrajectory) -> None:
        header = trajectory.header
        try:
            found = self._buffer.lookup_transform(self._map, header.frame_id, Time.from_msg(header.stamp))
        except TransformException as error:
            self.get_logger().warning(f"no trajectory sent: {error}", throttle_duration_sec=2.0)
            return
        t, q = found.transform.translation, found.transform.rotation
        base2map = geometry.transform(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))
        out = Trajectory()
        out.header.stamp, out.header.frame_id = header.stamp, self._map
        for point in points_of(trajectory, base2map):
            row = TrajectoryPoint()
            row.time_from_start.sec = int(point.time)
            row.time_from_start.nanosec = round(1e9 * (point.time - int(point.time)))
            place, turn = row.pose.position, row.pose.orientation
            place.x, place.y, place.z = point.pose[:3, 3].tolist()
            turn.x, turn.y, turn.z, turn.w = geometry.quaternion(point.pose).tolist()
            row.longitudinal_velocity_mps = point.speed
            row.acceleration_mps2 = point.acceleration
            row.heading_rate_rps = point.heading_rate
            out.points.append(row)
        self._out.publish(out)


def main() -> int:
    if Trajectory is None:
        print(f"error: {MISSING}", file=sys.stderr)
        return 2
    rclpy.init()
    try:
        rclpy.spin(ToAutoware())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
