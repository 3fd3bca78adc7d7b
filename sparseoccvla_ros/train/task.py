"""What a training stage is: the one thing the trainer knows about the networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..data.dataset import DrivingSamples, Sample

B = TypeVar("B")


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    score: what the best checkpoint is chosen by, larger is better; numbers: flat, for the logs; picture: uint8
    [H, W, 3] RGB, or None.
    """

    score: float
    numbers: dict[str, float]
    picture: np.ndarray | None = None


class Stage(nn.Module, ABC, Generic[B]):
    """A stage of training: which modules train, on which batch, with which loss. It holds the networks it trains."""

    name: str

    def begin(self, data: DrivingSamples, seed: int) -> None:
        """Start values that come from the data; called once, before the first step of a new run."""

    def augment(self, sample: Any, rng: np.random.Generator) -> Any:
        """A sample as training sees it this time, for stages that have an augmentation of their own."""
        return sample

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> B:
        """The stage's batch, on the CPU; runs in loader threads."""

    @abstractmethod
    def move(self, batch: B, device: torch.device) -> B:
        """A batch on another device."""

    @abstractmethod
    def forward(self, batch: B) -> dict[str, Tensor]:
        """Loss terms that carry their weights: the loss is their sum."""

    @abstractmethod
    def parameter_groups(self, rate: float, slow: float) -> list[dict[str, Any]]:
        """Optimizer groups of everything that trains; slow: factor of the learning rate of delicate parts."""

    @abstractmethod
    def validate(self, batches: Sequence[B]) -> Validation:
        """Score on batches that lie on the stage's device, in evaluation mode."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write the weights in the form that a preset loads."""
