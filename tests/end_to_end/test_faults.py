"""Killed nodes, missing cameras, looping bags: visible, survived, never a confident lie."""

import itertools
import os
import signal
import time

import pytest

from sparseoccvla_ros.ros.parameters import STAGES

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.mark.parametrize("victim", STAGES)
def test_killed_node_is_noticed_and_returns(start, victim):
    stack = start()
    stack.play(loop=True)
    stack.wait(lambda: stack.observer.count("planning/path") > 2, 30, "first paths")
    os.killpg(stack.supervisor.processes[victim].popen.pid, signal.SIGKILL)
    others = [n for n in STAGES if n != victim]
    noticed = stack.wait(
        lambda: (
            all("gone" in stack.state(n) or stack.state(n).startswith("STALE") for n in others if n != "x")
            or any(f"{victim} is gone" in s for _, n, s in stack.observer.history if n in others)
        ),
        8,
        f"the others say that {victim} is gone",
    )
    assert noticed < 8
    stack.wait(lambda: stack.supervisor.processes[victim].deaths == 1, 10, f"{victim} started again")
    stack.wait(lambda: stack.active(victim) and "gone" not in " ".join(stack.observer.states.values()), 60, "all back")
    before = stack.observer.count("planning/path")
    stack.wait(lambda: stack.observer.count("planning/path") > before + 2, 30, f"paths after the return of {victim}")
    stack.wait(lambda: stack.observer.count("reasoning/state") > 0, 10, "reasoning after the return")


@pytest.mark.parametrize(("policy", "expected"), [("strict", "STALE"), ("hold", "missing"), ("black", "missing")])
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


def test_looping_bag_starts_anew_without_old_stamps(start):
    stack = start()
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


def test_end_of_the_bag_goes_quiet_and_stops_followers(start):
    stack = start()
    stack.play(duration=3.0)
    stack.wait(lambda: stack.supervisor.processes["bag_player"].popen.poll() is not None, 40, "end of the bag")
    stack.wait(lambda: stack.state("planning").startswith("STALE"), 6, "planning STALE")
    count = stack.observer.count("planning/path")
    time.sleep(1.5)
    assert stack.observer.count("planning/path") == count
    assert stack.state("camera_sync").startswith("STALE")


def test_composed_in_one_process(start):
    stack = start(composed="true")
    stack.play(duration=4.0)
    stack.wait(lambda: stack.observer.count("planning/path") > 4, 40, "paths from one process")
