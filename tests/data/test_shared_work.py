"""Processes share work through a folder: nothing is done twice, nothing waits for the dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data import shared_work
from sparseoccvla_ros.data.shared_work import claimed, share


class Counted:
    """Files that say who made them; every making is noted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, []

    def file(self, item: int) -> Path:
        return self.folder / f"{item}.txt"

    def make(self, item: int) -> None:
        time.sleep(0.01)
        self.made.append(item)
        self.file(item).write_text(str(item))


def test_two_workers_make_everything_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_work, "_POLL_SECONDS", 0.01)
    work, given = Counted(tmp_path), []
    threads = [threading.Thread(target=lambda: given.append(sorted(share(work, range(20))))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == [list(range(20))] * 2
    assert sorted(work.made) == list(range(20))
    assert not list(tmp_path.glob(".*"))


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with claimed(tmp_path / "a") as first, claimed(tmp_path / "a") as second:
        assert first
        assert not second
    with claimed(tmp_path / "a") as third:
        assert third


@pytest.mark.parametrize("left", ["dead process", "machine that is gone", "half written"])
def test_what_the_dead_left_is_taken_over(tmp_path: Path, left: str) -> None:
    work = Counted(tmp_path)
    lock = tmp_path / ".0.txt.lock"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname() if left == "dead process" else "elsewhere"
    lock.write_text("" if left == "half written" else json.dumps({"host": host, "process": gone.pid, "thread": 0}))
    if left != "dead process":
        with claimed(work.file(0)) as mine:
            assert not mine
        old = time.time() - 1000
        os.utime(lock, (old, old))
    assert list(share(work, [0])) == [0]
    assert work.made == [0]


def test_no_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="workers"):
        list(share(Counted(tmp_path), [0], workers=0))
