"""core/voxels.py against a plain per-voxel loop and its invariants."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import NUM_CLASSES
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID, VoxelGrid, voxelise

SMALL = VoxelGrid((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), 0.5)


def cloud(seed: int, count: int, spread: float = 1.5):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-spread, spread, (count, 3)).astype(np.float32)
    # Scores in 64ths sum without rounding, so ties are real ties in any order.
    scores = (rng.integers(0, 65, count) / 64).astype(np.float32)
    return points, rng.integers(0, NUM_CLASSES, count).astype(np.uint8), scores


def by_hand(points, labels, scores, grid):
    heap = defaultdict(lambda: defaultdict(list))
    index, inside = grid.index_of(points)
    for i in np.flatnonzero(inside):
        heap[tuple(int(v) for v in index[i])][int(labels[i])].append(float(scores[i]))
    out = {}
    for voxel, classes in heap.items():
        label = min(classes, key=lambda c: (-sum(classes[c]), c))
        out[voxel] = (label, sum(classes[label]) / len(classes[label]))
    return out


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 300))
def test_equals_plain_loop(seed, count):
    points, labels, scores = cloud(seed, count)
    want = by_hand(points, labels, scores, SMALL)
    got = voxelise(points, labels, scores, SMALL)
    assert {tuple(int(v) for v in i): int(c) for i, c in zip(got.indices, got.labels, strict=True)} == {
        v: c for v, (c, _) in want.items()
    }
    np.testing.assert_allclose(got.scores, [want[tuple(int(v) for v in i)][1] for i in got.indices], rtol=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_order_of_points_does_not_matter(seed):
    points, labels, scores = cloud(seed, 200)
    order = np.random.default_rng(seed).permutation(200)
    a = voxelise(points, labels, scores, SMALL)
    b = voxelise(points[order], labels[order], scores[order], SMALL)
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_largest_sum_wins_over_largest_mean():
    points = np.zeros((3, 3), np.float32)
    got = voxelise(points, np.array([4, 4, 7], np.uint8), np.array([0.5, 0.5, 0.75], np.float32), SMALL)
    assert got.labels.tolist() == [4]
    assert got.scores.tolist() == [0.5]


def test_points_outside_and_not_finite_are_dropped():
    points = np.array([[0, 0, 0], [99, 0, 0], [np.nan, 0, 0], [0, np.inf, 0]], np.float32)
    got = voxelise(points, np.full(4, 4, np.uint8), np.ones(4, np.float32))
    assert len(got) == 1
    assert got.grid == OCC3D_GRID
    assert len(voxelise(points[1:], np.full(3, 4, np.uint8), np.ones(3, np.float32))) == 0


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("points", {"points": np.zeros((4, 2), np.float32)}),
        ("labels", {"labels": np.full(4, 17, np.uint8)}),
        ("labels", {"labels": np.zeros(3, np.uint8)}),
        ("scores", {"scores": np.full(4, np.nan, np.float32)}),
        ("scores", {"scores": np.zeros(5, np.float32)}),
    ],
)
def test_refuses_what_does_not_fit(field, change):
    arrays = {"points": np.zeros((4, 3), np.float32), "labels": np.zeros(4, np.uint8), "scores": np.ones(4, np.float32)}
    with pytest.raises(InvalidInput) as error:
        voxelise(**(arrays | change))
    assert error.value.field == field
