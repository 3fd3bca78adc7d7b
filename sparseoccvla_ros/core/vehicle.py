"""Dimensions of the ego, shared by planner, validator, pictures, simulator and evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from .errors import InvalidInput


@dataclass(frozen=True)
class Vehicle:
    """Dimensions of the ego in metres; base_link is on the ground below the middle of the rear axle (REP-105).

    Names follow Autoware's vehicle_info. The defaults are the car of nuScenes, a Renault Zoe, 4.084 x 1.85 m as in the
    open-loop metrics (ST-P3, ECCV 2022).

    Attributes:
        length_m: Bumper to bumper.
        width_m: Side to side.
        wheel_base_m: Rear axle to front axle.
        rear_overhang_m: Rear axle back to the rear bumper.
        height_m: Ground to roof; used for pictures only.

    Raises:
        InvalidInput: a size is not positive, or the front axle is ahead of the front bumper.
    """

    length_m: float = 4.084
    width_m: float = 1.85
    wheel_base_m: float = 2.588
    rear_overhang_m: float = 0.5562
    height_m: float = 1.56

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if not math.isfinite(value) or value <= 0:
                raise InvalidInput(f"vehicle.{spec.name}", f"want a positive number, got {value}")
        if self.rear_overhang_m + self.wheel_base_m > self.length_m:
            raise InvalidInput("vehicle.wheel_base_m", "the front axle lies ahead of the front bumper")

    @property
    def front_m(self) -> float:
        """x of the front bumper in base_link."""
        return self.length_m - self.rear_overhang_m

    @property
    def centre_m(self) -> float:
        """x of the outline's centre in base_link, rounded to a micrometre so round numbers stay round."""
        return round(self.length_m / 2 - self.rear_overhang_m, 6)

    def footprint(self) -> np.ndarray:
        """Return the corners in base_link, float64 [4, 2] m, counter-clockwise from front left."""
        half, front, rear = self.width_m / 2, self.front_m, -self.rear_overhang_m
        return np.array([(front, half), (rear, half), (rear, -half), (front, -half)])


NUSCENES_CAR = Vehicle()
