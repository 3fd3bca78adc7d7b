"""YAML that others wrote: size, depth and aliases bounded, so that a small file cannot fill the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import InvalidInput

MAX_FILE = 2**20
"""Bytes of a file."""
MAX_NODES = 100_000
"""Values of a file once its aliases are written out."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Both make plain values only; libyaml's is ten times as fast, and does not slow down where brackets are nested."""


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
