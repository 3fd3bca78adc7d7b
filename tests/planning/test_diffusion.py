"""The scheduler's golden numbers and the properties of the denoising loop (diffusers' DDIMScheduler)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.planning.losses import nearest_anchor, score_loss, trajectory_loss
from sparseoccvla_ros.planning.model.diffusion import (
    DeltaNormaliser,
    DiffusionSchedule,
    deltas_of,
    denoise,
    start_noise,
)
from tests.tolerance import rounding

pytestmark = pytest.mark.numeric

GOLDEN_ALPHA_BAR = {
    0: 0.9999,
    8: 0.99900219,
    10: 0.99874934,
    19: 0.99746042,
    20: 0.99730128,
    39: 0.99361225,
    49: 0.99111619,
    999: 0.00073341,
}
GOLDEN_ROOTS = {0: (0.99995, 0.01), 8: (0.99950, 0.03159), 10: (0.99937, 0.03536), 20: (0.99865, 0.05195)}


@pytest.mark.parametrize(("time", "value"), GOLDEN_ALPHA_BAR.items())
def test_alpha_bar(time: int, value: float):
    assert float(DiffusionSchedule().alphas_cumprod[time]) == pytest.approx(
        value,
        abs=rounding(value, terms=time + 1) + 5e-9,  # the value is written to eight digits
    )


@pytest.mark.parametrize(("time", "roots"), GOLDEN_ROOTS.items())
def test_signal_and_noise_shares(time: int, roots: tuple[float, float]):
    schedule = DiffusionSchedule()
    one, zero = torch.ones(1), torch.zeros(1)
    assert float(schedule.add_noise(one, zero, time)) == pytest.approx(roots[0], abs=1e-5)
    assert float(schedule.add_noise(zero, one, time)) == pytest.approx(roots[1], abs=1e-5)


@pytest.mark.parametrize(("time", "expected"), [(10, 0.29738225), (20, 0.29851321), (0, 0.25)])
def test_single_step(time: int, expected: float):
    stepped = DiffusionSchedule().step(torch.tensor(0.25), time, torch.tensor(0.30), time - 1)
    assert float(stepped) == pytest.approx(expected, abs=rounding(1.0, terms=16))


def test_schedules_step_where_they_say():
    legacy, spaced = DiffusionSchedule((20, 0)), DiffusionSchedule((20, 0), spaced=True)
    assert [legacy.previous(i) for i in (0, 1)] == [19, -1]
    assert [spaced.previous(i) for i in (0, 1)] == [0, -1]
    x, x0 = torch.tensor(0.3), torch.tensor(0.25)
    assert float(spaced.step(x0, 20, x, 0)) != pytest.approx(float(legacy.step(x0, 20, x, 19)), abs=1e-3)


def test_x0_is_clipped_but_its_noise_is_not():
    schedule = DiffusionSchedule()
    x, x0 = torch.tensor(1.1), torch.tensor(1.2)
    alpha, before = schedule.alphas_cumprod[20], schedule.alphas_cumprod[19]
    noise = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
    assert float(schedule.step(x0, 20, x, 19)) == pytest.approx(
        float(before.sqrt() + (1 - before).sqrt() * noise), abs=1e-6
    )


@pytest.mark.parametrize("times", [(), (1000,), (5, -1)])
def test_bad_times_are_refused(times: tuple[int, ...]):
    with pytest.raises(InvalidInput, match="timesteps"):
        DiffusionSchedule(times)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), spaced=st.booleans(), times=st.sampled_from([(10, 0), (20, 0), (40, 20, 0), (0,)]))
def test_oracle_network_returns_the_truth_for_any_noise(seed: int, spaced: bool, times: tuple[int, ...]):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand((2, 6, 6, 2), generator=generator) * 2 - 1
    clean = torch.rand((2, 6, 6, 2), generator=generator) * 2 - 1
    result = denoise(
        DiffusionSchedule(times, spaced), clean, start_noise(clean.shape, seed), 8, lambda sample, time: truth
    )
    assert torch.equal(result, truth)


@pytest.mark.parametrize("spaced", [False, True])
def test_network_is_asked_at_each_time_with_a_clamped_sample(spaced: bool):
    seen = []

    def network(sample: torch.Tensor, time: int) -> torch.Tensor:
        seen.append((time, float(sample.abs().max())))
        return sample

    denoise(DiffusionSchedule((20, 0), spaced), torch.full((1, 6, 6, 2), 0.999), 5 * torch.ones(1, 6, 6, 2), 8, network)
    assert seen == [(20, 1.0), (0, 1.0)]


def test_start_noise_depends_on_the_seed_only():
    torch.manual_seed(1)
    first = start_noise((6, 2), 4)
    torch.manual_seed(2)
    assert torch.equal(first, start_noise((6, 2), 4))
    assert not torch.equal(first, start_noise((6, 2), 5))


@settings(max_examples=50)
@given(
    forward=st.floats(-0.5, 10.5, width=32),
    lateral=st.floats(-5.0, 5.0, width=32),
)
def test_normaliser_round_trip_and_mirror(forward: float, lateral: float):
    normaliser = DeltaNormaliser()
    deltas = torch.tensor([forward, lateral])
    u = normaliser.normalise(deltas)
    assert u.abs().max() <= 1.0
    torch.testing.assert_close(normaliser.metres(u), deltas, atol=rounding(deltas, 1.0, terms=4), rtol=0)
    mirrored = normaliser.normalise(deltas * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(mirrored, u * torch.tensor([1.0, -1.0]), atol=rounding(1.0, terms=4), rtol=0)
    assert not bool(normaliser.clipped(deltas))


def test_normaliser_reports_what_it_clips():
    normaliser = DeltaNormaliser()
    outside = torch.tensor([[11.0, 0.0], [-0.6, 0.0], [1.0, 5.1], [1.0, -5.1], [1.0, 1.0]])
    assert normaliser.clipped(outside).tolist() == [True, True, True, True, False]
    assert normaliser.normalise(outside).abs().max() == 1.0


def test_deltas_invert_cumulation():
    points = torch.randn(3, 6, 2).cumsum(1)
    torch.testing.assert_close(deltas_of(points).cumsum(1), points)
    assert torch.equal(deltas_of(points)[:, 0], points[:, 0])


def test_anchor_equal_to_the_truth_is_positive_with_zero_loss(anchors):
    flat = torch.from_numpy(anchors.flat.copy())
    valid = torch.ones(len(flat), 6, dtype=torch.bool)
    positive = nearest_anchor(flat, flat, valid)
    assert positive.tolist() == list(range(18))
    same = flat.expand(18, -1, -1, -1)
    assert float(trajectory_loss(same, flat, positive, valid)) == 0.0
    shifted = same + torch.tensor([0.5, 0.0])
    # only the first delta differs: a constant offset is one step off
    assert float(trajectory_loss(shifted, flat, positive, valid)) == pytest.approx(0.5 / 6, abs=1e-6)


def test_invalid_steps_neither_assign_nor_cost(anchors):
    flat = torch.from_numpy(anchors.flat.copy())
    truth = flat[[9]].clone()
    truth[:, 3:] = torch.nan
    valid = torch.tensor([[True] * 3 + [False] * 3])
    truth = torch.where(valid[..., None], truth, torch.full_like(truth, 99.0))
    positive = nearest_anchor(flat, truth, valid)
    assert positive.item() == 9
    assert float(trajectory_loss(flat[None], truth, positive, valid)) == 0.0


def test_score_loss_prefers_the_positive_and_skips_empty_rows():
    positive = torch.tensor([2, 5])
    good = torch.full((2, 18), -4.0)
    good[[0, 1], positive] = 4.0
    every = torch.ones(2, 6, dtype=torch.bool)
    assert float(score_loss(good, positive, every)) < 0.1 < float(score_loss(-good, positive, every))
    half = torch.stack([torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)])
    assert float(score_loss(good, positive, half)) == pytest.approx(
        float(score_loss(good[:1], positive[:1], every[:1]))
    )


def test_schedule_is_float32_like_the_reference():
    assert DiffusionSchedule().alphas_cumprod.dtype == torch.float32
    assert np.isclose(float(DiffusionSchedule().alphas_cumprod[39]) ** 0.5, 0.99680, atol=1e-5)
