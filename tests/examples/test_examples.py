"""The adapter for Nav2: arithmetic on real messages, and what it says where messages are missing."""

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


def test_missing_messages_are_named():
    if importlib.util.find_spec("nav2_msgs") is not None:
        pytest.skip("nav2_msgs is installed")
    command = [sys.executable, EXAMPLES / "nav2_follow_path.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nav2_msgs" in done.stderr
    assert len(done.stderr.splitlines()) == 1
