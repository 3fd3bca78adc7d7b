"""Files that others wrote: none makes room for more than it holds, nothing is unpickled, aliases cannot multiply."""

from __future__ import annotations

import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .errors import InvalidInput

MAX_FILE = 2**20
"""Bytes of a YAML file."""
MAX_NODES = 100_000
"""Values of a YAML file once its aliases are written out."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Both make plain values only; libyaml's is ten times as fast, and does not slow down where brackets are nested."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class BoundedFile(io.BufferedReader):
    """A binary file of which never more is asked than it holds, so that no buffer becomes larger than the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, all that is left where it is negative or None."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def read_npz(path: Path, field: str, names: tuple[str, ...] = (), limit: int = 2**26) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, by name.

    Args:
        path: the file.
        field: what InvalidInput names.
        names: arrays to read; all where empty.
        limit: bytes that they may take unpacked.

    Raises:
        InvalidInput: the file is missing, damaged, holds objects, lacks a name, or would take more than `limit`.
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
    except Exception as error:  # zip, zlib, struct and the parser of headers each have their own: all mean damage
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
    """What a YAML file holds, as plain values. Raises InvalidInput(field) naming the file where it cannot be read."""
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
    except Exception as error:  # PyYAML passes on what dates, numbers and keys raise while it makes values of them
        raise InvalidInput(field, f"{path} is not YAML: {error}") from None
    _check_extent(content, field, path)
    return content


def _check_extent(content: Any, field: str, path: Path) -> None:
    """Count values as often as aliases repeat them; an alias of itself never ends, and is refused so as well."""
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
