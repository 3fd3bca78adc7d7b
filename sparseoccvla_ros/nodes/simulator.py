"""simulator node: publishes the world as a vehicle's topics, drives by the follower's commands and scores the drive."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from ackermann_msgs.msg import AckermannDriveStamped
from nav_msgs.msg import Path as PathMsg
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core.types import BASE_FRAME
from sparseoccvla_ros.data.synthetic.drives import FIXED_FRAME, START
from sparseoccvla_ros.eval.closed_loop.cameras import LateImages, SimulatedCameras
from sparseoccvla_ros.eval.closed_loop.drive_record import DriveRecord
from sparseoccvla_ros.eval.closed_loop.rollout import Episode
from sparseoccvla_ros.ros import vehicle_messages as vehicle
from sparseoccvla_ros.ros.diagnostics import State
from sparseoccvla_ros.ros.lifecycle_base import SourceNode
from sparseoccvla_ros.ros.messages import nanoseconds
from sparseoccvla_ros.ros.process import run
from sparseoccvla_ros.world.agents.traffic import STEP
from sparseoccvla_ros.world.sim.scenarios import FAMILIES
from sparseoccvla_ros.world.sim.vehicle import Action

PROFILE = "nuscenes"
"""Profile of topic and frame names: camera_sync's default."""
COMMAND_AGE = 0.5
"""Simulated seconds without a command after which the vehicle brakes by itself."""
ROUTE_SECONDS = 2.0  # simulated, for which planning is sent the route, at first and after a node has come back
BRAKE = 8.0
"""m/s^2 of the emergency braking without a command or while a node of `wait_for` is missing."""
BETWEEN = 100 * 10**9
"""ns from the start of one drive to that of the next: time never goes back, so stamps of two drives never mix."""
REJOIN = 1.5
"""Wall clock seconds for a newly active node to discover its topics before lockstep waits for its answers."""
ASK_AGAIN, SHOW_AGAIN = 1.0, 6.0
"""Wall clock seconds after which odometry, and images, are sent again in lockstep: they or the answer may be lost."""


