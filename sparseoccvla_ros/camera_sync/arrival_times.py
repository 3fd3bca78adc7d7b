"""Arrival times of the images of a frame set, for its trace."""

from __future__ import annotations

import time
from collections import OrderedDict

from ..core.trace import Trace
from ..core.types import CameraFrames

KEPT = 256
"""Arrivals kept: a few seconds of eight cameras, longer than a set waits."""


class ArrivalTimes:
    """Arrival times of the newest images by camera and stamp; safe to call from several threads."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._at: OrderedDict[tuple[str, int], int] = OrderedDict()

    def add(self, camera: str, stamp: int) -> None:
        """Record that an image of `camera` stamped `stamp` ns has arrived now."""
        self._at[camera, stamp] = time.monotonic_ns()
        if len(self._at) > KEPT:
            self._at.popitem(last=False)

    def trace(self, frames: CameraFrames) -> Trace:
        """Return the arrival of the reference camera's image and of the last image; empty if one of them is unknown, as
        images without a header stamp are (the set then has their time of receipt)."""
        images = list(zip(frames.names, frames.stamps.tolist(), frames.valid.tolist(), strict=True))
        known = [(self._at.get((name, stamp)), stamp) for name, stamp, valid in images if valid]
        reference = [at for at, stamp in known if at is not None and stamp == frames.stamp]
        if not reference or any(at is None for at, _ in known):
            return ()
        last = max(at for at, _ in known if at is not None)
        return (f"{self._node}/received", reference[0]), (f"{self._node}/complete", max(last, reference[0]))
