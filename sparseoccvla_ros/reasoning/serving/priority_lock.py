"""Lock around the language model that gives frames priority over answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PriorityLock:
    """A lock with two priorities.

    A plain lock would starve the prefill: an answer releases it after each token and reacquires it immediately. Here
    patient callers wait while an urgent one is waiting, so a prefill waits for at most one short model call.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._held = False
        self._urgent = 0

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Hold the lock, with priority over every `patient` caller."""
        with self._state:
            self._urgent += 1
            try:
                self._state.wait_for(lambda: not self._held)
                self._held = True
            finally:
                self._urgent -= 1
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Hold the lock once no urgent caller is waiting."""
        with self._state:
            self._state.wait_for(lambda: not self._held and not self._urgent)
            self._held = True
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        with self._state:
            self._held = False
            self._state.notify_all()
