"""Settings of the planning stage: network and diffusion schedule per preset, limits per vehicle."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

from ..core.errors import InvalidInput
from ..core.vehicle import NUSCENES_CAR, Vehicle

MIN_OBSTACLE_HEIGHT = 0.2
"""m above the local ground; voxel centres below it are no obstacles."""


@dataclass(frozen=True)
class PlanningConfig:
    """Network and diffusion settings; defaults are the `tiny` preset. Raises InvalidInput naming an invalid field."""

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
    """Ego status features: none, causal (EgoHistory.features, with masks) or paper (21 + 18 values in the published
    layout, computed from the past only)."""
    schedule: str = "legacy"
    """legacy: every DDIM step goes from t to t - 1 as in the public code; spaced: to the next of `timesteps`."""
    timesteps: tuple[int, ...] = (10, 0)
    """Decreasing diffusion times, out of 1000, of the network evaluations."""
    noise_step: int = 8
    """Diffusion time of the noise that is added to the anchors before the first evaluation."""
    seed: int = 0
    """Seed of the initial noise, which is the same for every plan: equal inputs give equal plans."""
    forward_range: tuple[float, float] = (-0.5, 10.5)
    """m per 0.5 s, range of forward steps that is normalised to -1..1."""
    lateral_range: tuple[float, float] = (-5.0, 5.0)
    """m per 0.5 s, range of lateral steps (left positive); wide enough for the end of a tight turn."""
    command_mask: bool = True
    """Choose among the 6 anchors of the command only; False: among all 18."""
    target_points: tuple[float, ...] = ()
    """m along a route from the vehicle, increasing: the points there are an input of the planner, beside the command.
    Empty: it gets the command only, as in the paper, and cannot return to a route that it has left."""
    obstacle_grid: bool = False
    """Whether the planner also sees occupancy and the line of a red light as a bird's-eye view (obstacles/grid.py)."""

    obstacle_score: float = 0.25
    """Probability below which a voxel is ignored as an obstacle."""
    gate_forecasts: bool = True
    """Whether candidates are also checked against forecasts. Disable it for a forecaster that has not learnt motion:
    its forecasts keep every vehicle in place for the whole horizon."""

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
        ahead = self.target_points
        if any(d <= 0 for d in ahead) or any(a >= b for a, b in pairwise(ahead)):
            raise InvalidInput("planning.target_points", f"want increasing distances above 0 m, got {list(ahead)}")
        if self.obstacle_score < 0:
            raise InvalidInput("planning.obstacle_score", f"is negative: {self.obstacle_score}")
        for name in ("gate_forecasts", "obstacle_grid"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"planning.{name}", f"want true or false, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class ValidatorConfig:
    """Trajectory limits of the vehicle; part of the deployment, not of a preset.

    Raises InvalidInput naming a field out of range.
    """

    vehicle: Vehicle = NUSCENES_CAR
    """Vehicle outline for collision checks."""
    max_speed_mps: float = 20.0
    """Maximum speed over any step."""
    max_acceleration_mps2: float = 4.0
    """Maximum acceleration when speeding up."""
    max_deceleration_mps2: float = 8.0
    """Maximum deceleration when braking."""
    max_lateral_acceleration_mps2: float = 5.0
    """Maximum lateral acceleration in curves."""
    max_jerk_mps3: float = 20.0
    """Maximum longitudinal jerk."""
    max_curvature_per_m: float = 0.25
    """Maximum curvature; 0.25 is a turning radius of 4 m."""
    comfortable_deceleration_mps2: float = 3.0
    """Deceleration of the braking trajectory; max_deceleration_mps2 is used instead if this one would hit an
    obstacle."""
    collision_margin_m: float = 0.15
    """Margin added on every side of the outline."""
    max_obstacle_height_m: float = 2.2
    """Height above the local ground; voxel centres above it are no obstacles."""
    on_reject: str = "brake"
    """Plan when no candidate passes: brake (braking waypoints, flagged) or empty."""

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