class SimulatorNode(SourceNode):
    """Steps an Episode at 10 Hz and publishes what a car with six cameras would.

    In lockstep the world stands still until the follower has answered the odometry of each step and, when images were
    sent (they are taken every half second), the path planned from them.
    """

    stage = "simulator"
    waiting_for = "control/command from follower"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_on_set_parameters_callback(_known_scenario)
        self.record: DriveRecord | None = None  # of the last completed drive
        self._action: tuple[int, Action] | None = None
        self._plan: PathMsg | None = None

    def setup(self) -> None:
        """Build the world and the topics."""
        self._arrived = threading.Condition()
        self._reset, self._paused, self._single = False, False, False
        self._start, self._drives, self._missed = START - BETWEEN, 0, -np.inf
        self._begin()
        self._vehicle = vehicle.VehicleOutputs(self.publisher, profile(PROFILE), FIXED_FRAME)
        self._route = self.output("simulator/route")
        self._to_planning = self.publisher(PathMsg, "planning/route", "output")
        self.input("control/command", self._on_command)
        self.input("planning/path", self._on_path)
        self.control(Trigger, "~/reset", self._on_reset)
        self.control(Trigger, "~/step", self._on_step)
        self.control(SetBool, "~/pause", self._on_pause)

    # --- inputs

    def _on_command(self, message: AckermannDriveStamped) -> None:
        self.monitor.received()
        with self._arrived:
            stamp = nanoseconds(message.header.stamp)
            if stamp == self._stamp:
                self._answers += 1
            action = Action(float(message.drive.acceleration), float(message.drive.steering_angle))
            if np.isfinite([action.acceleration, action.steering]).all():
                self._action = stamp, action
            self._arrived.notify_all()

    def _on_path(self, message: PathMsg) -> None:
        with self._arrived:
            self._paths += 1
            if nanoseconds(message.header.stamp) == self._sent:
                self._plan = message
            self._arrived.notify_all()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset = True
        response.success, response.message = True, f"seed {self.values.seed} {self.values.scenario}".rstrip()
        return response

    def _on_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._paused, "" if self._paused else "pause it first: ~/pause"
        self._single = self._paused
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        response.success, response.message = True, "paused" if request.data else "driving"
        return response

    # --- the drive

    def _begin(self) -> None:
        """Begin a new drive with the current parameters."""
        self._reset, values = False, self.values
        self._scenario = (families := values.scenario.split(","))[self._drives % len(families)]
        self._episode = Episode(values.seed, self._scenario or None, "nodes", longest=values.longest)
        self._cameras = SimulatedCameras(
            self._episode.simulator, values.height, values.width, whole=True, weather=values.weather
        )
        self._record = DriveRecord(self._episode)
        self._start += BETWEEN
        self._stamp, self._answers, self._paths = self._start, 0, 0
        self._action, self._plan, self._sent, self._taken = None, None, 0, LateImages()
        self._shown: tuple[int, np.ndarray] | None = None  # images published last, with their stamp
        self._unplanned = ""
        self.monitor.show(seed=values.seed, scenario=self._scenario or "none")

    def work(self) -> None:
        """Run one drive after the other."""
        while self._running:
            self._publish_static()
            if self._ready() and self._to_the_end():
                self._ended()
                self._drives += 1
                if self.values.loop:
                    self.set_parameters([Parameter("seed", value=self.values.seed + 1)])
                while self._running and not self._reset and not self.values.loop:
                    time.sleep(0.05)
            if self._running:
                self.monitor.forced = None
                self._begin()

    def _ready(self) -> bool:
        """Wait until every node of `wait_for` is active; False when the drive is reset or the node stops before."""
        while self._running and not self._reset and (absent := self.absent()):
            self._vehicle.publish_clock(self._stamp)  # a node may need the time to become active
            self.monitor.show(waiting_for=", ".join(absent))
            time.sleep(0.1)
        self.monitor.show(waiting_for="")
        return self._running and not self._reset

    def absent(self) -> list[str]:
        """Returns the nodes of `wait_for` that are gone or not active."""
        absent = self._peers.absent([name for name in self.values.wait_for if name])
        if absent:
            self._missed = time.monotonic()
        return absent

    def _rejoin(self) -> None:
        """Give a node that has just come back REJOIN seconds, then publish camera mounts and route again."""
        waited = False
        while self._running and not self._reset and not self.absent() and time.monotonic() - self._missed < REJOIN:
            time.sleep(0.05)
            waited = True
        if waited:
            self._publish_static()

    def _to_the_end(self) -> bool:
        """Step until the drive ends; False when it is reset or the node stops before."""
        episode, simulator, due = self._episode, self._episode.simulator, time.monotonic()
        while self._running and not self._reset:
            if self.values.lockstep:
                self._rejoin()
            end = episode.observe()
            with self._arrived:
                self._stamp = self._start + round(simulator.time * 1e9)
                self._answers, self._paths, self._plan, self._sent = 0, 0, None, 0
            self._vehicle.publish_state(self._stamp, *simulator.ego.at(simulator.time))
            if end is not None:
                return True
            if episode.plan_due:
                self._take_images()
            self._publish_images()
            why = ""
            if self.values.lockstep:
                why = self._unanswered()
                self._unplanned = why if self._sent else self._unplanned
            else:
                due = max(due + STEP / self.values.real_time_factor, time.monotonic() - 1.0)
                time.sleep(max(0.0, due - time.monotonic()))
            while self._paused and not self._single and self._running and not self._reset:
                time.sleep(0.02)
            self._single = False
            # A late plan does not start from the present state, from which plans are scored.
            if self._plan is not None and self._sent == self._stamp:
                self._record.plan(vehicle.planned_path(self._plan, simulator.time, simulator.state.pose))
            action, fail_safe = self._commanded()
            why = fail_safe or why or self._unplanned
            self._record.step(action, why)
            simulator.step(action)
            self._tell(why)
        return False

    def _tell(self, why: str) -> None:
        world, completion = self._episode.simulator, self._episode.completion
        self.monitor.show(time_s=world.time, speed_mps=world.state.speed, route_completion=completion)
        self.monitor.finished(0.0, (why,) if why else ())
        if why:
            self.get_logger().warning(why, throttle_duration_sec=2.0)

    def _commanded(self) -> tuple[Action, str]:
        """The newest command and "", or braking and its reason when the command is too old or a node is gone."""
        newest, state = self._action, self._episode.simulator.state
        if absent := self.absent():
            return Action(-BRAKE, state.steering), f"braking: {', '.join(absent)} gone or not active"
        if newest is None or abs(self._stamp - newest[0]) > COMMAND_AGE * 1e9:
            return Action(-BRAKE, state.steering), "braking: no control/command from follower"
        return newest[1], ""

    def _unanswered(self) -> str:
        """Wait for the follower's answer in lockstep; returns "", or what is missing if none comes."""

        def whole() -> bool:
            # One command for the odometry, and one for every path received since.
            return self._answers > self._paths and (not self._sent or self._plan is not None)

        simulator = self._episode.simulator
        began = asked = shown = time.monotonic()
        while self._running and not self._reset and not self.absent():  # _commanded brakes for what is absent
            with self._arrived:
                if self._arrived.wait_for(whole, 0.1):
                    return ""
            now = time.monotonic()
            if now - began > self.values.answer_timeout:
                missing = "planning/path" if self._sent and self._plan is None else "control/command"
                return f"no {missing} within answer_timeout"
            if now - asked > ASK_AGAIN:
                asked = now
                self._vehicle.publish_clock(self._stamp)
                if not self._sent or self._plan is not None:
                    self._vehicle.publish_odometry(self._stamp, *simulator.ego.at(simulator.time))
                elif now - shown > SHOW_AGAIN:
                    shown = now
                    self._publish_images(again=True)
        return ""

    def _ended(self) -> None:
        self.record, summary = self._record, self._record.summary()
        if self.values.out:
            self._record.write(Path(self.values.out, str(summary["seed"]) if self.values.loop else ""), summary)
        self.get_logger().info(
            f"{summary['end']}: {summary['route_completion']:.0f} % of the route in {summary['seconds']:.1f} s, "
            f"driving score {summary['driving_score']:.0f}, {len(summary['infractions'])} infractions"
        )
        self.monitor.forced = State.OK  # no more input is expected
        self.monitor.show(end=summary["end"], driving_score=summary["driving_score"])
        if not self.values.loop:
            self.finished.set()

    # --- outputs

    def _publish_static(self) -> None:
        world = self._episode.simulator
        self._vehicle.publish_mounts(self._stamp, [(BASE_FRAME, c.name, c.camera2ego) for c in self._cameras.rig])
        self._way, self._way_since = vehicle.route_to_msg(self._stamp, FIXED_FRAME, world.way), world.time
        self._route.publish(self._way)

    def _take_images(self) -> None:
        if self._episode.simulator.time - self._way_since < ROUTE_SECONDS:  # later the user may set another goal
            self._to_planning.publish(self._way)
        images = self._cameras.images()
        images[[camera.name in self.values.covered.split() for camera in self._cameras.rig]] = 0
        self._taken.add(self._stamp, images)

    def _publish_images(self, again: bool = False) -> None:
        due = self._shown if again else self._taken.newest(self._stamp - round(self.values.image_delay * 1e9))
        if due is not None:
            with self._arrived:
                self._sent, images = self._shown = due
            names = [camera.name for camera in self._cameras.rig]
            self._vehicle.publish_images(self._sent, names, self._cameras.intrinsics, images, self.values.jpeg_quality)


def _known_scenario(changes: list[Parameter]) -> SetParametersResult:
    unknown = {f for p in changes if p.name == "scenario" for f in p.value.split(",")} - {"", *FAMILIES}
    return SetParametersResult(successful=not unknown, reason=f"scenario: {', '.join(sorted(unknown))} is none")


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros simulator`: exits when the drive ends, unless it loops."""
    return run(lambda: SimulatorNode(once=True), args=args)


if __name__ == "__main__":
    sys.exit(main())
