"""Voxel grids and sparse voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparseoccvla_ros.core.classes import CAMERAS, CLASSES, FLAT, FREE, LABEL, MOVABLE, NUM_CLASSES, OBSTACLES, PALETTE
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid

SMALL = VoxelGrid((-2.0, -1.0, -1.0), (2.0, 1.0, 1.0), 0.5)


def test_the_occ3d_grid():
    assert OCC3D_GRID.shape == (200, 200, 16)
    assert np.allclose(OCC3D_GRID.centre_of(np.array([0, 0, 0])), (-39.8, -39.8, -0.8))
    index, inside = OCC3D_GRID.index_of(np.array([[0.01, 0.01, 0.0], [40.0, 0, 0], [0, 0, 5.39], [0, 0, -1.01]]))
    assert index[0].tolist() == [100, 100, 2], "the ground under the ego is voxel layer 2"
    assert inside.tolist() == [True, False, True, False]


@settings(max_examples=40)
@given(index=st.tuples(st.integers(0, 199), st.integers(0, 199), st.integers(0, 15)))
def test_a_centre_lies_in_its_voxel(index):
    back, inside = OCC3D_GRID.index_of(OCC3D_GRID.centre_of(np.array(index)))
    assert inside
    assert tuple(back) == index


@settings(max_examples=40)
@given(points=arrays(np.float32, (7, 3), elements=st.floats(width=32)))
def test_any_point_gets_an_index_or_is_outside(points):
    index, inside = OCC3D_GRID.index_of(points)
    assert index.dtype == np.int64
    assert not inside[~np.isfinite(points).all(-1)].any()
    for p, i in zip(points[inside].astype(float), index[inside], strict=True):
        assert (np.abs(p - (i + 0.5) * 0.4 - OCC3D_GRID.lower) <= 0.2 + 1e-6).all()


@settings(max_examples=40)
@given(dense=arrays(np.uint8, SMALL.shape, elements=st.integers(0, FREE)))
def test_dense_and_sparse_are_the_same_grid(dense):
    sparse = SparseVoxels.from_dense(dense, SMALL)
    assert len(sparse) == int((dense < FREE).sum())
    assert np.array_equal(sparse.dense(), dense)
    assert sparse.centres().shape == (len(sparse), 3)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("indices", {"indices": np.zeros((2, 2), np.int16)}),
        ("indices", {"indices": np.zeros((2, 3), np.int32)}),
        ("indices", {"indices": np.array([[0, 0, 0], [8, 0, 0]], np.int16)}),
        ("indices", {"indices": np.array([[0, 0, 0], [0, -1, 0]], np.int16)}),
        ("labels", {"labels": np.zeros(1, np.uint8)}),
        ("labels", {"labels": np.zeros(2, np.int64)}),
        ("labels", {"labels": np.array([0, FREE], np.uint8)}),
        ("scores", {"scores": np.zeros(2)}),
    ],
)
def test_refusals_name_the_field(field, change):
    good = {
        "indices": np.zeros((2, 3), np.int16),
        "labels": np.zeros(2, np.uint8),
        "scores": np.ones(2, np.float32),
        "grid": SMALL,
    }
    assert len(SparseVoxels(**good)) == 2
    with pytest.raises(InvalidInput) as caught:
        SparseVoxels(**(good | change))
    assert caught.value.field == field


def test_empty_voxels():
    empty = SparseVoxels.empty(SMALL)
    assert len(empty) == 0
    assert (empty.dense() == FREE).all()
    assert empty.centres().shape == (0, 3)


def test_grids_without_volume_are_refused():
    for lower, upper, size in (((0, 0, 0), (1, 1, 0), 0.1), ((0, 0, 0), (1, 1, 1), 0.0), ((0, 0, 0), (-1, 1, 1), 0.1)):
        with pytest.raises(InvalidInput, match="no volume"):
            VoxelGrid(lower, upper, size)
    with pytest.raises(InvalidInput, match="semantics"):
        SparseVoxels.from_dense(np.zeros((2, 2, 2), np.uint8), SMALL)


def test_the_classes_of_occ3d():
    assert NUM_CLASSES == 17 == FREE
    assert LABEL["driveable_surface"] == 11
    assert [CLASSES[i] for i in MOVABLE] == list(CLASSES[2:11])
    assert set(FLAT) | set(OBSTACLES) == set(range(17))
    assert not set(FLAT) & set(OBSTACLES)
    assert PALETTE.shape == (17, 3)
    assert len({tuple(c) for c in PALETTE.tolist()}) == 17, "two classes of one colour could not be told apart"
    assert not PALETTE.flags.writeable
    assert len(set(CAMERAS)) == 6
