"""Comfort and drivable area on trajectories worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.core.vehicle import Vehicle
from sparseoccvla_ros.eval.metrics.comfort import comfort, on_road

T = WAYPOINT_TIMES


def straight(x: np.ndarray) -> np.ndarray:
    return np.stack([x, np.zeros(6)], -1)


def test_constant_speed_is_comfortable():
    felt = comfort(straight(5 * T), 5.0)
    assert (felt.acceleration, felt.lateral, felt.jerk, felt.curvature) == pytest.approx((0, 0, 0, 0), abs=1e-9)


def test_constant_acceleration_from_the_present_speed():
    felt = comfort(straight(5 * T + 0.5 * 1.2 * T**2), 5.0)
    assert felt.acceleration == pytest.approx(1.2)
    assert felt.jerk == pytest.approx(0, abs=1e-9)


def test_a_jump_at_the_start_is_felt_only_where_the_speed_is_known():
    standing = straight(0 * T)
    assert comfort(standing, 5.0).acceleration == pytest.approx(5.0 / 0.25)
    assert comfort(standing, None).acceleration == 0


def test_circle():
    rate, speed = 0.2, 8.0
    points = np.stack([np.sin(rate * T), 1 - np.cos(rate * T)], -1) * speed / rate
    felt = comfort(points, speed)
    assert felt.lateral == pytest.approx(speed * rate, rel=0.01)
    assert felt.curvature == pytest.approx(rate / speed, rel=0.01)
    assert felt.acceleration == pytest.approx(0, abs=0.05)


def test_jerk_of_one_change():
    speeds = np.array([4.0, 4.0, 4.0, 5.0, 5.0, 5.0])
    felt = comfort(straight(np.cumsum(speeds * 0.5)), 4.0)
    assert felt.acceleration == pytest.approx(2.0)
    assert felt.jerk == pytest.approx(2.0 / 0.5)


def test_reversing_is_no_turn():
    felt = comfort(straight(-2 * T), -2.0)
    assert (felt.acceleration, felt.lateral, felt.curvature) == pytest.approx((0, 0, 0), abs=1e-9)


def road(left: float, right: float) -> np.ndarray:
    """Drivable between y = right and y = left."""
    y = -50 + (np.arange(1000) + 0.5) * 0.1
    return np.repeat(((y > right) & (y < left))[:, None], 1000, axis=1)


def test_corners_on_the_road():
    assert on_road(straight(5 * T), road(1.0, -1.0), Vehicle()).all()
    assert not on_road(straight(5 * T), road(0.9, -1.0), Vehicle()).any()
    assert on_road(straight(5 * T), road(0.9, -1.0), Vehicle(width_m=1.7)).all()
    end = road(3.0, -3.0)
    end[:, 600:] = False  # 10 m ahead; the nose is 1.4858 + 2.042 m before base_link
    assert on_road(straight(4 * T), end, Vehicle()).tolist() == [True, True, True, False, False, False]


def test_off_the_map_is_unknown():
    assert on_road(straight(40 * T), road(3.0, -3.0), Vehicle()).all()
    assert on_road(straight(1e9 * T), road(3.0, -3.0), Vehicle()).all()


def test_bad_input_is_refused_by_name():
    with pytest.raises(InvalidInput, match="drivable"):
        on_road(straight(T), np.ones((10, 10), bool), Vehicle())
    with pytest.raises(InvalidInput, match="waypoints"):
        on_road(np.zeros((5, 2)), road(1, -1), Vehicle())
    with pytest.raises(InvalidInput, match="waypoints"):
        comfort(np.full((6, 2), np.nan), None)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=6, max_size=6).map(np.array),
    st.one_of(st.none(), st.floats(-5, 30)),
)
@example(np.array([(0, 0), (2, 1), (1, 3), (0, 3), (0, 0), (0, 0)], float), None)  # steps at right angles
def test_the_mirror_image_feels_the_same(points, speed):
    ours, mirrored = comfort(points, speed), comfort(points * (1, -1), speed)
    for name in ("acceleration", "jerk"):
        assert getattr(ours, name) == pytest.approx(getattr(mirrored, name), abs=1e-9)
