"""Ego dynamics: kinematic bicycle model about the rear axle, with actuator lag and limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..agents.traffic import STEP

WHEELBASE = 2.588
"""Metres, of the nuScenes cars (Renault Zoe)."""
STEER_LIMIT, STEER_RATE_LIMIT = 0.6, 0.8
"""rad and rad/s at the front wheels."""
BRAKE_LIMIT, ACCELERATION_LIMIT = -8.0, 3.0
"""m/s^2"""
_ACCELERATION_LAG, _STEER_LAG = 0.2, 0.1
_SUBSTEPS = 5


@dataclass(frozen=True)
class Action:
    """Control input: acceleration m/s^2 and angle of the front wheels rad, left positive."""

    acceleration: float
    steering: float


@dataclass(frozen=True)
class EgoVehicleState:
    """Pose of the rear axle in the map, speed, acceleration and steering; SI units."""

    x: float
    y: float
    yaw: float
    speed: float
    acceleration: float = 0.0
    steering: float = 0.0
    steering_rate: float = 0.0

    @property
    def pose(self) -> np.ndarray:
        """x, y, yaw."""
        return np.array([self.x, self.y, self.yaw])

    @property
    def yaw_rate(self) -> float:
        """rad/s."""
        return float(self.speed * np.tan(self.steering) / WHEELBASE)

    def after(self, action: Action) -> EgoVehicleState:
        """Return the state one simulation step later; the car does not reverse."""
        h = STEP / _SUBSTEPS
        wanted = float(np.clip(action.acceleration, BRAKE_LIMIT, ACCELERATION_LIMIT))
        target = float(np.clip(action.steering, -STEER_LIMIT, STEER_LIMIT))
        x, y, yaw, v, a, steer = self.x, self.y, self.yaw, self.speed, self.acceleration, self.steering
        rate = 0.0
        for _ in range(_SUBSTEPS):
            a += h / (h + _ACCELERATION_LAG) * (wanted - a)
            rate = float(np.clip((target - steer) / (h + _STEER_LAG), -STEER_RATE_LIMIT, STEER_RATE_LIMIT))
            steer += h * rate
            x += h * v * float(np.cos(yaw))
            y += h * v * float(np.sin(yaw))
            yaw += h * v * float(np.tan(steer)) / WHEELBASE
            v += h * a
            if v <= 0.0:
                v, a = 0.0, max(a, 0.0)
        return EgoVehicleState(x, y, yaw, v, a, steer, rate)
