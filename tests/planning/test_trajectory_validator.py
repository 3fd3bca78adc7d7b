"""The gate, one test or more per reason, and collision against brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.planning.config import ValidatorConfig
from sparseoccvla_ros.planning.obstacles.collision import ForecastLayer, ObstacleMap
from sparseoccvla_ros.planning.plan_reasons import RejectReason as R
from sparseoccvla_ros.planning.trajectory import SWEEP_TIMES, sweep
from sparseoccvla_ros.planning.trajectory_validator import choose, continuity_failures, kinematic_failures

CONFIG = ValidatorConfig()
T = WAYPOINT_TIMES


def straight(speed: float, acceleration: float = 0.0) -> np.ndarray:
    return np.column_stack([speed * T + 0.5 * acceleration * T**2, 0 * T]).astype(np.float32)


def arc(speed: float, curvature: float) -> np.ndarray:
    s = speed * T
    return np.column_stack([np.sin(curvature * s), 1 - np.cos(curvature * s)]).astype(np.float32) / np.float32(
        curvature
    )


def failed(candidate: np.ndarray, speed: float) -> set[R]:
    return {reason for reason, bad in kinematic_failures(CONFIG, candidate[None], speed).items() if bad[0]}


@pytest.mark.parametrize(
    ("candidate", "speed"),
    [
        (straight(0.0), 0.0),
        (straight(8.0), 8.0),
        (straight(8.0, 2.0), 8.0),
        (straight(12.0, -4.0), 12.0),
        (arc(6.0, 0.1), 6.0),
        (arc(6.0, -0.1), 6.0),
        (arc(3.0, 0.2), 3.0),
        (straight(0.0, 1.5), 0.0),
    ],
)
def test_ordinary_driving_passes(candidate: np.ndarray, speed: float):
    assert failed(candidate, speed) == set()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float):
    candidate = straight(5.0)
    candidate[3, 1] = value
    assert failed(candidate, 5.0) == {R.NOT_FINITE}


def test_speed():
    assert R.SPEED in failed(straight(20.5), 20.5)
    assert R.SPEED not in failed(straight(19.5), 19.5)


def test_acceleration_later_and_at_the_start():
    assert failed(straight(2.0, 4.5), 2.0) == {R.ACCELERATION}
    assert failed(straight(2.0, 3.5), 2.0) == set()
    assert R.ACCELERATION in failed(straight(5.0), 3.0)


def test_deceleration_later_and_at_the_start():
    assert failed(straight(19.0, -6.0), 19.0) == set()
    hard = np.column_stack([np.cumsum([9.0, 6.5, 2.2, 0.3, 0, 0]), np.zeros(6)]).astype(np.float32)
    assert R.DECELERATION in failed(hard, 19.0)
    assert R.DECELERATION in failed(straight(5.0), 8.0)


def test_lateral_acceleration():
    assert failed(arc(10.0, 0.06), 10.0) == {R.LATERAL_ACCELERATION}
    assert failed(arc(10.0, 0.045), 10.0) == set()


def test_jerk():
    stop_and_go = np.cumsum([4.0, 5.0, 4.0, 5.0, 4.0, 5.0])
    limits = ValidatorConfig(max_jerk_mps3=7.0)
    found = kinematic_failures(limits, np.column_stack([stop_and_go, np.zeros(6)])[None], 8.0)
    assert found[R.JERK][0]
    assert not kinematic_failures(limits, straight(8.0, 1.0)[None], 8.0)[R.JERK][0]


def test_curvature():
    assert failed(arc(3.0, 0.4), 3.0) == {R.CURVATURE}
    assert failed(arc(3.0, 0.24), 3.0) == set()


def test_curvature_forgives_waypoint_noise_when_creeping():
    rng = np.random.default_rng(0)
    creep = straight(0.5)[None] + rng.uniform(-0.02, 0.02, (200, 6, 2)).astype(np.float32)
    assert not kinematic_failures(CONFIG, creep, 0.5)[R.CURVATURE].any()


def test_reverse():
    assert R.REVERSE in failed(straight(-1.0), 0.0)
    assert R.REVERSE not in failed(straight(-0.1), 0.0)
    there_and_back = np.column_stack([[1, 2, 2.5, 2.0, 1.0, 0.0], np.zeros(6)]).astype(np.float32)
    assert R.REVERSE in failed(there_and_back, 2.0)


def test_start():
    sideways = straight(6.0) + np.float32([0, 2.5])
    assert R.START in failed(sideways, 6.0)
    assert R.START in failed(straight(12.0), 6.0)
    assert R.START not in failed(straight(6.5), 6.0)


def test_continuity_binds_sideways_and_ahead_but_not_behind():
    expected = np.array([(4.0, 0.0), (8.0, 0.0)])
    same, left, ahead, behind = (
        straight(8.0),
        straight(8.0) + np.float32([0, 1.2]),
        straight(12.0),
        straight(8.0, -7.0),
    )
    jumps = continuity_failures(np.stack([same, left, left * (1, -1), ahead, behind]), expected)
    assert jumps.tolist() == [False, True, True, True, False]
    unknown = np.array([(np.nan, np.nan)] * 2)
    assert not continuity_failures(np.stack([same, left]), unknown).any()


def test_candidates_are_tried_in_score_order_with_reasons():
    candidates = np.stack([straight(8.0), straight(12.0), arc(8.0, 0.01), straight(8.0) * np.float32(np.nan)])
    report = choose(CONFIG, candidates, np.array([0.1, 3.0, 0.2, 9.0]), 8.0, None, None)
    assert report.order.tolist() == [3, 1, 2, 0]
    assert report.chosen == 2
    assert report.reasons[3] == (R.NOT_FINITE,)
    assert R.ACCELERATION in report.reasons[1]
    assert report.reasons[2] == report.reasons[0] == ()
    assert report.passed_over[0] is R.NOT_FINITE


def test_masked_and_nan_scores_are_never_chosen():
    candidates = np.stack([straight(8.0)] * 3)
    report = choose(CONFIG, candidates, np.array([-np.inf, np.nan, -50.0]), 8.0, None, None)
    assert (report.chosen, report.order.tolist()) == (2, [2])
    report = choose(CONFIG, candidates, np.array([-np.inf, np.nan, np.nan]), 8.0, None, None)
    assert report.chosen == -1


def test_equal_scores_keep_their_order():
    assert choose(CONFIG, np.stack([straight(8.0)] * 3), np.zeros(3), 8.0, None, None).chosen == 0


def test_collision_skips_to_the_next(make_voxels: Callable[..., SparseVoxels]):
    wall = make_voxels([(14, 0, 1.0)], LABEL["manmade"])
    candidates = np.stack([straight(7.0), straight(6.0, -2.0)])
    report = choose(CONFIG, candidates, np.array([1.0, 0.0]), 6.5, None, ObstacleMap(CONFIG, wall).touches)
    assert report.reasons[0] == (R.COLLISION,)
    assert report.chosen == 1


# --- collision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "z", "score", "hits"),
    [
        ("car", 1.0, 1.0, True),
        ("manmade", 1.0, 1.0, True),
        ("driveable_surface", 1.0, 1.0, False),
        ("sidewalk", 1.0, 1.0, False),
        ("car", 0.1, 1.0, False),
        ("manmade", 3.0, 1.0, False),
        ("car", 1.0, 0.1, False),
    ],
)
def test_what_counts_as_an_obstacle(make_voxels, label: str, z: float, score: float, hits: bool):
    voxels = make_voxels([(8.0, 0.0, z)], LABEL[label], score)
    # one second ahead at 6 m/s the front bumper is at 9.5 m
    assert ObstacleMap(CONFIG, voxels).touches(straight(6.0)[None])[0] == hits


def test_height_is_measured_from_the_local_ground():
    def scene(ground: float) -> SparseVoxels:
        """A hill whose surface at 10 m ahead lies `ground` above the vehicle's plane, with a kerb-high object on it."""
        points = np.array([(x, y, ground) for x in np.arange(8.2, 12, 0.4) for y in np.arange(-1.8, 2, 0.4)])
        index, _ = OCC3D_GRID.index_of(np.concatenate([points, [(10.2, 0.2, 1.05)]]))
        labels = np.concatenate([np.full(len(points), 11), [LABEL["manmade"]]]).astype(np.uint8)
        return SparseVoxels(index.astype(np.int16), labels, np.ones(len(index), np.float32))

    assert ObstacleMap(CONFIG, scene(0.1)).touches(straight(6.0)[None])[0]
    assert not ObstacleMap(CONFIG, scene(1.05)).touches(straight(6.0)[None])[0]


