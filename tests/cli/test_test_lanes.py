"""The lanes of ./run test hand pytest what they say."""

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


def test_numeric_runs_under_every_instruction_set(calls):
    assert lanes.run_tests(["--numeric", "-x"]) == 0
    assert [c for c, _ in calls] == [["-n", "2", "-m", "numeric and not slow", "-x"]] * len(lanes.INSTRUCTION_SETS)
    capabilities = {e.get("ATEN_CPU_CAPABILITY") for _, e in calls}
    assert capabilities >= {"default", "avx2"}
    assert {e["OMP_NUM_THREADS"] for _, e in calls} == {"1", "2"}


def test_two_lanes_are_refused(calls):
    assert lanes.run_tests(["--quick", "--all"]) == 2
    assert not calls
