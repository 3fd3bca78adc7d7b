"""The lanes of ./run test hand pytest what they say."""

import os
import subprocess
import sys

import pytest

from sparseoccvla_ros.cli import test_lanes as lanes


@pytest.fixture
def calls(monkeypatch):
    made = []

    def call(command, env):
        made.append((command[3:], env))
        return 0

    monkeypatch.setattr(lanes.subprocess, "call", call)
    monkeypatch.setattr(lanes, "processes", lambda: 2)
    return made


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ([], [["-n", "2", "-m", "not slow"]]),
        (["--all"], [["-n", "2", "-m", "not slow"], ["-m", "slow"]]),
        (["--quick"], [["-n", "2", "-m", "not slow and not ros", *lanes.QUICK]]),
        (["-k", "gate"], [["-n", "2", "-m", "not slow", "-k", "gate"]]),
        ([__file__], [[__file__]]),
        ([f"{__file__}::test_x", "--all"], [[f"{__file__}::test_x"]]),
        (["--quick", __file__], [["-n", "2", "-m", "not slow and not ros", __file__]]),
        (["-m", "ros"], [["-m", "ros"]]),
    ],
)
def test_lanes(calls, words, want):
    assert lanes.run_tests(words) == 0
    assert [made for made, _ in calls] == want


def test_one_core_tests_in_one_process(calls, monkeypatch):
    monkeypatch.setattr(lanes, "processes", lambda: 1)
    assert lanes.run_tests([]) == 0
    assert [made for made, _ in calls] == [["-m", "not slow"]]


def test_a_failure_of_either_part_of_all_is_one(monkeypatch):
    for codes in ((1, 0), (0, 1)):
        left = iter(codes)
        monkeypatch.setattr(lanes.subprocess, "call", lambda *_, left=left, **__: next(left))
        assert lanes.run_tests(["--all"]) == 1


@pytest.mark.parametrize(
    ("flags", "sets"),
    [
        ("sse4_1 avx2 avx512f", ["SSE", "AVX2", "widest"]),
        ("sse4_1 avx2", ["SSE", "AVX2"]),
        ("sse4_1", ["SSE", "widest"]),
        ("asimd", ["widest"]),
    ],
)
def test_the_widest_instructions_run_once(flags, sets, monkeypatch):
    monkeypatch.setattr(lanes.Path, "read_text", lambda path: f"flags : fpu {flags}")
    assert lanes.instruction_sets() == sets


def test_numeric_runs_under_every_instruction_set(calls, monkeypatch):
    monkeypatch.setattr(lanes, "instruction_sets", lambda: list(lanes.INSTRUCTION_SETS))
    assert lanes.run_tests(["--numeric", "-x"]) == 0
    words = [c for c, _ in calls]
    assert len(words) == len(lanes.INSTRUCTION_SETS)
    for word in words:
        assert word[:4] == ["-n", "2", "-m", "numeric and not slow"]
        assert word[-1] == "-x"
        assert "tests/parity/test_occupancy.py" in word
        assert "tests/cli/test_bootstrap.py" not in word
    capabilities = {e.get("ATEN_CPU_CAPABILITY") for _, e in calls}
    assert capabilities >= {"default", "avx2"}
    assert {e["OMP_NUM_THREADS"] for _, e in calls} == {"1", "2"}


def test_sse_is_what_numpy_computes_with():
    """Its names of instruction sets change from version to version, and wrong ones are no error."""
    code = "import numpy as np; print(np.show_config('dicts')['SIMD Extensions'].get('found'))"
    for name, want in (("SSE", False), ("AVX2", "avx2" in lanes.Path("/proc/cpuinfo").read_text())):
        variables = {**os.environ, **lanes.INSTRUCTION_SETS[name]}
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
        assert ("V3" in done.stdout or "AVX2" in done.stdout) is want, done.stdout


def test_two_lanes_are_refused(calls):
    assert lanes.run_tests(["--quick", "--all"]) == 2
    assert not calls