def test_footprint_reaches_in_front_and_beside(make_voxels):
    # bumper at 1.4858 + 2.042 = 3.53 m; flank at 0.925 m; margin 0.15 m
    def hit(x: float, y: float) -> bool:
        return bool(ObstacleMap(CONFIG, make_voxels([(x, y, 1.0)], LABEL["barrier"])).touches(straight(5.0)[None])[0])

    assert hit(15 + 3.3, 0.0)
    assert not hit(15 + 4.3, 0.0)
    assert hit(10.0, 0.9)
    assert not hit(10.0, 1.5)
    assert not hit(-3.0, 0.0)


def test_own_outline_is_no_obstacle(make_voxels):
    inside = make_voxels([(1.0, 0.0, 1.0), (0.0, 0.9, 1.0)], LABEL["others"])
    assert not ObstacleMap(CONFIG, inside).touches(straight(4.0)[None])[0]


def test_corner_swings_in_a_turn(make_voxels):
    # the outer front corner of a left turn of 6 m radius runs at about 7.7 m from the centre, (0, 6)
    pole = make_voxels([(5.2, 0.9, 1.0)], LABEL["manmade"])
    assert ObstacleMap(CONFIG, pole).touches(arc(3.0, 1 / 6)[None])[0]
    assert not ObstacleMap(CONFIG, make_voxels([(7.0, 0.2, 1.0)], LABEL["manmade"])).touches(arc(3.0, 1 / 6)[None])[0]


