"""Every command of README and pages runs at toy size, here or in the test that its row names."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparseoccvla_ros.cli.__main__ import complete_app
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.data.bags import offline_sync
from tests.docs.commands import ROOT, ROWS, TEXTS, Row, commands, indented, rows_of

PARAMS = "/**/planning:\n  ros__parameters:\n    max_age: 3.0\n"
RUN = list({row.runs: row for row in ROWS if row.runs}.values())
"""Rows that run here, each toy once."""


def test_every_command_has_one_row() -> None:
    found = {(page.name, c): [row.says for row in rows_of(c)] for page in TEXTS for c in commands(page.read_text())}
    assert not {where: rows for where, rows in found.items() if len(rows) != 1}


def test_nothing_else_looks_like_a_command() -> None:
    for page in TEXTS:
        known = commands(page.read_text())
        lines = [" ".join(re.sub(r"\s+#.*", "", line).split()) for line in indented(page.read_text())]
        assert not [line for line in lines if line not in known], page


def test_every_row_is_needed_and_says_one_thing() -> None:
    said = [c for page in TEXTS for c in commands(page.read_text())]
    for row in ROWS:
        assert any(re.fullmatch(row.says, c) for c in said), row.says
        assert [bool(row.runs), bool(row.test), bool(row.cannot)].count(True) == 1, row.says


@pytest.mark.parametrize("name", sorted({row.test for row in ROWS if row.test}))
def test_the_other_test_is_there(name: str) -> None:
    file, function = name.split("::")
    assert f"def {function}(" in (ROOT / "tests" / file).read_text()


@pytest.fixture(scope="module")
def places(preset: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What the toys need: a preset of their own, a bag, files, a folder for results."""
    out = tmp_path_factory.mktemp("commands")
    shutil.copytree(preset, out / "preset")
    shutil.copy(ROOT / "models" / "tiny" / "recipe.yaml", out / "preset")
    (out / "params.yaml").write_text(PARAMS)
    shutil.copy(ROOT / "config" / "profiles" / "nuscenes.yaml", out / "profile.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEOCCVLA_CACHE", str(out / "cache"))
        patch.chdir(out)
        yield {
            "out": out, "preset": out / "preset", "bag": bundled_bag(),
            "params": out / "params.yaml", "profile": out / "profile.yaml",
        }  # fmt: skip


def _words(row: Row, places: dict[str, object]) -> list[list[str]]:
    return [shlex.split(part.format(**places)) for part in row.runs.split(";")]


@pytest.mark.parametrize("row", [row for row in RUN if not row.slow], ids=lambda row: row.runs)
def test_cheap_commands_run(row: Row, places: dict[str, object]) -> None:
    for words in _words(row, places):
        done = CliRunner().invoke(complete_app(), words)
        assert done.exit_code in row.codes, (done.output, done.exception)
        assert done.output.strip()


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", [row for row in RUN if row.slow], ids=lambda row: row.runs)
@pytest.mark.usefixtures("domain")
def test_the_others_run(row: Row, places: dict[str, object], free_port: int, request: pytest.FixtureRequest) -> None:
    """Each as a process, to its end or to the line after which it is told to end."""
    if row.runs.startswith("docs ") and not Path(sys.prefix, "docs").is_dir():
        pytest.skip("mkdocs is not installed: ./run docs does that")
    more = {"port": free_port, "root": request.getfixturevalue("world_root") if "{root}" in row.runs else ""}
    for words in _words(row, places | more):
        code, text = _process(words, row.until)
        assert code in row.codes, text
        assert "Traceback" not in text, text


def _process(words: list[str], until: str) -> tuple[int, str]:
    """Exit status and output of ./run, which is told to end as by Ctrl-C where a line holds `until`."""
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", *words]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    guard = threading.Timer(840, os.killpg, (process.pid, signal.SIGKILL))
    guard.start()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if until and until in line:
            os.killpg(process.pid, signal.SIGINT)
            until = ""
    code = process.wait()
    guard.cancel()
    assert not until, f"never said {until!r}: {''.join(lines)}"
    return code, "".join(lines)


def _python() -> Iterator[object]:
    """Every Python block of the pages; that of the README is run by test_pipeline.py."""
    for page in TEXTS:
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)):
            marks = [pytest.mark.slow, pytest.mark.timeout(900)] if "from_preset" in code else []
            if page.name != "README.md":
                yield pytest.param(code, id=f"{page.name}-{number}", marks=marks)


@pytest.mark.parametrize("code", _python())
def test_python_of_the_pages_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    every = offline_sync.bag_frames
    monkeypatch.setattr(offline_sync, "bag_frames", lambda *words: itertools.islice(every(*words), 2))
    exec(code, {})
