"""MLP on ego features only: a baseline that a planner with cameras must beat, as argued by AD-MLP.

Layer sizes as published (512, 512); inputs are the causal ego features without command, so nothing leaks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import InvalidInput
from ...core.types import STEPS, check_array
from ...planning.ego_history import FEATURE_NAMES
from .planning_samples import Method, Prediction, Sample

HIDDEN = 512


class EgoMlp(nn.Module):
    """Maps ego features float32 [B, FEATURE_NAMES] to waypoints [B, 6, 2] m. Deterministic for given data and seed."""

    mean: Tensor
    spread: Tensor
    step_scale: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(len(FEATURE_NAMES), HIDDEN), nn.ReLU(),
                nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
                nn.Linear(HIDDEN, STEPS * 2),
            )  # fmt: skip
        self.seed = seed
        self.register_buffer("mean", torch.zeros(len(FEATURE_NAMES)))
        self.register_buffer("spread", torch.ones(len(FEATURE_NAMES)))
        self.register_buffer("step_scale", torch.ones(2))

    def forward(self, features: Tensor) -> Tensor:
        """Returns waypoints [B, 6, 2] m, as the cumulative sum of predicted steps."""
        steps = self.layers((features - self.mean) / self.spread).unflatten(-1, (STEPS, 2))
        return (steps * self.step_scale).cumsum(-2)

    def fit(
        self,
        features: np.ndarray,
        truth: np.ndarray,
        mask: np.ndarray,
        epochs: int = 60,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
    ) -> float:
        """Trains on ego features float32 [N, F], truth float64 [N, 6, 2] m and mask bool [N, 6]; L1 on valid waypoints.

        Returns the mean L1 error in metres over the last epoch. Use training scenes only, not the evaluated ones.
        """
        check_array("features", features, np.float32, (None, len(FEATURE_NAMES)))
        count = len(features)
        check_array("truth", truth, np.float64, (count, STEPS, 2))
        check_array("mask", mask, np.bool_, (count, STEPS))
        if not mask.any():
            raise InvalidInput("mask", "no step is valid")
        inputs, valid = torch.from_numpy(features), torch.from_numpy(mask)[..., None].float()
        wanted = torch.from_numpy(truth.astype(np.float32))
        steps = wanted.diff(dim=1, prepend=torch.zeros(count, 1, 2))
        self.mean.copy_(inputs.mean(0))
        # a constant column has no information and must not be amplified if it varies later
        spread = inputs.std(0, correction=0)
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))
        self.step_scale.copy_((steps.square() * valid).sum((0, 1)).div(valid.sum()).sqrt().clamp_min(0.1))
        generator = torch.Generator().manual_seed(self.seed)
        optimiser = torch.optim.AdamW(self.parameters(), learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        error = 0.0
        self.train()
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(count, generator=generator).split(batch_size):
                distance = ((self(inputs[rows]) - wanted[rows]).abs() * valid[rows]).sum()
                loss = distance / valid[rows].sum().clamp_min(1.0) / 2
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(distance.detach())
            schedule.step()
            error = total / float(valid.sum()) / 2
        self.eval()
        return error

    @torch.inference_mode()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicts waypoints float64 [N, 6, 2] m from ego features float32 [N, F]."""
        check_array("features", features, np.float32, (None, len(FEATURE_NAMES)))
        return self(torch.from_numpy(features)).double().numpy()

    def method(self) -> Method:
        """Returns the fitted network as a row of the report."""

        def predict(sample: Sample) -> Prediction:
            if sample.speed is None:
                return Prediction(None, reason="velocity unknown")
            return Prediction(self.predict(sample.ego_features[None])[0])

        return Method("ego-only MLP", predict, about="23 causal ego features, no camera, no command")