def test_movable_obstacles_hold_then_forecasts_take_over(make_voxels):
    lead = make_voxels([(20.0, 0.0, 1.0)], LABEL["car"])
    wall = make_voxels([(20.0, 0.0, 1.0)], LABEL["manmade"])
    drive = straight(7.0)[None]
    # reached after 2.4 s: a car may be gone by then, a wall not
    assert not ObstacleMap(CONFIG, lead).touches(drive)[0]
    assert ObstacleMap(CONFIG, wall).touches(drive)[0]
    near = make_voxels([(9.0, 0.0, 1.0)], LABEL["car"])
    assert ObstacleMap(CONFIG, near).touches(drive)[0]
    still = tuple(ForecastLayer(s, lead, np.eye(4)) for s in (1.0, 2.0, 3.0))
    assert ObstacleMap(CONFIG, lead, still).touches(drive)[0]
    moving = tuple(
        ForecastLayer(s, make_voxels([(20.0 + 8 * s, 0.0, 1.0)], LABEL["car"]), np.eye(4)) for s in (1.0, 2.0, 3.0)
    )
    assert not ObstacleMap(CONFIG, lead, moving).touches(drive)[0]


def test_crossing_obstacle_is_seen_only_in_the_forecast(make_voxels):
    empty = SparseVoxels.empty()
    crossing = make_voxels([(20.0, 0.0, 1.0)], LABEL["pedestrian"])
    forecasts = (
        ForecastLayer(1.0, empty, np.eye(4)),
        ForecastLayer(2.0, empty, np.eye(4)),
        ForecastLayer(3.0, crossing, np.eye(4)),
    )
    assert ObstacleMap(CONFIG, empty, forecasts).touches(straight(6.0)[None])[0]
    # a faster vehicle is past 20 m, tail included, before 2.5 s
    assert not ObstacleMap(CONFIG, empty, forecasts).touches(straight(10.0)[None])[0]


def test_forecast_is_moved_into_the_present_frame(make_voxels):
    older = np.eye(4)
    older[0, 3] = -5.0  # the frame of the forecast lies 5 m behind
    forecasts = (ForecastLayer(2.0, make_voxels([(25.0, 0.0, 1.0)], LABEL["car"]), older),)
    assert ObstacleMap(CONFIG, SparseVoxels.empty(), forecasts).touches(straight(7.0)[None])[0]
    assert not ObstacleMap(CONFIG, SparseVoxels.empty(), forecasts).touches(straight(5.0)[None])[0]


