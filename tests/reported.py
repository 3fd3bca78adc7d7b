"""Inputs that people reported trouble with, kept outside the repository.

SPARSEOCCVLA_BUGS names the folder (default: shared/bugs beside the checkout); tests over them skip without it. Every
bags.json in it lists bags with what must come out of them, so further folders of that form join by being put there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

BUGS = Path(os.environ.get("SPARSEOCCVLA_BUGS", Path(__file__).parents[2] / "shared" / "bugs"))


def bags(*names: str) -> list[Any]:
    """Parameters (path, entry) of every bag that is to play, or of those named; one that skips where there is none."""
    found = [
        pytest.param(index.parent / entry["bag"], entry, id=entry["bag"])
        for index in sorted(BUGS.rglob("bags.json"))
        for entry in json.loads(index.read_text())
        if not names or Path(entry["bag"]).name in names
    ]
    return found or [pytest.param(None, None, marks=pytest.mark.skip(reason="no bags.json under SPARSEOCCVLA_BUGS"))]
