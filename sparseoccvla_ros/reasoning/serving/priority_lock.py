"""Turns at the language model: planning goes first, answers fill the gaps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PriorityLock:
    """A lock with two classes of callers.

    A plain lock would starve the prefill: an answer that releases it after a token takes it again at once. Here an
    answer steps back as long as an urgent caller waits, so a prefill waits for one short model call at most.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._held = False
        self._urgent = 0

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Hold the turn; goes before every `patient` caller."""
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
        """Hold the turn once nobody urgent wants it."""
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
