"""HUGSIM's HD-score: route completion times the mean plan score of the drive (public code 62c690d)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .polygons import hulls_touch, inside
from .vehicle import corners, wrap

INTERVAL = 0.5
LENGTH, WIDTH, HEIGHT = 3.0, 1.6, 1.5
"""Size of the ego box, centred on the pose, m."""
_BACKGROUND_POINTS = 100
_ACCELERATION, _JERK, _YAW_RATE, _YAW_ACCELERATION = (-4.05, 2.40), 8.37, 0.95, 1.93


@dataclass(frozen=True)
class Surroundings:
    """background: [M, 2] non-road points between the ground and HEIGHT; ground: [G, 2] road points."""

    background: np.ndarray
    ground: np.ndarray


@dataclass(frozen=True)
class FrameScore:
    """Sub-scores of one plan, 0..1."""

    NC: float
    DAC: float
    TTC: float
    C: float

    @property
    def score(self) -> float:
        """Plan score, as aggregated by the HD-score."""
        return self.NC * self.DAC * (5 * self.TTC + 2 * self.C) / 7


def _boxes(poses: np.ndarray) -> np.ndarray:
    return corners(np.concatenate([poses, np.broadcast_to([LENGTH, WIDTH], (len(poses), 2))], -1))


def _hits(poses: np.ndarray, cars: list[np.ndarray], background: np.ndarray) -> bool:
    for box, others in zip(_boxes(poses), cars, strict=True):
        near = background[(np.abs(background - box.mean(0)) < LENGTH).all(-1)]
        if int(inside(near, box).sum()) > _BACKGROUND_POINTS:
            return True
        if len(others) and bool(hulls_touch(box, others).any()):
            return True
    return False


def _drivable(poses: np.ndarray, ground: np.ndarray) -> float:
    result = 1.0
    for x, y, yaw in poses:
        delta = ground - [x, y]
        along = delta[:, 0] * np.cos(yaw) + delta[:, 1] * np.sin(yaw)
        across = delta[:, 1] * np.cos(yaw) - delta[:, 0] * np.sin(yaw)
        held = (np.abs(along) < 0.5 * LENGTH) & (np.abs(across) < 0.5 * WIDTH)
        quarters = {(a > 0, b > 0) for a, b in zip(along[held], across[held], strict=True)}
        share = len(quarters) / 4
        if share < 0.3:
            return 0.0
        result = min(result, 0.5 if share < 0.5 else 1.0)
    return result


def _comfort(plan: np.ndarray) -> float:
    if len(plan) < 4:
        return 1.0
    speed = np.hypot(*np.diff(plan[:, :2], axis=0).T) / INTERVAL
    rate = wrap(np.diff(plan[:, 2])) / INTERVAL
    acceleration, turning = np.diff(speed) / INTERVAL, np.diff(rate) / INTERVAL
    jerk = np.diff(acceleration) / INTERVAL
    low, high = _ACCELERATION
    good = ((acceleration >= low) & (acceleration <= high)).all() and (np.abs(jerk) <= _JERK).all()
    return float(good and (np.abs(rate) <= _YAW_RATE).all() and (np.abs(turning) <= _YAW_ACCELERATION).all())


def rate_plan(plan: np.ndarray, cars: list[np.ndarray], around: Surroundings) -> FrameScore:
    """Scores one plan.

    plan: [N, 3] poses, first the ego's after the step, then one every 0.5 s; cars: boxes [K, 4, 2] of the cars at each
    plan pose, taken from the later frames of the same drive (the last known ones after its end).
    """
    plan = np.array(plan, np.float64)
    if np.hypot(*np.diff(plan[:, :2], axis=0).T).sum() < 1.0:
        plan[:, 2] = plan[0, 2]
    step = np.diff(plan[:, :2], axis=0, prepend=plan[:1, :2]) / INTERVAL
    safe = True
    for seconds in (0.5, 1.0):
        moved = plan.copy()
        moved[:, :2] += seconds * step
        safe = safe and not _hits(moved, cars, around.background)
    return FrameScore(
        NC=float(not _hits(plan, cars, around.background)),
        DAC=_drivable(plan, around.ground),
        TTC=float(safe),
        C=_comfort(plan),
    )


def route_completion(positions: np.ndarray, recorded: np.ndarray) -> float:
    """Returns min(1, share / 0.9) for the share of recorded camera positions [N, 2] that the ego [T, 2] reached."""
    nearest = np.hypot(*np.moveaxis(positions[:, None] - recorded, -1, 0)).argmin(1)
    return min(1.0, float(nearest.max() + 1) / (0.9 * len(recorded)))


def hd_score(completion: float, frames: list[FrameScore]) -> float:
    """Returns the HD-score, 0..1; 0 without plans."""
    return completion * float(np.mean([f.score for f in frames])) if frames else 0.0
