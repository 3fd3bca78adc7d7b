"""The forecast is the present scene until it has learned better, and moves as it says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.types import HORIZONS, WAYPOINT_TIMES
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.forecaster import Forecaster, apply_forecast
from sparseoccvla_ros.reasoning.motion import constant_velocity

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


@settings(max_examples=30, deadline=None)
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


@settings(max_examples=30, deadline=None)
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


@settings(max_examples=50, deadline=None)
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
