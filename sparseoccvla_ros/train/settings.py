"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.errors import InvalidInput


@dataclass(frozen=True)
class TrainSettings:
    """How a stage is trained; the defaults are those of the tiny preset.

    A run ends after `steps` steps or `minutes` of training, whichever comes first; at least one of them is set. The
    learning rate follows the larger of the two shares, so a run that is cut by time still cools down.
    Raises InvalidInput naming the field.
    """

    steps: int | None = None
    """Optimizer steps of the whole run, earlier starts of a resumed run included."""
    minutes: float | None = None
    """Minutes of training of the whole run, validation included, earlier starts of a resumed run included."""
    batch: int = 4
    """Samples per step and process."""
    rate: float = 3e-4
    """Peak learning rate (AdamW)."""
    weight_decay: float = 0.01
    """Of weights; norms and biases do not decay."""
    slow: float = 0.1
    """Factor of the learning rate for delicate parts (backbone, sampling offsets)."""
    warmup: int = 100
    """Steps from a third of the learning rate to the whole."""
    final: float = 1e-2
    """Share of the peak learning rate at the end of the cosine."""
    clip: float = 35.0
    """Largest L2 norm of the gradient."""
    ema: float = 0.998
    """Decay per step of the averaged weights, which are validated and exported."""
    seed: int = 1
    """Of the order of samples, augmentation and dropout."""
    validate_every: int = 200
    """Steps between validations; there is one more at the end."""
    save_every: int = 50
    """Steps between checkpoints to resume from."""
    loaders: int = 1
    """Threads that load batches ahead."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InvalidInput("steps", "a run ends after steps or minutes: give one of them")
        for name in ("steps", "minutes", "batch", "rate", "slow", "clip", "validate_every", "save_every", "loaders"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidInput(name, f"want a positive number, got {value}")
        for name in ("weight_decay", "warmup", "final"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidInput(name, f"want a number from 0, got {getattr(self, name)}")
        if not 0.0 <= self.ema < 1.0:
            raise InvalidInput("ema", f"want 0 to below 1, got {self.ema}")

    def share(self, step: int, seconds: float) -> float:
        """How much of the run is done, 0..1, after `step` steps and `seconds` of training."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60.0 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def factor(self, step: int, share: float) -> float:
        """Learning rate of a step as a share of the peak: linear warm-up, then a cosine down to `final`."""
        warm = 1.0 if step >= self.warmup else (1.0 + 2.0 * step / self.warmup) / 3.0
        return warm * (self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share)))
