"""Truncated anchored diffusion: DDIM schedule, delta normaliser and the short denoising loop.

Source: DiffusionDrive (Liao et al., CVPR 2025, arXiv 2411.15139), section 3 and its public code. The network predicts
the clean sample x0. Numerically equivalent to diffusers' DDIMScheduler (scaled-linear betas, eta 0, final alpha 1): a
step clips x0 but derives the noise from the unclipped x0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.errors import InvalidInput

TRAIN_STEPS = 1000
BETA_FIRST = 1e-4
BETA_LAST = 2e-2


def _alphas_cumprod() -> Tensor:
    betas = torch.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, TRAIN_STEPS, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


@dataclass(frozen=True, eq=False)
class DiffusionSchedule:
    """DDIM schedule: evaluation times and deterministic steps.

    timesteps: decreasing times of the network evaluations; spaced: False steps t -> t - 1 after each evaluation (as in
    the public code), True steps to the next evaluation time; alphas_cumprod: float32 [1000].
    """

    timesteps: Sequence[int] = (10, 0)
    spaced: bool = False
    alphas_cumprod: Tensor = field(default_factory=_alphas_cumprod)

    def __post_init__(self) -> None:
        if not self.timesteps or not all(0 <= t < TRAIN_STEPS for t in self.timesteps):
            raise InvalidInput("timesteps", f"want times in 0..{TRAIN_STEPS - 1}, got {list(self.timesteps)}")

    def add_noise(self, clean: Tensor, noise: Tensor, time: int | Tensor) -> Tensor:
        """Returns sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise; `time`: one integer, or one per row of `clean`."""
        alpha = self.alphas_cumprod.to(clean.device)[time]
        alpha = alpha.reshape(alpha.shape + (1,) * (clean.dim() - alpha.dim()))
        return alpha.sqrt() * clean + (1.0 - alpha).sqrt() * noise

    def previous(self, index: int) -> int:
        """Returns the time after the step of evaluation `index`; -1 is the clean end."""
        if not self.spaced:
            return self.timesteps[index] - 1
        return self.timesteps[index + 1] if index + 1 < len(self.timesteps) else -1

    def step(self, x0: Tensor, time: int, sample: Tensor, previous: int) -> Tensor:
        """Apply one deterministic DDIM update to `sample` from `time` to `previous` (< 0: alpha 1), given x0."""
        alpha = self.alphas_cumprod[time]
        alpha_previous = self.alphas_cumprod[previous] if previous >= 0 else torch.ones(())
        noise = (sample - alpha.sqrt() * x0) / (1.0 - alpha).sqrt()
        return alpha_previous.sqrt() * x0.clamp(-1.0, 1.0) + (1.0 - alpha_previous).sqrt() * noise


@dataclass(frozen=True)
class DeltaNormaliser:
    """Normaliser of metres per 0.5 s step to -1..1; ranges are (lowest, highest), values beyond are clamped."""

    forward_range: tuple[float, float] = (-0.5, 10.5)
    lateral_range: tuple[float, float] = (-5.0, 5.0)

    def normalise(self, deltas: Tensor) -> Tensor:
        """Convert [..., 2] metres per step (forward, left) to -1..1."""
        low, span = self._range(deltas)
        return (2.0 * (deltas - low) / span - 1.0).clamp(-1.0, 1.0)

    def metres(self, normalised: Tensor) -> Tensor:
        """Invert `normalise` (exact inside the range)."""
        low, span = self._range(normalised)
        return (normalised + 1.0) * 0.5 * span + low

    def clipped(self, deltas: Tensor) -> Tensor:
        """Returns bool [...], True where a delta is out of range, so that normalising would clamp it."""
        low, span = self._range(deltas)
        return ((deltas < low) | (deltas > low + span)).any(-1)

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        (f0, f1), (l0, l1) = self.forward_range, self.lateral_range
        return like.new_tensor((f0, l0)), like.new_tensor((f1 - f0, l1 - l0))


def deltas_of(waypoints: Tensor) -> Tensor:
    """Returns the per-step deltas [..., 6, 2] of cumulative waypoints; the first delta is the first waypoint."""
    return torch.diff(waypoints, dim=-2, prepend=torch.zeros_like(waypoints[..., :1, :]))


def start_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Returns float32 Gaussian noise that depends on seed and shape only."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


Denoiser = Callable[[Tensor, int], Tensor]
"""Function from a clamped normalised sample [B, K, 6, 2] and time to normalised x0 of the same shape."""


def denoise(schedule: DiffusionSchedule, clean: Tensor, noise: Tensor, noise_step: int, network: Denoiser) -> Tensor:
    """Add noise to the anchors and denoise them.

    clean, noise: [B, K, 6, 2], normalised anchors and unit Gaussian; noise_step: the (small) time of the added noise.
    The network's input is clamped to -1..1, the step starts from the unclamped sample. Returns normalised [B, K, 6, 2],
    the network's last x0 clamped to -1..1 if the last step ends at alpha 1 (spaced, or last time 0).
    """
    sample = schedule.add_noise(clean, noise, noise_step)
    for index, time in enumerate(schedule.timesteps):
        x0 = network(sample.clamp(-1.0, 1.0), time)
        sample = schedule.step(x0, time, sample, schedule.previous(index))
    return sample
