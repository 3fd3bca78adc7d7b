"""Bench2Drive's rules, one hand-made case each."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.eval.metrics.driving import bench2drive as b2d
from sparseoccvla_ros.eval.metrics.driving.bench2drive import End, Infraction

ROUTE = np.stack([np.arange(0.0, 201.0), np.zeros(201)], -1)
LINE = np.array([[0.0, -1.5], [0.0, 1.5]])


@pytest.mark.parametrize(
    ("infractions", "outside", "want"),
    [
        ([], 0.0, 80.0),
        ([Infraction.COLLISION_PEDESTRIAN], 0.0, 40.0),
        ([Infraction.COLLISION_VEHICLE], 0.0, 48.0),
        ([Infraction.COLLISION_STATIC], 0.0, 52.0),
        ([Infraction.RED_LIGHT, Infraction.RED_LIGHT], 0.0, 39.2),
        ([], 0.25, 60.0),
    ],
)
def test_each_occurrence_multiplies(infractions, outside, want):
    assert b2d.driving_score(80.0, infractions, outside) == pytest.approx(want)


def test_success_needs_the_end_and_no_infraction():
    assert b2d.success(End.DONE, [])
    assert not b2d.success(End.DONE, [Infraction.RED_LIGHT])
    assert not b2d.success(End.DONE, [], 0.01)
    assert not b2d.success(End.TIMEOUT, [])


def test_which_contacts_count():
    counter = b2d.CollisionCounter()
    assert not counter.counts(1, 0.0, np.zeros(2), 0.05)  # standing
    assert counter.counts(1, 0.0, np.zeros(2), 1.0)
    assert not counter.counts(1, 4.9, np.array([20.0, 0]), 1.0)  # the same actor within 5 s
    assert not counter.counts(2, 6.0, np.array([4.9, 0]), 1.0)  # within 5 m of the last
    assert counter.counts(1, 6.0, np.array([20.0, 0]), 1.0)


@pytest.mark.parametrize(
    ("centre", "line", "want"),
    [
        ((3.0, 0.0, 0.0), LINE, True),  # the tail (-1 .. 0.6 m of the line) leaves
        ((0.0, 0.0, 0.0), LINE, False),  # the centre is over it
        ((3.0, 0.0, np.pi), LINE, False),  # against its direction
        ((3.0, 1.7, 0.0), LINE, True),  # within 1.2 lane widths
        ((3.0, 1.9, 0.0), LINE, False),
    ],
)
def test_red_light_when_the_tail_leaves(centre, line, want):
    counter = b2d.RedLightCounter()
    assert counter.counts(7, line, 0.0, np.array(centre), 5.0) is want


def test_one_light_counts_once():
    counter = b2d.RedLightCounter()
    centre = np.array([3.0, 0.0, 0.0])
    assert counter.counts(7, LINE, 0.0, centre, 5.0)
    assert not counter.counts(7, LINE, 0.0, centre, 5.0)
    assert counter.counts(8, LINE, 0.0, centre, 5.0)


def test_completion_and_done():
    monitor = b2d.RouteMonitor(ROUTE)
    ends = [monitor.update(0.1 * k, np.array([0.5 + k, 0.0]), 10.0, 13.9) for k in range(101)]
    assert ends == [None] * 101
    assert monitor.completion == 50.0
    while monitor.update(11.0, ROUTE[min(monitor.index + 2, 200)] + [0.5, 0], 10.0, 13.9) is None:
        pass
    assert monitor.completion == 100.0


def test_two_points_per_tick():
    monitor = b2d.RouteMonitor(ROUTE)
    monitor.update(0.0, np.array([25.5, 0.0]), 10.0, 13.9)
    assert monitor.index == 2


def test_ends():
    assert b2d.RouteMonitor(ROUTE).update(0.0, np.array([0.0, 30.5]), 5.0, 13.9) is End.OFF_ROUTE
    beside = b2d.RouteMonitor(ROUTE)
    ends = [beside.update(0.1 * k, np.array([float(k), 16.0]), 10.0, 13.9) for k in range(80)]
    assert End.OFF_ROUTE in ends[60:64]  # 30 % of 200 m
    blocked = b2d.RouteMonitor(ROUTE)
    assert blocked.update(0.0, np.zeros(2), 0.0, 13.9) is None
    assert blocked.update(30.0, np.zeros(2), 0.2, 13.9) is None
    assert blocked.update(31.0, np.zeros(2), 0.0, 13.9) is None
    assert blocked.update(90.9, np.zeros(2), 0.0, 13.9) is None
    assert blocked.update(91.0, np.zeros(2), 0.0, 13.9) is End.BLOCKED
    late = b2d.RouteMonitor(ROUTE)
    assert late.update(299.0, np.array([2.5, 0]), 1.0, 10.0) is None
    assert late.update(301.9, np.array([2.5, 0]), 1.0, 10.0) is None  # two metres bought two seconds
    assert late.update(302.0, np.array([2.5, 0]), 1.0, 10.0) is End.TIMEOUT


def test_outside_route_lanes():
    centres = np.stack([np.arange(5.0), np.zeros(5)], -1)
    none = np.zeros(5, bool)
    distance = np.array([0, 0, 2.3, 2.2, 0.0])
    assert b2d.outside_share(centres, distance, 3.5, none, none) == 0.25
    wrong = np.array([0, 0, 0, 1, 1], bool)
    assert b2d.outside_share(centres, np.zeros(5), 3.5, wrong, np.array([0, 0, 0, 0, 1], bool)) == 0.25


def test_efficiency():
    completion = np.array([0.0, 4.9, 5.0, 9.0, 10.0])
    speed = np.array([5.0, 5.0, 8.0, 8.0, 11.0])
    some = np.array([10.0])
    assert b2d.efficiency(completion, speed, [some, some, some, some, some[:0]]) == pytest.approx((50 + 80 + 100) / 3)
    assert b2d.efficiency(completion[:1], speed[:1], [np.array([0.4])]) is None  # above 1000 %


def test_smoothness():
    calm = np.zeros((45, 2))
    assert b2d.smoothness(calm, np.zeros(45)) == 1.0
    hard = calm.copy()
    hard[20:40, 0] = -4.2
    assert b2d.smoothness(hard, np.zeros(45)) == 0.5
    assert b2d.smoothness(calm, np.full(45, 0.96)) == 0.0
    assert b2d.smoothness(calm[:19], np.zeros(19)) is None


def test_abilities():
    got = b2d.abilities({"merging": [True, False], "give way": [True], "overtaking": []})
    assert got == {"merging": 0.5, "give way": 1.0, "mean": 0.75}
