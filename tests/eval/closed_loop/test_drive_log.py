"""A run that was killed goes on with the drive it was at, and never with results of other weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.eval.closed_loop.drive_log import DriveLog
from sparseoccvla_ros.eval.closed_loop.evaluation import DriveProgress, evaluate_drives, failed, version_of


def results(seed: int):
    row = failed("constant velocity", seed, None, "no reason")
    return replace(row, infractions=("red_light",), route_completion=40.0, driving_score=28.0)


def test_results_are_kept_and_a_cut_line_is_dropped(tmp_path):
    file = tmp_path / "out" / "drives.jsonl"
    log = DriveLog(file)
    for seed in (1, 2):
        log.add("coast", "v", results(seed), 3.0)
    whole = file.read_text()
    file.write_text(whole + whole.splitlines()[0][:50])  # killed while it wrote
    again = DriveLog(file)
    assert again.find("coast", "v", 1, None) == results(1)
    assert again.seconds("coast") == pytest.approx(3.0)
    assert again.find("coast", "other weights", 1, None) is None
    assert again.find("coast", "v", 1, "red_light") is None
    assert file.read_text() == whole
    again.add("coast", "v", results(3), 5.0)
    assert DriveLog(file).find("coast", "v", 3, None) == results(3)
    file.write_text("nonsense\n" + whole)
    with pytest.raises(InvalidInput, match="line 1"):
        DriveLog(file)


def test_what_is_known_is_not_driven_again(tmp_path):
    log = DriveLog(tmp_path / "drives.jsonl")
    version = version_of("coast", "tiny")
    seeds = (31_000, 31_001)
    for seed in seeds:
        log.add("coast", version, results(seed), 3.0)
    told: list[DriveProgress] = []
    rows = evaluate_drives(seeds, ["coast", "coast"], "tiny", log=log, on_progress=told.append)
    assert rows == [results(seed) for seed in seeds]
    assert [p.done for p in told] == [0, 1, 2]
    assert all(p.ended is None for p in told)
    assert version_of("chain", "tiny") != version


def test_unknown_policies_are_refused_before_anybody_drives():
    with pytest.raises(InvalidInput, match="policies"):
        evaluate_drives([31_000], ["coast", "nobody"], "tiny")


@pytest.mark.slow
def test_two_workers_give_the_results_of_one(tmp_path):
    seeds = 31_000, 31_001
    alone = evaluate_drives(seeds, ["coast"], "tiny")
    log = DriveLog(tmp_path / "drives.jsonl")
    told: list[DriveProgress] = []
    assert evaluate_drives(seeds, ["coast"], "tiny", log=log, on_progress=told.append, workers=2) == alone
    assert [p.done for p in told] == [0, 1, 2]
    assert [row.seed for row in alone] == [*seeds]
    assert len((tmp_path / "drives.jsonl").read_text().splitlines()) == 2
