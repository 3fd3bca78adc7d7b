"""Cache of exported graphs and built engines: found by key, written atomically, trusted only with a record.

In <cache>/engines/<preset>: <graph>-<key>.onnx and <graph>-<key>-<runtime>-<binding>.<suffix>, each with a .json beside
it that is written last, after parity was verified, and holds the file's length and sha256.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core.files import file_sha256, written
from ...core.paths import cache_folder

Progress = Callable[[str, float], None]
"""Callback with the current step as text and the completed share of it, 0..1."""


def silent(text: str, share: float) -> None:
    """Progress callback that does nothing."""


def engine_folder(preset: str) -> Path:
    """Returns the folder of a preset's engines; creates it if it is missing."""
    folder = cache_folder() / "engines" / (re.sub(r"[^A-Za-z0-9_.-]", "_", preset) or "preset")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def short(text: str) -> str:
    """First 8 hexadecimal digits of a text's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextmanager
def building(folder: Path, progress: Progress = silent) -> Iterator[None]:
    """Hold the folder's lock while building; first removes partial files of builders that were killed."""
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that is building", 0.0)
            fcntl.flock(handle, fcntl.LOCK_EX)
        for stale in folder.glob(".*.part"):
            stale.unlink(missing_ok=True)
        yield


def write_record(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a verified file beside it; returns it with the file's size and sha256."""
    record = {**record, "file": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)}
    with written(record_path(path)) as part:
        part.write_text(json.dumps(record, indent=1) + "\n")
    return record


def record_path(path: Path) -> Path:
    """Returns the path of a file's record."""
    return path.with_name(path.name + ".json")


def valid_record(path: Path) -> dict[str, Any] | None:
    """Returns the record of a file that is as it was verified; None if the file is missing, truncated or changed."""
    try:
        record = json.loads(record_path(path).read_text())
        whole = path.stat().st_size == record["size"] and file_sha256(path) == record["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None
