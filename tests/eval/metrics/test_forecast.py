"""Forecast scores and the baselines that copy the present."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import FREE, LABEL, NUM_CLASSES
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import HORIZONS
from sparseoccvla_ros.core.voxels import VoxelGrid
from sparseoccvla_ros.eval.metrics.forecast import ForecastMeter, Protocol, copy_forward, copy_unmoved
from sparseoccvla_ros.eval.metrics.occupancy import IGNORE

CAR, BUS = LABEL["car"], LABEL["bus"]
GRID = VoxelGrid((-2.0, -2.0, -1.0), (2.0, 2.0, 1.0), 0.4)
SHAPE = GRID.shape


def labels(seed: int, *lead: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = rng.integers(0, NUM_CLASSES + 1, (*lead, *SHAPE), np.uint8)
    out[rng.random(out.shape) < 0.5] = FREE
    return out


@pytest.mark.parametrize("protocol", Protocol)
def test_mean_of_1_2_3_seconds_only(protocol):
    meter = ForecastMeter(protocol, protocol.seconds)
    truth = np.full((len(protocol.seconds), *SHAPE), FREE, np.uint8)
    truth[:, 0, 0, :2] = CAR
    pred = truth.copy()
    pred[protocol.seconds.index(2.0), 0, 0, 0] = FREE
    pred[protocol.seconds.index(3.0), 0, 0] = FREE
    pred[0, 0, 0] = FREE  # the horizon at 0 or 0.5 s is reported but in no mean
    meter.update(pred, truth)
    got = meter.result()
    assert got.at[protocol.seconds[0]].iou == 0
    assert [got.at[s].iou for s in HORIZONS] == [1.0, 0.5, 0.0]
    assert got.iou == 0.5
    absent = 16.0 if protocol is Protocol.OCCWORLD else 0.0
    assert got.miou == pytest.approx(0.5 if not absent else (0.5 + absent) / 17)


def test_protocols_differ_where_a_class_is_never_true():
    pred, truth = np.full((2, 3, *SHAPE), FREE, np.uint8)
    truth[:, 0, 0, 0] = CAR
    pred[:, 0, 0, 0] = BUS
    scores = {}
    for protocol in Protocol:
        meter = ForecastMeter(protocol)
        meter.update(pred, truth)
        scores[protocol] = meter.result().at[1.0].per_class
    assert scores[Protocol.SPARSEWORLD][[CAR, BUS]].tolist() == [0, 0]
    assert np.isnan(scores[Protocol.SPARSEWORLD][0])
    assert scores[Protocol.OCCWORLD][[CAR, BUS, 0]].tolist() == [0, 1, 1]


@given(st.integers(0, 2**32 - 1), st.permutations(range(3)), st.sampled_from(Protocol))
@settings(max_examples=20)
def test_order_and_partition_do_not_matter(seed, order, protocol):
    pred, truth = labels(seed, 2, 3, 3)
    want, first, second = (ForecastMeter(protocol) for _ in range(3))
    for i in range(3):
        want.update(pred[i], truth[i])
    for place, i in enumerate(order):
        (first if place < 1 else second).update(pred[i], truth[i])
    first.merge(second)
    assert first.result().miou == want.result().miou
    for seconds in HORIZONS:
        np.testing.assert_array_equal(first.result().at[seconds].confusion, want.result().at[seconds].confusion)


@given(st.integers(0, 2**32 - 1), st.sampled_from(Protocol))
@settings(max_examples=20)
def test_perfect_forecast(seed, protocol):
    truth = labels(seed, 3)
    meter = ForecastMeter(protocol)
    meter.update(truth, truth)
    assert meter.result().miou == meter.result().iou == 1


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
    meters = [ForecastMeter(Protocol.SPARSEWORLD) for _ in range(2)]
    meters[0].update(copy_forward(now, np.eye(4), future, GRID), truth)
    meters[1].update(copy_unmoved(now, 3, GRID), truth)
    assert [m.result().miou for m in meters] == [1.0, 0.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_moves_the_same():
    now, future = labels(3), geometry.planar(0.5, 0.1, 0.2)[None]
    got = copy_forward(torch.from_numpy(now).cuda(), np.eye(4), future, GRID)
    assert torch.equal(got.cpu(), copy_forward(now, np.eye(4), future, GRID))


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("seconds", lambda: ForecastMeter(Protocol.OCCWORLD, (1.0, 2.0))),
        ("seconds", lambda: ForecastMeter(Protocol.OCCWORLD, (1.0, 2.0, 3.0, 3.0))),
        ("pred", lambda: ForecastMeter(Protocol.OCCWORLD).update(labels(0, 2), labels(0, 3))),
        ("semantics", lambda: ForecastMeter(Protocol.OCCWORLD).update(labels(0, 3), labels(0, 4))),
        ("semantics", lambda: ForecastMeter(Protocol.OCCWORLD).update(labels(0, 3), labels(0, 3)[:, 1:])),
        ("other", lambda: ForecastMeter(Protocol.OCCWORLD).merge(ForecastMeter(Protocol.SPARSEWORLD))),
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
