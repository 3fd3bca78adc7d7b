"""Scheduler, normaliser and denoising loop against diffusers' DDIMScheduler and DiffusionDrive's normalisers.

Fixtures: SPARSEOCCVLA_FIXTURES (default ../shared/fixtures next to the repository). Their axes are x right, y forward;
ours forward, left. Both normalisers are symmetric in the lateral axis, so swapping the axes is all it takes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.planning.model.diffusion import DeltaNormaliser, DiffusionSchedule, denoise
from tests.tolerance import rounding

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("SPARSEOCCVLA_FIXTURES") or ROOT.parent / "shared" / "fixtures") / "diffusion"
pytestmark = [pytest.mark.numeric, pytest.mark.skipif(not FOLDER.is_dir(), reason="no diffusion fixtures")]

NUSCENES = DeltaNormaliser(forward_range=(-0.5, 7.6), lateral_range=(-3.0, 3.0))
NAVSIM = DeltaNormaliser(forward_range=(-1.2, 55.7), lateral_range=(-20.0, 26.0))
OPERATIONS = 16
"""Of one denoising step on one number: scaling, noise, clipping and back."""


@pytest.fixture(scope="module")
def stored():
    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return {name: read(name) for name in ("schedule", "anchors_noise", "inference", "navsim_variant")}


def swap(array: np.ndarray) -> torch.Tensor:
    """(right, forward) to (forward, lateral)."""
    return torch.from_numpy(np.ascontiguousarray(array[..., ::-1]))


def close(ours: torch.Tensor, reference: np.ndarray) -> None:
    """Both are float32. Where values cancel to little, the range of the normaliser (to 1) is what was computed with."""
    np.testing.assert_allclose(ours.numpy(), reference, rtol=0, atol=rounding(reference, 1.0, terms=OPERATIONS))


def test_schedule_table(stored):
    table = stored["schedule"]
    alphas = DiffusionSchedule().alphas_cumprod
    close(alphas, table["alphas_cumprod"])
    close(alphas.sqrt(), table["sqrt_alphas_cumprod"])
    close((1 - alphas).sqrt(), table["sqrt_one_minus_alphas_cumprod"])
    assert float(table["final_alpha_cumprod"]) == 1.0


def test_normaliser(stored):
    content = stored["anchors_noise"]
    for metres, normed, back in (("probe_in", "probe_norm", "probe_denorm"), ("delta", "norm_delta", "denorm_of_norm")):
        u = NUSCENES.normalise(swap(content[metres]))
        close(u, swap(content[normed]).numpy())
        close(NUSCENES.metres(u), swap(content[back]).numpy())


def test_training_noise(stored):
    content = stored["anchors_noise"]
    clean = swap(content["norm_delta"]).flatten(0, 1)
    times = torch.from_numpy(content["train_t"]).repeat_interleave(6)
    noisy = DiffusionSchedule().add_noise(clean, swap(content["train_noise"]), times)
    close(noisy, swap(content["train_noisy"]).numpy())
    close(noisy.clamp(-1, 1), swap(content["train_noisy_clamped"]).numpy())
    close(NUSCENES.metres(noisy.clamp(-1, 1)), swap(content["train_noisy_denorm"]).numpy())
    for row, time in enumerate(content["grid_t"]):
        noisy = DiffusionSchedule().add_noise(clean, swap(content["train_noise"]), int(time))
        close(noisy, swap(content["grid_noisy"])[row].numpy())


def linear(points: torch.Tensor, time: int) -> torch.Tensor:
    return 0.9 * points + torch.tensor([0.3, 0.05]) + 0.002 * time


@pytest.mark.parametrize(
    ("group", "times", "spaced"),
    [
        ("linear", (20, 0), False),
        ("oracle", (20, 0), False),
        ("identity", (20, 0), False),
        ("linear_zero_noise", (20, 0), False),
        ("linear_t10_0", (10, 0), False),
        ("linear_spaced20", (20, 0), True),
    ],
)
def test_two_evaluations(stored, group: str, times: tuple[int, ...], spaced: bool):
    content = stored["inference"]
    clean = swap(content["norm_delta"]).flatten(0, 1)
    noise = swap(content["noise"]).flatten(0, 1) * (0.0 if group == "linear_zero_noise" else 1.0)
    truth = swap(content["truth"])
    call = iter(range(len(times)))

    def network(sample: torch.Tensor, time: int) -> torch.Tensor:
        index = next(call)
        close(sample, swap(content[f"{group}/sample_clamped"])[index].numpy())
        points = NUSCENES.metres(sample)
        close(points, swap(content[f"{group}/points_m"])[index].numpy())
        x0 = truth if group == "oracle" else points if group == "identity" else linear(points, time)
        u = NUSCENES.normalise(x0)
        close(u, swap(content[f"{group}/x0_norm"])[index].numpy())
        return u

    result = denoise(DiffusionSchedule(times, spaced), clean, noise, int(content["trunc_t"]), network)
    close(result, swap(content[f"{group}/prev_sample"])[-1].numpy())


def test_single_steps_with_clipping(stored):
    content = stored["inference"]
    schedule = DiffusionSchedule()
    sample, x0 = swap(content["step_sample"]), swap(content["step_x0"])
    assert float(x0.abs().max()) > 1.0
    for row, time in enumerate(content["step_t"]):
        close(schedule.step(x0, int(time), sample, int(time) - 1), swap(content["step_prev"])[row].numpy())


def test_navsim_positions(stored):
    content = stored["navsim_variant"]
    xy = torch.from_numpy(content["poses"][..., :2].copy())
    inside = ~NAVSIM.clipped(xy).numpy()
    assert inside.any()
    close(NAVSIM.normalise(xy)[inside], content["poses_norm"][..., :2][inside])
    clean = torch.from_numpy(content["anchors_norm"])
    noise = torch.from_numpy(content["noise"])
    noisy = DiffusionSchedule().add_noise(clean.expand(noise.shape), noise, 8)
    close(noisy, content["chain"][0])
