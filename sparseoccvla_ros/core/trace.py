"""Latency trace of a frame set: every stage appends timed events, which its output carries on.

Times are ns of CLOCK_MONOTONIC, which all processes of a machine share; `stamp`s are times of the sensors' clock and
not comparable. An event is named "<node>/<event>"; the time since the previous event was spent on

| event | time spent on |
|---|---|
| received | transport of the message: serialisation, DDS, waiting for the executor |
| complete | waiting for the other cameras of the set |
| taken | waiting for the worker: the stage was busy, or the next stage had not requested a set |
| read, converted | conversion from, to the message |
| prepared, encoded, planned | the stage's own work |
"""

from __future__ import annotations

import time

Trace = tuple[tuple[str, int], ...]
"""(event, ns of CLOCK_MONOTONIC), in chronological order."""
KINDS = {
    "received": "DDS", "complete": "other cameras", "taken": "queueing", "read": "conversion",
    "converted": "conversion", "prepared": "compute", "encoded": "compute", "planned": "compute",
}  # fmt: skip
"""Category of the time before an event, by the event's name after the slash."""


def event(node: str, name: str) -> tuple[str, int]:
    """Return an event with the present time. name: one of KINDS."""
    return f"{node}/{name}", time.monotonic_ns()
