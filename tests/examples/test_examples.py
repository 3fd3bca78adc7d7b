"""The adapters for Nav2 and Autoware: arithmetic on real messages, and what they say where messages are missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.types import Command, CommandSource, Plan, PlanStatus
from sparseoccvla_ros.ros import messages

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BASE2MAP = geometry.planar(100.0, 50.0, np.pi / 2)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def plan(steps: int = 6) -> Plan:
    """4 m/s, bending left at 0.2 rad/s."""
    time = 0.5 * np.arange(1, steps + 1)
    heading = 0.2 * time
    waypoints = np.stack([20 * np.sin(heading), 20 * (1 - np.cos(heading))], -1)
    return Plan(
        stamp=1_700_000_000_000_000_000,
        epoch=0,
        waypoints=waypoints.astype(np.float32),
        heading=heading.astype(np.float32),
        speed=np.full(steps, 4.0, np.float32),
        acceleration=np.zeros(steps, np.float32),
        candidates=np.zeros((1, 6, 2), np.float32),
        scores=np.zeros(1, np.float32),
        chosen=0 if steps else -1,
        command=Command.LEFT,
        command_source=CommandSource.TOPIC,
        status=PlanStatus.OK if steps else PlanStatus.REJECTED,
        score_source="planner",
        reasons=(),
        trained=True,
    )


def test_nav2_path_is_moved_into_the_fixed_frame():
    example = load("nav2_follow_path")
    path = example.moved(messages.path_to_msg(plan()), BASE2MAP, "odom")
    assert path.header.frame_id == "odom"
    for pose, (x, y), yaw in zip(path.poses, plan().waypoints.tolist(), plan().heading.tolist(), strict=True):
        assert pose.header.frame_id == "odom"
        # Turned by 90 degrees to the left, then shifted.
        assert (pose.pose.position.x, pose.pose.position.y) == pytest.approx((100.0 - y, 50.0 + x), abs=1e-5)
        q = pose.pose.orientation
        assert 2 * np.arctan2(q.z, q.w) == pytest.approx(yaw + np.pi / 2, abs=1e-5)


def test_autoware_points_carry_speed_along_the_path():
    example = load("autoware_trajectory")
    points = example.points_of(messages.trajectory_to_msg(plan()), BASE2MAP)
    assert [p.time for p in points] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    np.testing.assert_allclose(points[0].pose, BASE2MAP)
    assert [p.speed for p in points] == pytest.approx([4.0] * 7, abs=1e-4)
    assert [p.heading_rate for p in points[:-1]] == pytest.approx([0.2] * 6, abs=1e-4)
    assert points[-1].pose[0, 3] == pytest.approx(100.0 - float(plan().waypoints[-1, 1]), abs=1e-5)


def test_an_empty_plan_stands_still_for_autoware():
    points = load("autoware_trajectory").points_of(messages.trajectory_to_msg(plan(0)), BASE2MAP)
    assert len(points) == 2
    assert all(p.speed == 0.0 and np.array_equal(p.pose, BASE2MAP) for p in points)


@pytest.mark.parametrize(
    ("name", "needs"), [("nav2_follow_path", "nav2_msgs"), ("autoware_trajectory", "autoware_planning_msgs")]
)
def test_missing_messages_are_named(name, needs):
    if importlib.util.find_spec(needs) is not None:
        pytest.skip(f"{needs} is installed")
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert needs in done.stderr
    assert len(done.stderr.splitlines()) == 1
