"""Ego history: right numbers on closed-form motion, strictly causal, and sane under broken sample streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.core.types import Command
from sparseoccvla_ros.planning.ego_history import (
    FEATURE_NAMES,
    PAPER_DIMS,
    WINDOW_NS,
    EgoHistory,
    SampleOutcome,
    as_if_driving,
)

S = 1_000_000_000
NOW = 100 * S
I = {name: index for index, name in enumerate(FEATURE_NAMES)}  # noqa: E741


def circle(
    stamp: int, speed: float = 6.0, rate: float = 0.3, acceleration: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Pose and twist on a circle, at (5, 7) heading 0.4 at NOW."""
    t = (stamp - NOW) / S
    v = speed + acceleration * t
    if rate == 0:
        local = planar(speed * t + 0.5 * acceleration * t**2, 0, 0)
    else:
        local = planar(speed / rate * np.sin(rate * t), speed / rate * (1 - np.cos(rate * t)), rate * t)
    return planar(5, 7, 0.4) @ local, np.array([v, 0, 0, 0, 0, rate])


def fill(history: EgoHistory, stamps: np.ndarray, **motion: float) -> EgoHistory:
    for stamp in stamps:
        history.add(int(stamp), *circle(int(stamp), **motion))
    return history


def every(step_ms: int, first: float = -2.5, last: float = 0.0) -> np.ndarray:
    return np.arange(NOW + round(first * S), NOW + round(last * S) + 1, step_ms * 1_000_000)


@pytest.mark.parametrize("step_ms", [20, 83, 500])
def test_past_poses_on_a_circle(step_ms: int):
    stamps = np.sort(NOW - np.arange(0, round(2.6 * S), step_ms * 1_000_000))
    features = fill(EgoHistory(), stamps).features(NOW)
    for age in (0.5, 1.0, 1.5, 2.0):
        expected = (-6 / 0.3 * np.sin(0.3 * age), 6 / 0.3 * (1 - np.cos(0.3 * age)), -0.3 * age)
        got = [features[I[f"{axis}(-{age:g}s)"]] for axis in ("x", "y", "yaw")]
        np.testing.assert_allclose(got, expected, atol=5e-3)
        assert features[I[f"has_pose(-{age:g}s)"]] == 1
    assert features[I["vx"]] == pytest.approx(6.0)
    assert features[I["yaw_rate"]] == pytest.approx(0.3)


def test_acceleration_is_the_backward_difference():
    features = fill(EgoHistory(), every(50), rate=0.0, acceleration=1.5).features(NOW)
    assert features[I["ax"]] == pytest.approx(1.5, abs=1e-5)
    assert features[I["has_acceleration"]] == 1


def test_newest_sample_is_carried_to_the_stamp_without_reading_later_ones():
    history = fill(EgoHistory(), every(100, last=-0.1), rate=0.0)
    features = history.features(NOW)
    assert features[I["x(-0.5s)"]] == pytest.approx(-3.0, abs=1e-5)


def test_missing_history_is_zero_and_masked():
    features = EgoHistory().features(NOW)
    assert not features.any()
    features = fill(EgoHistory(), every(50, first=-1.2)).features(NOW)
    masks = [features[I[f"has_pose(-{age:g}s)"]] for age in (0.5, 1.0, 1.5, 2.0)]
    assert masks == [1, 1, 0, 0]
    assert features[I["x(-1.5s)"]] == features[I["yaw(-2s)"]] == 0
    assert features[I["has_velocity"]] == 1


def test_stale_newest_sample_masks_everything():
    assert not fill(EgoHistory(), every(50, last=-0.5)).features(NOW).any()


def test_gap_is_not_bridged():
    stamps = every(50)
    gap = (stamps > NOW - 1.9 * S) & (stamps < NOW - 0.7 * S)
    features = fill(EgoHistory(), stamps[~gap]).features(NOW)
    assert [features[I[f"has_pose(-{age:g}s)"]] for age in (0.5, 1.0, 1.5, 2.0)] == [1, 0, 0, 1]


