"""Base class of every node: lifecycle, parameters, diagnostics, peer monitoring, clean shutdown."""

from __future__ import annotations

import math
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from sparseoccvla_ros.core.errors import InvalidInput, format_error
from sparseoccvla_ros.core.trace import event

from .diagnostics import Monitor, NodeStates, State, diagnostic_array
from .intra_process import Handover, Item, StageOutput
from .latest_worker import Worker
from .parameters import STAGES, TABLES, declare
from .qos import PROFILES
from .topics import BY_NAME, NAMESPACE

PEER_TIMEOUT = 3.0
"""Seconds without a peer's diagnostics after which it counts as gone."""
MAX_FAILURES = 3
"""Exceptions in a row after which a node deactivates itself."""
WATCH_PERIOD = 0.2
"""Seconds between two calls of `watch`."""


def message_class(name: str) -> type:
    """Import the class "package/kind/Name"; ImportError naming the package if it is not installed."""
    package, kind, cls = name.split("/")
    return getattr(__import__(f"{package}.{kind}", fromlist=[cls]), cls)


class StageNode(LifecycleNode):
    """A lifecycle node around one core object.

    Subclasses implement `setup` (load, create topics), and optionally `started`, `stopped`, `teardown`,
    `watch` and `report`. `setup` runs in configure, so activate is immediate; cleanup frees everything again.
    """

    stage: str
    """Name of the node and of its table of parameters."""
    waiting_for = "input"
    niceness = 0
    """Niceness of the node's process (nice(2)): text and pictures yield to planning."""
    exit_code = 0
    """Exit code of the node's process after a normal shutdown."""
    end_seconds = 2.5
    """Seconds for closing the node, after which its process exits without waiting for running work."""

    _worker: Worker[Any] | None = None  # made by `setup`, deleted by `teardown`

    def __init__(
        self,
        *,
        context: Context | None = None,
        namespace: str = NAMESPACE,
        parameters: dict[str, Any] | None = None,
        handover: Handover | None = None,
        **kwargs: Any,
    ) -> None:
        overrides = [Parameter(k, value=v) for k, v in (parameters or {}).items()]
        super().__init__(self.stage, context=context, namespace=namespace, parameter_overrides=overrides, **kwargs)
        self.configured = False
        self.values = declare(self, TABLES[self.stage], lambda: self.configured)
        self.monitor = Monitor(self.get_fully_qualified_name())
        self.monitor.waiting_for = self.waiting_for
        self.monitor.forced = State.UNCONFIGURED
        self.active = False
        self.closing = False
        """True while the process shuts down: exceptions of threads are then expected and not reported."""
        self._handover = handover
        self._end_links: list[Callable[[], None]] = []
        self._failures = 0
        self._faulted = threading.Event()
        self._made_publishers: list[Any] = []
        self._made_subscriptions: list[Any] = []
        self._peers = NodeStates(self.get_namespace(), PEER_TIMEOUT)
        self._twin_seen = -math.inf
        self._instance = uuid.uuid4().hex[:12]
        self.monitor.show(instance=self._instance)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        array_type = message_class(BY_NAME["/diagnostics"].type)
        self._diagnostics = self.create_publisher(array_type, "/diagnostics", PROFILES["output"])
        self._peer_subscription = self.create_subscription(
            array_type, "/diagnostics", self._on_diagnostics, PROFILES["output"]
        )
        self._diagnostics_timer = self.create_timer(
            self.values.diagnostics_period, self.publish_diagnostics, clock=self._steady
        )
        self._watch_timer = self.create_timer(WATCH_PERIOD, self._on_watch, clock=self._steady)

    # --- what a stage implements

    def setup(self) -> None:
        """Load and create everything; an exception makes configure fail with its text."""
        raise AttributeError(f"{type(self).__name__} does not say how to set itself up")

    def started(self) -> None:
        """Called when the node has become active."""

    def stopped(self) -> None:
        """Called when the node becomes inactive."""

    def teardown(self) -> None:
        """Called before topics are destroyed."""

    def watch(self) -> None:
        """Called every WATCH_PERIOD while active."""

    def report(self) -> None:
        """Called before each diagnostics message while active, for statistics that are costly to compute."""

    # --- topics

    def output(self, name: str) -> Any:
        """Create the lifecycle publisher of a topic of ros/topics.py; it publishes only while the node is active."""
        topic = BY_NAME[name]
        return self.publisher(message_class(topic.type), name, topic.qos)

    def publisher(self, kind: type, topic: str, qos: str) -> Any:
        """Create a lifecycle publisher of any topic, with a profile of ros/qos.py."""
        publisher = self.create_lifecycle_publisher(kind, topic, PROFILES[qos])
        self._made_publishers.append(publisher)
        return publisher

    def optional_output(self, name: str) -> Any:
        """Like `output`, but returns None if the package of its message is not installed."""
        try:
            return self.output(name)
        except ImportError as error:
            self.get_logger().info(f"{name} is not published: {error.name} is not installed")
            return None

    def input(self, name: str, callback: Callable[[Any], None], *, topic: str | None = None) -> None:
        """Subscribe to a topic of ros/topics.py, or to another name with the same type and profile."""
        entry = BY_NAME[name]
        self.listen(topic or name, message_class(entry.type), callback, entry.qos)

    def raw_input(self, name: str, callback: Callable[[bytes], None], *, when_active: bool = True) -> None:
        """Like `input`, but the callback gets serialised messages; without `when_active` it always runs."""
        entry = BY_NAME[name]
        self.listen(name, message_class(entry.type), callback, entry.qos, raw=True, when_active=when_active)

    def listen(
        self, topic: str, kind: type, callback: Callable[[Any], None], qos: str, *,
        raw: bool = False, when_active: bool = True,
    ) -> None:  # fmt: skip
        """Subscribe with a callback that runs only while active; its InvalidInput counts as a refusal."""
        guarded = self._guarded(callback, when_active)
        self._made_subscriptions.append(self.create_subscription(kind, topic, guarded, PROFILES[qos], raw=raw))

    def stage_output(self, name: str, to_msg: Callable[..., Any]) -> StageOutput:
        """Create the output of a dataclass: converted by `to_msg` over DDS, passed unchanged in a composed process."""
        return StageOutput(name, self.output(name), to_msg, self._handover, self.get_name())

    def stage_input(self, name: str, callback: Callable[[Item], None], from_msg: Callable[[Any], Any]) -> None:
        """Create the input of a dataclass; `callback` gets a function that returns it (and may raise InvalidInput)."""
        if self._handover is not None:
            take = self._guarded(lambda item: callback(self._traced(item)))
            self._end_links.append(self._handover.add(name, take))
        else:
            self.input(name, lambda message: callback(self._traced(lambda: from_msg(message))))

    def _traced(self, item: Item) -> Item:
        """Wrap an item to add to its trace when it was received, taken and read."""
        received = event(self.get_name(), "received")

        def read() -> Any:
            taken = event(self.get_name(), "taken")
            found = item()
            if not hasattr(found, "trace"):
                return found
            return replace(found, trace=(*found.trace, received, taken, event(self.get_name(), "read")))

        return read

    def _guarded(self, callback: Callable[[Any], None], when_active: bool = True) -> Callable[[Any], None]:
        def guarded(item: Any) -> None:
            if when_active and not self.active:
                return
            try:
                callback(item)
            except InvalidInput as error:
                self.refuse(format_error(error))

        return guarded

    def hand_over(self, message: Any) -> None:
        """Submit an input to the worker; an input still waiting is replaced and counted."""
        assert self._worker is not None
        self.monitor.received()
        if not self._worker.submit(message):
            self.monitor.count("dropped_queue_overwrite")

    # --- outcome of work

    def refuse(self, reason: str) -> None:
        """Count a refused input, and log it at most every 5 s."""
        self.monitor.refused(reason)
        self.get_logger().warning(f"refused: {reason}", throttle_duration_sec=5.0)

    def attempt(self, work: Callable[[], None]) -> None:
        """Run work of the worker thread: InvalidInput is a refusal, three other exceptions in a row are a FAULT."""
        try:
            work()
            self._failures = 0
        except InvalidInput as error:
            self._failures = 0
            self.refuse(format_error(error))
        except Exception as error:  # no failure of a model may end the node
            if self.closing:
                return
            self._failures += 1
            self.monitor.count("exceptions")
            self.monitor.show(last_error=f"{type(error).__name__}: {error}")
            self.get_logger().error(f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=6)}")
            if self._failures >= MAX_FAILURES:
                self._faulted.set()

    # --- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load everything; on failure the node stays unconfigured and reports the reason."""
        began = time.monotonic()
        try:
            self.setup()
        except Exception as error:
            if self.closing:
                return TransitionCallbackReturn.FAILURE
            text, where = f"{type(error).__name__}: {error}", f"\n{traceback.format_exc(limit=6)}"
            if isinstance(error, InvalidInput):
                text, where = format_error(error), ""
            self.monitor.show(last_error=text)
            self.get_logger().error(f"configure failed: {text}{where}")
            self._destroy_topics()
            return TransitionCallbackReturn.FAILURE
        self.configured = True
        self.monitor.forced = State.INACTIVE
        self.get_logger().info(f"configured in {time.monotonic() - began:.1f} s")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start working on inputs."""
        result = super().on_activate(state)
        self._failures = 0
        self._faulted.clear()
        self.monitor.restart()
        self.monitor.forced = None
        self.active = True
        self.started()
        self.publish_diagnostics()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop working; what is loaded stays loaded."""
        self.active = False
        self.stopped()
        if self.monitor.forced is not State.FAULT:
            self.monitor.forced = State.INACTIVE
        self.publish_diagnostics()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything that configure made."""
        self._release()
        self.configured = False
        self.monitor.forced = State.UNCONFIGURED
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything before shutdown."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def autostart(self) -> None:
        """Configure and activate, unless parameter `autostart` is false (a lifecycle manager does it then)."""
        if not self.values.autostart:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS and not self.closing:
            self.trigger_activate()

    def close(self) -> None:
        """Stop threads and destroy the node."""
        self._release()
        self.destroy_node()

    def _release(self) -> None:
        if self.active:
            self.active = False
            self.stopped()
        self.teardown()
        self._destroy_topics()

    def _destroy_topics(self) -> None:
        for end in self._end_links:
            end()
        self._end_links.clear()
        for publisher in self._made_publishers:
            self.destroy_publisher(publisher)
        for subscription in self._made_subscriptions:
            self.destroy_subscription(subscription)
        self._made_publishers.clear()
        self._made_subscriptions.clear()

    # --- diagnostics

    def publish_diagnostics(self) -> None:
        """Publish the present state."""
        if self.active:
            self.report()
        missing = self.missing_peers()
        self.monitor.show(peers_missing=", ".join(missing))
        status = self.monitor.status(getattr(self.values, "stale_after", float("inf")))
        if missing:
            status.level = max(status.level, DiagnosticStatus.WARN)
            ok = status.message == State.OK.value
            status.message = (f"{State.DEGRADED.value}: " if ok else f"{status.message}; ") + gone(missing)
        if time.monotonic() - self._twin_seen < PEER_TIMEOUT:
            status.level = max(status.level, DiagnosticStatus.WARN)
            status.message += f"; another node is called {self.get_fully_qualified_name()} too: give one a namespace"
        self._diagnostics.publish(diagnostic_array([status], self.get_clock().now().nanoseconds))

    def missing_peers(self) -> tuple[str, ...]:
        """Return the stages that were seen before and have been silent since."""
        return tuple(self._peers.silent(name for name in sorted(STAGES) if name != self.get_name()))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._peers.add(message)
        for status in message.status:
            if status.name.removesuffix(": state") == self.get_fully_qualified_name():
                instances = [v.value for v in status.values if v.key == "instance"]
                if instances and instances != [self._instance]:
                    self._twin_seen = time.monotonic()

    def _on_watch(self) -> None:
        if self._faulted.is_set() and self.active:
            self._faulted.clear()
            self.monitor.forced = State.FAULT
            self.get_logger().fatal(f"{MAX_FAILURES} failures in a row: deactivating; activate again to retry")
            self.trigger_deactivate()
        elif self.active:
            self.watch()


class SourceNode(StageNode):
    """A node that publishes messages and /clock: `work` runs in its own thread until `finished` is set.

    once: the node's process ends with the work, or if it cannot be configured, so that a launch can end with it.
    """

    def __init__(self, *, once: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._once = once
        self.finished = threading.Event()
        self._running = False
        self._thread: threading.Thread | None = None
        self._control_services: list[Any] = []

    def work(self) -> None:
        """Body of the thread; runs while `_running`."""
        raise NotImplementedError

    def autostart(self) -> None:
        """Configure and activate; with `once`, a failure ends the process with exit code 1."""
        super().autostart()
        if self._once and self.values.autostart and not self.active:
            self.exit_code = 1
            raise KeyboardInterrupt

    def watch(self) -> None:
        """With `once`, end the process when the work has finished."""
        if self._once and self.finished.is_set():
            raise KeyboardInterrupt

    def control(self, kind: type, name: str, callback: Callable[[Any, Any], Any]) -> None:
        """Create a service that controls the work."""
        self._control_services.append(self.create_service(kind, name, callback))

    def started(self) -> None:
        """Start the work in its own thread, so services and diagnostics keep running."""
        self._running = True
        self.finished.clear()
        self._thread = threading.Thread(target=lambda: self.attempt(self.work), name="work", daemon=True)
        self._thread.start()

    def stopped(self) -> None:
        """Stop the work."""
        self._running = False
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def teardown(self) -> None:
        """Destroy the services."""
        for service in self._control_services:
            self.destroy_service(service)
        self._control_services.clear()


def gone(peers: Sequence[str]) -> str:
    """Return the diagnostics text for peers that have gone silent."""
    return f"{' and '.join(peers)} {'is' if len(peers) == 1 else 'are'} gone"
