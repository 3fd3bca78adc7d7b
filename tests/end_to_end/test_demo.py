"""./run demo, as a user runs it, and what it leaves behind."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message

from sparseoccvla_ros.core.types import PlanStatus
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.lifecycle_base import message_class
from sparseoccvla_ros.ros.parameters import STAGES
from sparseoccvla_ros.ros.topics import OUTPUTS
from sparseoccvla_ros.runtime.factory import build_planning
from sparseoccvla_ros.runtime.presets import load_preset

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory, next_domain):
    """One run of the demo with the real preset, shared by every test here."""
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", "demo", "--out", str(out)]
    variables = {**os.environ, "ROS_DOMAIN_ID": str(next_domain())}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, env=variables)
    return done, out, json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def recorded(demo):
    """Every recorded output, decoded, by topic; of markers, whose cubes take long to decode, every eighth."""
    by_topic: dict[str, list] = {}
    seen = Counter()
    with BagReader(demo[1] / "outputs") as reader:
        for message in reader.messages():
            seen[message.topic] += 1
            if message.type == "visualization_msgs/msg/MarkerArray" and seen[message.topic] % 8 != 1:
                continue
            decoded = deserialize_message(bytes(message.raw), message_class(message.type))
            by_topic.setdefault(message.topic, []).append(decoded)
    return by_topic


def test_ends_well_and_says_what_it_is(demo):
    done, _, summary = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("UNTRAINED" in done.stdout) == (not summary["trained"])
    assert "camera -> path" in done.stdout


def test_paths_come_with_camera_stamps_from_active_nodes(demo):
    _, _, summary = demo
    # However slow the machine: playback waits once plans are more than a second of the bag late.
    assert summary["paths"] >= 0.4 * summary["bag_seconds"]
    assert summary["stamps_matched"] == summary["paths"]
    assert {*STAGES, "viewer"} == set(summary["active"])
    assert all(summary["active"].values())
    assert summary["latencies"]["camera -> path"]["p50"] < 3000
    assert not summary["events"]


def test_every_millisecond_from_image_to_path_is_accounted_for(demo):
    _, _, summary = demo
    hops = summary["budget"]
    stages = ("camera_sync", "occupancy", "planning")
    assert {hop["event"].split("/")[0] for hop in hops[:-1]} == set(stages)
    assert {"DDS", "other cameras", "queueing", "conversion", "compute"} == {hop["kind"] for hop in hops}
    # Two processes hear of an image at about the same time; everything after that happens in this order.
    assert all(hop["mean"] >= 0 for hop in hops[1:]), hops
    latency = summary["latencies"]["camera -> path"]
    assert sum(hop["mean"] for hop in hops) == pytest.approx(latency["mean"], rel=0.1)


def test_every_output_keeps_frame_and_monotone_camera_stamps(recorded):
    for topic in OUTPUTS:
        if topic.node in ("follower", "simulator"):  # they drive, the demo plays
            continue
        got = recorded.get(topic.full_name, [])
        if topic.name in (
            "/clock",
            "/diagnostics",
            "frames",
            "camera_sync/mosaic",
            "reasoning/text",
            "planning/instruction",  # along a route, and the demo has none
        ):
            continue
        if got and hasattr(got[0], "markers"):
            headers = [m.markers[0].header for m in got if m.markers]
        elif topic.name == "planning/autoware_candidates":
            headers = [t.header for m in got for t in m.candidate_trajectories[:1]]
        else:
            headers = [m.header if hasattr(m, "header") else m for m in got]
        assert len(headers) >= 1, topic.name
        stamps = [messages.nanoseconds(h.stamp) for h in headers]
        assert stamps == sorted(stamps), f"{topic.name}: stamps run backwards"
        # Autoware's planners take trajectories in the fixed frame.
        frame = "map" if topic.name in ("planning/autoware_trajectory", "planning/autoware_candidates") else "base_link"
        # A turn indicator has a stamp and no place.
        assert all(getattr(h, "frame_id", frame) == frame for h in headers), topic.name


def test_paths_are_timed_and_within_bounds(recorded):
    paths = recorded["/sparseoccvla/planning/path"]
    assert len(paths) >= 10
    for path in paths:
        if not path.poses:  # one empty path at the end of the bag tells followers to stop
            continue
        start = messages.nanoseconds(path.header.stamp)
        assert [messages.nanoseconds(p.header.stamp) - start for p in path.poses] == [
            k * 500_000_000 for k in range(1, 7)
        ]
        points = np.array([(p.pose.position.x, p.pose.position.y) for p in path.poses])
        steps = np.diff(np.concatenate([np.zeros((1, 2)), points]), axis=0)
        assert np.isfinite(points).all()
        assert np.linalg.norm(steps, axis=1).max() <= 10.5, "faster than 21 m/s"
        assert (steps[:, 0] > -0.5).all(), "drives backwards"
    assert len({messages.nanoseconds(p.header.stamp) for p in paths if p.poses}) == sum(bool(p.poses) for p in paths)


def test_plans_say_how_they_were_made(recorded):
    plans = [messages.plan_from_msg(m) for m in recorded["/sparseoccvla/planning/plan"]]
    assert {p.command_source.value for p in plans} <= {"topic", "default"}
    assert sum(p.command_source.value == "topic" for p in plans) > len(plans) / 2
    assert len({p.command for p in plans}) >= 2, "the bundled drive turns"
    listens = build_planning(load_preset("tiny")).uses_reasoning
    assert any(p.score_source == "language+ego" for p in plans) is listens, "the planner hears what it was trained with"
    assert all(p.status in (PlanStatus.DEGRADED, PlanStatus.BRAKING) or p.trained for p in plans)
    assert all("untrained_weights" in p.reasons or p.trained for p in plans)
    for plan in plans:
        assert plan.candidates.shape == (18, 6, 2)
        assert ((plan.scores >= 0) & (plan.scores <= 1)).all()


def test_clouds_and_forecasts_are_labelled_voxels(recorded, read_cloud):
    clouds = recorded["/sparseoccvla/occupancy/points"]
    assert len(clouds) >= 10
    for message in clouds[::10]:
        cloud = read_cloud(message)
        assert len(cloud) > 0
        assert cloud["label"].max() < 17
        assert np.abs(cloud["x"]).max() <= 40
        assert np.abs(cloud["y"]).max() <= 40
        assert ((cloud["z"] > -1) & (cloud["z"] < 5.4)).all()
    forecast = read_cloud(recorded["/sparseoccvla/occupancy/forecast/points"][-1])
    assert set(np.unique(forecast["horizon"])) <= {1.0, 2.0, 3.0}
    states = [messages.reasoning_from_msg(m) for m in recorded["/sparseoccvla/reasoning/state"]]
    assert all(s.token.shape == (576,) and s.anchor_scores.shape == (18,) for s in states)
    assert any(s.forecast_motion == "planned" for s in states)
    assert any(t.data for t in recorded["/sparseoccvla/reasoning/text"])


def test_picture_and_recording_are_there(demo):
    _, out, _ = demo
    picture = cv2.imread(str(out / "scene.png"))
    assert picture.shape[1] == 1920
    assert picture.std() > 20, "a flat picture shows nothing"
    assert (out / "recording.rrd").stat().st_size > 100_000
