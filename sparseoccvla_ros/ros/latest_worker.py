"""A worker thread that processes the newest item; callbacks only submit items."""

from __future__ import annotations

import threading
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
        self._condition = threading.Condition()
        self._running = True
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> bool:
        """Submit an item; returns False if it replaced one that was not processed."""
        with self._condition:
            fresh = self._item is None
            self._item = item
            self._condition.notify()
        return fresh

    def put_back(self, item: T) -> None:
        """Submit an item again, unless another one waits, which is newer."""
        with self._condition:
            if self._item is None and self._running:
                self._item = item
                self._condition.notify()

    def discard(self) -> None:
        """Drop the waiting item, if any."""
        with self._condition:
            self._item = None

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
                while self._running and self._item is None:
                    self._condition.wait()
                if not self._running:
                    return
                item, self._item = self._item, None
            self._work(item)
