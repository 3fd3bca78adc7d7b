"""The plan for Autoware: autoware_planning_msgs/Trajectory in the map, with speeds along the path."""

from __future__ import annotations

import numpy as np
from autoware_planning_msgs.msg import Trajectory, TrajectoryPoint

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.types import WAYPOINT_TIMES, EgoState, Plan

from ..messages import duration_msg, header, pose_to_msg


def trajectory_to_msg(plan: Plan, ego: EgoState) -> Trajectory:
    """The present pose and the waypoints, in the ego pose's fixed frame; a plan without waypoints is a standstill.

    ego: at the plan's stamp.
    """
    if not len(plan.waypoints):
        return standstill_to_msg(plan.stamp, ego)
    out = Trajectory(header=header(plan.stamp, ego.fixed_frame))
    times = np.concatenate([[0.0], WAYPOINT_TIMES])
    heading = np.unwrap(np.concatenate([[0.0], plan.heading.astype(np.float64)]))
    speed = np.concatenate([[ego.speed], plan.speed])
    acceleration = np.concatenate([plan.acceleration[:1], plan.acceleration])
    rate = np.diff(heading) / np.diff(times)
    places = np.concatenate([np.zeros((1, 2)), plan.waypoints])
    for i, t in enumerate(times):
        pose = ego.pose @ geometry.planar(*places[i], heading[i])
        out.points.append(_point(t, pose, speed[i], acceleration[i], rate[min(i, len(rate) - 1)]))
    return out


def standstill_to_msg(stamp: int, ego: EgoState) -> Trajectory:
    """Speed 0 at the ego pose: Autoware follows the last trajectory that it got, so an empty one would not stop it."""
    points = [_point(t, ego.pose, 0.0, 0.0, 0.0) for t in (0.0, 0.5)]
    return Trajectory(header=header(stamp, ego.fixed_frame), points=points)


def _point(time: float, pose: np.ndarray, speed: float, acceleration: float, heading_rate: float) -> TrajectoryPoint:
    return TrajectoryPoint(
        time_from_start=duration_msg(time),
        pose=pose_to_msg(pose),
        longitudinal_velocity_mps=float(speed),
        acceleration_mps2=float(acceleration),
        heading_rate_rps=float(heading_rate),
    )
