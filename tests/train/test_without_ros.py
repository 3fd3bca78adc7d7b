"""A training server has neither ROS nor bags nor a viewer: whatever trains and judges imports without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABSENT = (
    "rclpy", "rosbags", "mcap", "mcap_protobuf", "google.protobuf", "rerun", "launch", "launch_ros",
    "builtin_interfaces", "std_msgs", "sensor_msgs", "geometry_msgs", "nav_msgs", "visualization_msgs",
    "diagnostic_msgs", "lifecycle_msgs", "trajectory_msgs", "rcl_interfaces", "tf2_msgs", "sparseoccvla_msgs",
)  # fmt: skip
ROOMS = ("train", "eval", "world", "data.synthetic", "runtime", "occupancy", "reasoning", "planning")
PROGRAM = f"""
import importlib, pkgutil, sys
for name in {ABSENT!r}:
    sys.modules[name] = None
optional = ("tensorrt", "openvino", "onnxruntime", "onnx", "onnxscript", "triton")
for room in {ROOMS!r}:
    package = importlib.import_module("sparseoccvla_ros." + room)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # These write, judge and learn from bags, and nothing else.
        if found.name.endswith((".to_bag", ".train.features.bags")) or ".eval.bags" in found.name:
            continue
        try:
            importlib.import_module(found.name)
        except ImportError as error:
            if (error.name or "").split(".")[0] not in optional:
                raise
from sparseoccvla_ros.cli.train import app
from sparseoccvla_ros.train.recipe.plan import load_recipe
print(len(load_recipe("tiny").steps), app is not None)
"""


@pytest.mark.timeout(600)
def test_training_and_evaluation_import_without_ros_bags_and_viewer() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "True"
