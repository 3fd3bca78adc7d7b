"""Control of the stack by a web page: switch nodes; in simulation kill them, cover lenses, delay images, reset."""

from __future__ import annotations

import os
import threading
from typing import Any

import psutil
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from std_srvs.srv import Trigger

from sparseoccvla_ros.core.errors import InvalidInput

ANSWER_SECONDS = 10.0
SIMULATOR = "simulator"


class StackControl:
    """Calls services of the other nodes and waits for the responses; must not be used in the node's spinning thread.

    switched: nodes of the namespace that may be switched. Each method raises InvalidInput when it fails.
    """

    def __init__(self, node: Node, switched: tuple[str, ...]) -> None:
        self._node = node
        self._transitions = {n: node.create_client(ChangeState, f"{n}/change_state") for n in switched}
        self._reset = node.create_client(Trigger, f"{SIMULATOR}/reset")
        self._parameters = AsyncParameterClient(node, SIMULATOR)
        self._covered: set[str] = set()
        self._launcher = os.getppid()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Destroy the clients."""
        for client in (*self._transitions.values(), self._reset):
            self._node.destroy_client(client)

    @property
    def simulated(self) -> bool:
        """Whether a simulator is running."""
        return bool(self._reset.service_is_ready())

    def switch(self, name: str, on: bool) -> None:
        """Activate or deactivate a node, as a lifecycle manager would."""
        client = self._transitions.get(name)
        if client is None:
            raise InvalidInput("node", f"{name!r} is not one of {', '.join(self._transitions)}")
        kind = Transition.TRANSITION_ACTIVATE if on else Transition.TRANSITION_DEACTIVATE
        answer = self._call(client, ChangeState.Request(transition=Transition(id=kind)), name)
        if not answer.success:
            raise InvalidInput("node", f"{name} refused to be switched {'on' if on else 'off'}")

    def kill(self, name: str) -> None:
        """Kill the process of a node, as a crash would; its launch may restart it.

        Only processes started together with this one, children of the same launch, are ever killed.
        """
        if name not in self._transitions:
            raise InvalidInput("node", f"{name!r} is not one of {', '.join(self._transitions)}")
        if not self.simulated:
            raise InvalidInput("simulator", "there is none")
        if os.getppid() != self._launcher:  # the launch ended; the adopting process has children of other launches
            raise InvalidInput("node", f"whoever started {name} has ended")
        found = [p for p in psutil.Process(os.getppid()).children() if _runs(p, name)]
        if not found:
            raise InvalidInput("node", f"{name} is no process that was started together with the cockpit")
        for process in found:
            process.kill()

    def cover(self, camera: str, on: bool) -> list[str]:
        """Cover or uncover a camera of the simulated vehicle; returns the covered ones."""
        with self._lock:
            covered = (self._covered | {camera}) if on else (self._covered - {camera})
            self._set(covered=" ".join(sorted(covered)))
            self._covered = covered
            return sorted(covered)

    def delay(self, seconds: float) -> None:
        """Delay the images of the simulated vehicle by this much simulated time."""
        self._set(image_delay=float(seconds))

    def begin(self, scenario: str, weather: str, seed: int) -> None:
        """Start a new drive."""
        self._set(scenario=scenario, weather=weather, seed=seed)
        self._call(self._reset, Trigger.Request(), SIMULATOR)

    def _set(self, **values: Any) -> None:
        if not self.simulated:
            raise InvalidInput("simulator", "there is none")
        future = self._parameters.set_parameters([Parameter(name, value=value) for name, value in values.items()])
        for result in self._wait(future, SIMULATOR).results:
            if not result.successful:
                raise InvalidInput("simulator", result.reason)

    def _call(self, client: Any, request: Any, name: str) -> Any:
        if not client.service_is_ready():
            raise InvalidInput("node", f"{name} is not running")
        return self._wait(client.call_async(request), name)

    @staticmethod
    def _wait(future: Any, name: str) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(ANSWER_SECONDS):
            raise InvalidInput("node", f"{name} did not answer within {ANSWER_SECONDS:.0f} s")
        return future.result()


def _runs(process: psutil.Process, name: str) -> bool:
    """Whether a process is python -m sparseoccvla_ros.nodes.NAME, or python PREFIX/lib/sparseoccvla_ros/NAME."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(word == f"sparseoccvla_ros.nodes.{name}" or word.endswith(f"/sparseoccvla_ros/{name}") for word in words)
