"""Post-processing against a slow, dense formulation, and its invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import EgoState, SceneQueries
from sparseoccvla_ros.core.voxels import SparseVoxels, VoxelGrid
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels

GRID = VoxelGrid((-2.0, -2.4, -0.4), (2.0, 2.4, 2.0), 0.4)
seeds = st.integers(0, 2**31 - 1)


def scatter(seed: int, queries: int = 12, points: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Crowded points, some outside the grid and some far from their query, and 17 scores each."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform((-2.4, -2.8, -0.6), (2.4, 2.8, 2.2), (queries, 1, 3))
    metres = (centres + rng.normal(0, rng.choice([0.3, 1.5]), (queries, points, 3))).astype(np.float32)
    scores = rng.uniform(0, 0.6, (queries, points, 17))
    favourite = rng.integers(0, 4, (queries, points))
    np.put_along_axis(scores, favourite[..., None], rng.uniform(0.3, 1, (queries, points, 1)), -1)
    return metres, scores.astype(np.float32)


def scene(points: np.ndarray, scores: np.ndarray) -> SceneQueries:
    q = len(points)
    return SceneQueries(
        stamp=0,
        epoch=0,
        ego=EgoState(np.eye(4), np.zeros(6), "map"),
        features=np.zeros((q, 4), np.float32),
        centres=points.mean(1),
        points=points,
        labels=scores.argmax(-1).astype(np.uint8),
        scores=scores.max(-1),
        view_features=np.zeros((2, 4), np.float32),
    )


def as_dict(voxels: SparseVoxels) -> dict[tuple[int, ...], int]:
    return {tuple(i): int(c) for i, c in zip(voxels.indices.tolist(), voxels.labels, strict=True)}


@settings(max_examples=40)
@given(seed=seeds, padding=st.booleans())
def test_voxels_do_not_depend_on_the_order_of_queries(seed, padding):
    config = OccupancyConfig(padding=padding)
    points, scores = scatter(seed)
    order = np.random.default_rng(seed).permutation(len(points))
    one = occupied_voxels(scene(points, scores), GRID, config)
    two = occupied_voxels(scene(points[order], scores[order]), GRID, config)
    assert as_dict(one) == as_dict(two)


@settings(max_examples=40)
@given(seed=seeds)
def test_padding_adds_exactly_what_closing_each_class_adds(seed):
    queries = scene(*scatter(seed))
    plain = occupied_voxels(queries, GRID, OccupancyConfig(padding=False))
    padded = occupied_voxels(queries, GRID, OccupancyConfig(padding=True))
    assert as_dict(plain).items() <= as_dict(padded).items()
    dense, structure = plain.dense(), np.ones((3, 3, 3), bool)
    closed = np.zeros((17, *GRID.shape), bool)
    for label in range(17):
        grown = ndimage.binary_dilation(dense == label, structure)
        closed[label] = ndimage.binary_erosion(grown, structure, border_value=1)
    expected = set(map(tuple, np.argwhere(closed.any(0)).tolist()))
    assert set(as_dict(padded)) == expected
    assert all(closed[label, *index] for index, label in as_dict(padded).items())
    assert len(as_dict(padded)) == len(padded), "a voxel is listed twice"


@settings(max_examples=40)
@given(seed=seeds, threshold=st.sampled_from([0.3, 0.5, 0.8]))
def test_scores_stay_between_threshold_and_one(seed, threshold):
    voxels = occupied_voxels(scene(*scatter(seed)), GRID, OccupancyConfig(score_threshold=threshold))
    assert (voxels.scores > threshold).all()
    assert (voxels.scores <= 1).all()


def test_class_with_the_highest_sum_wins_and_gives_the_score():
    points = np.full((1, 3, 3), 0.1, np.float32)
    queries = scene(points, np.zeros((1, 3, 17), np.float32))
    queries.labels[0] = (4, 7, 7)
    queries.scores[0] = (0.9, 0.6, 0.55)
    voxels = occupied_voxels(queries, GRID, OccupancyConfig(padding=False))
    assert voxels.labels.tolist() == [7]
    assert voxels.scores[0] == pytest.approx(0.575)


def test_far_weak_and_outside_points_are_dropped():
    points = np.zeros((3, 4, 3), np.float32)
    points[0, 0] = (1.9, 0, 0)
    points[1] += 9.0
    scores = np.full((3, 4, 17), 0.6, np.float32)
    scores[2] = 0.5
    far = OccupancyConfig(max_point_distance=1.0, padding=False)
    assert len(occupied_voxels(scene(points, scores), GRID, far)) == 1


def test_nothing_predicted_gives_no_voxels():
    points, scores = scatter(1)
    assert len(occupied_voxels(scene(points, scores * 0), GRID)) == 0


def test_bad_label_and_shape_are_refused():
    points, scores = scatter(1)
    queries = scene(points, scores)
    queries.labels[0, 0] = 17
    with pytest.raises(InvalidInput, match="labels"):
        occupied_voxels(queries, GRID)
