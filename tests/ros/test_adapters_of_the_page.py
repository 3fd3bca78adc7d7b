"""What the viewer and the cockpit rest on: scenes of one stamp, and whom a page may kill."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rclpy.serialization import serialize_message

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import Command, CommandSource, Plan, PlanStatus, Reasoning, SceneQueries
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.adapters.scene_collector import SceneCollector
from sparseoccvla_ros.ros.adapters.stack_control import StackControl


def test_reasoning_of_long_ago_or_of_another_drive_is_not_shown_with_a_scene(frames):
    made = frames(0)
    empty = np.zeros(0, np.float32)
    queries = SceneQueries(
        made.stamp, made.epoch, made.ego, np.zeros((5, 8), np.float32), np.zeros((5, 3), np.float32),
        np.zeros((5, 4, 3), np.float32), np.zeros((5, 4), np.uint8), np.zeros((5, 4), np.float32),
        np.zeros((12, 8), np.float32), (), True,
    )  # fmt: skip
    plan = Plan(
        made.stamp, made.epoch, np.zeros((0, 2), np.float32), empty, empty, empty, np.zeros((18, 6, 2), np.float32),
        np.zeros(18, np.float32), 0, Command.LEFT, CommandSource.TOPIC, PlanStatus.OK, "ego", (), True,
    )  # fmt: skip
    state = Reasoning(
        made.stamp, made.epoch, np.ones(4, np.float32), np.zeros(18, np.float32), np.ones((2, 3), np.float32),
        (SparseVoxels.empty(),) * 3, "planned", "", False,
    )  # fmt: skip
    collector = SceneCollector(OccupancyConfig())
    for name, message in (
        ("frames", messages.frames_to_msg(made)), ("occupancy/queries", messages.queries_to_msg(queries)),
        ("planning/plan", messages.plan_to_msg(plan)),
    ):  # fmt: skip
        collector.keep(name, made.stamp, serialize_message(message))
    for seconds, epoch, shown in ((3.0, 0, False), (1.0, 1, False), (1.0, 0, True), (-1.0, 0, True)):
        told = replace(state, stamp=made.stamp - round(1e9 * seconds), epoch=made.epoch + epoch)
        collector.keep("reasoning/state", told.stamp, serialize_message(messages.reasoning_to_msg(told)))
        assert (collector.collect(made.stamp).reasoning is not None) == shown


def test_who_adopted_the_cockpit_loses_no_children(monkeypatch):
    client = SimpleNamespace(service_is_ready=lambda: True)
    node = SimpleNamespace(create_client=lambda *_: client)
    monkeypatch.setattr("sparseoccvla_ros.ros.adapters.stack_control.AsyncParameterClient", lambda *_: None)
    control = StackControl(node, ("planning",))
    with pytest.raises(InvalidInput, match="started together"):
        control.kill("planning")
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(InvalidInput, match="has ended"):
        control.kill("planning")
