"""The decorator `kernel`: numba-compiled functions, cached on disk under a digest of their sources."""

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
    """Return a module and all modules of this package it imports, even indirectly: their constants are compiled in."""
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
    """Return the folder for a module's compiled code: in the user's cache, named by a digest of `_used`.

    numba itself checks the function's own file only and would keep stale code when a called function changes. Not
    below SPARSEOCCVLA_CACHE, which tests point at empty folders: compiling takes half a minute.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    sources = [Path(__file__), *sorted(_used(file))]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources))
    return os.path.join(base, PACKAGE, "numba", digest.hexdigest()[:12])


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function for its argument types on first call; division by zero gives inf or NaN as in numpy."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, _folder(Path(function.__code__.co_filename))
    try:
        return numba.njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # the user's cache is not writable: compile without a disk cache
        return numba.njit(error_model="numpy", nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before
