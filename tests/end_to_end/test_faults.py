"""Killed nodes, missing cameras, looping bags: visible, survived, never a confident lie."""

import itertools
import os
import signal
import time

import psutil
import pytest

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup import supervisor as supervisor_module
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor
from sparseoccvla_ros.ros.parameters import STAGES

pytestmark = [pytest.mark.ros, pytest.mark.timeout(1200)]
PATIENCE = 150.0
"""Seconds for what a free core does in five: waiting ends when it happens, and other processes may want the cores."""


def drive(stack, **parameters):
    """Play the bag, from its start, whoever played before."""
    stack.supervisor.stop(["bag_player"])
    stack.play(**parameters)


def kill(process):
    os.killpg(process.popen.pid, signal.SIGKILL)


def miss_a_camera(stack, policy):
    drive(stack, loop=True, exclude="['/CAM_BACK/image_rect_compressed']", wait_for="1")
    if policy == "strict":
        stack.wait(
            lambda: "missing_camera" in stack.state("camera_sync"), PATIENCE, "camera_sync names the missing camera"
        )
        time.sleep(1.0)
        assert stack.observer.count("frames") == 0
        assert stack.observer.count("planning/path") == 0
        assert stack.state("occupancy").startswith("STALE")
    else:
        stack.wait(lambda: stack.observer.count("planning/path") > 3, PATIENCE, "paths without the back camera")
        stack.wait(lambda: "CAM_BACK" in stack.state("camera_sync"), 5, "camera_sync names the camera")
        stack.wait(lambda: "missing_camera:CAM_BACK" in stack.state("planning"), 5, "planning names the camera")
        assert stack.state("planning").startswith("DEGRADED")


def kill_and_start_again(stack, victim):
    process = stack.supervisor.processes[victim]
    kill(process)
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
    stack.wait(lambda: stack.active(victim), PATIENCE, f"{victim} active again")
    stack.wait(lambda: not any("gone" in stack.state(n) for n in STAGES), PATIENCE, f"nobody misses {victim} any more")
    before = stack.observer.count("planning/path")
    stack.wait(
        lambda: stack.observer.count("planning/path") > before + 2, PATIENCE, f"paths after the return of {victim}"
    )


def loop_starts_anew_without_old_stamps(stack):
    drive(stack, loop=True, duration=3.0)

    def loops() -> int:
        stamps = stack.observer.stamps("frames")
        return sum(b < a for a, b in itertools.pairwise(stamps))

    stack.wait(lambda: loops() >= 2, PATIENCE, "two jumps back")
    first = stack.observer.stamps("frames")[0]
    for topic in ("frames", "occupancy/queries", "reasoning/state", "planning/path"):
        stamps = stack.observer.stamps(topic)
        jumps = [i for i in range(1, len(stamps)) if stamps[i] < stamps[i - 1]]
        assert len(jumps) <= loops() + 1, f"{topic}: a stamp of the loop before came after the jump"
        for i in jumps:
            assert stamps[i] - first < 2.0e9, f"{topic}: does not start again at the start of the bag"
    stack.wait(lambda: stack.observer.count("planning/path") > 8, PATIENCE, "paths after the jumps")


def end_of_the_bag_goes_quiet_and_stops_followers(stack):
    before = stack.observer.count("planning/path")
    drive(stack, duration=4.0)
    stack.wait(lambda: stack.observer.count("planning/path") > before + 1, PATIENCE, "paths")
    stack.wait(lambda: stack.supervisor.processes["bag_player"].popen.poll() is not None, PATIENCE, "end of the bag")
    stack.wait(lambda: all(stack.state(n).startswith("STALE") for n in ("camera_sync", "planning")), 10, "both STALE")

    def quiet() -> bool:
        count = stack.observer.count("planning/path")
        time.sleep(1.5)
        return stack.observer.count("planning/path") == count

    stack.wait(quiet, 10, "no path for 1.5 s")  # the last one may be under way, and an empty one stops followers
    processes = {n: psutil.Process(p.popen.pid) for n, p in stack.supervisor.processes.items() if n != "bag_player"}
    began = {n: sum(p.cpu_times()[:2]) for n, p in processes.items()}
    time.sleep(2.0)
    nodes = len(STAGES) / len(processes)
    for name, process in processes.items():
        assert (sum(process.cpu_times()[:2]) - began[name]) / 2.0 / nodes < 0.05, f"{name} computes without input"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("composed", id="one process"), pytest.param("camera_sync", id="process a node")]
)
def test_a_missing_camera_a_loop_and_the_end_of_the_bag(start, name):
    """The nodes are the same, the way between them is not."""
    stack = start({name: {"policy": "strict"}}, composed=str(name == "composed").lower())
    miss_a_camera(stack, "strict")
    loop_starts_anew_without_old_stamps(stack)
    end_of_the_bag_goes_quiet_and_stops_followers(stack)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "victims"), [("hold", ["occupancy"]), ("black", ["camera_sync", "reasoning", "planning"])]
)
def test_a_missing_camera_and_killed_nodes_are_named_by_all_others_and_they_recover(start, policy, victims):
    stack = start({"camera_sync": {"policy": policy}}, respawn="false")
    miss_a_camera(stack, policy)
    before = stack.observer.count("planning/path")
    drive(stack, loop=True)
    stack.wait(lambda: stack.observer.count("planning/path") > before + 2, PATIENCE, "paths with every camera")
    for victim in victims:
        kill_and_start_again(stack, victim)


def test_dead_node_is_started_again(domain, tmp_path, monkeypatch):
    """By the supervisor, which does so with every node alike; the follower starts soonest."""
    monkeypatch.setattr(supervisor_module, "RESPAWN_SECONDS", 0.2)
    values = launch_config.resolve({}, with_bag=False)
    with TopicMonitor((), domain_id=domain) as observer, Supervisor(values, tmp_path, print) as supervisor:
        process = supervisor.start(launch_config.FOLLOWER)
        assert observer.wait_for(lambda: "follower" in observer.states, PATIENCE)
        kill(process)
        assert observer.wait_for(lambda: supervisor.poll() or process.deaths, PATIENCE)
        assert observer.wait_for(lambda: not supervisor.poll() and process.deaths == 1, PATIENCE)
        observer.states.clear()
        assert observer.wait_for(lambda: "follower" in observer.states, PATIENCE), "the new one speaks"
