"""Loops over arrays, compiled by numba on first use."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

from .paths import PACKAGE

_IMPORT = re.compile(r"^from (\.+)([\w.]*) import", re.MULTILINE)


@cache
def _used(file: Path) -> frozenset[Path]:
    """A module and those of this package that it imports, directly or not: their constants are compiled in as well."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for dots, name in _IMPORT.findall(module.read_text(encoding="utf-8")):
            place = module.parents[len(dots) - 1].joinpath(*filter(None, name.split(".")))
            single = place.with_name(f"{place.name}.py")
            waiting.append(single if name and single.is_file() else place / "__init__.py")
    return frozenset(found)


@cache
def _folder(file: Path) -> str:
    """Where a module's compiled code is kept: in the user's cache, under a digest of all it uses.

    numba looks at the function's own file only, so that code which calls a changed function would stay as it was. Not
    below SPARSEOCCVLA_CACHE, which tests point at empty folders: compiling takes half a minute.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    sources = [Path(__file__), *sorted(_used(file))]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources))
    return os.path.join(base, PACKAGE, "numba", digest.hexdigest()[:12])


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function for the types it is called with; division by zero gives inf or NaN as in numpy."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, _folder(Path(function.__code__.co_filename))
    try:
        return numba.njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # nowhere to keep the machine code: the user's cache cannot be written to
        return numba.njit(error_model="numpy", nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before
