"""Observes the graph from outside: arrival times of messages by stamp, and the state of every node."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sparseoccvla_msgs.msg import Plan as PlanMessage
from std_srvs.srv import SetBool

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.trace import Trace

from ..ros.lifecycle_base import message_class
from ..ros.messages import trace_from_msg
from ..ros.msg_utils import decode, stamp_of
from ..ros.qos import PROFILES
from ..ros.topics import BY_NAME, NAMESPACE


@dataclass
class Arrivals:
    """Messages received on a topic. at: first arrival by stamp in ns, s of the steady clock; order: stamps received."""

    at: dict[int, float] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)


def has_poses(raw: bytes) -> bool:
    """Whether a serialised nav_msgs/Path holds a pose; an empty one tells followers to stop."""
    return bool(decode(raw, Path).poses)


def plan_trace(raw: bytes) -> Trace:
    """Trace of a serialised sparseoccvla_msgs/Plan."""
    return trace_from_msg(decode(raw, PlanMessage).trace)


class TopicMonitor:
    """A plain node in its own thread that records arrivals without decoding messages.

    topics: names of ros/topics.py whose messages start with a Header; extra: (topic, type, qos) of others, e.g. the
    reference camera; keep: topics whose raw messages are stored in `messages`; track: (node, key) of numbers in
    /diagnostics, each new value of which is appended to `tracked`.
    """

    def __init__(
        self,
        topics: Iterable[str],
        extra: Iterable[tuple[str, str, str]] = (),
        keep: Iterable[str] = (),
        track: Iterable[tuple[str, str]] = (),
        namespace: str = NAMESPACE,
        domain_id: int | None = None,
        name: str = "observer",
    ) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.node = Node(name, context=self.context, namespace=namespace)
        self.arrivals: dict[str, Arrivals] = {}
        self.messages: dict[str, list[tuple[int, float, bytes]]] = {name: [] for name in keep}
        self.states: dict[str, str] = {}
        self.details: dict[str, dict[str, str]] = {}
        self.tracked: dict[tuple[str, str], list[float]] = {pair: [] for pair in track}
        self.lock = threading.Lock()
        self._ended = threading.Event()
        for topic in topics:
            entry = BY_NAME[topic]
            self._listen(topic, topic, entry.type, entry.qos)
        for topic, kind, qos in extra:
            self._listen(topic, topic, kind, qos)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, PROFILES["output"])
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> TopicMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and destroy the node."""
        self._ended.set()
        self._thread.join(5.0)
        self._executor.shutdown(timeout_sec=2.0)
        self.node.destroy_node()
        self.context.try_shutdown()

    def count(self, topic: str) -> int:
        """Messages received on a topic."""
        with self.lock:
            return len(self.arrivals[topic].order)

    def stamps(self, topic: str) -> list[int]:
        """Stamps received on a topic, in order of arrival."""
        with self.lock:
            return list(self.arrivals[topic].order)

    def latencies(self, first: str, last: str) -> list[float]:
        """Seconds between the arrivals of the same stamp on two topics."""
        with self.lock:
            a, b = self.arrivals[first].at, self.arrivals[last].at
            return [b[s] - a[s] for s in b if s in a]

    def wait_for(self, condition: Any, timeout: float, poll: float = 0.05) -> bool:
        """Wait until condition() is true; False when it is not within `timeout` seconds."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if condition():
                return True
            time.sleep(poll)
        return bool(condition())

    def pause_player(self, paused: bool, timeout: float = 20.0) -> None:
        """Pause or resume a bag player. Raises RuntimeError when it does not answer within `timeout` seconds."""
        client = self.node.create_client(SetBool, "bag_player/pause")
        try:
            until = time.monotonic() + timeout
            if client.wait_for_service(timeout_sec=timeout):
                answer = client.call_async(SetBool.Request(data=paused))
                if self.wait_for(answer.done, max(0.1, until - time.monotonic())):
                    return
            raise RuntimeError(f"bag_player/pause did not answer within {timeout:g} s")
        finally:
            self.node.destroy_client(client)

    def _listen(self, key: str, topic: str, kind: str, qos: str) -> None:
        arrivals = self.arrivals[key] = Arrivals()

        def receive(raw: bytes) -> None:
            now = time.monotonic()
            try:
                stamp = stamp_of(raw)
            except InvalidInput:  # no node published this, and it must not end the monitor
                return
            with self.lock:
                arrivals.at.setdefault(stamp, now)
                arrivals.order.append(stamp)
                if key in self.messages:
                    self.messages[key].append((stamp, now, bytes(raw)))

        self.node.create_subscription(message_class(kind), topic, receive, PROFILES[qos], raw=True)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.removesuffix(": state").rsplit("/", 1)[-1]
            with self.lock:
                self.states[name] = status.message
                found = {v.key: v.value for v in status.values}
                for (node, key), values in self.tracked.items():
                    if node == name and key in found and found[key] != self.details.get(name, {}).get(key):
                        values.append(float(found[key]))
                self.details[name] = found

    def _spin(self) -> None:
        while not self._ended.is_set() and self.context.ok():
            try:
                self._executor.spin_once(timeout_sec=0.2)
            except (ExternalShutdownException, KeyboardInterrupt):
                return
            except Exception:
                if not self.context.ok():
                    return
                raise
