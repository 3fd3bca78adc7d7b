"""Worker processes that do not outlive their parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def one_thread() -> None:
    """Initialise a worker process: it ends with its parent, and parallelism comes from the processes."""
    import torch

    end_with_parent()
    torch.set_num_threads(1)


def end_with_parent() -> None:
    """Exit this worker process when its parent process has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_processes(
    workers: int, function: Callable[..., T], *columns: Iterable[Any], initializer: Callable[[], None] = end_with_parent
) -> Iterator[T]:
    """Call a function with the rows of `columns` in `workers` processes; yields its results in their order.

    function: picklable, as its arguments; initializer: run once in each process. Closing the iterator early cancels the
    rows that were not begun and waits for the others.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=initializer)
    try:
        yield from pool.map(function, *columns)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
