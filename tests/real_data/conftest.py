"""Finds the shared real recordings and hands each test the folders it can use.

A folder below the data root is one recording; the top-level JSON file in it carries a `format`. A test that asks for
the fixture `keyframe_1` (`poses_1`, `images_1`, `motion_1`) runs once per folder of that format with a
`Recording`, and is skipped where there is none. Nothing in here is tied to one folder name, so new recordings join by
being put there.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FORMATS = ("keyframe-1", "poses-1", "images-1", "motion-1")


@dataclass(frozen=True)
class Recording:
    """One folder of real data: where it lies and what its JSON file says."""

    folder: Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name


def root() -> Path:
    """$SPARSEOCCVLA_DATA, else ../shared/data beside the repository; it need not exist."""
    explicit = os.environ.get("SPARSEOCCVLA_DATA")
    return Path(explicit) if explicit else Path(__file__).resolve().parents[2].parent / "shared" / "data"


def recordings(wanted: str) -> list[Recording]:
    """Every folder below the root whose JSON file has this `format`, by name."""
    found = []
    for path in sorted(root().glob("*/*.json")):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("format") == wanted:
            found.append(Recording(path.parent, content))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for wanted in FORMATS:
        fixture = wanted.replace("-", "_")
        if fixture in metafunc.fixturenames:
            found = recordings(wanted)
            metafunc.parametrize(fixture, found, ids=[r.name for r in found])


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The data root; skips the test where there is none."""
    if not root().is_dir():
        pytest.skip("no real recordings: set SPARSEOCCVLA_DATA")
    return root()


@pytest.fixture(scope="session")
def occ3d_labels(data_root: Path) -> Path:
    """Path of an original Occ3D labels.npz; skips the test where there is none."""
    found = sorted(data_root.glob("*/*/labels.npz")) + sorted(data_root.glob("*/labels.npz"))
    if not found:
        pytest.skip("no Occ3D label file")
    return found[0]
