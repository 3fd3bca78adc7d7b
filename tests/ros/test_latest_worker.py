"""The worker thread: the newest item wins, also over one that was deferred."""

from __future__ import annotations

import queue
import time

import pytest

from sparseoccvla_ros.ros.latest_worker import Worker


def test_a_deferred_item_comes_again_unless_a_newer_one_does() -> None:
    seen: queue.Queue[int] = queue.Queue()
    again: set[int] = set()

    def work(item: int) -> None:
        if item % 2 and item not in again:
            again.add(item)
            worker.defer(item, 0.3)
        seen.put(item)

    worker: Worker[int] = Worker("test", work)
    began = time.monotonic()
    worker.submit(1)
    assert [seen.get(timeout=10), seen.get(timeout=10)] == [1, 1]
    assert time.monotonic() - began >= 0.3
    worker.submit(3)
    assert seen.get(timeout=10) == 3
    assert worker.submit(4), "nothing is lost: what was deferred had its turn"
    assert seen.get(timeout=10) == 4
    with pytest.raises(queue.Empty):
        seen.get(timeout=0.5)  # the older one would come after the newer one
    worker.submit(5)
    assert seen.get(timeout=10) == 5
    worker.discard()
    with pytest.raises(queue.Empty):
        seen.get(timeout=0.5)
    assert worker.stop()
