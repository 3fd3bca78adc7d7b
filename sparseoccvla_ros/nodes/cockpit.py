"""cockpit node: web page to watch, question and steer the running stack, by default for this machine only."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.task import Future
from sparseoccvla_msgs.action import AskScene
from std_msgs.msg import String

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.planning.route_command import parse_command
from sparseoccvla_ros.reasoning.serving.generation import check_question
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.adapters.scene_collector import STAMPED, Scene, SceneCollector
from sparseoccvla_ros.ros.adapters.stack_control import StackControl
from sparseoccvla_ros.ros.latest_worker import Worker
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.msg_utils import stamp_of
from sparseoccvla_ros.ros.parameters import STAGES, TABLES
from sparseoccvla_ros.ros.process import run
from sparseoccvla_ros.ros.throttle import Throttle
from sparseoccvla_ros.ros.topics import ACTION
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.view.cockpit_scene import scene_event
from sparseoccvla_ros.view.cockpit_server import CockpitServer
from sparseoccvla_ros.world.sim.scenarios import FAMILIES

NEWEST = -1
"""In place of a stamp: the newest scene."""
COMMAND_PERIOD = 0.5
"""Seconds between repetitions of a held command, which planning drops after `command_timeout`."""
ANSWER_TIMEOUT = 60.0
"""Seconds without new text after which an answer counts as lost."""
SWITCHED = (*STAGES, "follower")
"""Nodes that the page can deactivate and activate."""
WEATHERS = next(p.choices for p in TABLES["simulator"] if p.name == "weather")
DELAYS = (0.0, 0.2, 0.5, 1.0)
"""Delays in seconds that the page offers for the images of a simulated vehicle."""
LEVELS = ("ok", "warn", "error", "stale")


class CockpitNode(StageNode):
    """Sends scenes as data to the page, which draws them, and forwards the page's requests to the stack."""

    stage = "cockpit"
    waiting_for = "planning/plan from planning"
    niceness = 10

    def setup(self) -> None:
        """Create subscriptions, the publishers of command and goal, and the web server."""
        self._scenes = SceneCollector(load_preset(self.values.preset).occupancy)
        self._scene: Scene | None = None
        self._drawn: Scene | None = None
        self._states: dict[str, dict[str, Any]] = {}
        self._held = ""
        self._throttle = Throttle(lambda: self.values.rate)
        self._command = self.publisher(String, "planning/command", "output")
        self._goal = self.publisher(PoseStamped, "planning/goal", "output")
        self._asking = ActionClient(self, AskScene, ACTION)
        self._control = StackControl(self, SWITCHED)
        self._worker: Worker[int] = Worker("cockpit", lambda stamp: self.attempt(lambda: self._show(stamp)))
        for name in STAMPED:
            self.raw_input(name, partial(self._on_raw, name))
        self.input("/diagnostics", self._on_states)
        self.input("reasoning/text", lambda message: self._server.send("says", message.data))
        self._timer = self.create_timer(COMMAND_PERIOD, self._repeat_command, clock=self._steady)
        self._server = CockpitServer(self, self.values.host, self.values.port)
        self.get_logger().info(f"open {self._server.url} in a browser")

    def stopped(self) -> None:
        """Release the held command and drop the scene."""
        self._worker.discard()
        self._held, self._scene, self._drawn = "", None, None
        self._server.send("held", "")

    def teardown(self) -> None:
        """Close the web server."""
        if self._worker is None:
            return
        self._worker.stop()
        self._server.close()
        self.destroy_timer(self._timer)
        self._asking.destroy()
        self._control.close()
        del self._worker

    # --- from the stack

    def _on_raw(self, name: str, raw: bytes) -> None:
        stamp = stamp_of(raw)
        self._scenes.keep(name, stamp, raw)
        if name == "planning/plan":
            self.monitor.received()
            if self._throttle.due():
                self._worker.submit(stamp)

    def _show(self, stamp: int) -> None:
        """Collect and draw the scene of a stamp, or draw the NEWEST again for a page that has just opened."""
        if stamp == NEWEST:
            self._draw()
            return
        began = time.monotonic()
        scene = self._scenes.collect(stamp)
        if scene is None:
            self.monitor.count("incomplete")
            return
        self._scene = scene
        if self._server.watched:
            self._draw()
        self.monitor.finished(time.monotonic() - began)

    def _draw(self) -> None:
        """Send the newest scene unless it was sent already."""
        scene = self._scene
        if scene is None or scene is self._drawn or not self.active:
            return
        self._drawn = scene
        event = scene_event(scene.frames, scene.voxels, scene.forecasts, scene.plan)
        event["latency"] = round(1e3 * scene.delays["frames to plan"])
        self._server.send("scene", event)

    def _on_states(self, message: DiagnosticArray) -> None:
        prefix = self.get_namespace().rstrip("/") + "/"
        for status in message.status:
            name = status.name.removesuffix(": state")
            if name.startswith(prefix):
                values = {v.key: v.value for v in status.values}
                level = LEVELS[min(int.from_bytes(status.level, "little"), 3)]
                self._states[name.removeprefix(prefix)] = {
                    "level": level,
                    "message": status.message,
                    "at": time.monotonic(),
                    "switch": name.removeprefix(prefix) in SWITCHED,
                    **{k: values[k] for k in ("latency_p50_ms", "latency_p95_ms", "rate_hz") if k in values},
                }
        # Scenes are not drawn while no page is open: a page that opened since gets the newest here.
        if self._server.watched and self._scene is not self._drawn:
            self._worker.submit(NEWEST)
        now = time.monotonic()
        if self._control.simulated:
            self._server.send("simulator", {"scenarios": ["", *FAMILIES], "weathers": WEATHERS, "delays": DELAYS})
        self._server.send(
            "states",
            [
                {"name": name, **{k: v for k, v in state.items() if k != "at"}, "silent": now - state["at"] > 3.0}
                for name, state in sorted(self._states.items())
            ],
        )

    # --- from the page (threads of the server)

    def command(self, command: str) -> None:
        """Hold a command, which is published repeatedly; "" releases it."""
        self._check_active()
        self._held = parse_command(command).value if command else ""
        self._repeat_command()
        self._server.send("held", self._held)

    def _check_active(self) -> None:
        if not self.active:
            raise InvalidInput("cockpit", "is not active")

    def _repeat_command(self) -> None:
        if self.active and self._held:
            self._command.publish(String(data=self._held))

    def goal(self, x: float, y: float) -> None:
        """Publish a goal at x, y in m in the ego frame of the newest scene, converted to that scene's fixed frame."""
        self._check_active()
        if self._scene is None:
            raise InvalidInput("goal", "came before the first scene")
        ego = self._scene.frames.ego
        place = ego.pose @ np.array((x, y, 0.0, 1.0))
        message = PoseStamped(header=messages.header(self._scene.frames.stamp, ego.fixed_frame))
        message.pose = messages.pose_to_msg(ego.pose)
        message.pose.position.x, message.pose.position.y, message.pose.position.z = (float(v) for v in place[:3])
        self._goal.publish(message)

    def switch(self, node: str, on: bool) -> None:
        """Activate or deactivate a node."""
        self._control.switch(node, on)

    def kill(self, node: str) -> None:
        """Kill the process of a node."""
        self._control.kill(node)

    def cover(self, camera: str, on: bool) -> None:
        """Cover or uncover a simulated camera and send every page the covered ones."""
        self._server.send("covered", self._control.cover(camera, on))

    def delay(self, seconds: float) -> None:
        """Delay the images of the simulated vehicle and send every page the delay."""
        self._control.delay(seconds)
        self._server.send("delayed", seconds)

    def begin(self, scenario: str, weather: str, seed: int) -> None:
        """Begin a new simulated drive."""
        if scenario and scenario not in FAMILIES:  # the simulator rejects it as well, but without an error on the page
            raise InvalidInput("scenario", f"{scenario!r} is not one of {', '.join(FAMILIES)}")
        self._control.begin(scenario, weather, seed)

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer of AskScene piece by piece, and at the end why it is incomplete, if it is."""
        check_question(question)
        if not self._asking.server_is_ready():
            raise InvalidInput("question", "nobody answers: is reasoning running?")
        pieces: queue.Queue[str | None] = queue.Queue()
        left = threading.Event()
        handle: list[Any] = []

        def ended(future: Future) -> None:
            result = future.result().result
            if result.reason not in ("complete", "token_limit"):
                pieces.put(f" [{result.reason}]")
            pieces.put(None)

        def accepted(future: Future) -> None:
            goal = future.result()
            if goal.accepted:
                handle.append(goal)
                goal.get_result_async().add_done_callback(ended)
                if left.is_set():
                    goal.cancel_goal_async()
            else:
                pieces.put("[refused: too many questions wait, or reasoning is not active]")
                pieces.put(None)

        def leave() -> None:
            """Cancel the answer once its reader is gone."""
            left.set()  # before reading `handle`: `accepted` fills it first and then checks `left`
            if handle:
                handle[0].cancel_goal_async()

        sent = self._asking.send_goal_async(
            AskScene.Goal(question=question), feedback_callback=lambda f: pieces.put(f.feedback.text)
        )
        sent.add_done_callback(accepted)
        try:
            while (piece := pieces.get(timeout=ANSWER_TIMEOUT)) is not None:
                yield piece
        except queue.Empty:
            leave()
            yield "[no answer]"
        except GeneratorExit:
            leave()
            raise


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros cockpit`."""
    return run(CockpitNode, args=args)


if __name__ == "__main__":
    sys.exit(main())
