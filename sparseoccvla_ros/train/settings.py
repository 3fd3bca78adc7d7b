"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.errors import InvalidInput


@dataclass(frozen=True)
class TrainSettings:
    """Hyperparameters of a training stage; the defaults are those of the tiny preset.

    A run ends after `steps` steps or `minutes` of training, whichever comes first; at least one must be set. The
    learning rate follows the larger completed fraction, so a run limited by time still completes its schedule.
    Raises InvalidInput naming the field.
    """

    steps: int | None = None
    """Optimizer steps of the whole run, including those before a resume."""
    minutes: float | None = None
    """Training time of the whole run in minutes, including validation and the time before a resume."""
    batch_size: int = 4
    """Samples per step and process."""
    learning_rate: float = 3e-4
    """Peak learning rate (AdamW)."""
    weight_decay: float = 0.01
    """AdamW weight decay of matrices and kernels; not applied to norms and biases."""
    backbone_lr_scale: float = 0.1
    """Learning-rate factor for sensitive parts (backbone, sampling offsets)."""
    warmup_steps: int = 100
    """Steps of linear warm-up, from a third of the learning rate."""
    final_lr_scale: float = 1e-2
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    max_grad_norm: float = 35.0
    """Maximum L2 norm of the gradient."""
    ema_decay: float = 0.998
    """Decay per step of the exponential moving average of the weights, which is validated and exported."""
    seed: int = 1
    """Seed of sample order, augmentation and dropout."""
    validate_every: int = 200
    """Steps between validations; the end of the run is validated as well."""
    save_every: int = 50
    """Steps between checkpoints for resuming."""
    num_workers: int = 1
    """Number of threads that prefetch batches."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InvalidInput("steps", "a run ends after steps or minutes: give one of them")
        for name in (
            "steps", "minutes", "batch_size", "learning_rate", "backbone_lr_scale", "max_grad_norm", "validate_every",
            "save_every", "num_workers",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidInput(name, f"want a positive number, got {value}")
        for name in ("weight_decay", "warmup_steps", "final_lr_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidInput(name, f"want a number from 0, got {getattr(self, name)}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise InvalidInput("ema_decay", f"want 0 to below 1, got {self.ema_decay}")

    def share(self, step: int, seconds: float) -> float:
        """Returns the completed fraction of the run, 0..1, after `step` steps and `seconds` of training."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60.0 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def lr_scale(self, step: int, share: float) -> float:
        """Returns the learning rate as a fraction of the peak: linear warm-up times a cosine to `final_lr_scale`."""
        warm = 1.0 if step >= self.warmup_steps else (1.0 + 2.0 * step / self.warmup_steps) / 3.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * share))
        return warm * (self.final_lr_scale + (1.0 - self.final_lr_scale) * cosine)