def brute_force(voxels: SparseVoxels, waypoints: np.ndarray) -> np.ndarray:
    """Per pose: smallest clearance in metres between the widened footprint and any voxel centre (negative inside)."""
    centres = voxels.centres()
    centres = centres[(centres[:, 2] > 0.2) & (centres[:, 2] < 2.2)]
    best = np.inf
    for x, y, yaw in sweep(waypoints[None])[0]:
        c, s = np.cos(yaw), np.sin(yaw)
        local = (centres[:, :2] - (x, y)) @ np.array([(c, -s), (s, c)])
        outside = np.abs(local - (CONFIG.vehicle.centre_m, 0)) - (
            CONFIG.vehicle.length_m / 2 + CONFIG.collision_margin_m,
            CONFIG.vehicle.width_m / 2 + CONFIG.collision_margin_m,
        )
        best = min(best, float(outside.max(1).min(initial=np.inf)))
    return best


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_collision_agrees_with_brute_force(seed: int):
    """A voxel whose centre is inside must hit; one farther away than its own half diagonal must not."""
    rng = np.random.default_rng(seed)
    ahead = np.column_stack([rng.uniform(6, 30, 4), rng.uniform(-6, 6, 4), rng.uniform(0.5, 2.0, 4)])
    index, _ = OCC3D_GRID.index_of(ahead)
    voxels = SparseVoxels(index.astype(np.int16), np.full(4, LABEL["manmade"], np.uint8), np.ones(4, np.float32))
    candidate = arc(rng.uniform(2, 9), rng.choice([-1, 1]) * rng.uniform(0.005, 0.12))
    clearance, hit = brute_force(voxels, candidate), ObstacleMap(CONFIG, voxels).touches(candidate[None])[0]
    if clearance < 0:
        assert hit
    elif clearance > 0.4 * np.sqrt(0.5):
        assert not hit


def test_many_voxels_cost_no_more_per_lookup_and_batches_agree(make_voxels):
    rng = np.random.default_rng(3)
    index = np.column_stack([rng.integers(0, 200, 4000), rng.integers(0, 200, 4000), rng.integers(3, 8, 4000)])
    voxels = SparseVoxels(index.astype(np.int16), np.full(4000, 15, np.uint8), np.ones(4000, np.float32))
    obstacles = ObstacleMap(ValidatorConfig(), voxels)
    batch = np.stack([arc(5.0, k) for k in (0.01, -0.02, 0.1, -0.15)])
    assert obstacles.touches(batch).tolist() == [bool(obstacles.touches(one[None])[0]) for one in batch]
    assert len(SWEEP_TIMES) == 30


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_left_and_right_are_judged_alike(seed: int):
    """Mirroring candidates and obstacles mirrors nothing in the verdict."""
    rng = np.random.default_rng(seed)
    speed = float(rng.uniform(0, 12))
    steps = np.column_stack([np.full(6, speed / 2) + rng.normal(0, 0.4, 6), rng.normal(0, 0.3, 6)])
    candidates = np.cumsum(np.stack([steps, steps * rng.uniform(0.5, 1.5)]), axis=1).astype(np.float32)
    mirrored = candidates * np.float32([1, -1])
    ours, theirs = (kinematic_failures(CONFIG, c, speed) for c in (candidates, mirrored))
    for reason in ours:
        assert ours[reason].tolist() == theirs[reason].tolist()
    index = np.column_stack([rng.integers(105, 160, 20), rng.integers(60, 140, 20), rng.integers(3, 7, 20)])
    flipped = index * (1, -1, 1) + (0, 199, 0)
    hits = []
    for cells, paths in ((index, candidates), (flipped, mirrored)):
        voxels = SparseVoxels(cells.astype(np.int16), np.full(20, LABEL["manmade"], np.uint8), np.ones(20, np.float32))
        hits.append(ObstacleMap(CONFIG, voxels).touches(paths).tolist())
    assert hits[0] == hits[1]
