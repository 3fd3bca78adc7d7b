"""The lanes of ./run test hand pytest what they say."""

import pytest

from sparseoccvla_ros.cli import test_lanes as lanes


@pytest.fixture
def calls(monkeypatch):
    made = []

    def call(command, env=None):
        made.append((command[3:], env or {}))
        return 0

    monkeypatch.setattr(lanes.subprocess, "call", call)
    return made


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ([], ["-m", "not slow"]),
        (["--all"], []),
        (["--quick"], ["-m", "not slow and not ros", *lanes.QUICK]),
        (["-k", "gate"], ["-m", "not slow", "-k", "gate"]),
        ([__file__], [__file__]),
        ([f"{__file__}::test_x", "--all"], [f"{__file__}::test_x"]),
        (["--quick", __file__], ["-m", "not slow and not ros", __file__]),
        (["-m", "ros"], ["-m", "ros"]),
    ],
)
def test_lanes(calls, words, want):
    assert lanes.run_tests(words) == 0
    assert calls == [(want, {})]


def test_numeric_runs_under_every_instruction_set(calls):
    assert lanes.run_tests(["--numeric", "-x"]) == 0
    assert [c for c, _ in calls] == [["-m", "numeric and not slow", "-x"]] * len(lanes.INSTRUCTION_SETS)
    capabilities = {e.get("ATEN_CPU_CAPABILITY") for _, e in calls}
    assert capabilities >= {"default", "avx2"}
    assert {e["OMP_NUM_THREADS"] for _, e in calls} == {"1", "2"}


def test_two_lanes_are_refused(calls):
    assert lanes.run_tests(["--quick", "--all"]) == 2
    assert not calls
