"""Loops over rays, pixels and voxels, compiled by numba on first use.

All arithmetic is in the precision of the arguments (float32 in pictures and labels), so constants are written F(0.5): a
bare 0.5 would make numba work in float64.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from ...core.paths import PACKAGE

F = np.float32


@cache
def _used(module: str) -> frozenset[str]:
    """A module of this folder and those that it imports from here, directly or not."""
    text = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    return frozenset({module}.union(*(_used(m) for m in re.findall(r"^from \.(\w+) import", text, re.MULTILINE))))


@cache
def _folder(module: str) -> str:
    """Where a module's compiled code is kept: in the user's cache, under a digest of all it uses.

    numba looks at the function's own file only, so that code which calls a changed function would stay as it was. Not
    below SPARSEOCCVLA_CACHE, which tests point at empty folders: compiling takes half a minute.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    sources = [Path(__file__), *(Path(__file__).parent / f"{m}.py" for m in sorted(_used(module)))]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources))
    return os.path.join(base, PACKAGE, "numba", digest.hexdigest()[:12])


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function for the types it is called with; division by zero gives inf or NaN as in numpy."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, _folder(function.__module__.rpartition(".")[2])
    try:
        return numba.njit(cache=True, error_model="numpy", nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before
