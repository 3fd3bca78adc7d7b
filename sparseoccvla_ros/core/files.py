"""Safe loading of untrusted files: bounded allocation, no unpickling, bounded YAML aliases; atomic writing."""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .errors import InvalidInput

MAX_FILE = 2**20
"""Largest YAML file, bytes."""
MAX_NODES = 100_000
"""Most values of a YAML file after its aliases are expanded."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Both build plain values only; libyaml's loader is ten times as fast and does not slow down on nested brackets."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path that atomically replaces `path` when the block succeeds, and is removed otherwise.

    Creates the folder if it is missing; the content is on disk before the file gets its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class BoundedFile(io.BufferedReader):
    """A binary file whose reads never request more than is left, so no buffer becomes larger than the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most `size` bytes, or all that is left if it is negative or None."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def read_npz(path: Path, field: str, names: tuple[str, ...] = (), limit: int = 2**26) -> dict[str, np.ndarray]:
    """Load arrays of an .npz file, by name. A PermissionError is passed through.

    Args:
        path: the file.
        field: field of the InvalidInput.
        names: arrays to read; empty reads all.
        limit: largest unpacked size of all arrays together, bytes.

    Raises:
        InvalidInput: the file is missing or damaged, contains objects, lacks a name, or would exceed `limit`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = sorted(set(names) - set(held))
            if missing:
                raise InvalidInput(field, f"{path.name} lacks {', '.join(missing)}")
            chosen = {name: held[name] for name in names or held}
            if sum(info.file_size for info in chosen.values()) > limit:
                raise InvalidInput(field, f"{path.name} unpacks to more than {limit // 2**20} MiB")
            for info in chosen.values():
                _check_header(archive, info, field)
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in chosen}
    except (InvalidInput, PermissionError):
        raise
    except FileNotFoundError:
        raise InvalidInput(field, f"cannot read {path}: it does not exist") from None
    except Exception as error:  # zip, zlib, struct and the header parser raise their own types: all mean damage
        raise InvalidInput(field, f"cannot read {path.name}: {error or type(error).__name__}") from error


def _check_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, field: str) -> None:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise InvalidInput(field, f"{info.filename} has array format {version}")
        shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise InvalidInput(field, f"cannot read {info.filename}: it holds objects, which are never unpickled")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise InvalidInput(field, f"{info.filename} does not hold the {list(shape)} {dtype} that it declares")


def read_yaml(path: str | Path, field: str) -> Any:
    """Load a YAML file as plain values. Raises InvalidInput(field) naming the file if it is unreadable or too large."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidInput(field, f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise InvalidInput(field, f"{path} is larger than {MAX_FILE // 2**20} MiB")
    try:
        content = yaml.load(data.decode("utf-8"), Loader=_LOADER)  # noqa: S506  both are safe loaders
    except RecursionError:
        raise InvalidInput(field, f"{path} is nested too deeply") from None
    except Exception as error:  # PyYAML lets errors of its date, number and key constructors through
        raise InvalidInput(field, f"{path} is not YAML: {error}") from None
    _check_extent(content, field, path)
    return content


def _check_extent(content: Any, field: str, path: Path) -> None:
    """Raise InvalidInput for more than MAX_NODES values, aliases expanded; this also catches an alias of itself."""
    waiting, seen = [content], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        if seen + len(waiting) > MAX_NODES:
            raise InvalidInput(field, f"{path} holds more than {MAX_NODES} values")
