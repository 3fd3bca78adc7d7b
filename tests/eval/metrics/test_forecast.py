"""Forecast baselines that copy the present."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import FREE, LABEL, NUM_CLASSES
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import VoxelGrid
from sparseoccvla_ros.eval.metrics.forecast import copy_forward, copy_unmoved
from sparseoccvla_ros.eval.metrics.occupancy import IGNORE, OccupancyMeter

CAR, BUS = LABEL["car"], LABEL["bus"]
GRID = VoxelGrid((-2.0, -2.0, -1.0), (2.0, 2.0, 1.0), 0.4)
SHAPE = GRID.shape


def labels(seed: int, *lead: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = rng.integers(0, NUM_CLASSES + 1, (*lead, *SHAPE), np.uint8)
    out[rng.random(out.shape) < 0.5] = FREE
    return out


def test_unmoved():
    now = labels(1)
    now[0, 0, 0] = IGNORE
    got = copy_unmoved(now, 3, GRID)
    assert got.shape == (3, *SHAPE)
    now[0, 0, 0] = FREE
    np.testing.assert_array_equal(got[2], now)


@given(st.integers(-10, 10), st.integers(-10, 10), st.integers(0, 3), st.floats(-500, 500))
@settings(max_examples=40)
def test_whole_voxels_and_quarter_turns_are_exact(forward, left, quarters, far):
    """Ego drives `forward` and `left` voxels and turns: the grid moves the other way and turns back."""
    now = labels(2)
    here = geometry.planar(far, -far, 0.3)
    future = here @ geometry.planar(forward * GRID.size, left * GRID.size, quarters * np.pi / 2)
    got = copy_forward(now, here, future[None], GRID)[0]
    padded = np.pad(now, ((10, 10), (10, 10), (0, 0)), constant_values=FREE)
    turned = np.rot90(padded[10 + forward : 20 + forward, 10 + left : 20 + left], -quarters)
    np.testing.assert_array_equal(got, turned)


def test_a_world_at_rest_is_forecast_perfectly():
    now = np.full(SHAPE, FREE, np.uint8)
    now[6, 5, 2] = CAR
    future = np.stack([geometry.planar(0.4 * k, 0.0, 0.0) for k in (1, 2, 3)])
    truth = np.full((3, *SHAPE), FREE, np.uint8)
    for k in range(3):
        truth[k, 5 - k, 5, 2] = CAR
    np.testing.assert_array_equal(copy_forward(now, np.eye(4), future, GRID), truth)
    unmoved = OccupancyMeter()
    unmoved.update(copy_unmoved(now, 3, GRID), truth)
    assert unmoved.result().miou == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_moves_the_same():
    now, future = labels(3), geometry.planar(0.5, 0.1, 0.2)[None]
    got = copy_forward(torch.from_numpy(now).cuda(), np.eye(4), future, GRID)
    assert torch.equal(got.cpu(), copy_forward(now, np.eye(4), future, GRID))


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("semantics", lambda: copy_unmoved(labels(0, 3), 3, GRID)),
        ("semantics", lambda: copy_forward(labels(0)[1:], np.eye(4), np.eye(4)[None], GRID)),
        ("ego2fixed", lambda: copy_forward(labels(0), np.full((4, 4), np.nan), np.eye(4)[None], GRID)),
        ("future_ego2fixed", lambda: copy_forward(labels(0), np.eye(4), np.eye(4), GRID)),
    ],
)
def test_refused(field, call):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.field == field
