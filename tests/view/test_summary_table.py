"""Rates, latencies in wall time under a simulated clock, and the tables made of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.view.summary_table import KEPT, Rates, SimClock, StageStats, latency_table

MS = 1_000_000
SECOND = 1_000_000_000
EPOCH = 1_532_402_927 * SECOND
WALL = 1_800_000_000 * SECOND


def shown(table) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(table)
    return console.file.getvalue()


@given(speed=st.floats(0.1, 4.0), delay=st.integers(0, 2000), count=st.integers(2, 30))
def test_latency_is_wall_time_at_any_playback_speed(speed, delay, count):
    """A message `delay` ms of wall time after its stamp was reached has that latency, however fast the bag."""
    rates = Rates()
    for tick in range(count * 10):
        rates.add_clock(EPOCH + tick * 50 * MS, WALL + round(tick * 50 * MS / speed))
    for i in range(count):
        stamp = i * 500 * MS
        rates.add("planning/plan", EPOCH + stamp, WALL + round(stamp / speed) + delay * MS)
    np.testing.assert_allclose(rates.latencies("planning/plan"), delay, atol=1e-3)
    stats = rates.stats("planning/plan")
    assert stats.count == count
    assert stats.rate == pytest.approx(2 * speed, rel=1e-6)
    assert stats.p50 == pytest.approx(delay, abs=1e-3)


def test_stamps_between_ticks_and_through_a_pause():
    rates = Rates()
    for simulated, wall in ((0, 0), (100, 100), (100, 5000), (200, 5100)):
        rates.add_clock(EPOCH + simulated * MS, WALL + wall * MS)
    rates.add("a", EPOCH + 50 * MS, WALL + 80 * MS)
    rates.add("a", EPOCH + 100 * MS, WALL + 130 * MS)
    rates.add("a", EPOCH + 200 * MS, WALL + 5150 * MS)
    np.testing.assert_allclose(rates.latencies("a"), (30, 30, 50), atol=1e-3)


def test_a_bag_that_loops_keeps_its_runs_apart():
    """The same stamps come again 20 s later; each is measured against the clock of its own run."""
    rates = Rates()
    for loop in range(3):
        start = WALL + loop * 20 * SECOND
        for tick in range(11):
            rates.add_clock(EPOCH + tick * 100 * MS, start + tick * 100 * MS)
            rates.add("camera", EPOCH + tick * 100 * MS, start + tick * 100 * MS + 2 * MS)
            rates.add("plan", EPOCH + tick * 100 * MS, start + tick * 100 * MS + (10 + loop) * MS)
    np.testing.assert_allclose(rates.latencies("plan"), np.repeat((10, 11, 12), 11), atol=1e-3)
    np.testing.assert_allclose(rates.between("camera", "plan"), np.repeat((8, 9, 10), 11), atol=1e-3)


def test_latency_is_unknown_without_a_clock_and_known_when_live():
    for live in (False, True):
        rates = Rates(live=live)
        for i in range(5):
            rates.add("a", WALL + i * 100 * MS, WALL + i * 100 * MS + 40 * MS)
        stats = rates.stats("a")
        assert stats.rate == pytest.approx(10)
        if live:
            assert stats.p50 == pytest.approx(40)
            assert stats.maximum == pytest.approx(40)
        else:
            assert np.isnan(stats.p50)
            assert np.isnan(stats.maximum)


def test_stamps_far_outside_the_clock_stay_unknown():
    clock = SimClock()
    clock.add(EPOCH, WALL)
    assert np.isnan(clock.wall_of(np.array([EPOCH]), 0)).all()
    clock.add(EPOCH + SECOND, WALL + 2 * SECOND)
    stamps = EPOCH + np.array([-5, -1, 0, 1, 2, 5]) * SECOND
    expected = np.array([np.nan, -2, 0, 2, 4, np.nan])
    np.testing.assert_allclose((clock.wall_of(stamps, 0) - WALL) / SECOND, expected, atol=1e-6)
    assert np.isnan(clock.wall_of(stamps, 1)).all()


def test_between_needs_both_messages():
    rates = Rates()
    rates.add("frames", 1, 10 * MS)
    rates.add("frames", 2, 20 * MS)
    rates.add("plan", 2, 50 * MS)
    rates.add("plan", 3, 60 * MS)
    np.testing.assert_allclose(rates.between("frames", "plan"), [30.0])
    assert len(rates.between("frames", "nothing")) == 0


def test_rate_over_the_last_seconds_and_silence():
    rates = Rates()
    for i in range(100):
        rates.add("a", i, i * 100 * MS)
    assert rates.rate_at("a", 9_900 * MS) == pytest.approx(10)
    assert rates.rate_at("a", 60 * SECOND) == 0
    assert rates.rate_at("b", 0) == 0


def test_memory_is_bounded_but_the_count_is_not():
    rates = Rates(live=True)
    for i in range(KEPT + 50):
        rates.add("a", i * MS, i * MS)
    assert rates.count("a") == KEPT + 50
    assert len(rates.latencies("a")) == KEPT
    assert rates.stats("a").count == KEPT + 50
    assert rates.stats("a").rate == pytest.approx(1000)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50))
def test_stats_are_ordered_and_ignore_what_is_unknown(values):
    stats = StageStats.of(np.array([*values, np.nan]), span=2.0)
    assert min(values) <= stats.p50 <= stats.p95 <= stats.maximum == max(values)
    assert stats.count == len(values) + 1
    assert stats.rate == pytest.approx(len(values) / 2)


def test_stats_of_nothing_and_of_nonsense():
    empty = Rates().stats("never")
    assert empty.count == 0
    assert np.isnan([empty.rate, empty.p50, empty.p95, empty.maximum]).all()
    assert np.isnan(StageStats.of(np.array([1.0]), span=0.0).rate)
    with pytest.raises(InvalidInput, match="span"):
        StageStats.of(np.zeros(3), span=-1.0)


def test_table_tells_numbers_and_dashes():
    text = shown(
        latency_table(
            {
                "occupancy": StageStats(1200, 3.14159, 251.4, 312.6, 1406.2),
                "camera_sync": StageStats(12, 12.0, 3.21, 4.0, 9.96),
                "reasoning [markup]": StageStats(0, float("nan"), float("nan"), float("nan"), float("nan")),
            },
            title="Stages",
        )
    )
    rows = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in text.splitlines()
        if "│" in line
    }
    assert rows["occupancy"] == ["1,200", "3.1", "251", "313", "1,406"]
    assert rows["camera_sync"] == ["12", "12.0", "3.2", "4.0", "10.0"]
    assert rows["reasoning [markup]"] == ["0", "-", "-", "-", "-"]
    assert "Stages" in text


@pytest.mark.parametrize(("budget", "style"), [(400.0, "green"), (300.0, "red"), (None, "")])
def test_budget_colours_the_p95(budget, style):
    stats = {"plan": StageStats(10, 3.0, 200.0, 350.0, 360.0)}
    table = latency_table(stats, budgets={} if budget is None else {"plan": budget})
    (cell,) = table.columns[4].cells
    assert str(cell.style) == style
