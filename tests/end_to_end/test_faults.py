"""Killed nodes, missing cameras, looping bags: visible, survived, never a confident lie."""

import itertools
import os
import signal
import time

import psutil
import pytest

from sparseoccvla_ros.ros.parameters import STAGES

pytestmark = pytest.mark.ros
ways = pytest.mark.parametrize(
    "composed",
    [pytest.param("true", id="one process"), pytest.param("false", id="process a node", marks=pytest.mark.slow)],
)
"""The nodes are the same, the way between them is not."""


@pytest.mark.parametrize(
    "victims",
    [("occupancy",), pytest.param(("camera_sync", "reasoning", "planning"), marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_killed_node_is_named_by_all_others_and_they_recover(start, victims):
    stack = start(respawn="false")
    stack.play(loop=True)
    stack.wait(lambda: stack.observer.count("planning/path") > 2, 30, "first paths")
    for victim in victims:
        kill_and_start_again(stack, victim)


def kill_and_start_again(stack, victim):
    process = stack.supervisor.processes[victim]
    os.killpg(process.popen.pid, signal.SIGKILL)
    others = [n for n in STAGES if n != victim]
    seconds = stack.wait(
        lambda: all(f"{victim} is gone" in stack.state(n) for n in others), 10, f"all others say that {victim} is gone"
    )
    assert seconds < 6
    if victim != "reasoning":  # without reasoning the planner goes on, and says what it scores with
        count = stack.observer.count("planning/path")
        time.sleep(1.0)
        assert stack.observer.count("planning/path") <= count + 1, f"no new path without {victim}"
    stack.supervisor.start(process.entry)
    stack.wait(lambda: stack.active(victim), 60, f"{victim} active again")
    stack.wait(lambda: not any("gone" in stack.state(n) for n in STAGES), 30, f"nobody misses {victim} any more")
    before = stack.observer.count("planning/path")
    stack.wait(lambda: stack.observer.count("planning/path") > before + 2, 30, f"paths after the return of {victim}")


def test_dead_node_is_started_again(start):
    stack = start()
    stack.play(loop=True)
    stack.wait(lambda: stack.observer.count("planning/path") > 1, 30, "first paths")
    os.killpg(stack.supervisor.processes["planning"].popen.pid, signal.SIGKILL)
    stack.wait(lambda: stack.supervisor.processes["planning"].deaths == 1, 10, "planning started again")
    before = stack.observer.count("planning/path")
    stack.wait(lambda: stack.observer.count("planning/path") > before + 2, 40, "paths after the respawn")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("strict", "STALE"), ("hold", "missing"), pytest.param("black", "missing", marks=pytest.mark.slow)],
)
def test_missing_camera_shows_as_the_policy_says(start, policy, expected):
    stack = start({"camera_sync": {"policy": policy}})
    stack.play(loop=True, exclude="['/CAM_BACK/image_rect_compressed']", wait_for="1")
    if policy == "strict":
        stack.wait(lambda: "missing_camera" in stack.state("camera_sync"), 30, "camera_sync names the missing camera")
        time.sleep(1.0)
        assert stack.observer.count("frames") == 0
        assert stack.observer.count("planning/path") == 0
        assert stack.state("occupancy").startswith("STALE")
    else:
        stack.wait(lambda: stack.observer.count("planning/path") > 3, 40, "paths without the back camera")
        stack.wait(lambda: "CAM_BACK" in stack.state("camera_sync"), 5, "camera_sync names the camera")
        stack.wait(lambda: "missing_camera:CAM_BACK" in stack.state("planning"), 5, "planning names the camera")
        assert stack.state("planning").startswith("DEGRADED")


@ways
def test_looping_bag_starts_anew_without_old_stamps(start, composed):
    stack = start(composed=composed)
    stack.play(loop=True, duration=3.0)

    def loops() -> int:
        stamps = stack.observer.stamps("frames")
        return sum(b < a for a, b in itertools.pairwise(stamps))

    stack.wait(lambda: loops() >= 2, 60, "two jumps back")
    first = stack.observer.stamps("frames")[0]
    for topic in ("frames", "occupancy/queries", "reasoning/state", "planning/path"):
        stamps = stack.observer.stamps(topic)
        jumps = [i for i in range(1, len(stamps)) if stamps[i] < stamps[i - 1]]
        assert len(jumps) <= loops() + 1, f"{topic}: a stamp of the loop before came after the jump"
        for i in jumps:
            assert stamps[i] - first < 2.0e9, f"{topic}: does not start again at the start of the bag"
    stack.wait(lambda: stack.observer.count("planning/path") > 8, 30, "paths after the jumps")


@ways
def test_end_of_the_bag_goes_quiet_and_stops_followers(start, composed):
    stack = start(composed=composed)
    stack.play(duration=4.0)
    stack.wait(lambda: stack.observer.count("planning/path") > 1, 40, "paths")
    stack.wait(lambda: stack.supervisor.processes["bag_player"].popen.poll() is not None, 40, "end of the bag")
    stack.wait(lambda: stack.state("planning").startswith("STALE"), 6, "planning STALE")
    count = stack.observer.count("planning/path")
    processes = {n: psutil.Process(p.popen.pid) for n, p in stack.supervisor.processes.items() if n != "bag_player"}
    before = {n: sum(p.cpu_times()[:2]) for n, p in processes.items()}
    time.sleep(2.0)
    assert stack.observer.count("planning/path") == count
    assert stack.state("camera_sync").startswith("STALE")
    nodes = len(STAGES) / len(processes)
    for name, process in processes.items():
        assert (sum(process.cpu_times()[:2]) - before[name]) / 2.0 / nodes < 0.05, f"{name} computes without input"
