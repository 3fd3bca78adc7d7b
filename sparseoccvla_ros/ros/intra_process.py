"""How a stage's dataclass reaches the next stage: as a message over DDS, or as it is within one process.

Nodes publish dataclasses and receive them; which way they went is decided here, so the same node classes run in
processes of their own and composed in one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sparseoccvla_msgs.msg import TraceEvent

from sparseoccvla_ros.core.trace import event

Item = Callable[[], Any]
"""Gives the dataclass; from a message it is converted only now, so one that is replaced by a newer costs nothing."""


class Handover:
    """Topics of one process: what is given to a topic goes to its receivers in the giver's thread, uncopied.

    The arrays are shared: whoever receives them only reads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._receivers: dict[str, list[Callable[[Item], None]]] = {}

    def add(self, name: str, receive: Callable[[Item], None]) -> Callable[[], None]:
        """Let `receive` have everything given to a topic from now on; returns the call that ends it."""
        with self._lock:
            self._receivers[name] = [*self._receivers.get(name, []), receive]

        def remove() -> None:
            with self._lock:
                self._receivers[name] = [r for r in self._receivers[name] if r is not receive]

        return remove

    def give(self, name: str, item: Any) -> None:
        """Hand a dataclass to every receiver; they must return at once."""
        with self._lock:
            receivers = self._receivers.get(name, [])
        for receive in receivers:
            receive(lambda: item)


class StageOutput:
    """A topic that carries a dataclass of core/types.py.

    to_msg: its message; handover: of a composed process; node: whose output it is, for the trace.
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
        """Send it; `details` are arguments of to_msg. Within one process a message is made only for outsiders."""
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
