"""Voxel scores: analytic cases, invariants of the counts, and the inputs that are refused."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import FREE, LABEL, NUM_CLASSES
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.eval.metrics.occupancy import (
    IGNORE,
    AbsentRule,
    OccupancyMeter,
    OccupancyScores,
    binary_confusion,
)

CAR, BUS, TRUCK = LABEL["car"], LABEL["bus"], LABEL["truck"]
SHAPE = (4, 3, 2)


def score(pred, semantics, mask=None, rule: AbsentRule = AbsentRule.LEFT_OUT) -> OccupancyScores:
    meter = OccupancyMeter(rule)
    meter.update(pred, semantics, mask)
    return meter.result()


def grid(*labels: int) -> np.ndarray:
    """The labels in the first voxels, the rest free."""
    out = np.full(SHAPE, FREE, np.uint8)
    out.reshape(-1)[: len(labels)] = labels
    return out


def frames(seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pred, semantics = rng.integers(0, NUM_CLASSES + 1, (2, count, *SHAPE), np.uint8)
    semantics[rng.random(semantics.shape) < 0.1] = IGNORE
    return pred, semantics, rng.random(semantics.shape) < 0.6


def test_scores_by_hand():
    # Truth: 3 cars, 1 bus. Predicted: car, car, bus, free, car(on free).
    got = score(grid(CAR, CAR, BUS, FREE, CAR), grid(CAR, CAR, CAR, BUS))
    assert got.per_class[CAR] == 2 / 4
    assert got.per_class[BUS] == 0
    assert got.miou == pytest.approx((2 / 4 + 0) / 2)
    assert got.iou == 3 / 5
    assert binary_confusion(got.confusion).tolist() == [[3, 1], [1, 19]]
    assert got.confusion[CAR, BUS] == 1
    assert got.confusion[BUS, FREE] == 1
    assert got.frames == 1


@pytest.mark.parametrize(
    ("rule", "truck", "bus", "miou"),
    [
        (AbsentRule.LEFT_OUT, np.nan, np.nan, 1 / 2),
        (AbsentRule.ZERO_IF_PREDICTED, 0.0, np.nan, 1 / 4),
        (AbsentRule.ONE, 1.0, 1.0, (1 / 2 + 16) / 17),
    ],
)
def test_class_without_truth(rule, truck, bus, miou):
    got = score(grid(CAR, TRUCK), grid(CAR, CAR), rule=rule)
    np.testing.assert_equal(got.per_class[TRUCK], truck)
    np.testing.assert_equal(got.per_class[BUS], bus)
    assert got.miou == pytest.approx(miou)


@pytest.mark.parametrize(("rule", "want"), [(AbsentRule.LEFT_OUT, np.nan), (AbsentRule.ONE, 1.0)])
def test_nothing_to_score(rule, want):
    got = score(grid(), grid(), rule=rule)
    np.testing.assert_equal((got.miou, got.iou), (want, want))
    assert OccupancyMeter().result().frames == 0
    assert np.isnan(OccupancyMeter().result().miou)


@given(st.integers(0, 2**32 - 1), st.permutations(range(3)), st.sampled_from(AbsentRule))
@settings(max_examples=30)
def test_order_and_partition_do_not_matter(seed, order, rule):
    pred, semantics, mask = frames(seed)
    one_pass = OccupancyMeter(rule)
    one_pass.update(pred, semantics, mask)
    first, second = OccupancyMeter(rule), OccupancyMeter(rule)
    for place, frame in enumerate(order):
        (first if place < 2 else second).update(pred[frame], semantics[frame], mask[frame])
    assert first.frames + second.frames == one_pass.frames == 3
    np.testing.assert_array_equal(first.confusion + second.confusion, one_pass.confusion)


@given(st.integers(0, 2**32 - 1), st.sampled_from(AbsentRule))
@settings(max_examples=30)
def test_perfect_prediction(seed, rule):
    pred, _, mask = frames(seed)
    got = score(pred, pred, mask, rule)
    assert got.miou == got.iou == 1
    assert set(got.per_class[~np.isnan(got.per_class)]) == {1.0}


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_masked_and_ignored_voxels_never_matter(seed):
    pred, semantics, mask = frames(seed)
    other, other_truth, _ = frames(seed + 1)
    want = score(pred, semantics, mask).confusion
    counted = mask & (semantics != IGNORE)
    got = score(np.where(counted, pred, other), np.where(mask, semantics, other_truth), mask).confusion
    np.testing.assert_array_equal(got, want)
    assert want.sum() == counted.sum()


def test_numpy_and_torch_and_mask_types_agree():
    pred, semantics, mask = frames(3)
    want = score(pred, semantics, mask).confusion
    frozen = pred.copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(score(frozen, semantics, mask.astype(np.uint8)).confusion, want)
    turned = torch.from_numpy(pred.copy()), torch.from_numpy(semantics), torch.from_numpy(mask)
    np.testing.assert_array_equal(score(*turned).confusion, want)
    flipped = score(pred[:, ::-1], semantics[:, ::-1], mask[:, ::-1]).confusion
    np.testing.assert_array_equal(flipped, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_counts_the_same():
    pred, semantics, mask = frames(4)
    got = score(torch.from_numpy(pred).cuda(), semantics, mask)
    np.testing.assert_array_equal(got.confusion, score(pred, semantics, mask).confusion)


def test_result_is_a_snapshot():
    meter = OccupancyMeter()
    meter.update(grid(CAR), grid(CAR))
    before = meter.result()
    kept = copy.deepcopy(before.confusion)
    meter.update(grid(BUS), grid(CAR))
    np.testing.assert_array_equal(before.confusion, kept)


@pytest.mark.parametrize(
    ("field", "pred", "semantics", "mask"),
    [
        ("pred", grid().astype(np.int64), grid(), None),
        ("pred", grid(FREE + 1), grid(), None),
        ("pred", grid(IGNORE), grid(), None),
        ("pred", grid()[0, 0], grid(), None),
        ("pred", [[17]], grid(), None),
        ("semantics", grid(), grid()[1:], None),
        ("semantics", grid(), grid(FREE + 1), None),
        ("semantics", grid(), grid().astype(np.float32), None),
        ("mask", grid(), grid(), np.ones(SHAPE[:2], bool)),
        ("mask", grid(), grid(), np.ones(SHAPE, np.float32)),
    ],
)
def test_refused(field, pred, semantics, mask):
    with pytest.raises(InvalidInput) as caught:
        score(pred, semantics, mask)
    assert caught.value.field == field
