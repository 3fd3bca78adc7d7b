"""Occupancy losses against their written-out formulas, and what must hold whatever the numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID, VoxelGrid
from sparseoccvla_ros.occupancy.decoder import LayerOutput
from sparseoccvla_ros.occupancy.losses import (
    LossWeights,
    Neighbours,
    OccupancyTargets,
    nearest_in_chunks,
    occupancy_loss,
)

SEEDS = st.integers(0, 2**31 - 1)
LOWER, UPPER = torch.tensor(OCC3D_GRID.lower), torch.tensor(OCC3D_GRID.upper)
W = LossWeights()
NOTHING = OccupancyTargets(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))


def targets_of(rng: np.random.Generator, count: int) -> OccupancyTargets:
    """Random centres off the lattice, so that no two distances tie."""
    centres = torch.from_numpy(rng.uniform((-8, -8, -1), (8, 8, 3), (count, 3)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 17, count))
    return OccupancyTargets(centres, labels, torch.from_numpy(rng.random(count) < 0.5))


def output_of(rng: np.random.Generator, batch: int, queries: int, per_query: int) -> LayerOutput:
    metres = torch.from_numpy(rng.uniform((-8, -8, -1), (8, 8, 3), (batch, queries, per_query, 3)).astype(np.float32))
    logits = torch.from_numpy(rng.normal(0, 2, (batch, queries, per_query, 17)).astype(np.float32))
    return layer(metres, logits)


def layer(metres: Tensor, logits: Tensor | None = None) -> LayerOutput:
    """metres [B, Q, R, 3]."""
    logits = torch.zeros(*metres.shape[:3], 17) if logits is None else logits
    return LayerOutput(torch.zeros(*metres.shape[:2], 1), logits, (metres - LOWER) / (UPPER - LOWER))


def loss_of(output: LayerOutput, *targets: OccupancyTargets) -> dict[str, Tensor]:
    return occupancy_loss([output], output.points[:, :, :1], targets)


def permuted(truth: OccupancyTargets, order: Tensor) -> OccupancyTargets:
    return OccupancyTargets(truth.centres[order], truth.labels[order], truth.visible[order])


def written_out(output: LayerOutput, targets: list[OccupancyTargets]) -> tuple[float, float]:
    """(L_cls, L_pts) in plain Python floats: every sum a loop."""
    eps = 2.0**-23

    def h(a: list[float], b: list[float]) -> float:
        apart = [abs(x - y) for x, y in zip(a, b, strict=True)]
        return sum(d * d / 0.4 if d < 0.2 else d - 0.1 for d in apart)

    metres = (output.points.detach() * (UPPER - LOWER) + LOWER).tolist()
    alpha = (10, 5, 10, 5, 5, 10, 10, 5, 10, 5, 5, 1, 5, 1, 1, 2, 1)
    to_voxels = to_points = classes = 0.0
    voxels = matched = count = 0
    for b, truth in enumerate(targets):
        points = [p for query in metres[b] for p in query]
        logits = [x for query in output.logits[b].tolist() for x in query]
        centres, labels, visible = truth.centres.tolist(), truth.labels.tolist(), truth.visible.tolist()
        for g, label, seen in zip(centres, labels, visible, strict=True):
            p = min(points, key=lambda q, g=g: math.dist(q, g))
            w = 5.0 if seen and math.dist(p, g) > 0.2 else 1.0
            w = max(w, 10.0) if seen and label in (0, 2, 5, 8) else w
            to_voxels += w * h(g, p)
        for p, x in zip(points, logits, strict=True):
            label, away = 17, 1.0
            if centres:
                j = min(range(len(centres)), key=lambda i, p=p, centres=centres: math.dist(p, centres[i]))
                label, away = labels[j], 1.0 + math.hypot(*centres[j][:2]) / 113.137
                to_points += h(p, centres[j])
            for c in range(17):
                s = 1.0 / (1.0 + math.exp(-x[c]))
                fl = 0.25 * (1 - s) ** 2 * -math.log(s) if c == label else 0.75 * s**2 * -math.log(1 - s)
                classes += alpha[c] * away * fl
        voxels, count = voxels + len(centres), count + len(points)
        matched += len(points) if centres else 0
    return 2.0 * classes / (count + eps), 0.5 * (to_voxels / (voxels + eps) + to_points / (matched + eps))


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 3), st.lists(st.integers(0, 30), min_size=1, max_size=3))
def test_terms_are_the_formulas(seed: int, per_query: int, voxels: list[int]) -> None:
    """Any batch: elements without truth among them, and sums and counts over all of it."""
    rng = np.random.default_rng(seed)
    targets = [targets_of(rng, v) for v in voxels]
    output = output_of(rng, len(voxels), 5, per_query)
    terms = loss_of(output, *targets)
    classes, points = written_out(output, targets)
    assert terms["loss_cls"].item() == pytest.approx(classes, rel=1e-4)
    assert terms["loss_pts"].item() == pytest.approx(points, rel=1e-4)
    start = LayerOutput(output.features, output.logits[:, :, :1], output.points[:, :, :1])
    assert terms["init_loss_pts"].item() == pytest.approx(written_out(start, targets)[1], rel=1e-4)


def test_names_and_total() -> None:
    rng = np.random.default_rng(1)
    truth = targets_of(rng, 20)
    outputs = [output_of(rng, 1, 6, r) for r in (1, 2, 4)]
    terms = occupancy_loss(outputs, outputs[0].points, [truth])
    assert list(terms) == ["init_loss_pts"] + [
        f"{prefix}{name}" for prefix in ("d0.", "d1.", "") for name in ("loss_cls", "loss_pts")
    ]
    assert sum(terms.values()).item() == pytest.approx(sum(t.item() for t in terms.values()))
    for prefix, output in zip(("d0.", "d1.", ""), outputs, strict=True):
        assert terms[f"{prefix}loss_pts"].item() == pytest.approx(written_out(output, [truth])[1], rel=1e-4)
    assert terms["init_loss_pts"].item() == terms["d0.loss_pts"].item()


@settings(max_examples=20)
@given(SEEDS)
def test_order_of_points_and_voxels_is_irrelevant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, output = targets_of(rng, 25), output_of(rng, 1, 12, 1)
    queries = torch.from_numpy(rng.permutation(12))
    shuffled = LayerOutput(output.features[:, queries], output.logits[:, queries], output.points[:, queries])
    plain = loss_of(output, truth)
    for other in (loss_of(shuffled, truth), loss_of(output, permuted(truth, torch.from_numpy(rng.permutation(25))))):
        for name, value in plain.items():
            assert other[name].item() == pytest.approx(value.item(), rel=1e-5)


# The same examples in every run: rounding of the shifted sets may swap two neighbours that are all but equally near.
@settings(max_examples=20, derandomize=True)
@given(SEEDS, st.tuples(*[st.floats(-20, 20)] * 3))
def test_point_loss_sees_only_relative_position(seed: int, shift: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    truth, metres = targets_of(rng, 25), output_of(rng, 1, 12, 1).points * (UPPER - LOWER) + LOWER
    moved = OccupancyTargets(truth.centres + torch.tensor(shift), truth.labels, truth.visible)
    here, there = loss_of(layer(metres), truth), loss_of(layer(metres + torch.tensor(shift)), moved)
    assert there["loss_pts"].item() == pytest.approx(here["loss_pts"].item(), rel=1e-3)


def test_coinciding_sets_have_no_point_loss() -> None:
    semantics = np.full(OCC3D_GRID.shape, 17, np.uint8)
    semantics[60:140:4, 90:110:2, 3] = 11
    truth = OccupancyTargets.from_dense(semantics)
    terms = loss_of(layer(truth.centres[None, :, None]), truth)
    assert terms["loss_pts"].item() < 1e-8
    assert terms["loss_cls"].item() > 0


def test_sure_and_right_has_no_class_loss() -> None:
    truth = targets_of(np.random.default_rng(3), 30)
    logits = torch.full((1, 30, 1, 17), -30.0)
    logits[0, torch.arange(30), 0, truth.labels] = 30.0
    terms = loss_of(layer(truth.centres[None, :, None], logits), truth)
    assert terms["loss_cls"].item() < 1e-8
    wrong = loss_of(layer(truth.centres[None, :, None], -logits), truth)
    assert math.isfinite(wrong["loss_cls"].item())
    assert wrong["loss_cls"].item() > 100


@pytest.mark.parametrize(
    ("apart", "visible", "label", "weight"),
    [
        (0.19, True, 11, 1), (0.21, True, 11, 5), (0.21, False, 11, 1), (0.19, True, 8, 10), (0.21, True, 8, 10),
        (0.21, False, 8, 1),
    ],
)  # fmt: skip
def test_weight_of_one_voxel(apart: float, visible: bool, label: int, weight: int) -> None:
    truth = OccupancyTargets(torch.zeros(1, 3), torch.tensor([label]), torch.tensor([visible]))
    terms = loss_of(layer(torch.tensor([[[[apart, 0.0, 0.0]]]])), truth)
    h = apart**2 / 0.4 if apart < 0.2 else apart - 0.1
    assert terms["loss_pts"].item() == pytest.approx(0.5 * (weight + 1) * h, rel=1e-4)


def test_class_weight_follows_the_channel_at_negatives_too() -> None:
    """Raising one wrong channel by the same amount costs as much more as its weight is larger."""
    truth = OccupancyTargets(torch.zeros(1, 3), torch.tensor([4]), torch.tensor([True]))
    cost = []
    for channel in (0, 16):
        logits = torch.full((1, 1, 1, 17), -40.0)
        logits[..., 4], logits[..., channel] = 40.0, 1.0
        cost.append(loss_of(layer(torch.zeros(1, 1, 1, 3), logits), truth)["loss_cls"].item())
    assert cost[0] / cost[1] == pytest.approx(W.channels[0] / W.channels[16])


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 200), st.integers(1, 200), st.integers(1, 500))
def test_tree_chunks_and_brute_force_agree(seed: int, queries: int, references: int, elements: int) -> None:
    rng = np.random.default_rng(seed)
    query, reference = (
        torch.from_numpy(rng.uniform(-40, 40, (n, 3)).astype(np.float32)) for n in (queries, references)
    )
    distances = (query.double()[:, None] - reference.double()).norm(dim=2)
    least = distances.min(1).values if queries else torch.zeros(0, dtype=torch.float64)
    for found in (Neighbours(reference)(query), nearest_in_chunks(query, reference, elements)):
        assert found.dtype == torch.int64
        torch.testing.assert_close(distances.gather(1, found[:, None])[:, 0], least, rtol=1e-6, atol=0)


def test_lattice_ties_find_a_nearest() -> None:
    """Centres on a lattice and queries on its corners tie eightfold; the distance is the same whichever wins."""
    reference = torch.from_numpy(OCC3D_GRID.centre_of(np.argwhere(np.ones((6, 6, 6), bool))))
    query = reference + 0.2
    for found in (Neighbours(reference)(query), nearest_in_chunks(query, reference)):
        assert (reference[found] - query).abs().max().item() == pytest.approx(0.2, abs=1e-5)


def test_targets_keep_one_search_tree() -> None:
    truth = targets_of(np.random.default_rng(0), 10)
    assert truth.neighbours is truth.neighbours
    torch.testing.assert_close(truth.neighbours(truth.centres), torch.arange(10))


@pytest.mark.parametrize("count", [1, 2])
def test_empty_truth(count: int) -> None:
    output = output_of(np.random.default_rng(2), count, 4, 2)
    leaves = [t.clone().requires_grad_() for t in (output.points[:, :, :1], output.logits, output.points)]
    terms = occupancy_loss([LayerOutput(output.features, *leaves[1:])], leaves[0], [NOTHING] * count)
    assert terms["loss_pts"].item() == terms["init_loss_pts"].item() == 0.0
    sum(terms.values()).backward()
    grads = [leaf.grad for leaf in leaves]
    assert all(g is not None and bool(g.isfinite().all()) for g in grads)
    assert not grads[0].any()
    assert not grads[2].any()
    assert bool((grads[1] > 0).all()), "every class is pushed down at every point"


def test_empty_element_leaves_the_others_point_loss_alone() -> None:
    rng = np.random.default_rng(4)
    truth, output = targets_of(rng, 15), output_of(rng, 2, 4, 2)
    alone = LayerOutput(output.features[:1], output.logits[:1], output.points[:1])
    assert loss_of(output, truth, NOTHING)["loss_pts"].item() == pytest.approx(
        loss_of(alone, truth)["loss_pts"].item(), rel=1e-6
    )


def test_batch_concatenates() -> None:
    """Sums and counts over the batch: an element with more voxels weighs more, unlike a mean of losses."""
    rng = np.random.default_rng(5)
    targets, output = [targets_of(rng, 5), targets_of(rng, 50)], output_of(rng, 2, 6, 2)
    terms = loss_of(output, *targets)
    singles = [
        loss_of(LayerOutput(output.features[b : b + 1], output.logits[b : b + 1], output.points[b : b + 1]), truth)
        for b, truth in enumerate(targets)
    ]
    mean = sum(s["loss_pts"].item() for s in singles) / 2
    assert abs(terms["loss_pts"].item() - mean) > 1e-3
    assert terms["loss_cls"].item() == pytest.approx(sum(s["loss_cls"].item() for s in singles) / 2, rel=1e-5)
    assert terms["loss_pts"].item() == pytest.approx(written_out(output, targets)[1], rel=1e-4)


def test_gradients_are_the_numerical_ones() -> None:
    rng = np.random.default_rng(6)
    truth, output = targets_of(rng, 12), output_of(rng, 1, 4, 1)
    points, logits = output.points.clone().requires_grad_(), output.logits.clone().requires_grad_()
    start = output.points.clone()

    def total(p: Tensor, x: Tensor) -> Tensor:
        return sum(occupancy_loss([LayerOutput(output.features, x, p)], start, [truth]).values())

    total(points, logits).backward()
    for leaf, step, rel in ((points, 2e-5, 2e-2), (logits, 1e-2, 2e-2)):
        direction = torch.from_numpy(rng.normal(size=tuple(leaf.shape)).astype(np.float32))
        with torch.no_grad():
            ends = [
                total(points + s * step * direction, logits).item()
                if leaf is points
                else total(points, logits + s * step * direction).item()
                for s in (1, -1)
            ]
        assert leaf.grad is not None
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx((leaf.grad * direction).sum().item(), rel=rel)


def test_autocast_does_not_matter() -> None:
    rng = np.random.default_rng(7)
    truth, output = targets_of(rng, 20), output_of(rng, 1, 6, 2)
    plain = loss_of(output, truth)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_of(output, truth)
    half = loss_of(LayerOutput(output.features, output.logits.bfloat16(), output.points), truth)
    for name, value in plain.items():
        assert inside[name].dtype == half[name].dtype == torch.float32
        assert inside[name].item() == value.item()
        assert half[name].item() == pytest.approx(value.item(), rel=2e-2)


def test_loss_falls_when_a_toy_output_is_optimised() -> None:
    rng = np.random.default_rng(8)
    truth, output = targets_of(rng, 60), output_of(rng, 1, 10, 6)
    points = output.points.clone().requires_grad_()
    logits = torch.full_like(output.logits, -4.6).requires_grad_()
    optimiser = torch.optim.Adam([{"params": [points], "lr": 2e-3}, {"params": [logits], "lr": 0.1}])
    losses = []
    for _ in range(150):
        terms = occupancy_loss([LayerOutput(output.features, logits, points)], points[:, :, :1], [truth])
        losses.append({name: value.item() for name, value in terms.items()})
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
    assert losses[-1]["loss_pts"] < 0.4 * losses[0]["loss_pts"]
    assert losses[-1]["loss_cls"] < 0.5 * losses[0]["loss_cls"]


def test_dense_labels() -> None:
    grid = VoxelGrid((0.0, 0.0, 0.0), (2.0, 1.5, 1.0), 0.5)
    semantics = np.full(grid.shape, 17, np.uint8)
    semantics[3, 0, 1], semantics[0, 2, 0], semantics[1, 1, 1] = 4, 16, 255
    mask = np.zeros(grid.shape, np.uint8)
    mask[3, 0, 1] = 1
    truth = OccupancyTargets.from_dense(semantics, mask, grid)
    assert truth.centres.tolist() == [[0.25, 1.25, 0.25], [1.75, 0.25, 0.75]]
    assert truth.labels.tolist() == [16, 4]
    assert truth.visible.tolist() == [False, True]
    assert OccupancyTargets.from_dense(semantics, grid=grid).visible.all()
    assert len(OccupancyTargets.from_dense(np.full(grid.shape, 17, np.uint8), grid=grid)) == 0
    assert OccupancyTargets(truth.centres, truth.labels.to(torch.uint8), truth.visible).labels.dtype == torch.int64
    assert truth.to("cpu").centres.equal(truth.centres)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("init_points", lambda o: ([o], o.points[:, :, :1] * math.nan)),
        ("init_points", lambda o: ([o], o.points)),
        ("outputs", lambda o: ([], o.points[:, :, :1])),
        ("outputs[1].points", lambda o: ([o, dataclasses.replace(o, points=o.points / 0)], o.points[:, :, :1])),
        ("outputs[0].logits", lambda o: ([dataclasses.replace(o, logits=o.logits * math.nan)], o.points[:, :, :1])),
        ("outputs[0].logits", lambda o: ([dataclasses.replace(o, logits=o.logits[..., :16])], o.points[:, :, :1])),
        ("outputs[0].logits", lambda o: ([dataclasses.replace(o, logits=o.logits[:, :2])], o.points[:, :, :1])),
        ("outputs[0].points", lambda o: ([dataclasses.replace(o, points=o.points[:, :0])], o.points[:, :, :1])),
    ],
)
def test_refused_outputs_are_named(field: str, change) -> None:
    rng = np.random.default_rng(9)
    outputs, start = change(output_of(rng, 1, 4, 2))
    with pytest.raises(InvalidInput) as caught:
        occupancy_loss(outputs, start, [targets_of(rng, 10)])
    assert caught.value.field == field


def test_wrong_number_of_targets_is_refused() -> None:
    with pytest.raises(InvalidInput, match="init_points"):
        loss_of(output_of(np.random.default_rng(0), 2, 4, 2), NOTHING)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("centres", {"centres": torch.full((3, 3), math.nan)}),
        ("centres", {"centres": torch.zeros(3, 3, dtype=torch.float64)}),
        ("labels", {"labels": torch.tensor([0, 1, 17])}),
        ("labels", {"labels": torch.zeros(3)}),
        ("visible", {"visible": torch.ones(2, dtype=torch.bool)}),
    ],
)
def test_refused_targets_are_named(field: str, change: dict[str, Tensor]) -> None:
    good = {"centres": torch.zeros(3, 3), "labels": torch.tensor([0, 1, 2]), "visible": torch.ones(3, dtype=torch.bool)}
    with pytest.raises(InvalidInput) as caught:
        OccupancyTargets(**{**good, **change})
    assert caught.value.field == field


def test_refused_dense_labels_are_named() -> None:
    free = np.full(OCC3D_GRID.shape, 17, np.uint8)
    for field, semantics, mask in (
        ("semantics", free[:5], None),
        ("semantics", free.astype(np.float32), None),
        ("semantics", free + 1, None),
        ("camera_mask", free, free[:5] > 0),
        ("camera_mask", free, free.astype(np.float32)),
    ):
        with pytest.raises(InvalidInput) as caught:
            OccupancyTargets.from_dense(semantics, mask)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", 0.0), ("gamma", 0.5), ("alpha", 2.0), ("channels", (1.0,)), ("rare_classes", (17,)), ("far", math.nan)],
)
def test_refused_weights_are_named(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        LossWeights(**{field: value})
    assert caught.value.field == field


def test_refused_neighbours_are_named() -> None:
    some = torch.zeros(2, 3)
    for field, query, reference in (
        ("reference", some, torch.zeros(0, 3)),
        ("reference", some, some / 0),
        ("query", some[:, :2], some),
        ("query", some / 0, some),
    ):
        with pytest.raises(InvalidInput) as caught:
            Neighbours(reference)(query)
        assert caught.value.field == field
