"""Settings of the planning stage: network and diffusion schedule (the preset's), limits (the vehicle's)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

from ..core.errors import InvalidInput
from ..core.vehicle import NUSCENES_CAR, Vehicle

MIN_OBSTACLE_HEIGHT = 0.2
"""m above the local ground; voxel centres below it are driven over."""


@dataclass(frozen=True)
class PlanningConfig:
    """The defaults are the `tiny` preset; InvalidInput names a field out of range."""

    query_dims: int = 128
    """C, width of SceneQueries.features."""
    reasoning_dims: int = 576
    """D, width of the reasoning token T_r (576 for SmolLM2-135M)."""
    hidden: int = 128
    """Width of scorer and decoder."""
    heads: int = 4
    """Attention heads; divides `hidden`."""
    layers: int = 2
    """Decoder layers (DiffusionDrive: 2)."""
    ego: str = "causal"
    """Ego status given to the networks: none, causal (ours, masked) or paper (21 + 18 values in the public layout,
    computed without the future)."""
    schedule: str = "legacy"
    """legacy: every DDIM step goes t -> t-1 as the public code does; spaced: t -> the next of `timesteps`."""
    timesteps: tuple[int, ...] = (10, 0)
    """Times of the network evaluations, falling, of 1000."""
    noise_step: int = 8
    """Time at which the anchors are noised before the first evaluation."""
    seed: int = 0
    """Seed of the start noise; the same for every plan, so equal inputs give equal plans."""
    forward_range: tuple[float, float] = (-0.5, 10.5)
    """m per 0.5 s, lowest and highest forward delta; maps to -1..1."""
    lateral_range: tuple[float, float] = (-5.0, 5.0)
    """m per 0.5 s, lowest and highest lateral delta (left positive); wide enough for the end of a tight turn."""
    command_mask: bool = True
    """Only the 6 anchors of the command may be chosen; False lets all 18 compete."""

    obstacle_score: float = 0.25
    """Probability below which a voxel is no obstacle."""
    gate_forecasts: bool = True
    """Whether candidates are also checked against forecasts. Those of a forecaster that has not learnt how traffic
    moves leave every vehicle in the way for the whole horizon."""

    def __post_init__(self) -> None:
        _refuse_not_finite(self, "planning")
        _refuse_unknown(self, "planning", ego=("none", "causal", "paper"), schedule=("legacy", "spaced"))
        for name in ("query_dims", "reasoning_dims", "hidden", "heads", "layers"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"planning.{name}", "want at least 1")
        if self.hidden % self.heads:
            raise InvalidInput("planning.heads", f"{self.heads} does not divide hidden {self.hidden}")
        steps = self.timesteps
        if not steps or steps[-1] < 0 or steps[0] > 999 or any(a <= b for a, b in pairwise(steps)):
            raise InvalidInput("planning.timesteps", f"want falling times in 0..999, got {list(steps)}")
        if not 0 <= self.noise_step <= 999:
            raise InvalidInput("planning.noise_step", f"want 0..999, got {self.noise_step}")
        for name in ("forward_range", "lateral_range"):
            span = getattr(self, name)
            if len(span) != 2 or span[0] >= span[1]:
                raise InvalidInput(f"planning.{name}", f"want lowest < highest, got {list(span)}")
        if self.obstacle_score < 0:
            raise InvalidInput("planning.obstacle_score", f"is negative: {self.obstacle_score}")
        if not isinstance(self.gate_forecasts, bool):
            raise InvalidInput("planning.gate_forecasts", f"want true or false, got {self.gate_forecasts!r}")


@dataclass(frozen=True)
class ValidatorConfig:
    """What a trajectory must keep to on this vehicle: deployment, not weights, so no preset has it.

    Raises InvalidInput naming a field out of range.
    """

    vehicle: Vehicle = NUSCENES_CAR
    """The outline that must not touch anything."""
    max_speed_mps: float = 20.0
    """Of any step."""
    max_acceleration_mps2: float = 4.0
    """Speeding up."""
    max_deceleration_mps2: float = 8.0
    """Braking."""
    max_lateral_acceleration_mps2: float = 5.0
    """In curves."""
    max_jerk_mps3: float = 20.0
    """Along the path."""
    max_curvature_per_m: float = 0.25
    """Smallest turn radius 4 m."""
    comfortable_deceleration_mps2: float = 3.0
    """Of the braking trajectory; it brakes up to max_deceleration_mps2 if that is needed to stop short of an
    obstacle."""
    collision_margin_m: float = 0.15
    """Added on every side of the outline."""
    max_obstacle_height_m: float = 2.2
    """Above the local ground; voxel centres above it are driven under."""
    on_reject: str = "brake"
    """What follows when no candidate passes: brake (flagged braking waypoints) or empty."""

    def __post_init__(self) -> None:
        _refuse_not_finite(self, "validator")
        _refuse_unknown(self, "validator", on_reject=("brake", "empty"))
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, float) and (value < 0 or (value == 0 and spec.name != "collision_margin_m")):
                raise InvalidInput(f"validator.{spec.name}", f"want a positive number, got {value}")
        if self.comfortable_deceleration_mps2 > self.max_deceleration_mps2:
            raise InvalidInput("validator.comfortable_deceleration_mps2", "exceeds max_deceleration_mps2")
        if self.max_obstacle_height_m <= MIN_OBSTACLE_HEIGHT:
            raise InvalidInput("validator.max_obstacle_height_m", f"is not above {MIN_OBSTACLE_HEIGHT} m")


def _refuse_not_finite(config: PlanningConfig | ValidatorConfig, section: str) -> None:
    for spec in fields(config):
        value = getattr(config, spec.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InvalidInput(f"{section}.{spec.name}", "is not finite")


def _refuse_unknown(config: PlanningConfig | ValidatorConfig, section: str, **allowed: tuple[str, ...]) -> None:
    for name, choices in allowed.items():
        value = getattr(config, name)
        if value not in choices:
            raise InvalidInput(f"{section}.{name}", f"expected one of {', '.join(choices)}, got {value!r}")
