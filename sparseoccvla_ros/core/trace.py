"""Where the milliseconds of a frame set go: every stage notes when it passed, and what it makes carries that on.

Times are CLOCK_MONOTONIC of the machine, which all its processes share, in ns; `stamp`s are of the sensors' clock and
say nothing of it. An event is called "<node>/<event>"; the time since the event before it went into

| event | what took the time |
|---|---|
| received | the way of the message: serialisation, DDS, the executor's turn |
| complete | waiting for the other cameras of the set |
| taken | waiting for the worker: the stage was busy, or the next stage had not asked |
| read, converted | conversion from, to the message |
| prepared, encoded, planned | the stage's own work |
"""

from __future__ import annotations

import time

Trace = tuple[tuple[str, int], ...]
"""(event, ns of CLOCK_MONOTONIC), in the order in which they happened."""
KINDS = {
    "received": "DDS", "complete": "other cameras", "taken": "queueing", "read": "conversion",
    "converted": "conversion", "prepared": "compute", "encoded": "compute", "planned": "compute",
}  # fmt: skip
"""What the time before an event went into, by its name behind the slash."""


def event(node: str, name: str) -> tuple[str, int]:
    """An event that happens now. name: one of KINDS."""
    return f"{node}/{name}", time.monotonic_ns()
