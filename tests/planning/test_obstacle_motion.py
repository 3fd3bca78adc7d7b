"""Tracked obstacles: velocities, identity over frame sets, and where they will be."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.planning.obstacles.collision import ForecastLayer
from sparseoccvla_ros.planning.obstacles.motion import ObstacleTracker

STAMP, HALF = 1_700_000_000_000_000_000, 500_000_000


def box(x: float, y: float, name: str = "car", length: float = 4.0, width: float = 1.8) -> SparseVoxels:
    along = np.arange(-length / 2, length / 2, 0.4) + 0.2
    across = np.arange(-width / 2, width / 2, 0.4) + 0.2
    points = np.stack(np.meshgrid(x + along, y + across, [0.6, 1.0]), -1).reshape(-1, 3)
    indices, inside = OCC3D_GRID.index_of(points)
    indices = np.unique(indices[inside], axis=0).astype(np.int16)
    return SparseVoxels(indices, np.full(len(indices), LABEL[name], np.uint8), np.ones(len(indices), np.float32))


def both(*seen: SparseVoxels) -> SparseVoxels:
    return SparseVoxels(
        np.concatenate([v.indices for v in seen]),
        np.concatenate([v.labels for v in seen]),
        np.concatenate([v.scores for v in seen]),
    )


def place(layer: ForecastLayer) -> np.ndarray:
    return layer.voxels.centres()[:, :2].mean(0)


def test_a_car_is_moved_on_at_its_speed_whatever_the_vehicle_does() -> None:
    tracker, speed = ObstacleTracker(), np.array([6.0, 0.0])
    for step in range(6):
        time = 0.5 * step
        ego = planar(4.0 * time, 0.0, 0.1 * time)
        here = np.linalg.inv(ego) @ np.array([15.0 + speed[0] * time, 3.0, 0.0, 1.0])
        layers = tracker.layers(STAMP + step * HALF, 0, ego, box(here[0], here[1]))
    assert [layer.seconds for layer in layers] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    for layer in layers:
        later = np.linalg.inv(ego) @ np.array([15.0 + speed[0] * (time + layer.seconds), 3.0, 0.0, 1.0])
        assert np.hypot(*(place(layer) - later[:2])) < 0.6 + 0.4 * layer.seconds
    again = tracker.layers(STAMP + step * HALF, 0, ego, box(here[0], here[1]))
    for one, other in zip(layers, again, strict=True):
        np.testing.assert_array_equal(one.voxels.indices, other.voxels.indices)


@pytest.mark.parametrize("rate", [2, 4, 10])
@pytest.mark.parametrize("start", [18.0, -18.0])
def test_a_car_ahead_that_brakes_is_believed_at_once(rate: int, start: float) -> None:
    """Averaged over 0.8 s, its speed would fall a second late. Who goes on, or is behind, is not slower for that."""
    tracker, speed = ObstacleTracker(), 8.0
    steady = start + speed * np.arange(3 * rate) / rate
    braking = steady[-1] + 2.0 * np.arange(1, rate // 2 + 1) / rate  # 2 m/s for half a second
    driven = []
    for step, at in enumerate((*steady, *braking)):
        ego = planar(speed * step / rate, 0.0, 0.0)
        layers = tracker.layers(STAMP + step * 2 * HALF // rate, 0, ego, box(at - ego[0, 3], 0.0))
        driven.append(place(layers[1])[0] - (at - ego[0, 3]))  # m in the next second
    assert 7.0 < driven[3 * rate - 1] < 9.0
    assert 1.0 < driven[-1] < 4.0 if start > 0 else driven[-1] > 4.5


def test_what_stands_stays_and_what_is_new_is_not_extrapolated() -> None:
    tracker = ObstacleTracker()
    assert tracker.layers(STAMP, 0, np.eye(4), SparseVoxels.empty()) == ()
    first = tracker.layers(STAMP + HALF, 0, np.eye(4), box(20.0, 0.0))
    assert [len(layer.voxels) > 0 for layer in first] == [True, True, False, False, False, False]
    rng = np.random.default_rng(0)
    for step in range(2, 8):  # its edges flicker
        jitter = rng.uniform(-0.3, 0.3, 2)
        layers = tracker.layers(STAMP + step * HALF, 0, np.eye(4), box(20.0 + jitter[0], jitter[1]))
    assert np.hypot(*(place(layers[-1]) - (20.0, 0.0))) < 0.7


def test_a_person_beside_a_car_is_another_thing_and_tracks_do_not_swap() -> None:
    tracker = ObstacleTracker()
    for step in range(5):
        car, person = box(30.0 - 2.5 * step, 3.5), box(12.0, -4.0 + 0.7 * step, "pedestrian", 0.8, 0.8)
        layers = tracker.layers(STAMP + step * HALF, 0, np.eye(4), both(car, person))
    voxels = layers[1].voxels  # in a second
    centres, people = voxels.centres()[:, :2], voxels.labels == LABEL["pedestrian"]
    np.testing.assert_allclose(centres[people].mean(0), (12.0, -4.0 + 0.7 * 4 + 1.4), atol=0.5)
    np.testing.assert_allclose(centres[~people].mean(0), (30.0 - 2.5 * 4 - 5.0, 3.5), atol=0.8)


@pytest.mark.parametrize(("gap", "epoch"), [(2.0, 0), (0.5, 1), (-0.5, 0)])
def test_after_a_gap_or_in_another_drive_tracks_begin_anew(gap: float, epoch: int) -> None:
    tracker = ObstacleTracker()
    for step in range(3):
        tracker.layers(STAMP + step * HALF, 0, np.eye(4), box(10.0 + 3 * step, 0.0))
    layers = tracker.layers(STAMP + 2 * HALF + round(gap * 1e9), epoch, np.eye(4), box(19.0, 0.0))
    assert [len(layer.voxels) > 0 for layer in layers] == [True, True, False, False, False, False]
