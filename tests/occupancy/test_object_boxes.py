"""Boxes of clusters: they hold their voxels, keep kinds apart, and move as the forecast says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.occupancy.object_boxes import MIN_VOXELS, object_boxes


def block(label: str, lower: tuple[int, int, int], size: tuple[int, int, int], score: float = 0.8) -> SparseVoxels:
    """A solid block of voxels of one class."""
    cells = np.stack(np.meshgrid(*(np.arange(s) for s in size), indexing="ij"), -1).reshape(-1, 3) + lower
    count = len(cells)
    return SparseVoxels(
        cells.astype(np.int16), np.full(count, LABEL[label], np.uint8), np.full(count, score, np.float32)
    )


def together(*parts: SparseVoxels) -> SparseVoxels:
    return SparseVoxels(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("indices", "labels", "scores")))


def test_a_block_is_its_box():
    (box,) = object_boxes(block("car", (120, 100, 2), (11, 5, 4)))
    # 0.4 m voxels of a grid that begins at (-40, -40, -1).
    np.testing.assert_allclose(box.centre, (-40 + 0.4 * 125.5, -40 + 0.4 * 102.5, -1 + 0.4 * 4), atol=1e-4)
    np.testing.assert_allclose(box.size, (4.4, 2.0, 1.6), atol=1e-4)
    assert box.name == "car"
    assert box.yaw == pytest.approx(0.0, abs=1e-4)
    assert box.score == pytest.approx(0.8)
    assert box.velocity is None


def test_what_is_apart_or_of_another_kind_is_another_box():
    car = block("car", (120, 100, 2), (8, 4, 3))
    near = block("pedestrian", (120, 104, 2), (2, 2, 4))
    far = block("truck", (140, 100, 2), (8, 4, 4))
    speck = block("car", (20, 20, 2), (1, 1, MIN_VOXELS - 1))
    road = block("driveable_surface", (100, 90, 1), (40, 30, 1))
    boxes = object_boxes(together(car, near, far, speck, road))
    assert sorted(b.name for b in boxes) == ["car", "pedestrian", "truck"]
    assert object_boxes(SparseVoxels.empty()) == []


@settings(max_examples=20)
@given(st.integers(-15, 15), st.integers(-15, 15))
def test_velocity_is_the_shift_of_the_forecast(dx, dy):
    now, later = block("car", (100, 100, 2), (10, 5, 4)), block("car", (100 + dx, 100 + dy, 2), (10, 5, 4))
    (box,) = object_boxes(now, later, horizon=1.0)
    np.testing.assert_allclose(box.velocity, (0.4 * dx, 0.4 * dy), atol=1e-6)
    if np.hypot(dx, dy) > 3:
        assert np.cos(box.yaw) * dx + np.sin(box.yaw) * dy >= -1e-6, "it points where it moves"


def test_one_that_stays_does_not_jump_to_its_twin():
    row = together(*(block("car", (100 + 12 * i, 100, 2), (10, 5, 4)) for i in range(3)))
    for box in object_boxes(row, row):
        np.testing.assert_allclose(box.velocity, 0.0)


def test_one_that_vanishes_has_no_velocity():
    (box,) = object_boxes(block("car", (100, 100, 2), (10, 5, 4)), block("car", (160, 160, 2), (10, 5, 4)))
    assert box.velocity is None


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_a_box_holds_its_voxels(seed):
    rng = np.random.default_rng(seed)
    cells = np.unique(rng.integers(0, 6, (40, 3)) + np.array((90, 110, 3)), axis=0)
    made = SparseVoxels(
        cells.astype(np.int16), np.full(len(cells), LABEL["bus"], np.uint8), np.ones(len(cells), np.float32)
    )
    boxes = object_boxes(made)
    inside = np.zeros(len(cells), bool)
    for box in boxes:
        local = made.centres() - box.centre
        cosine, sine = np.cos(box.yaw), np.sin(box.yaw)
        along = np.stack((local[:, 0] * cosine + local[:, 1] * sine, local[:, 1] * cosine - local[:, 0] * sine), -1)
        inside |= (np.abs(along) <= box.size[:2] / 2 + 1e-3).all(1) & (np.abs(local[:, 2]) <= box.size[2] / 2 + 1e-3)
        assert box.size[0] >= box.size[1]
    assert inside.mean() > 0.85, "only specks are left out"
