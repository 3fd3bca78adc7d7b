"""A worker thread that processes the newest item; callbacks only submit items."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Runs `work(item)` in its own thread; an item that arrives while one waits replaces it (the newest wins).

    `work` must not raise: the owner catches, counts and reports. Python's interpreter lock is released inside torch,
    cv2 and numpy, so callbacks keep running meanwhile.
    """

    def __init__(self, name: str, work: Callable[[T], None]) -> None:
        self._work = work
        self._item: T | None = None
        self._not_before = 0.0  # s, steady clock; above 0 for a deferred item
        self._condition = threading.Condition()
        self._running = True
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> bool:
        """Submit an item; returns False if it replaced one that was not processed."""
        with self._condition:
            fresh = self._item is None or self._not_before > 0.0
            self._item, self._not_before = item, 0.0
            self._condition.notify()
        return fresh

    def defer(self, item: T, seconds: float) -> None:
        """Process an item again after `seconds`, unless a newer one is submitted before; to be called by `work`."""
        with self._condition:
            if self._item is None and self._running:
                self._item, self._not_before = item, time.monotonic() + seconds

    def discard(self) -> None:
        """Drop the waiting item, if any."""
        with self._condition:
            self._item, self._not_before = None, 0.0

    def stop(self, timeout: float = 30.0) -> bool:
        """Stop the thread after the current item; returns False if it did not end in time."""
        with self._condition:
            self._running = False
            self._item = None
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._condition:
                while self._running and (self._item is None or self._not_before > time.monotonic()):
                    self._condition.wait(None if self._item is None else self._not_before - time.monotonic())
                if not self._running:
                    return
                item, self._item, self._not_before = self._item, None, 0.0
            self._work(item)
