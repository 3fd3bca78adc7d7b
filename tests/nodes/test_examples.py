"""The examples that take the place of the ros2 command, as processes against real nodes."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparseoccvla_ros.nodes.follower import FollowerNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.reasoning import ReasoningNode
from sparseoccvla_ros.ros import messages

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]


def run(example: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / f"{example}.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_a_parameter_changes_or_says_why_not(graph):
    node = graph.add(FollowerNode)
    done = run("set_parameter", "/sparseoccvla/follower", "stale_after", "0.7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert node.values.stale_after == 0.7
    done = run("set_parameter", "/sparseoccvla/follower", "stale_after", "1000.0")
    assert done.returncode == 1
    assert "stale_after" in done.stdout or "range" in done.stdout, done.stdout
    assert node.values.stale_after == 0.7


def test_a_question_is_answered(graph, preset, frames, until):
    graph.add(OccupancyNode, preset=preset)
    graph.add(ReasoningNode, preset=preset, question_period=0.0)
    states = graph.probe.listen("reasoning/state")
    graph.probe.send("frames", messages.frames_to_msg(frames(0)))
    assert until(lambda: states, 20)
    done = run("ask", "Is there a car ahead?")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(("(token_limit)", "(complete)", "(time_limit)"))
    assert len(done.stdout.strip()) > len("(token_limit)")
    assert run("ask", "  ").returncode == 1
