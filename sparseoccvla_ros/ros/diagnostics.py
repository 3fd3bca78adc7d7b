"""State and statistics of a node for /diagnostics, and the states of its peers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from .messages import time_msg


class State(StrEnum):
    """State of a node; the message of its DiagnosticStatus starts with it."""

    UNCONFIGURED = "UNCONFIGURED"
    """Not configured yet, or configure failed: `last_error` says why."""
    INACTIVE = "INACTIVE"
    """Configured, waiting to be activated."""
    OK = "OK"
    """Working."""
    DEGRADED = "DEGRADED"
    """Working, but something is missing or untrained, as given by the reason."""
    STALE = "STALE"
    """Active, but its input stopped or never arrived."""
    REJECTING = "REJECTING"
    """Inputs arrive but are refused."""
    FAULT = "FAULT"
    """Three exceptions in a row; the node deactivated itself."""


LEVELS = {
    State.UNCONFIGURED: DiagnosticStatus.STALE,
    State.INACTIVE: DiagnosticStatus.STALE,
    State.OK: DiagnosticStatus.OK,
    State.DEGRADED: DiagnosticStatus.WARN,
    State.STALE: DiagnosticStatus.ERROR,
    State.REJECTING: DiagnosticStatus.ERROR,
    State.FAULT: DiagnosticStatus.ERROR,
}


class Monitor:
    """Collects counts and latencies of a node and builds its DiagnosticStatus.

    Thread-safe: callbacks, the worker and the diagnostics timer use it. Ages are wall time (steady clock), so a paused
    or jumping simulation clock does not hide a dead input.
    """

    def __init__(self, name: str, hardware_id: str = "sparseoccvla_ros") -> None:
        self._name = name
        self._hardware_id = hardware_id
        self._lock = threading.Lock()
        self._input_at: float | None = None
        self._began = time.monotonic()
        self._refused = ""
        self._reasons: tuple[str, ...] = ()
        self._counts: dict[str, int] = {}
        self._latencies: deque[float] = deque(maxlen=200)
        self._done: deque[float] = deque(maxlen=50)
        self._values: dict[str, str] = {}
        self.waiting_for = "input"
        self.forced: State | None = None

    def restart(self) -> None:
        """Reset ages and latencies, keep the counts; called on activation."""
        with self._lock:
            self._input_at, self._began, self._refused, self._reasons = None, time.monotonic(), "", ()
            self._latencies.clear()
            self._done.clear()

    def received(self) -> None:
        """Count an input and record its arrival."""
        with self._lock:
            self._input_at = time.monotonic()
            self._counts["received"] = self._counts.get("received", 0) + 1

    def count(self, what: str, by: int = 1) -> None:
        """Add to a named counter."""
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + by

    def refused(self, reason: str) -> None:
        """Count a refused input; `reason` is shown until an input has been processed."""
        with self._lock:
            self._refused = reason
            self._counts["refused"] = self._counts.get("refused", 0) + 1

    def finished(self, latency: float, reasons: tuple[str, ...] = ()) -> None:
        """Count an output, `latency` seconds after its input; non-empty `reasons` make the node DEGRADED."""
        with self._lock:
            self._latencies.append(latency)
            self._done.append(time.monotonic())
            self._refused, self._reasons = "", reasons
            self._counts["published"] = self._counts.get("published", 0) + 1

    def show(self, **values: Any) -> None:
        """Set extra key-value pairs."""
        with self._lock:
            self._values.update({k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()})

    def input_age(self) -> float:
        """Return the seconds since the last input, or since activation."""
        with self._lock:
            return time.monotonic() - (self._input_at if self._input_at is not None else self._began)

    def state(self, stale_after: float) -> tuple[State, str]:
        """Return the present state and the reason for it."""
        age = self.input_age()
        with self._lock:
            if self.forced is not None:
                return self.forced, self._values.get("last_error", "")
            if age > stale_after:
                since = "yet" if self._input_at is None else f"for {age:.1f} s"
                return State.STALE, f"no {self.waiting_for} {since}"
            if self._refused:
                return State.REJECTING, self._refused
            if self._reasons:
                return State.DEGRADED, "; ".join(self._reasons)
            return State.OK, ""

    def status(self, stale_after: float) -> DiagnosticStatus:
        """Return the present DiagnosticStatus."""
        state, reason = self.state(stale_after)
        with self._lock:
            values = {"state": state.value, "reason": reason, **{k: str(v) for k, v in sorted(self._counts.items())}}
            if self._latencies:
                ordered = sorted(self._latencies)
                values["latency_p50_ms"] = f"{1e3 * ordered[len(ordered) // 2]:.1f}"
                values["latency_p95_ms"] = f"{1e3 * ordered[int(0.95 * (len(ordered) - 1))]:.1f}"
            if len(self._done) > 1:
                values["rate_hz"] = f"{(len(self._done) - 1) / max(1e-6, self._done[-1] - self._done[0]):.2f}"
            values.update(self._values)
        return DiagnosticStatus(
            level=LEVELS[state],
            name=f"{self._name}: state",
            message=state.value + (f": {reason}" if reason else ""),
            hardware_id=self._hardware_id,
            values=[KeyValue(key=k, value=v) for k, v in values.items()],
        )


def diagnostic_array(statuses: list[DiagnosticStatus], stamp: int) -> DiagnosticArray:
    """Build a DiagnosticArray with a stamp in ns."""
    out = DiagnosticArray(status=statuses)
    out.header.stamp = time_msg(stamp)
    return out


class NodeStates:
    """Latest diagnostics of the nodes in a namespace; a node silent for `timeout` seconds counts as gone."""

    def __init__(self, namespace: str, timeout: float) -> None:
        self._prefix, self._timeout = namespace.rstrip("/") + "/", timeout
        self._known: dict[str, tuple[float, str]] = {}

    def add(self, message: DiagnosticArray) -> None:
        """Add a message of /diagnostics."""
        for status in message.status:
            name = status.name.removesuffix(": state")
            if name.startswith(self._prefix):
                self._known[name.removeprefix(self._prefix)] = time.monotonic(), status.message

    def silent(self, names: Iterable[str]) -> list[str]:
        """Return the `names` that were seen before and have been silent since, in the given order."""
        now = time.monotonic()
        return [n for n in names if n in self._known and now - self._known[n][0] > self._timeout]

    def absent(self, names: Iterable[str]) -> list[str]:
        """Return the `names` that are gone, never seen or not active, in the given order."""
        now = time.monotonic()
        known = {name: self._known.get(name, (-self._timeout, "")) for name in names}
        off = (State.UNCONFIGURED.value, State.INACTIVE.value, State.FAULT.value)
        return [n for n, (seen, text) in known.items() if now - seen > self._timeout or text.startswith(off)]
