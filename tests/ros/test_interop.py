"""What other stacks read: vision_msgs boxes and Autoware's trajectory, serialised and read back."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.types import Command, CommandSource, EgoState, Plan, PlanStatus
from sparseoccvla_ros.occupancy.object_boxes import ObjectBox
from sparseoccvla_ros.ros.adapters import detections

STAMP = 1_700_000_000_000_000_000
EGO = EgoState(geometry.planar(100.0, 50.0, np.pi / 2), np.array([4.0, 0, 0, 0, 0, 0.0]), "map")


def plan(steps: int = 6) -> Plan:
    """4 m/s, bending left at 0.2 rad/s."""
    heading = 0.2 * 0.5 * np.arange(1, steps + 1)
    waypoints = np.stack([20 * np.sin(heading), 20 * (1 - np.cos(heading))], -1)
    return Plan(
        STAMP, 0, waypoints.astype(np.float32), heading.astype(np.float32), np.full(steps, 4.0, np.float32),
        np.zeros(steps, np.float32), np.zeros((1, 6, 2), np.float32), np.zeros(1, np.float32), 0 if steps else -1,
        Command.LEFT, CommandSource.TOPIC, PlanStatus.OK if steps else PlanStatus.REJECTED,
    )  # fmt: skip


def through_dds(message):
    return deserialize_message(serialize_message(message), type(message))


def test_autoware_trajectory_is_in_the_map_with_speed_along_the_path():
    autoware = pytest.importorskip(
        "sparseoccvla_ros.ros.adapters.autoware", reason="autoware_planning_msgs is not installed"
    )
    message = through_dds(autoware.trajectory_to_msg(plan(), EGO))
    assert message.header.frame_id == "map"
    times = [p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in message.points]
    assert times == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert [p.longitudinal_velocity_mps for p in message.points] == pytest.approx([4.0] * 7, abs=1e-4)
    assert [p.heading_rate_rps for p in message.points] == pytest.approx([0.2] * 7, abs=1e-4)
    for point, (x, y), yaw in zip(message.points[1:], plan().waypoints.tolist(), plan().heading.tolist(), strict=True):
        # Turned by 90 degrees to the left, then shifted.
        assert (point.pose.position.x, point.pose.position.y) == pytest.approx((100.0 - y, 50.0 + x), abs=1e-4)
        q = point.pose.orientation
        assert 2 * math.atan2(q.z, q.w) == pytest.approx(yaw + np.pi / 2, abs=1e-4)


def test_a_plan_without_waypoints_stands_still_for_autoware():
    autoware = pytest.importorskip(
        "sparseoccvla_ros.ros.adapters.autoware", reason="autoware_planning_msgs is not installed"
    )
    message = through_dds(autoware.trajectory_to_msg(plan(0), EGO))
    assert len(message.points) == 2
    for point in message.points:
        assert point.longitudinal_velocity_mps == 0.0
        assert (point.pose.position.x, point.pose.position.y) == (100.0, 50.0)


def test_candidates_for_autoware_begin_with_the_chosen_one():
    pytest.importorskip("autoware_internal_planning_msgs", reason="autoware_internal_planning_msgs is not installed")
    from sparseoccvla_ros.ros.adapters import autoware

    made = plan()
    straight = np.stack([np.arange(1, 7) * 2.0, np.zeros(6)], -1).astype(np.float32)
    candidates = np.stack([straight, made.waypoints, 0.5 * straight])
    made = replace(made, candidates=candidates, scores=np.array([0.2, 0.3, 0.9], np.float32), chosen=1)
    message = through_dds(autoware.candidates_to_msg(made, EGO))
    assert message.generator_info[0].generator_name.data == "sparseoccvla_ros"
    ends = []
    for one in message.candidate_trajectories:
        assert one.header.frame_id == "map"
        assert one.generator_id == message.generator_info[0].generator_id
        ends.append((one.points[-1].pose.position.x, one.points[-1].pose.position.y))
    # base_link looks along y of the map: a candidate's x is the map's y.
    wanted = [(100.0 - y, 50.0 + x) for x, y in candidates[[1, 2, 0], -1].tolist()]
    np.testing.assert_allclose(ends, wanted, atol=1e-4)
    assert message.candidate_trajectories[2].points[3].longitudinal_velocity_mps == pytest.approx(4.0, abs=1e-3)


@pytest.mark.parametrize(("command", "value"), [("left", 2), ("right", 3), ("straight", 1)])
def test_turn_indicators_follow_the_command(command, value):
    pytest.importorskip("autoware_vehicle_msgs", reason="autoware_vehicle_msgs is not installed")
    pytest.importorskip("autoware_planning_msgs", reason="autoware_planning_msgs is not installed")
    from sparseoccvla_ros.ros.adapters import autoware

    message = through_dds(autoware.turn_indicators_to_msg(replace(plan(), command=Command(command))))
    assert message.command == value
    assert message.stamp.sec == STAMP // 10**9


BOXES = [
    ObjectBox(np.array([10.0, 2, 0.5]), np.array([4.4, 1.8, 1.6]), 0.3, LABEL["car"], 0.9, np.array([3.0, 1.0])),
    ObjectBox(np.array([5.0, -2, 0.6]), np.array([0.8, 0.8, 1.8]), 0.0, LABEL["pedestrian"], 0.4, None),
]


def test_detections_hold_class_score_pose_and_size():
    pytest.importorskip("vision_msgs", reason="vision_msgs is not installed")
    message = through_dds(detections.detections_to_msg(BOXES, STAMP))
    assert message.header.frame_id == "base_link"
    for box, found in zip(BOXES, message.detections, strict=True):
        hypothesis = found.results[0].hypothesis
        assert (hypothesis.class_id, hypothesis.score) == (box.name, box.score)
        centre, size = found.bbox.center, found.bbox.size
        assert (centre.position.x, centre.position.y, centre.position.z) == tuple(box.centre)
        assert 2 * math.atan2(centre.orientation.z, centre.orientation.w) == pytest.approx(box.yaw)
        assert (size.x, size.y, size.z) == tuple(box.size)


def test_an_arrow_shows_where_a_box_goes():
    drawn = through_dds(detections.detection_markers(BOXES, STAMP, "live")).markers
    assert [m.ns for m in drawn] == ["", "boxes", "velocity", "boxes"]
    start, end = drawn[2].points
    assert (end.x - start.x, end.y - start.y) == pytest.approx((3.0, 1.0))