def test_teleport_cuts_the_history():
    history = fill(EgoHistory(), every(50, last=-0.8))
    for stamp in every(50, first=-0.75):
        pose, twist = circle(int(stamp))
        outcome = history.add(int(stamp), planar(500, 0, 0) @ pose, twist)
        assert outcome is (SampleOutcome.TELEPORT if stamp == NOW - 0.75 * S else SampleOutcome.ADDED)
    features = history.features(NOW)
    assert [features[I[f"has_pose(-{age:g}s)"]] for age in (0.5, 1.0, 1.5, 2.0)] == [1, 0, 0, 0]
    assert np.abs(features[:12]).max() < 10


def test_out_of_order_equals_in_order():
    stamps = every(50)
    rng = np.random.default_rng(0)
    shuffled = stamps.copy()
    # neighbours swapped, as a network does it
    for i in rng.permutation(len(stamps) - 1)[:20]:
        shuffled[[i, i + 1]] = shuffled[[i + 1, i]]
    straight, mixed = fill(EgoHistory(), stamps), fill(EgoHistory(), shuffled)
    assert straight.features(NOW).tobytes() == mixed.features(NOW).tobytes()


def test_duplicate_is_kept_once_and_contradicting_late_sample_is_dropped():
    history = fill(EgoHistory(), every(50))
    before, size = history.features(NOW), len(history)
    assert history.add(NOW, *circle(NOW)) is SampleOutcome.DUPLICATE
    assert history.add(NOW - S // 40, planar(900, 0, 0), np.zeros(6)) is SampleOutcome.STALE
    assert len(history) == size
    assert history.features(NOW).tobytes() == before.tobytes()


def test_time_jumping_back_starts_anew():
    history = fill(EgoHistory(), every(50))
    assert history.add(NOW - 20 * S, *circle(NOW - 20 * S)) is SampleOutcome.RESET
    assert len(history) == 1


def test_memory_is_bounded():
    history = EgoHistory()
    for stamp in range(0, 10 * S, S // 100):
        history.add(stamp, *circle(stamp, speed=1.0, rate=0.0))
    assert len(history) <= 3 * 100 + 2
    for stamp in range(10 * S, 10 * S + 6_000_000, 1000):
        history.add(stamp, *circle(10 * S, speed=1.0, rate=0.0))
    assert len(history) <= 4096


@pytest.mark.parametrize("field", ["pose", "twist"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_samples_are_refused_and_leave_no_trace(field: str, value: float):
    history = fill(EgoHistory(), every(50))
    before = history.features(NOW)
    pose, twist = circle(NOW + 1)
    (pose if field == "pose" else twist)[0] = value
    with pytest.raises(InvalidInput, match=f"history.{field}"):
        history.add(NOW + 1, pose, twist)
    assert history.features(NOW).tobytes() == before.tobytes()


def test_stored_samples_are_copies():
    history = EgoHistory()
    pose, twist = circle(NOW)
    history.add(NOW, pose, twist)
    twist[0] = 99
    assert history.features(NOW)[I["vx"]] == pytest.approx(6.0)


later_samples = st.lists(
    st.tuples(
        st.integers(1, S),
        st.floats(-1e4, 1e4),
        st.floats(-50, 50),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(later=later_samples, paper=st.booleans(), late_by=st.integers(0, 60_000_000))
def test_features_do_not_change_when_later_samples_are_added(later, paper: bool, late_by: int):
    """The leak test: whatever comes after the stamp, wild or sane, the bits at the stamp stay."""
    stamps = every(50) - late_by
    without, with_later = fill(EgoHistory(), stamps), fill(EgoHistory(), stamps)
    for after, x, speed in sorted(later):
        with_later.add(NOW + after, planar(x, 0, 0), np.array([speed, 0, 0, 0, 0, 0.1]))

    def read(history: EgoHistory) -> bytes:
        return (history.paper_features(NOW, Command.LEFT) if paper else history.features(NOW)).tobytes()

    assert read(without) == read(with_later)
    for age in (0, S // 2, S):
        ours, theirs = without.pose_at(NOW - age, NOW), with_later.pose_at(NOW - age, NOW)
        assert (ours is None) == (theirs is None)
        assert ours is None or ours.tobytes() == theirs.tobytes()


def test_an_answer_that_the_memory_no_longer_holds_is_refused_not_guessed():
    history = fill(EgoHistory(), every(50, last=1.5))
    with pytest.raises(InvalidInput, match="older than the ego history"):
        history.features(NOW)
    assert WINDOW_NS == 3 * S


def leaks(features: np.ndarray, futures: np.ndarray) -> list[int]:
    """Columns of features [N, F] that equal, or correlate above 0.999 with, a column of futures [N, W]."""
    found = []
    for index in np.flatnonzero(features.std(0) > 1e-6):
        column = features[:, index]
        best = max(abs(np.corrcoef(column, future)[0, 1]) for future in futures.T)
        equal = any(np.array_equal(column, future.astype(np.float32)) for future in futures.T)
        if best > 0.999 or equal:
            found.append(int(index))
    return found


def test_no_feature_equals_a_future_coordinate():
    """Drives that change at random, with the next second already in the history when the features are asked for."""
    rng = np.random.default_rng(2)
    step = S // 20
    features, futures = [], []
    for _ in range(60):
        history, poses = EgoHistory(), {}
        pose, speed, rate = planar(*rng.uniform(-50, 50, 2), rng.uniform(-3, 3)), rng.uniform(2, 12), 0.0
        for stamp in range(NOW - 5 * S // 2, NOW + S + 1, step):
            history.add(stamp, pose, np.array([speed, 0, 0, 0, 0, rate]))
            poses[stamp] = pose
            speed = float(np.clip(speed + rng.normal(0, 0.5), 0, 14))
            rate = float(np.clip(rate + rng.normal(0, 0.1), -0.5, 0.5))
            pose = pose @ planar(speed * 0.05, 0, rate * 0.05)
        features.append(history.features(NOW))
        ahead = [np.linalg.inv(poses[NOW]) @ poses[NOW + seconds * S // 2] for seconds in (1, 2)]
        futures.append([value for p in ahead for value in (p[0, 3], p[1, 3])])
    features, futures = np.array(features), np.array(futures)
    assert leaks(features, futures) == []
    # the detector finds a planted leak
    features[:, 5] = futures[:, 0] * 2
    assert leaks(features, futures) == [5]


def test_paper_layout():
    history = fill(EgoHistory(), every(50), rate=0.0, acceleration=1.0)
    features = history.paper_features(NOW, Command.RIGHT)
    assert features.shape == (PAPER_DIMS,)
    np.testing.assert_allclose(features[:3], (1.0, 0, 0), atol=1e-5)
    np.testing.assert_allclose(features[3:6], (0, 0, 1))
    np.testing.assert_allclose(features[6:18], history.features(NOW)[:12])
    np.testing.assert_allclose(features[18:21], (6.0, 0, 0), atol=1e-6)
    np.testing.assert_allclose(features[21:24], (3.0 - 0.125, 0, 0), atol=1e-4)
    np.testing.assert_allclose(features[24:28], (1, 0, 0, 0), atol=1e-6)
    np.testing.assert_allclose(features[28:31], (1.0, 0, 9.81), atol=1e-5)
    assert EgoHistory().paper_features(NOW, Command.LEFT)[3:6].tolist() == [1, 0, 0]


def test_as_if_driving_knows_the_speed_only():
    some = np.arange(len(FEATURE_NAMES), dtype=np.float32)
    out = as_if_driving(some, 4.0)
    assert out.dtype == np.float32
    assert {n: v for n, v in zip(FEATURE_NAMES, out.tolist(), strict=True) if v} == {"vx": 4.0, "has_velocity": 1.0}
