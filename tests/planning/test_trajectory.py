"""Curves through waypoints: headings, speeds, sweeps and braking against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.planning.trajectory import SWEEP_TIMES, braking, eased, motion_of, slowed, stopping_way, sweep

pytestmark = pytest.mark.numeric

T = WAYPOINT_TIMES


def arc(speed: float, rate: float, times: np.ndarray = T) -> np.ndarray:
    return np.stack([np.sin(rate * times), 1 - np.cos(rate * times)], -1) * speed / rate


def test_constant_acceleration_profile_is_exact():
    motion = motion_of(np.column_stack([4 * T + 0.5 * 1.2 * T**2, 0 * T]), 4.0)
    np.testing.assert_allclose(motion.speed, 4 + 1.2 * T, atol=1e-5)
    np.testing.assert_allclose(motion.acceleration, 1.2, atol=1e-4)
    np.testing.assert_allclose(motion.heading, 0, atol=1e-6)


@pytest.mark.parametrize("rate", [0.3, -0.3])
def test_heading_on_an_arc(rate: float):
    motion = motion_of(arc(6.0, rate), 6.0)
    np.testing.assert_allclose(motion.heading, rate * T, atol=0.02)
    np.testing.assert_allclose(motion.speed, 6.0, atol=0.1)


def test_heading_is_smooth_under_waypoint_noise():
    rng = np.random.default_rng(1)
    points = np.column_stack([3 * T, 0 * T])
    noisy = [points + 0.05 * rng.standard_normal(points.shape) for _ in range(50)]
    fitted = np.array([motion_of(p, 3.0).heading for p in noisy])
    chords = np.array([np.arctan2(*np.diff(p, axis=0, prepend=np.zeros((1, 2)))[:, ::-1].T) for p in noisy])
    assert np.sqrt((fitted**2).mean()) < 0.8 * np.sqrt((chords**2).mean())


def test_standing_keeps_heading_and_speed_at_zero():
    motion = motion_of(np.random.default_rng(0).normal(0, 0.01, (6, 2)), 0.0)
    assert not motion.heading.any()
    assert motion.speed.max() < 0.1


def test_stopping_keeps_the_last_heading():
    distance = np.minimum(4 * T - 0.5 * 4 * T**2, 2.0) * (T < 1) + 2.0 * (T >= 1)
    points = np.column_stack([10 * np.sin(distance / 10), 10 * (1 - np.cos(distance / 10))])
    poses = sweep(points[None])[0]
    assert poses[-1, 2] == pytest.approx(0.2, abs=0.1)


def test_sweep_passes_the_waypoints_and_leaves_forward():
    poses = sweep(arc(8.0, 0.25)[None])[0]
    np.testing.assert_allclose(poses[4::5, :2], arc(8.0, 0.25), atol=1e-9)
    np.testing.assert_allclose(poses[:, :2], arc(8.0, 0.25, SWEEP_TIMES), atol=0.03)
    np.testing.assert_allclose(poses[:, 2], 0.25 * SWEEP_TIMES, atol=0.05)


def test_braking_on_a_curve_matches_the_closed_form():
    motion = braking(6.0, 0.6, 3.0, 0.25, 5.0)
    distance = np.where(T < 2, 6 * T - 1.5 * T**2, 6.0)
    np.testing.assert_allclose(motion.heading, 0.1 * distance, atol=1e-5)
    np.testing.assert_allclose(
        motion.waypoints, np.stack([np.sin(0.1 * distance), 1 - np.cos(0.1 * distance)], 1) * 10, atol=1e-4
    )
    np.testing.assert_allclose(motion.speed, np.maximum(6 - 3 * T, 0), atol=1e-5)
    np.testing.assert_allclose(motion.acceleration, [-3, -3, -3, 0, 0, 0])


@settings(max_examples=80)
@given(speed=st.floats(-60, 60), rate=st.floats(-20, 20), deceleration=st.floats(0.5, 8))
def test_braking_always_slows_and_mirrors(speed: float, rate: float, deceleration: float):
    motion = braking(speed, rate, deceleration, 0.25, 5.0)
    mirrored = braking(speed, -rate, deceleration, 0.25, 5.0)
    for values in (motion.waypoints, motion.heading, motion.speed, motion.acceleration):
        assert np.isfinite(values).all()
    assert (np.diff(np.abs(motion.speed)) <= 1e-6).all()
    # float32 waypoints round to 4 um at 60 m
    travelled = np.linalg.norm(np.diff(motion.waypoints, axis=0, prepend=np.zeros((1, 2), np.float32)), axis=1).sum()
    assert travelled <= speed**2 / (2 * deceleration) + 1e-3
    np.testing.assert_allclose(mirrored.waypoints, motion.waypoints * (1, -1), atol=1e-6)
    np.testing.assert_allclose(mirrored.heading, -motion.heading, atol=1e-6)


def test_an_eased_path_keeps_to_its_line_and_accelerates_gently() -> None:
    path = np.stack([3.0 * np.arange(1, 7), 0.1 * np.arange(1, 7) ** 2], 1).astype(np.float32)
    start = eased(path, 0.0, 1.2)
    along = np.cumsum(np.hypot(*np.diff(np.concatenate([np.zeros((1, 2)), start]), axis=0).T))
    np.testing.assert_allclose(along, 0.6 * (0.5 * np.arange(1, 7)) ** 2, atol=2e-3)
    np.testing.assert_allclose(eased(path, 50.0, 1.2), path, atol=1e-6)
    standing = 0.01 * path
    np.testing.assert_allclose(eased(standing, 0.0, 1.2)[-1], standing[-1], atol=1e-6)


@pytest.mark.parametrize("deceleration", [0.5, 2.0, 6.0])
def test_a_slowed_path_keeps_to_its_line_and_to_the_braking_distance(deceleration: float) -> None:
    angle = 0.05 * np.arange(1, 7)
    path = np.stack([80 * np.sin(angle), 80 * (1 - np.cos(angle))], 1)  # 8 m/s on a bend
    slower = slowed(path, 8.0, deceleration)
    times = np.minimum(WAYPOINT_TIMES, 8.0 / deceleration)
    travelled = np.hypot(*np.diff(slower, axis=0, prepend=0.0).T).cumsum()
    np.testing.assert_allclose(travelled, 8.0 * times - 0.5 * deceleration * times**2, atol=0.1)
    assert np.abs(np.hypot(slower[:, 0], slower[:, 1] - 80) - 80).max() < 0.05
    assert slower.dtype == np.float32
    assert not slowed(path, 0.0, deceleration).any(), "it stands already"
    np.testing.assert_array_less(np.hypot(*slowed(0.2 * path, 8.0, deceleration).T), np.hypot(*path.T) + 1e-3)


def test_the_way_to_a_stop_goes_on_along_the_path() -> None:
    path = np.stack([4.0 * np.arange(1, 7), np.zeros(6)], 1)  # 8 m/s
    way = stopping_way(path, path, 4.0, 1.5)
    np.testing.assert_allclose(way[0], (24.0, 0.0), atol=1e-9)
    np.testing.assert_allclose(way[-1], (24.0 + 8.0 + 1.5, 0.0), atol=0.5)
    standing = stopping_way(path, np.zeros((6, 2)), 4.0, 1.5)
    np.testing.assert_allclose(standing[[0, -1], 0], (0.0, 1.5), atol=0.5)
    assert np.isfinite(stopping_way(np.zeros((6, 2)), np.zeros((6, 2)), 4.0, 0.0)).all()
