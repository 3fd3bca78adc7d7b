"""Rate limiter."""

from __future__ import annotations

import time
from collections.abc import Callable


class Throttle:
    """`due()` is True at most `rate()` times a second of wall time; a rate of 0 means never."""

    def __init__(self, rate: Callable[[], float]) -> None:
        self._rate = rate
        self._last = self._before = float("-inf")

    def due(self) -> bool:
        """Return True, and restart the interval, if enough time has passed since the last True."""
        rate, now = self._rate(), time.monotonic()
        if rate <= 0 or now - self._last < 1.0 / rate:
            return False
        self._before, self._last = self._last, now
        return True

    def remaining(self) -> float:
        """Return the seconds until the next call of `due` is True, infinity for a rate of 0."""
        rate = self._rate()
        return max(0.0, self._last + 1.0 / rate - time.monotonic()) if rate > 0 else float("inf")

    def undo(self) -> None:
        """Revert the last `due` whose action did not happen: the next call may be due at once."""
        self._last = self._before
