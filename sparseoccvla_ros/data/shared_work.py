"""Distribution of work among processes and machines through a shared folder.

Each file is one work item. A worker claims an item by creating a lock file beside it exclusively; the file itself is
written atomically. A lock is ignored if its process is gone (on this machine) or if it was not renewed for
STALE_SECONDS, so a killed worker blocks no other.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ..core.errors import InvalidInput
from .processes import one_thread

STALE_SECONDS, TOUCHED_SECONDS = 120.0, 20.0
"""Age [s] from which a lock is considered abandoned, and the interval at which its holder renews it."""
_POLL_SECONDS = 0.5


class Work(Protocol):
    """Work items by number; must be picklable for worker processes."""

    def file(self, item: int) -> Path:
        """Path of the file that `make` writes."""
        ...

    def make(self, item: int) -> None:
        """Write the file atomically."""
        ...


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Try to lock a file; yields whether this caller holds the lock, which is released when the block ends."""
    lock = file.with_name(f".{file.name}.lock")
    mine = _take(lock)
    ended = threading.Event()
    if mine:
        threading.Thread(target=_renew, args=(lock, ended), daemon=True).start()
    try:
        yield mine
    finally:
        ended.set()
        if mine:
            lock.unlink(missing_ok=True)


def share(work: Work, items: Sequence[int], workers: int = 1) -> Iterator[int]:
    """Make the missing items, sharing them with other callers of the folder; yields each item once its file exists.

    workers: processes of one thread each; 1 works in this process. Raises InvalidInput("workers") when below 1.
    """
    if workers < 1:
        raise InvalidInput("workers", f"{workers} processes cannot work")
    missing = []
    for item in items:
        if work.file(item).is_file():
            yield item
        else:
            missing.append(item)
    if not missing:
        return
    if workers == 1:
        yield from _until_done(work, missing, lambda left: ((item, _make(work, item)) for item in left))
        return
    pool = ProcessPoolExecutor(
        min(workers, len(missing)), multiprocessing.get_context("spawn"), initializer=_start, initargs=(work,)
    )
    try:
        yield from _until_done(work, missing, lambda left: zip(left, pool.map(_make_there, left), strict=True))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _until_done(work: Work, missing, attempt) -> Iterator[int]:
    while missing:
        elsewhere = []
        for item, there in attempt(missing):
            if there:
                yield item
            else:
                elsewhere.append(item)
        missing = elsewhere
        if missing:
            time.sleep(_POLL_SECONDS)


def _make(work: Work, item: int) -> bool:
    """Make an item's file if missing; returns whether it exists now, False while another worker makes it."""
    file = work.file(item)
    if file.is_file():
        return True
    file.parent.mkdir(parents=True, exist_ok=True)
    with claimed(file) as mine:
        if mine and not file.is_file():
            work.make(item)
        return file.is_file()


_here: list[Work] = []


def _start(work: Work) -> None:
    one_thread()
    _here.append(work)


def _make_there(item: int) -> bool:
    return _make(_here[0], item)


def _take(lock: Path) -> bool:
    mine = json.dumps({"host": socket.gethostname(), "process": os.getpid(), "thread": threading.get_ident()})
    for _ in range(2):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if not _left_behind(lock):
                return False
            lock.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as stream:
            stream.write(mine)
        return True
    return False


def _left_behind(lock: Path) -> bool:
    """Whether the lock is abandoned or already gone."""
    try:
        age = time.time() - lock.stat().st_mtime
        holder = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:  # not written yet, or by a process that was killed in between
        return age > TOUCHED_SECONDS
    if holder.get("host") == socket.gethostname():
        try:
            os.kill(int(holder["process"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return age > STALE_SECONDS


def _renew(lock: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCHED_SECONDS):
        try:
            os.utime(lock)
        except FileNotFoundError:
            return
