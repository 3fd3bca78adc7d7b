"""The follower keeps to paths, and brakes to a stop where there is none to follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.planning.trajectory_follower import FollowerConfig, TimedPath, TrajectoryFollower
from sparseoccvla_ros.world.sim.vehicle import Action, EgoVehicleState

TIMES = np.arange(0.0, 3.1, 0.5)


def straight(speed: float, stamp: float = 0.0) -> TimedPath:
    return TimedPath(stamp, TIMES, np.stack([speed * TIMES, np.zeros(len(TIMES))], -1))


def follow(state: EgoVehicleState, path_at, seconds: float) -> list[EgoVehicleState]:
    follower, states = TrajectoryFollower(), [state]
    for step in range(round(seconds / 0.1)):
        control = follower.control(path_at(0.1 * step, states[-1]), 0.1 * step, states[-1].pose, states[-1].speed)
        states.append(states[-1].after(Action(control.acceleration, control.steering)))
    return states


def test_keeps_speed_and_line():
    def path(now: float, state: EgoVehicleState) -> TimedPath:
        start = 0.5 * int(now / 0.5 + 1e-9)
        return TimedPath(start, TIMES, np.stack([8.0 * (start + TIMES), np.zeros(len(TIMES))], -1))

    states = follow(EgoVehicleState(0.0, 0.4, 0.0, 6.0), path, 6.0)
    assert abs(states[-1].y) < 0.05
    assert states[-1].speed == pytest.approx(8.0, abs=0.3)
    assert states[-1].x == pytest.approx(48.0, abs=1.0)


def test_turns_with_the_radius_of_the_path():
    def path(now: float, state: EgoVehicleState) -> TimedPath:
        begin = np.arctan2(state.x, 12.0 - state.y)
        angle = begin + 5.0 * np.arange(0.0, 3.1, 0.25) / 12.0
        return TimedPath(now, np.arange(0.0, 3.1, 0.25), 12.0 * np.stack([np.sin(angle), 1 - np.cos(angle)], -1))

    states = follow(EgoVehicleState(0.0, 0.0, 0.0, 5.0), path, 6.0)
    radius = [np.hypot(s.x, s.y - 12.0) for s in states[20:]]
    assert np.abs(np.array(radius) - 12.0).max() < 0.4


@pytest.mark.parametrize(
    ("path", "now", "why"),
    [
        (None, 0.0, "no path"),
        (straight(8.0), 1.1, "too old"),
        (straight(8.0, stamp=5.0), 0.0, "future"),
        (replace(straight(8.0), points=np.full((7, 2), np.nan)), 0.0, "not finite"),
        (TimedPath(0.0, np.zeros(1), np.zeros((1, 2))), 0.0, "no path"),
    ],
)
def test_stops_without_a_path_to_follow(path, now, why):
    control = TrajectoryFollower().control(path, now, np.zeros(3), 8.0)
    assert why in control.stopped_by
    assert control.acceleration == -3.0


def test_stands_where_the_path_ends():
    stopped = TimedPath(0.0, TIMES, np.stack([np.minimum(8 * TIMES - TIMES**2 * 2, 8.0), np.zeros(len(TIMES))], -1))

    def path(now: float, state: EgoVehicleState) -> TimedPath:
        rest = np.linspace(0, max(8.0 - state.x, 0.0), len(TIMES))
        return stopped if now < 0.5 else TimedPath(now, TIMES, np.stack([state.x + rest * 0, np.zeros(len(TIMES))], -1))

    assert follow(EgoVehicleState(0.0, 0.0, 0.0, 8.0), path, 6.0)[-1].speed == 0.0


def test_settings_are_checked():
    with pytest.raises(InvalidInput, match="max_age"):
        FollowerConfig(max_age=0.0)
