"""Conversion of plans for Autoware: trajectories in the fixed frame with speeds along the path, turn indicators."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from autoware_planning_msgs.msg import Trajectory, TrajectoryPoint

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.types import WAYPOINT_TIMES, Command, EgoState, Plan
from sparseoccvla_ros.planning.trajectory import Motion, motion_of

from ..messages import duration_msg, header, pose_to_msg, time_msg

GENERATOR = "sparseoccvla_ros"
"""Name of the candidates' generator, and seed of the generator id for Autoware's selectors."""


def trajectory_to_msg(plan: Plan, ego: EgoState) -> Trajectory:
    """Return the ego pose and the waypoints in the fixed frame of the ego pose; a standstill without waypoints.

    ego: state at the plan's stamp.
    """
    if not len(plan.waypoints):
        return standstill_to_msg(plan.stamp, ego)
    return Trajectory(header=header(plan.stamp, ego.fixed_frame), points=_points(plan, ego))


def candidates_to_msg(plan: Plan, ego: EgoState) -> Any:
    """Return autoware_internal_planning_msgs/CandidateTrajectories: the chosen one first, then by score.

    Raises ImportError if autoware_internal_planning_msgs is not installed.
    """
    from autoware_internal_planning_msgs.msg import CandidateTrajectories, CandidateTrajectory, GeneratorInfo
    from std_msgs.msg import String
    from unique_identifier_msgs.msg import UUID

    who = UUID(uuid=np.frombuffer(uuid.uuid5(uuid.NAMESPACE_DNS, GENERATOR).bytes, np.uint8))
    order = np.argsort(-plan.scores, kind="stable").tolist()
    order.sort(key=lambda i: i != plan.chosen)
    out = CandidateTrajectories(generator_info=[GeneratorInfo(generator_id=who, generator_name=String(data=GENERATOR))])
    for i in order:
        points = _points(motion_of(plan.candidates[i], ego.speed), ego)
        made = CandidateTrajectory(header=header(plan.stamp, ego.fixed_frame), generator_id=who, points=points)
        out.candidate_trajectories.append(made)
    return out


def turn_indicators_to_msg(plan: Plan) -> Any:
    """Return the autoware_vehicle_msgs/TurnIndicatorsCommand for the command; straight switches them off.

    Raises ImportError if autoware_vehicle_msgs is not installed.
    """
    from autoware_vehicle_msgs.msg import TurnIndicatorsCommand as Indicators

    sides = {Command.LEFT: Indicators.ENABLE_LEFT, Command.RIGHT: Indicators.ENABLE_RIGHT}
    return Indicators(stamp=time_msg(plan.stamp), command=sides.get(plan.command, Indicators.DISABLE))


def _points(motion: Motion | Plan, ego: EgoState) -> list[TrajectoryPoint]:
    """Return trajectory points of the ego pose and the six waypoints."""
    times = np.concatenate([[0.0], WAYPOINT_TIMES])
    heading = np.unwrap(np.concatenate([[0.0], motion.heading.astype(np.float64)]))
    speed = np.concatenate([[ego.speed], motion.speed])
    acceleration = np.concatenate([motion.acceleration[:1], motion.acceleration])
    rate = np.diff(heading) / np.diff(times)
    places = np.concatenate([np.zeros((1, 2)), motion.waypoints])
    out = []
    for i, t in enumerate(times):
        pose = ego.pose @ geometry.planar(*places[i], heading[i])
        out.append(_point(t, pose, speed[i], acceleration[i], rate[min(i, len(rate) - 1)]))
    return out


def standstill_to_msg(stamp: int, ego: EgoState) -> Trajectory:
    """Return speed 0 at the ego pose: an empty trajectory does not stop Autoware, which follows the last one it got."""
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
