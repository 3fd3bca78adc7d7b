"""The vehicle dimensions used by the scores, and the columns of the ego state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....core import vehicle

X, Y, HEADING, VX, VY, AX, AY, STEER, STEER_RATE, YAW_RATE, YAW_ACC = range(11)
DT = 0.1
"""Seconds per step."""


@dataclass(frozen=True)
class Vehicle:
    """Vehicle dimensions in metres: rear axle to front and rear bumper, full width, wheelbase."""

    ahead: float
    behind: float
    width: float
    wheelbase: float

    @classmethod
    def of(cls, body: vehicle.Vehicle) -> Vehicle:
        """Converts a core.vehicle.Vehicle."""
        ahead, behind = body.centre_m + 0.5 * body.length_m, 0.5 * body.length_m - body.centre_m
        return cls(ahead, behind, body.width_m, body.wheel_base_m)

    @property
    def length(self) -> float:
        """Length from bumper to bumper."""
        return self.ahead + self.behind

    @property
    def centre(self) -> float:
        """Distance from the rear axle forward to the centre of the box."""
        return 0.5 * (self.ahead - self.behind)

    def corners(self, poses: np.ndarray) -> np.ndarray:
        """Returns corners [..., 4, 2] (front left, rear left, rear right, front right) at rear-axle poses [..., 3]."""
        centre = self.centres(poses)
        boxes = np.concatenate([centre, poses[..., 2:3], np.broadcast_to([self.length, self.width], centre.shape)], -1)
        return corners(boxes)

    def centres(self, poses: np.ndarray) -> np.ndarray:
        """Returns box centres [..., 2] at rear-axle poses [..., 3]."""
        heading = poses[..., 2]
        return poses[..., :2] + self.centre * np.stack([np.cos(heading), np.sin(heading)], -1)


PACIFICA = Vehicle(ahead=4.049, behind=1.127, width=2.297, wheelbase=3.089)
"""nuPlan's and NAVSIM's car (nuplan-devkit `get_pacifica_parameters`)."""


def corners(boxes: np.ndarray) -> np.ndarray:
    """Returns corners [..., 4, 2] (front left, rear left, rear right, front right) of boxes [..., 5] = centre x, y,
    heading, length, width."""
    cos, sin = np.cos(boxes[..., 2]), np.sin(boxes[..., 2])
    along, across = 0.5 * boxes[..., 3, None] * [1, -1, -1, 1], 0.5 * boxes[..., 4, None] * [1, 1, -1, -1]
    x = boxes[..., 0, None] + along * cos[..., None] - across * sin[..., None]
    y = boxes[..., 1, None] + along * sin[..., None] + across * cos[..., None]
    return np.stack([x, y], -1)


def wrap(angle: np.ndarray) -> np.ndarray:
    """Wraps an angle (rad) to [-pi, pi)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi
