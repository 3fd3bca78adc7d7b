"""The transform buffer against scipy, and tf2's contract."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.tf_buffer import Extrapolation, LookupFailed, NotConnected, TransformBuffer, TransformError

pytestmark = pytest.mark.numeric

S = 10**9


def pose(x=0.0, y=0.0, z=0.0, rotvec=(0.0, 0.0, 0.0)):
    out = np.eye(4)
    out[:3, :3] = Rotation.from_rotvec(rotvec).as_matrix()
    out[:3, 3] = (x, y, z)
    return out


@pytest.fixture
def driving():
    """The case of tf2's own measurement: static base<-cam 0.5 m, odom<-base 1 m/s and 1 rad/s, sampled at 10 Hz."""
    buffer = TransformBuffer()
    buffer.set("base", "cam", 0, pose(0.5), static=True)
    for k in range(21):
        buffer.set("odom", "base", 100 * S + k * S // 10, pose(k * 0.1, rotvec=(0, 0, k * 0.1)))
    return buffer


def test_between_samples_equals_tf2(driving):
    got = driving.lookup("odom", "cam", round(101.05 * S))
    assert np.allclose(got[:2, 3], (1.298786, 0.433712), atol=5e-7)


def test_inverse_direction(driving):
    there = driving.lookup("odom", "cam", round(101.05 * S))
    back = driving.lookup("cam", "odom", round(101.05 * S))
    assert np.allclose(there @ back, np.eye(4), atol=1e-14)


def test_time_zero_is_the_newest_common_stamp(driving):
    driving.set("map", "odom", 100 * S, pose(7.0))
    driving.set("map", "odom", 101 * S, pose(8.0))
    stamp, matrix = driving.latest("map", "cam")
    assert stamp == 101 * S
    assert np.allclose(matrix, driving.lookup("map", "cam", 0))
    assert np.allclose(matrix, driving.lookup("map", "cam", 101 * S))


def test_latest_over_static_edges_only():
    buffer = TransformBuffer()
    buffer.set("base", "cam", 5 * S, pose(1.0), static=True)
    stamp, matrix = buffer.latest("base", "cam")
    assert stamp == 0
    assert matrix[0, 3] == 1.0
    assert buffer.lookup("base", "cam", 12345)[0, 3] == 1.0


def test_fast_enough_for_six_cameras(driving):
    stamp = round(101.05 * S)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(200):
            driving.lookup("odom", "cam", stamp)
        best = min(best, (time.perf_counter() - start) / 200)
    assert best < 60e-6


rotvecs = st.tuples(*[st.floats(-math.pi, math.pi)] * 3)
numbers = st.floats(-1e3, 1e3)


@settings(max_examples=60)
@given(
    edges=st.lists(st.tuples(st.tuples(numbers, numbers, numbers), rotvecs, rotvecs, numbers), min_size=2, max_size=5),
    fraction=st.floats(0, 1),
    split=st.integers(0, 5),
)
def test_chains_equal_scipy(edges, fraction, split):
    """A tree of two branches from one root, each edge with two samples: the product of scipy's lerp and slerp."""
    buffer, chains = TransformBuffer(), {"a": np.eye(4), "b": np.eye(4)}
    tips = {"a": "root", "b": "root"}
    stamp = 10 * S + round(fraction * S)
    exact = (stamp - 10 * S) / S
    for index, (t, r0, r1, dx) in enumerate(edges):
        branch = "a" if index < split else "b"
        first, second = pose(*t, rotvec=r0), pose(t[0] + dx, t[1], t[2], rotvec=r1)
        child = f"frame{index}"
        buffer.set(tips[branch], child, 10 * S, first)
        buffer.set(tips[branch], child, 11 * S, second)
        middle = np.eye(4)
        pair = Rotation.from_matrix(np.stack([first[:3, :3], second[:3, :3]]))
        relative = (pair[0].inv() * pair[1]).magnitude()
        if relative > math.pi - 1e-3:
            return  # a half turn has two shortest arcs; either answer is right
        middle[:3, :3] = Slerp([0, 1], pair)([exact]).as_matrix()[0]
        middle[:3, 3] = (1 - exact) * first[:3, 3] + exact * second[:3, 3]
        chains[branch] = chains[branch] @ middle
        tips[branch] = child
    want = np.linalg.inv(chains["a"]) @ chains["b"]
    assert np.allclose(buffer.lookup(tips["a"], tips["b"], stamp), want, atol=1e-6)


@settings(max_examples=30)
@given(order=st.permutations(list(range(12))), duplicates=st.lists(st.integers(0, 11), max_size=5))
def test_arrival_order_does_not_matter(order, duplicates):
    straight, shuffled = TransformBuffer(), TransformBuffer()
    for k in range(12):
        straight.set("odom", "base", S + k * S // 2, pose(k * k * 0.1, rotvec=(0, 0, 0.2 * k)))
    for k in (*order, *duplicates):
        shuffled.set("odom", "base", S + k * S // 2, pose(k * k * 0.1, rotvec=(0, 0, 0.2 * k)))
    for stamp in range(S, S + 11 * S // 2, S // 7):
        assert np.array_equal(straight.lookup("odom", "base", stamp), shuffled.lookup("odom", "base", stamp))


def test_a_repeated_stamp_replaces_the_sample():
    buffer = TransformBuffer()
    buffer.set("odom", "base", S, pose(1.0))
    buffer.set("odom", "base", S, pose(2.0))
    assert buffer.lookup("odom", "base", S)[0, 3] == 2.0


def test_history_ends_after_the_cache(driving):
    assert driving.set("odom", "base", 111 * S, pose(9.0))
    assert not driving.set("odom", "base", 100 * S, pose(9.0)), "older than the cache: refused, not inserted"
    with pytest.raises(Extrapolation) as caught:
        driving.lookup("odom", "base", round(100.5 * S))
    assert not caught.value.in_future
    assert driving.lookup("odom", "base", 101 * S) is not None


def test_errors_name_both_frames_and_both_times(driving):
    with pytest.raises(Extrapolation) as late:
        driving.lookup("odom", "cam", 103 * S)
    text = str(late.value)
    assert all(word in text for word in ("odom", "cam", "103.0", "102.0", "100.0"))
    assert late.value.in_future
    with pytest.raises(Extrapolation) as early:
        driving.lookup("odom", "cam", 99 * S)
    assert not early.value.in_future
    with pytest.raises(LookupFailed, match=r"odom <- lidar at 100\.0.*lidar is unknown"):
        driving.lookup("odom", "lidar", 100 * S)
    driving.set("world", "tree", 100 * S, pose())
    with pytest.raises(NotConnected, match="world <- cam"):
        driving.lookup("world", "cam", 100 * S)
    for kind in (Extrapolation, LookupFailed, NotConnected):
        assert issubclass(kind, TransformError)


def test_one_sample_holds_at_its_stamp_only():
    buffer = TransformBuffer()
    buffer.set("odom", "base", 5 * S, pose(1.0))
    assert buffer.lookup("odom", "base", 5 * S)[0, 3] == 1.0
    with pytest.raises(Extrapolation):
        buffer.lookup("odom", "base", 5 * S + 1)


def test_a_new_parent_takes_over_and_a_late_one_does_not():
    buffer = TransformBuffer()
    buffer.set("odom", "base", 10 * S, pose(1.0))
    assert buffer.set("map", "base", 11 * S, pose(2.0))
    assert buffer.lookup("map", "base", 11 * S)[0, 3] == 2.0
    with pytest.raises(NotConnected):
        buffer.lookup("odom", "base", 11 * S)
    assert not buffer.set("odom", "base", 10 * S, pose(3.0))
    assert buffer.lookup("map", "base", 11 * S)[0, 3] == 2.0


def test_cached_paths_follow_the_tree():
    buffer = TransformBuffer()
    buffer.set("a", "b", S, pose(1.0), static=True)
    buffer.set("b", "c", S, pose(1.0), static=True)
    assert buffer.lookup("a", "c", S)[0, 3] == 2.0
    buffer.set("a", "c", S, pose(5.0), static=True)
    assert buffer.lookup("a", "c", S)[0, 3] == 5.0
    assert buffer.lookup("b", "c", S)[0, 3] == 4.0


def test_clear_keeps_static_edges(driving):
    driving.clear()
    assert driving.lookup("base", "cam", 1)[0, 3] == 0.5
    with pytest.raises(Extrapolation):
        driving.lookup("odom", "cam", 101 * S)
    assert driving.set("odom", "base", S, pose(3.0)), "after a clear an older clock is as good as any"
    assert driving.lookup("odom", "base", S)[0, 3] == 3.0
    driving.clear(everything=True)
    with pytest.raises(LookupFailed):
        driving.lookup("base", "cam", 1)


def test_keep_only_and_forget(driving):
    driving.keep_only(round(100.5 * S), round(101.5 * S))
    assert driving.lookup("odom", "base", round(101.5 * S)) is not None
    for stamp in (100.4, 101.6):
        with pytest.raises(Extrapolation):
            driving.lookup("odom", "base", round(stamp * S))
    driving.forget("base")
    driving.forget("cam")
    assert driving.newest("odom", "base") is None
    assert driving.lookup("base", "cam", 1)[0, 3] == 0.5


def test_newest_before_uses_nothing_from_later(driving):
    driving.set("map", "odom", 100 * S, pose())
    driving.set("map", "odom", round(100.74 * S), pose())
    driving.set("map", "odom", round(101.9 * S), pose())
    assert driving.newest_before("odom", "cam", round(101.05 * S)) == 101 * S
    assert driving.newest_before("map", "cam", round(101.05 * S)) == round(100.74 * S)
    assert driving.newest_before("base", "cam", 77) == 77
    assert driving.oldest_common("map", "cam") == 100 * S
    with pytest.raises(Extrapolation):
        driving.newest_before("odom", "cam", 99 * S)


@pytest.mark.parametrize(
    "matrix",
    [
        np.full((4, 4), np.nan),
        np.diag([np.inf, 1, 1, 1]),
        np.diag([2.0, 1.0, 1.0, 1.0]),
        np.diag([-1.0, 1.0, 1.0, 1.0]),
        np.zeros((4, 4)),
        np.eye(3),
        np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]),
        np.full((4, 4), None),
    ],
)
def test_what_is_no_rigid_transform_is_refused(matrix):
    buffer = TransformBuffer()
    with pytest.raises(InvalidInput):
        buffer.set("odom", "base", S, matrix)
    assert buffer.frames() == ()


def test_refusals_of_insert():
    buffer = TransformBuffer()
    with pytest.raises(InvalidInput, match="norm"):
        buffer.insert("odom", "base", S, (0, 0, 0), (0, 0, 0, 0.9))
    with pytest.raises(InvalidInput, match="finite"):
        buffer.insert("odom", "base", S, (0, math.nan, 0), (0, 0, 0, 1))
    with pytest.raises(InvalidInput, match="negative"):
        buffer.insert("odom", "base", -1, (0, 0, 0), (0, 0, 0, 1))
    with pytest.raises(InvalidInput, match="empty"):
        buffer.insert("odom", "", S, (0, 0, 0), (0, 0, 0, 1))
    with pytest.raises(InvalidInput, match="cache"):
        TransformBuffer(0)


def test_loops_are_refused():
    buffer = TransformBuffer()
    buffer.set("a", "b", S, pose())
    buffer.set("b", "c", S, pose())
    with pytest.raises(InvalidInput, match="loop"):
        buffer.set("c", "a", S, pose())
    with pytest.raises(InvalidInput, match="loop"):
        buffer.set("a", "a", S, pose())


def test_a_leading_slash_is_the_same_frame():
    buffer = TransformBuffer()
    buffer.set("/base", "/cam", S, pose(1.0), static=True)
    assert buffer.lookup("base", "cam", S)[0, 3] == 1.0
    assert np.array_equal(buffer.lookup("cam", "cam", S), np.eye(4))


@settings(max_examples=40)
@given(t=st.tuples(numbers, numbers, numbers), r=rotvecs)
def test_a_matrix_survives_the_quaternion(t, r):
    matrix = pose(*t, rotvec=r)
    buffer = TransformBuffer()
    buffer.set("a", "b", S, matrix)
    assert np.allclose(buffer.lookup("a", "b", S), matrix, atol=1e-12)
    assert np.allclose(buffer.lookup("b", "a", S), geometry.inverse(matrix), atol=1e-9)
