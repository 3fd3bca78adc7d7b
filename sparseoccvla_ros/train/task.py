"""Interface between the trainer and the training stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..data.dataset import DrivingSamples, Sample

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

B = TypeVar("B", bound="DataclassInstance")


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    score: criterion for the best checkpoint, larger is better; numbers: for the logs; picture: uint8 [H, W, 3] RGB,
    or None.
    """

    score: float
    numbers: dict[str, float]
    picture: np.ndarray | None = None


class Stage(nn.Module, ABC, Generic[B]):
    """A training stage: the networks, which of their modules train, the batches and the loss."""

    name: str

    def begin(self, data: DrivingSamples, seed: int) -> None:
        """Initialise from the data; called once, before the first step of a new run."""

    def augment(self, sample: Any, rng: np.random.Generator) -> Any:
        """Returns an augmented sample, for stages with an augmentation of their own."""
        return sample

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> B:
        """Build a batch on the CPU; runs in loader threads."""

    def move(self, batch: B, device: torch.device) -> B:
        """Returns the batch, a dataclass, with its tensors on a device; samples stay on the CPU."""
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        return replace(batch, **{k: v.to(device) for k, v in values.items() if hasattr(v, "to")})

    @abstractmethod
    def forward(self, batch: B) -> dict[str, Tensor]:
        """Returns the weighted loss terms; the loss is their sum."""

    def parameter_groups(self, learning_rate: float, backbone_lr_scale: float) -> list[dict[str, Any]]:
        """Returns optimizer groups of all trainable parameters: no weight decay for norms, biases and other vectors.

        learning_rate, backbone_lr_scale: as in TrainSettings.
        """
        found = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in found if p.ndim > 1], "lr": learning_rate},
            {"params": [p for p in found if p.ndim <= 1], "lr": learning_rate, "weight_decay": 0.0},
        ]

    @abstractmethod
    def validate(self, batches: Sequence[B]) -> Validation:
        """Score the stage, in evaluation mode, on batches that are on its device."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write the weights in the format that a preset loads."""
