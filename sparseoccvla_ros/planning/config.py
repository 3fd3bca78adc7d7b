"""Settings of the planning stage: network, diffusion schedule and the limits of the safety gate."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

from ..core.classes import CLASSES, OBSTACLES
from ..core.errors import InvalidInput

_POSITIVE = (
    "max_speed",
    "max_acceleration",
    "max_deceleration",
    "max_lateral_acceleration",
    "max_jerk",
    "max_curvature",
    "start_error",
    "max_lateral_shift",
    "max_forward_shift",
    "continuity_age",
    "absurd_speed",
    "ego_length",
    "ego_width",
    "comfortable_deceleration",
)


@dataclass(frozen=True)
class PlanningConfig:
    """The defaults are the `tiny` preset. Limits are in SI units; InvalidInput names a field out of range."""

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

    max_speed: float = 20.0
    """m/s."""
    max_acceleration: float = 4.0
    """m/s^2, speeding up."""
    max_deceleration: float = 8.0
    """m/s^2, braking."""
    max_lateral_acceleration: float = 5.0
    """m/s^2."""
    max_jerk: float = 20.0
    """m/s^3, along the path."""
    max_curvature: float = 0.25
    """1/m (smallest turn radius 4 m)."""
    reverse_tolerance: float = 0.2
    """m a step may go backwards."""
    position_tolerance: float = 0.1
    """m, waypoint noise that the curvature check forgives (it dominates at walking pace)."""
    start_error: float = 2.0
    """m between the first waypoint and where the present velocity leads in 0.5 s."""
    max_lateral_shift: float = 1.0
    """m between a candidate and the previous plan at 0.5 s, sideways; twice that at 1 s."""
    max_forward_shift: float = 1.5
    """m ahead of the previous plan at 0.5 s; falling behind it is braking and always allowed."""
    continuity_age: float = 1.0
    """s after which the previous plan no longer binds."""
    absurd_speed: float = 60.0
    """m/s; a present speed above it is a broken input, not a fast car."""

    ego_length: float = 4.084
    """m (nuScenes Renault Zoe)."""
    ego_width: float = 1.85
    """m."""
    ego_centre: float = 1.4858
    """m from the origin (rear axle) forward to the middle of the footprint."""
    collision_margin: float = 0.15
    """m added on every side of the footprint."""
    obstacle_classes: tuple[str, ...] = tuple(CLASSES[i] for i in OBSTACLES)
    """Occ3D class names the vehicle must not touch."""
    obstacle_score: float = 0.25
    """Probability below which a voxel is no obstacle."""
    min_obstacle_height: float = 0.2
    """m above the local ground; voxel centres below it are driven over."""
    max_obstacle_height: float = 2.2
    """m above the local ground; voxel centres above it are driven under."""
    movable_hold: float = 1.0
    """s for which a movable obstacle is taken to stay where it is when there is no forecast."""
    gate_forecasts: bool = True
    """Whether candidates are also checked against forecasts. Those of a forecaster that has not learnt how traffic
    moves leave every vehicle in the way for the whole horizon."""

    on_reject: str = "brake"
    """What follows when no candidate passes: brake (flagged braking waypoints) or empty."""
    comfortable_deceleration: float = 3.0
    """m/s^2 of the braking trajectory; it brakes up to max_deceleration if that is needed to stop short of an
    obstacle."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            numbers = value if isinstance(value, tuple) else (value,)
            for number in numbers:
                if isinstance(number, float) and not math.isfinite(number):
                    raise InvalidInput(f"planning.{spec.name}", "is not finite")
        for name, allowed in (
            ("ego", ("none", "causal", "paper")),
            ("schedule", ("legacy", "spaced")),
            ("on_reject", ("brake", "empty")),
        ):
            if getattr(self, name) not in allowed:
                raise InvalidInput(f"planning.{name}", f"want one of {', '.join(allowed)}, got {getattr(self, name)!r}")
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
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InvalidInput(f"planning.{name}", f"want a positive number, got {getattr(self, name)}")
        for name in ("reverse_tolerance", "position_tolerance", "collision_margin", "obstacle_score", "movable_hold"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"planning.{name}", f"is negative: {getattr(self, name)}")
        if not isinstance(self.gate_forecasts, bool):
            raise InvalidInput("planning.gate_forecasts", f"want true or false, got {self.gate_forecasts!r}")
        if self.comfortable_deceleration > self.max_deceleration:
            raise InvalidInput("planning.comfortable_deceleration", "exceeds max_deceleration")
        if self.min_obstacle_height >= self.max_obstacle_height:
            raise InvalidInput("planning.min_obstacle_height", "is not below max_obstacle_height")
        unknown = [name for name in self.obstacle_classes if name not in CLASSES]
        if unknown:
            raise InvalidInput("planning.obstacle_classes", f"no Occ3D class is called {unknown[0]!r}")
