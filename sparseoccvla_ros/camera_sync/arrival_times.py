"""When the images of a frame set arrived, for its trace."""

from __future__ import annotations

import time
from collections import OrderedDict

from ..core.trace import Trace
from ..core.types import CameraFrames

KEPT = 256
"""Images whose arrival is remembered: some seconds of eight cameras, longer than a set waits."""


class ArrivalTimes:
    """Arrival of the newest images by camera and stamp; called from several threads (each call is one step)."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._at: OrderedDict[tuple[str, int], int] = OrderedDict()

    def add(self, camera: str, stamp: int) -> None:
        """An image of `camera` stamped `stamp` ns arrives now."""
        self._at[camera, stamp] = time.monotonic_ns()
        if len(self._at) > KEPT:
            self._at.popitem(last=False)

    def trace(self, frames: CameraFrames) -> Trace:
        """Arrival of the reference camera's image and of the last one; empty where the set's images are not known,
        as those are whose stamps are the time of receipt."""
        images = list(zip(frames.names, frames.stamps.tolist(), frames.valid.tolist(), strict=True))
        known = [(self._at.get((name, stamp)), stamp) for name, stamp, valid in images if valid]
        reference = [at for at, stamp in known if at is not None and stamp == frames.stamp]
        if not reference or any(at is None for at, _ in known):
            return ()
        last = max(at for at, _ in known if at is not None)
        return (f"{self._node}/received", reference[0]), (f"{self._node}/complete", max(last, reference[0]))
