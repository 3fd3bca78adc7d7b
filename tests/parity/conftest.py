"""Finds recorded reference outputs, which are kept outside the repository, and hands them to the tests.

`@pytest.mark.recorded(PATTERN, NAME)` runs a test once per path below the root that matches the pattern, as argument
NAME; further folders of a known kind join by being put there. The root is SPARSEOCCVLA_FIXTURES (default:
shared/fixtures beside the checkout); without it the tests skip.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

FIXTURES = Path(os.environ.get("SPARSEOCCVLA_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "recorded(pattern, name): once per recorded path that matches")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for mark in metafunc.definition.iter_markers("recorded"):
        pattern, name = mark.args
        found = [pytest.param(path, id=path.stem) for path in sorted(FIXTURES.glob(pattern))]
        nothing = pytest.mark.skip(reason=f"no {pattern} under SPARSEOCCVLA_FIXTURES")
        metafunc.parametrize(name, found or [pytest.param(None, marks=nothing)])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
