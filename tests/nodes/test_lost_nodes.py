"""Processes that are killed or paused while the stack drives: the vehicle stops, says why, and goes on after."""

import itertools
import os
import signal

import numpy as np
import pytest
from nav_msgs.msg import Path
from sensor_msgs.msg import CompressedImage

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.nodes.simulator import SimulatorNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.parameters import STAGES

from .test_simulator import FRONT, Waypoints, path

pytestmark = pytest.mark.ros
NODES = (*STAGES, "follower")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


class Drive:
    """A simulator in this process and others as processes of their own."""

    def __init__(self, graph, until, supervisor: Supervisor, **parameters) -> None:
        self.until, self.supervisor = until, supervisor
        self.simulator = graph.add(SimulatorNode, autostart=False, answer_timeout=60.0, **parameters)

    @property
    def time(self) -> float:
        return self.simulator._episode.simulator.time

    @property
    def speed(self) -> float:
        return self.simulator._episode.simulator.state.speed

    def begin(self) -> None:
        """A new drive, up to a moment after its first plans."""
        old = self.simulator._episode
        self.simulator._paused, self.simulator._reset = False, True
        said = self.simulator.monitor.state(60.0)
        assert self.until(lambda: self.simulator._episode is not old and self.time > 1.0, 180), said
        assert not any(row[7] for row in self.simulator._record.rows), self.simulator._record.rows

    def lose(self, victim: str, kind: signal.Signals) -> None:
        """Kill or pause a process; the vehicle stops within 1.5 s and goes on when the process is back."""
        process = self.supervisor.processes[victim].popen
        began = self.time
        os.kill(process.pid, kind)
        try:
            assert self.until(lambda: self.speed < 0.05, 120), (victim, kind, self.simulator.monitor.state(60.0))
            self.simulator._paused = True  # the world need not wait for the process to come back
            rows = [row for row in self.simulator._record.rows if row[0] >= began - 0.05]
            unanswered = next(row[0] for row in rows if row[7])
            stood = next((row[0] for row in rows if row[4] < 0.05), self.time)
            # Who plans is asked every half second only.
            assert unanswered - began <= 0.61, rows
            assert stood - unanswered <= 1.5, rows
            assert victim in self.simulator.monitor.state(60.0)[1] or any(victim in row[7] for row in rows)
        finally:
            if kind is signal.SIGSTOP:
                os.kill(process.pid, signal.SIGCONT)
            else:
                process.wait(10)
                self.supervisor.start(self.supervisor.processes[victim].entry)
        assert self.until(lambda: not self.simulator.absent(), 180), (victim, kind)
        self.simulator._paused = False
        assert self.until(lambda: self.speed > 1.0, 180), (victim, kind, self.simulator.monitor.state(60.0))


@pytest.fixture
def supervisor(domain, tmp_path):
    arguments = {**launch_config.CLOSED_LOOP, "preset": "tiny", "view": "false", "simulate": "false"}
    with Supervisor(launch_config.resolve(arguments, with_bag=False), tmp_path / "logs", print) as supervisor:
        yield supervisor


@pytest.mark.slow
def test_without_a_follower_the_vehicle_stops_and_goes_on_with_it(graph, until, supervisor):
    supervisor.start(launch_config.FOLLOWER, {"diagnostics_period": "0.2"})
    policy = Waypoints()
    one = Drive(graph, until, supervisor, wait_for=["follower"], height=18, width=32)
    paths = graph.probe.create_publisher(Path, "planning/path", 10)

    def on_image(message: CompressedImage) -> None:
        episode = one.simulator._episode
        policy.begin(episode.simulator, episode.expert)
        paths.publish(path(messages.nanoseconds(message.header.stamp), policy.waypoints()))

    graph.probe.create_subscription(CompressedImage, FRONT, on_image, 10)
    one.simulator.autostart()
    one.begin()
    for kind in SIGNALS:
        one.lose("follower", kind)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_any_node_the_vehicle_stops_and_goes_on_with_it(graph, until, supervisor):
    for entry in launch_config.process_entries(supervisor._values, with_bag=False):
        supervisor.start(entry)
    # Signals stay green in this family: at a red light the vehicle would rightly not go on.
    one = Drive(graph, until, supervisor, scenario="cut_in")
    one.simulator.autostart()
    assert until(lambda: not one.simulator.absent(), 300), one.simulator.absent()
    for victim, kind in itertools.product(NODES, SIGNALS):
        one.begin()
        one.lose(victim, kind)
    assert np.isfinite(one.speed)
