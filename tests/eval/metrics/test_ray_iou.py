"""RayIoU: rays whose answer is known by hand, a brute-force walk, invariants, and the inputs that are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import FREE, LABEL, NUM_CLASSES
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID, VoxelGrid
from sparseoccvla_ros.eval.metrics import ray_iou
from sparseoccvla_ros.eval.metrics.occupancy import IGNORE, mean_of_known
from sparseoccvla_ros.eval.metrics.ray_iou import (
    RayMeter,
    cast,
    lidar_origins,
    ray_directions,
    ray_iou_per_class,
    rays_from,
)

CAR, BUS = LABEL["car"], LABEL["bus"]
SMALL = VoxelGrid((0.0, 0.0, 0.0), (4.0, 3.0, 2.0), 0.5)
FORWARD = (1.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def small(**labels: tuple[int, int, int]) -> np.ndarray:
    out = np.full(SMALL.shape, FREE, np.uint8)
    for name, voxel in labels.items():
        out[voxel] = LABEL[name]
    return out


def single(semantics: np.ndarray, origin, direction, grid: VoxelGrid = SMALL) -> tuple[int, float]:
    direction = np.float32([direction])
    direction /= np.linalg.norm(direction)
    hits = cast(semantics, rays_from(np.float64([origin]), direction, grid), grid)
    assert hits.labels.shape == hits.distances.shape == (1,)
    return int(hits.labels[0]), float(hits.distances[0])


@pytest.mark.parametrize(
    ("semantics", "origin", "direction", "label", "distance"),
    [
        # The far face of voxel 6 along x is at 3.5 m.
        (small(car=(6, 0, 0)), (0.25, 0.25, 0.25), FORWARD, CAR, 3.25),
        (small(car=(0, 0, 0)), (3.75, 0.25, 0.25), (-1, 0, 0), CAR, 3.75),
        # The origin's own voxel counts.
        (small(car=(0, 0, 0)), (0.25, 0.25, 0.25), FORWARD, CAR, 0.25),
        # Only the first voxel is reported.
        (small(bus=(2, 0, 0), car=(3, 0, 0)), (0.25, 0.25, 0.25), FORWARD, BUS, 1.25),
        # Nothing hit: where the ray leaves the grid.
        (small(car=(6, 1, 0)), (0.25, 0.25, 0.25), FORWARD, FREE, 3.75),
        (small(), (1.25, 0.25, 0.25), (0, 0, 1), FREE, 1.75),
        # A slanted ray (3-4-5) leaves voxel (3, 2, 0) through its side at y = 1.5, after 1.25 / 0.6 m.
        (small(car=(3, 2, 0)), (0.25, 0.25, 0.25), (4, 3, 0), CAR, 1.25 / 0.6),
        # Through the edge between four voxels: y goes first, and the voxel there is left at once.
        (small(car=(0, 1, 0)), (0.25, 0.25, 0.25), (1, 1, 0), CAR, 0.25 * 2**0.5),
        (small(car=(1, 0, 0), bus=(1, 1, 0)), (0.25, 0.25, 0.25), (1, 1, 0), BUS, 0.75 * 2**0.5),
        # z goes before both.
        (small(car=(0, 0, 1)), (0.25, 0.25, 0.25), (1, 1, 1), CAR, 0.25 * 3**0.5),
        # From outside into the grid, and past it.
        (small(car=(6, 0, 0)), (-1.25, 0.25, 0.25), FORWARD, CAR, 4.75),
        (small(car=(0, 0, 0)), (-1.25, 0.25, 0.25), (-1, 0, 0), CAR, -0.5),
        (small(bus=(0, 0, 0)), (0.25, 0.25, 9.25), FORWARD, BUS, -0.5),
        (small(), (5.25, 0.25, 0.25), FORWARD, FREE, -0.5),
        (small(), (9000.25, 0.25, 0.25), (-1, 0, 0), FREE, -0.5),
    ],
)
def test_single_rays_by_hand(semantics, origin, direction, label, distance):
    got_label, got_distance = single(semantics, origin, direction)
    assert got_label == label
    assert got_distance == pytest.approx(distance, abs=1e-6)


def test_wall_across_the_real_grid():
    wall = np.full(OCC3D_GRID.shape, FREE, np.uint8)
    wall[150] = CAR
    assert single(wall, (0.0, 0.1, 1.1), FORWARD, OCC3D_GRID) == (CAR, pytest.approx(20.4, abs=1e-5))
    assert single(wall, (0.0, 0.1, 1.1), (-1, 0, 0), OCC3D_GRID) == (FREE, pytest.approx(40.0, abs=1e-5))


def test_ignored_voxels_are_see_through():
    semantics = small(car=(6, 0, 0))
    semantics[:6] = IGNORE
    assert single(semantics, (0.25, 0.25, 0.25), FORWARD) == (CAR, 3.25)


def brute_force(semantics: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> tuple[int, float, float]:
    """Label, exit distance and thinnest cut, by cutting the ray with every occupied voxel."""
    index = np.argwhere(semantics < FREE)
    with np.errstate(divide="ignore"):
        walls = (np.stack([index, index + 1]) * SMALL.size - origin) / direction
    enter, leave = walls.min(0).max(-1).clip(0), walls.max(0).min(-1)
    met = leave > enter
    thinnest = np.abs(leave - enter).min(initial=1)
    if not met.any():
        return FREE, float(((np.where(direction > 0, SMALL.upper, SMALL.lower) - origin) / direction).min()), thinnest
    first = np.flatnonzero(met)[enter[met].argmin()]
    return int(semantics[tuple(index[first])]), float(leave[first]), thinnest


def test_random_rays_against_brute_force():
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(300):
        semantics = np.where(rng.random(SMALL.shape) < 0.05, rng.integers(0, 17, SMALL.shape), FREE).astype(np.uint8)
        origin, direction = rng.uniform(SMALL.lower, SMALL.upper), rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        label, distance, thinnest = brute_force(semantics, origin, direction)
        if thinnest > 1e-4:  # else float32 end points may decide for the neighbour
            assert single(semantics, origin, direction) == (label, pytest.approx(distance, abs=1e-4))
            compared += 1
    assert compared > 250


def test_directions():
    rays = ray_directions()
    assert rays.shape == (14_040, 3)
    assert rays.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    # From 1 m above the ground the first ring is 1 m away, the tenth 10 m.
    for ring in (1, 10):
        x, _, z = rays[(ring - 1) * 360]
        assert x / -z == pytest.approx(ring, rel=1e-5)
    assert np.rad2deg(np.arcsin(rays[-1, 2])) == pytest.approx(12.55, abs=0.01)
    np.testing.assert_allclose(ray_directions(36), rays.reshape(39, 360, 3)[:, ::10].reshape(-1, 3), atol=1e-6)


def test_origins():
    poses = np.stack([geometry.planar(5.0 * k, 0.0, 0.0) for k in range(30)])
    mount = np.tile(geometry.transform(np.array([1.0, 0.0, 1.8]), np.array([0.0, 0.0, 0.0, 1.0])), (30, 1, 1))
    got = lidar_origins(poses, mount, 10)
    # Frame k lies at x = 5 k - 49: of frames 3 .. 17, within 39 m, eight are taken, both ends included.
    assert got.shape == (8, 3)
    assert got[0].tolist() == [-34.0, 0.0, 1.8]
    assert got[-1].tolist() == [36.0, 0.0, 1.8]
    assert (np.abs(got[:, 0]) < 39).all()
    assert len(lidar_origins(poses, mount, 10, count=3)) == 3
    assert lidar_origins(poses[:1], mount[:1], 0).tolist() == [[1.0, 0.0, 1.8]]


ORIGINS = np.array([(1.1, 1.2, 0.9), (2.6, 1.7, 1.1)])


def frames(seed: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, (2, count, *SMALL.shape), np.uint8)
    labels[rng.random(labels.shape) < 0.8] = FREE
    return labels


def meter_of(frames_to_count) -> RayMeter:
    meter = RayMeter(ray_directions(12), SMALL, (0.2, 1.0))
    for pred, semantics in frames_to_count:
        meter.update(pred, semantics, ORIGINS)
    return meter


@given(st.integers(0, 2**32 - 1), st.permutations(range(3)))
@settings(max_examples=10)
def test_order_and_partition_do_not_matter(seed, order):
    pairs = list(zip(*frames(seed), strict=True))
    got = meter_of(pairs[i] for i in order[:2]).counts + meter_of([pairs[order[2]]]).counts
    np.testing.assert_array_equal(got, meter_of(pairs).counts)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_perfect_prediction(seed):
    _, truth = frames(seed)
    per_class = ray_iou_per_class(meter_of(zip(truth, truth, strict=True)).counts)
    assert [mean_of_known(row) for row in per_class] == [1.0, 1.0]


def test_scores_by_hand():
    # Two rays forward: the car one voxel too far counts at 1 m only; the ray with free truth is not scored.
    directions = np.float32([FORWARD])
    meter = RayMeter(directions, SMALL, (0.2, 1.0))
    origins = np.array([(0.25, 0.25, 0.25), (0.25, 0.75, 0.25)])
    meter.update(small(car=(5, 0, 0), bus=(2, 1, 0)), small(car=(4, 0, 0)), origins)
    got = ray_iou_per_class(meter.counts)
    assert meter.counts[0].sum() == 1
    assert got[:, CAR].tolist() == [0, 1]
    assert np.isnan(np.delete(got, CAR, 1)).all()
    assert mean_of_known(got) == 0.5
    # A wrong class is wrong at every threshold, for both classes.
    meter.update(small(bus=(4, 0, 0)), small(car=(4, 0, 0)), origins)
    assert ray_iou_per_class(meter.counts)[:, [BUS, CAR]].tolist() == [[0, 0], [0, 0.5]]


def test_nothing_to_score():
    assert not meter_of([(frames(0)[0, 0], small())]).counts.any()
    empty = RayMeter(grid=SMALL)
    empty.update(small(), small(), np.zeros((0, 3)))
    assert np.isnan(ray_iou_per_class(empty.counts)).all()


def test_blocks_and_compaction_change_nothing(monkeypatch):
    semantics = frames(5)[0, 0]
    rays = rays_from(ORIGINS, ray_directions(12), SMALL)
    want = cast(semantics, rays, SMALL)
    for block, share in ((7, 0.75), (1 << 20, 0.0), (1 << 20, 1.0)):
        monkeypatch.setattr(ray_iou, "_CPU_BLOCK", block)
        monkeypatch.setattr(ray_iou, "_COMPACT_BELOW", share)
        got = cast(semantics, rays, SMALL)
        assert torch.equal(got.labels, want.labels)
        assert torch.equal(got.distances, want.distances)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_walks_the_same():
    semantics = frames(6)[0, 0]
    want = cast(semantics, rays_from(ORIGINS, ray_directions(12), SMALL), SMALL)
    got = cast(semantics, rays_from(ORIGINS, ray_directions(12), SMALL, "cuda"), SMALL)
    assert torch.equal(got.labels.cpu(), want.labels)
    torch.testing.assert_close(got.distances.cpu(), want.distances, atol=1e-6, rtol=0)


def poses(count: int = 2, **changes: float) -> np.ndarray:
    out = np.tile(np.eye(4), (count, 1, 1))
    out[0, 0, 3] = changes.get("x", 0.0)
    return out


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("origins", lambda: rays_from(np.array([[np.nan, 0, 0]]), ray_directions(1))),
        ("origins", lambda: rays_from(np.zeros(3), ray_directions(1))),
        ("directions", lambda: rays_from(ORIGINS, np.zeros((4, 2), np.float32))),
        ("directions", lambda: rays_from(ORIGINS, np.zeros((4, 3), np.float32))),
        ("azimuths", lambda: ray_directions(0)),
        ("semantics", lambda: meter_of([(small(), small()[1:])])),
        ("semantics", lambda: meter_of([(small(), small() + np.uint8(1))])),
        ("pred", lambda: meter_of([(small()[1:], small())])),
        ("pred", lambda: meter_of([(small() + np.uint8(1), small())])),
        ("reference", lambda: lidar_origins(poses(), poses(), 2)),
        ("ego2global", lambda: lidar_origins(poses(x=np.nan), poses(), 0)),
        ("lidar2ego", lambda: lidar_origins(poses(), poses(1), 0)),
    ],
)
def test_refused(field, call):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.field == field
