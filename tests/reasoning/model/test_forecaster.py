"""The forecast is the present scene until it has learned better, and moves as it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.types import HORIZONS, WAYPOINT_TIMES, EgoState, SceneQueries
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.model.ego_motion import constant_velocity
from sparseoccvla_ros.reasoning.model.forecaster import Forecast, Forecaster, apply_forecast, continued, forecast_voxels

CONFIG = ReasoningConfig()


def arrays(seed, count=20, points=4):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-40, 40, (count, 3)).astype(np.float32)
    return (
        (centres[:, None] + rng.normal(size=(count, points, 3))).astype(np.float32),
        centres,
        rng.integers(0, 17, (count, points)).astype(np.uint8),
        rng.uniform(0, 1, (count, points)).astype(np.float32),
    )


def still(count=20):
    return np.zeros((count, 3), np.float32), np.zeros(count, np.float32), np.zeros((count, 17), np.float32)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_untrained_equals_copy_forward_bit_for_bit(seed):
    torch.manual_seed(seed)
    points, centres, labels, scores = arrays(seed)
    with torch.inference_mode():
        out = Forecaster(CONFIG)(torch.randn(1, 20, 128), torch.from_numpy(centres)[None], torch.randn(1, 6, 2))
    for h in range(len(HORIZONS)):
        parts = (x[0, h].numpy() for x in (out.shift, out.turn, out.class_change))
        got = apply_forecast(points, centres, labels, scores, *parts)
        for a, b in zip(got, (points, labels, scores), strict=True):
            np.testing.assert_array_equal(a, b)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), angle=st.floats(-1.5, 1.5))
def test_shift_and_turn_are_a_rigid_motion_about_the_centre(seed, angle):
    points, centres, labels, scores = arrays(seed)
    shift, turn, change = still()
    shift[:] = (1.0, -2.0, 0.5)
    turn[:] = angle
    moved, _, _ = apply_forecast(points, centres, labels, scores, shift, turn, change)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    want = (points - centres[:, None]) @ rotation.T + centres[:, None] + shift[:, None]
    np.testing.assert_allclose(moved, want, atol=2e-5)


def test_class_change_moves_log_odds_and_relabels_past_the_margin():
    points, centres, labels, scores = arrays(0)
    shift, turn, change = still()
    labels[:], scores[:] = 4, 0.5
    change[:, 4] = -np.log(3)
    _, same, lower = apply_forecast(points, centres, labels, scores, shift, turn, change)
    assert (same == 4).all()
    np.testing.assert_allclose(lower, 0.25, atol=1e-6)
    change[:, 4], change[:, 7] = -1.0, 4.0 + np.log(3)
    _, other, higher = apply_forecast(points, centres, labels, scores, shift, turn, change)
    assert (other == 7).all()
    np.testing.assert_allclose(higher, 0.75, atol=1e-6)


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_scores_stay_probabilities(size):
    points, centres, labels, scores = arrays(1)
    scores[0] = (0, 1, 0.5, 1e-7)
    shift, turn, change = still()
    change[:] = size
    _, _, out = apply_forecast(points, centres, labels, scores, shift, turn, change)
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_motion_is_bounded_by_horizon_and_speed():
    torch.manual_seed(0)
    forecaster = Forecaster(CONFIG)
    torch.nn.init.normal_(forecaster.out.weight, std=100)
    out = forecaster(torch.randn(2, 20, 128), torch.randn(2, 20, 3) * 20, torch.randn(2, 6, 2))
    assert out.shift.shape == (2, 3, 20, 3)
    assert out.class_change.shape == (2, 3, 20, 17)
    for h, seconds in enumerate(HORIZONS):
        assert out.shift[:, h].abs().max() <= CONFIG.max_object_speed * seconds + 1e-3
    assert out.shift[:, 2].abs().max() > CONFIG.max_object_speed


def test_learns_a_constant_velocity_scene():
    """Overfits movers that drive 4 m/s on: proof that one network serves all three horizons."""
    torch.manual_seed(0)
    forecaster = Forecaster(ReasoningConfig(forecaster_dims=32, forecaster_layers=1))
    features, centres, motion = torch.randn(4, 12, 128), torch.randn(4, 12, 3) * 10, torch.randn(4, 6, 2)
    velocity = torch.where(features[..., :1] > 0, torch.tensor([4.0, 0, 0]), torch.zeros(3))
    want = velocity[:, None] * torch.tensor(HORIZONS)[None, :, None, None]
    optimiser = torch.optim.Adam(forecaster.parameters(), 3e-3)
    for _ in range(150):
        loss = (forecaster(features, centres, motion).shift - want).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.15 * want.abs().mean().item()


@settings(max_examples=50)
@given(vx=st.floats(-20, 20), vy=st.floats(-2, 2), rate=st.one_of(st.just(0.0), st.floats(-1, 1)))
def test_constant_velocity_equals_small_steps(vx, vy, rate):
    times = np.linspace(0, 3, 30001)
    mid = (times[1:] + times[:-1]) / 2 * rate
    step = times[1]
    x = np.r_[0, np.cumsum(vx * np.cos(mid) - vy * np.sin(mid)) * step]
    y = np.r_[0, np.cumsum(vx * np.sin(mid) + vy * np.cos(mid)) * step]
    at = np.searchsorted(times, WAYPOINT_TIMES - 1e-9)
    got = constant_velocity(np.array([vx, vy, 0, 0, 0, rate]))
    assert got.dtype == np.float32
    assert got.shape == (6, 2)
    np.testing.assert_allclose(got, np.stack([x[at], y[at]], -1), atol=1e-3)


# --- frames


TOY_SCENES = 4
SLACK = 0.12
"""m; how far the overfitted toy may still move a point."""


def toy(make_scene, seed):
    """A scene whose points lie in the middle of voxels."""
    queries = make_scene(seed, count=20)
    index, _ = OCC3D_GRID.index_of(queries.points.reshape(-1, 3))
    points = (index + 0.5) * OCC3D_GRID.size + np.array(OCC3D_GRID.lower)
    return replace(queries, points=points.reshape(queries.points.shape).astype(np.float32))


def drive(speed, rate):
    return constant_velocity(np.array([speed, 0, 0, 0, 0, rate]))


@pytest.fixture(scope="module")
def still_world(make_scene):
    """A forecaster that had to learn that the world stands still, however the ego moves: it starts anything but so."""
    torch.manual_seed(0)
    forecaster = Forecaster(ReasoningConfig(forecaster_dims=32, forecaster_layers=1))
    torch.nn.init.normal_(forecaster.out.weight, std=0.05)
    scenes, rng = [toy(make_scene, seed) for seed in range(TOY_SCENES)], np.random.default_rng(0)
    features, centres = (torch.from_numpy(np.stack([getattr(q, n) for q in scenes])) for n in ("features", "centres"))
    optimiser = torch.optim.Adam(forecaster.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
    first = None
    for _ in range(300):
        motion = np.stack([drive(12 * rng.beta(0.5, 0.5), 0.6 * rng.beta(0.5, 0.5) - 0.3) for _ in scenes])
        out = forecaster(features, centres, torch.from_numpy(motion))
        loss = out.shift.abs().mean() + out.turn.abs().mean() + out.class_change.abs().mean()
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    assert loss.item() < 0.02 * first
    return forecaster.eval()


@settings(max_examples=15)
@given(seed=st.integers(0, TOY_SCENES - 1), speed=st.floats(0, 12), rate=st.floats(-0.3, 0.3))
def test_static_world_and_known_motion_give_the_moved_present(still_world, make_scene, seed, speed, rate):
    """In the current ego frame the forecast is the present; in the future frames it is the present, moved."""
    queries, motion = toy(make_scene, seed), drive(speed, rate)
    with torch.inference_mode():
        out = still_world(*(torch.from_numpy(x)[None] for x in (queries.features, queries.centres, motion)))
    reach = np.linalg.norm(queries.points - queries.centres[:, None], axis=-1).max()
    assert out.shift.abs().max() + out.turn.abs().max() * reach < SLACK
    config = ReasoningConfig(score_threshold=0.0, max_point_distance=1000.0, padding=False)
    points = np.concatenate([np.zeros((1, 2)), motion])
    future2now = np.stack(
        [geometry.planar(*points[k], np.arctan2(*(points[k] - points[k - 1])[::-1])) for k in (2, 4, 6)]
    )
    corners = np.stack(np.meshgrid(*[(-SLACK, 0.0, SLACK)] * 3), -1).reshape(-1, 1, 3)

    def cells(points):
        index, inside = OCC3D_GRID.index_of(points.reshape(-1, 3))
        return index.reshape(points.shape), inside.reshape(points.shape[:-1])

    for poses in (np.stack([np.eye(4)] * 3), future2now):
        given = None if poses is not future2now else poses
        for forecast, pose in zip(forecast_voxels(queries, out, config, OCC3D_GRID, given), poses, strict=True):
            moved = geometry.apply(geometry.inverse(pose), queries.points.reshape(-1, 3).astype(np.float64))
            index, inside = cells(moved + corners)
            possible = set(map(tuple, index[inside].tolist()))
            got = set(map(tuple, forecast.indices.tolist()))
            assert got <= possible
            for point in np.flatnonzero(inside.all(0)):
                assert {tuple(cell) for cell in index[:, point].tolist()} & got


def test_ground_that_is_left_behind_continues_ahead():
    """Ten metres on, the last ten metres of road lie before the car; the truck that stood on them does not."""
    road, truck = LABEL["driveable_surface"], LABEL["truck"]
    centres = np.array([[-45.0, 2, 0], [-39, 2, 0], [12, 0, 0]], np.float32)
    points = np.repeat(centres[:, None], 2, 1)
    labels = np.array([[road, truck]] * 3, np.uint8)
    ahead, counts = continued(points, centres, labels, OCC3D_GRID)
    np.testing.assert_array_equal(ahead[0, 0], [35, 2, 0])
    np.testing.assert_array_equal(ahead[1:], points[1:])
    assert counts.tolist() == [[True, False], [True, True], [True, True]]
    assert not np.shares_memory(ahead, points)


def test_ground_continues_in_future_frames_only(reasoner, make_scene):
    queries = make_scene(0)
    queries = replace(queries, labels=np.full_like(queries.labels, LABEL["driveable_surface"]))
    still = reasoner.reason(queries)
    inputs = [torch.from_numpy(getattr(queries, n))[None] for n in ("features", "centres", "scores", "view_features")]
    with torch.inference_mode():
        out = reasoner(*inputs, torch.zeros(1, 6, 2)).forecast
    longer = replace(reasoner.config, continue_ground=True)
    for a, b in zip(still.forecasts, forecast_voxels(queries, out, longer, OCC3D_GRID), strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
    poses = np.stack([geometry.planar(10.0 * (n + 1), 0, 0) for n in range(3)])
    rule, alone = (forecast_voxels(queries, out, c, OCC3D_GRID, poses) for c in (longer, reasoner.config))
    for n, (a, b) in enumerate(zip(rule, alone, strict=True)):
        assert len(a) > len(b)
        more = set(map(tuple, a.indices.tolist())) - set(map(tuple, b.indices.tolist()))
        # A query reaches a few metres about its centre.
        assert min(x for x, _, _ in more) >= 200 - 25 * (n + 1) - 10


def test_frames_differ_by_the_pose_and_nothing_else(reasoner, make_scene):
    queries = make_scene(0)
    shifted = np.stack([geometry.planar(0.4 * n, -0.8 * n, 0) for n in (5, 10, 15)])
    now = reasoner.reason(queries).forecasts
    *tensors, path, _ = reasoner._inputs(queries, None, "planned")
    with torch.inference_mode():
        out = reasoner(*tensors, path).forecast
    still, ahead = (
        forecast_voxels(queries, out, reasoner.config, OCC3D_GRID, poses)
        for poses in (np.stack([np.eye(4)] * 3), shifted)
    )
    for n, a, b, c in zip((5, 10, 15), now, still, ahead, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        want = {(x - n, y + 2 * n, z) for x, y, z in a.indices.tolist() if x - n >= 0 and y + 2 * n < 200}
        got = set(map(tuple, c.indices.tolist()))
        # Rounding may move a point that lies on a wall.
        assert len(got & want) > 0.97 * len(want)


def scene_with_voxels():
    """A car of three voxels on a road, and a query on each."""
    index = np.array([[110, 100, 3], [111, 100, 3], [112, 100, 3], *[[x, 90, 2] for x in range(100, 130)]], np.int16)
    labels = np.array([LABEL["car"]] * 3 + [LABEL["driveable_surface"]] * 30, np.uint8)
    voxels = SparseVoxels(index, labels, np.full(len(index), 0.9, np.float32))
    centres = voxels.centres()[[1, 15]]
    ego = EgoState(np.eye(4), np.zeros(6), "map")
    empty = np.zeros((2, 1), np.float32)
    return SceneQueries(
        0, 0, ego, empty, centres, centres[:, None], np.zeros((2, 1), np.uint8), empty, empty, voxels=voxels
    )


def test_voxels_of_things_move_with_their_query_and_ground_stays():
    queries = scene_with_voxels()
    shift = torch.zeros(1, len(HORIZONS), 2, 3)
    shift[..., 0] = torch.tensor([2.0, 4.0, 6.0])[:, None]
    forecast = Forecast(shift, torch.zeros(1, len(HORIZONS), 2), torch.zeros(1, len(HORIZONS), 2, 17))
    out = forecast_voxels(queries, forecast, CONFIG, OCC3D_GRID)
    for metres, voxels in zip((2.0, 4.0, 6.0), out, strict=True):
        car = voxels.indices[voxels.labels == LABEL["car"]]
        assert sorted(car[:, 0]) == [110 + round(metres / 0.4) + k for k in range(3)]
        assert (voxels.labels == LABEL["driveable_surface"]).sum() == 30
    still = forecast_voxels(queries, replace(forecast, shift=torch.zeros_like(shift)), CONFIG, OCC3D_GRID)
    for voxels in still:
        np.testing.assert_array_equal(voxels.dense(), queries.voxels.dense())
    future = np.tile(geometry.planar(4.0, 0.0, 0.0), (len(HORIZONS), 1, 1))
    ahead = forecast_voxels(queries, replace(forecast, shift=torch.zeros_like(shift)), CONFIG, OCC3D_GRID, future)
    assert sorted(ahead[0].indices[ahead[0].labels == LABEL["car"]][:, 0]) == [100, 101, 102]
