"""Transport of dataclasses between stages: as messages over DDS, or directly within one process.

Nodes publish and receive dataclasses; the transport is chosen here, so the same node classes run in separate processes
or composed in one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sparseoccvla_msgs.msg import TraceEvent

from sparseoccvla_ros.core.trace import event

Item = Callable[[], Any]
"""Returns the dataclass; a message is converted only when called, so one replaced by a newer one costs nothing."""


class Handover:
    """In-process topics: an item is passed to all receivers of a topic in the sender's thread, without a copy.

    The arrays are shared, so receivers must not write to them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._receivers: dict[str, list[Callable[[Item], None]]] = {}

    def add(self, name: str, receive: Callable[[Item], None]) -> Callable[[], None]:
        """Subscribe `receive` to a topic; returns a function that unsubscribes it."""
        with self._lock:
            self._receivers[name] = [*self._receivers.get(name, []), receive]

        def remove() -> None:
            with self._lock:
                self._receivers[name] = [r for r in self._receivers[name] if r is not receive]

        return remove

    def give(self, name: str, item: Any) -> None:
        """Pass a dataclass to every receiver; receivers must return at once."""
        with self._lock:
            receivers = self._receivers.get(name, [])
        for receive in receivers:
            receive(lambda: item)


class StageOutput:
    """Publisher of a dataclass of core/types.py.

    to_msg: converts it to a message; handover: of a composed process, else None; node: node name for the trace.
    """

    def __init__(
        self, name: str, publisher: Any, to_msg: Callable[..., Any], handover: Handover | None, node: str
    ) -> None:
        self._name = name
        self._node = node
        self._publisher = publisher
        self._to_msg = to_msg
        self._handover = handover

    def publish(self, item: Any, **details: Any) -> None:
        """Publish an item; `details` are arguments of to_msg. If composed, it is converted only for DDS subscribers."""
        if not self._publisher.is_activated:
            return
        if self._handover is not None:
            self._handover.give(self._name, item)
            if not self._publisher.get_subscription_count():
                return
        message = self._to_msg(item, **details)
        if getattr(message, "trace", None):
            name, at = event(self._node, "converted")
            message.trace.append(TraceEvent(name=name, time=at))
        self._publisher.publish(message)
