"""What Nav2 gets: the adapter's arithmetic, what it says without its messages, the topics of its costmaps."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.core.types import Command, CommandSource, Plan, PlanStatus
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.adapters import nav2_follow_path
from sparseoccvla_ros.ros.topics import BY_NAME, NAMESPACE

BASE2MAP = geometry.planar(100.0, 50.0, np.pi / 2)


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
    path = nav2_follow_path.moved(messages.path_to_msg(plan()), BASE2MAP, "odom")
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
    command = [sys.executable, "-m", nav2_follow_path.__name__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nav2_msgs" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_path_that_is_withdrawn_before_nav2_answers_is_not_followed():
    cancelled = []
    ahead, late = (SimpleNamespace(accepted=True, cancel_goal_async=lambda n=n: cancelled.append(n)) for n in (1, 2))
    answer = nav2_follow_path.FollowPlannedPath._on_answer
    node = SimpleNamespace(_goal=None, _sent=1, _withdrawn=0, get_logger=lambda: logging.getLogger())
    answer(node, 1, SimpleNamespace(result=lambda: ahead))
    assert node._goal is ahead
    node._sent = 2
    nav2_follow_path.FollowPlannedPath._stop(node, "an empty path")
    answer(node, 2, SimpleNamespace(result=lambda: late))
    assert cancelled == [1, 2]
    assert node._goal is None


def test_costs_are_those_of_the_class_that_costs_most():
    columns = {"driveable_surface": 0, "other_flat": 40, "sidewalk": 70, "terrain": 70, "car": 100, "vegetation": 100}
    index = np.array([[10 * k, 20, 2] for k in range(len(columns))] + [[0, 30, 1], [0, 30, 5]], np.int16)
    labels = np.array([LABEL[name] for name in columns] + [LABEL["pedestrian"], LABEL["sidewalk"]], np.uint8)
    voxels = SparseVoxels(index, labels, np.ones(len(index), np.float32), OCC3D_GRID)
    cells = np.array(messages.grid_to_msg(voxels, 0, costs=messages.SEMANTIC_COSTS).data).reshape(200, 200)
    assert [cells[20, 10 * k] for k in range(len(columns))] == list(columns.values())
    assert cells[30, 0] == 100
    assert (cells == -1).sum() == 40_000 - len(columns) - 1


def test_the_costmaps_of_the_configuration_read_topics_that_exist():
    content = yaml.safe_load(share("config", "nav2_costmaps.yaml").read_text())
    layers = content["local_costmap"]["local_costmap"]["ros__parameters"]
    cloud = BY_NAME[layers["voxel_layer"]["occupancy"]["topic"].removeprefix(f"{NAMESPACE}/")]
    mask = BY_NAME[content["costmap_filter_info_server"]["ros__parameters"]["mask_topic"].removeprefix(f"{NAMESPACE}/")]
    assert cloud.type == "sensor_msgs/msg/PointCloud2"
    assert (mask.type, mask.qos) == ("nav_msgs/msg/OccupancyGrid", "map")


def test_its_launch_file_starts_the_adapter():
    actions = pytest.importorskip("launch_ros.actions", reason="launch_ros comes with a ROS install")
    spec = importlib.util.spec_from_file_location("nav2_launch", share("launch", "nav2.launch.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entities = module.generate_launch_description().entities
    assert [e.node_executable for e in entities if isinstance(e, actions.Node)] == ["nav2_follow_path"]
