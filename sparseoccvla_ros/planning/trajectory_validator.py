"""The gate: checks candidates against kinematic limits, continuity and obstacles before one becomes the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.types import STEP_SECONDS
from .config import ValidatorConfig
from .obstacles.collision import ObstacleMap
from .plan_reasons import RejectReason
from .trajectory import slowed, stopping_way

SHORT_STEP = 0.15
"""m below which a step keeps the previous heading."""
REVERSE_TOLERANCE = 0.2
"""m that a step may go backwards."""
POSITION_TOLERANCE = 0.1
"""m, waypoint noise tolerated by the curvature check (it dominates at walking pace)."""
START_ERROR = 2.0
"""m, maximum distance of the first waypoint from where the present velocity leads in 0.5 s."""
MAX_LATERAL_SHIFT = 1.0
"""m, maximum lateral distance of a candidate from the previous plan at 0.5 s; twice that at 1 s."""
MAX_FORWARD_SHIFT = 1.5
"""m, maximum distance ahead of the previous plan at 0.5 s, twice that at 1 s; falling behind is always allowed."""
SLOWER = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0)
"""m/s^2; decelerations tried on the best path when it would hit something at its own speed."""
STOPPING = 4.0
"""m/s^2; deceleration at which a plan must be able to stop behind its end."""
GAP = 1.5
"""m left free ahead of a stop, since obstacles are known to half a metre."""
CREEPING = 0.5
"""m/s below which GAP is not asked for, because the vehicle stands closer already."""
STANDING = 0.1
"""m/s below which the vehicle stands."""
STUCK_AFTER = 5.0
"""s of standing after which uncertain obstacles are ignored: they do not go away as long as the view stays the same."""
CERTAIN_SCORE = 0.8
"""Probability from which an obstacle counts for a vehicle that is stuck."""
RESUME_DISTANCE = 8.0
"""m for which a vehicle that was stuck goes on to be taken as stuck."""
RESUMED_SPEED = 4.0
"""m/s that the network of a stuck vehicle is told, as one that stands mostly goes on standing."""
RESUMED_ACCELERATION = 1.2
"""m/s^2; maximum acceleration of the path of a stuck vehicle."""
_TO_FIRST = 0.5 * STEP_SECONDS
"""s from the stamp to the middle of the first step, at which its mean speed applies."""


@dataclass(frozen=True, eq=False)
class GateReport:
    """Result of the gate for every candidate.

    order: int64 [N], usable candidates by decreasing score; chosen: the first that passed, -1 if none; reasons: failed
    checks per candidate (empty: passed, or not in `order` and therefore not checked for collision).
    """

    order: np.ndarray
    chosen: int
    reasons: tuple[tuple[RejectReason, ...], ...]

    @property
    def passed_over(self) -> tuple[RejectReason, ...]:
        """Distinct reasons of the candidates ranked above the chosen one, in order of first occurrence."""
        seen: dict[RejectReason, None] = {}
        for candidate in self.order:
            if candidate == self.chosen:
                break
            seen.update(dict.fromkeys(self.reasons[candidate]))
        return tuple(seen)


def kinematic_failures(limits: ValidatorConfig, candidates: np.ndarray, speed: float) -> dict[RejectReason, np.ndarray]:
    """Check candidates [K, 6, 2] m against the kinematic limits, bool [K] per reason, True for a failure.

    speed: present m/s along x. Speeds are means over a step and apply at its middle, so the first acceleration is over
    a quarter of a second. Candidates that are not finite fail only NOT_FINITE.
    """
    finite = np.isfinite(candidates).all((1, 2))
    points = np.where(finite[:, None, None], candidates, 0.0).astype(np.float64)
    # avoid overflow in squares; anything beyond a kilometre is out of limits anyway
    points = np.clip(points, -1e3, 1e3)
    steps = np.diff(points, axis=1, prepend=0.0)
    length = np.linalg.norm(steps, axis=-1)
    angle = np.arctan2(steps[..., 1], steps[..., 0])
    heading = np.zeros((len(points), steps.shape[1] + 1))
    progress = np.zeros_like(length)
    for i in range(steps.shape[1]):
        before = heading[:, i]
        progress[:, i] = steps[:, i, 0] * np.cos(before) + steps[:, i, 1] * np.sin(before)
        turned = (length[:, i] > SHORT_STEP) & (progress[:, i] >= -REVERSE_TOLERANCE)
        heading[:, i + 1] = np.where(turned, angle[:, i], before)
    speeds = np.copysign(length, progress) / STEP_SECONDS
    speeds = np.concatenate([np.full((len(points), 1), speed), speeds], axis=1)
    seconds = np.full(steps.shape[1], STEP_SECONDS)
    seconds[0] = _TO_FIRST
    acceleration = np.diff(speeds, axis=1) / seconds
    jerk = np.diff(acceleration, axis=1) / (0.5 * (seconds[:-1] + seconds[1:]))
    turn = np.abs((np.diff(heading, axis=1) + np.pi) % (2 * np.pi) - np.pi)
    arc = 0.5 * (length + np.concatenate([np.zeros((len(points), 1)), length[:, :-1]], axis=1))
    forgiven = np.arctan2(POSITION_TOLERANCE, np.maximum(length, 1e-6))
    lateral = turn * 0.5 * np.abs(speeds[:, 1:] + speeds[:, :-1]) / seconds
    ahead = np.array([speed * STEP_SECONDS, 0.0])
    checks = {
        RejectReason.SPEED: (np.abs(speeds[:, 1:]) > limits.max_speed_mps).any(1),
        RejectReason.ACCELERATION: (acceleration > limits.max_acceleration_mps2).any(1),
        RejectReason.DECELERATION: (acceleration < -limits.max_deceleration_mps2).any(1),
        RejectReason.LATERAL_ACCELERATION: (lateral > limits.max_lateral_acceleration_mps2).any(1),
        RejectReason.JERK: (np.abs(jerk) > limits.max_jerk_mps3).any(1),
        RejectReason.CURVATURE: (turn > limits.max_curvature_per_m * arc + forgiven).any(1),
        RejectReason.REVERSE: (progress < -REVERSE_TOLERANCE).any(1),
        RejectReason.START: np.linalg.norm(points[:, 0] - ahead, axis=1) > START_ERROR,
    }
    return {RejectReason.NOT_FINITE: ~finite} | {reason: failed & finite for reason, failed in checks.items()}


def continuity_failures(candidates: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns bool [K], True for candidates [K, 6, 2] that jump away from the previous plan.

    expected: float [2, 2] m, where the previous plan puts the vehicle 0.5 s and 1 s after the stamp, in base_link; NaN
    rows are beyond its end and not checked. Falling behind it passes, because it is braking.
    """
    growth = np.array([1.0, 2.0])
    shift = candidates[:, :2] - expected
    before = np.concatenate([np.zeros((1, 2)), expected[:1]])
    direction = expected - before
    norm = np.linalg.norm(direction, axis=1, keepdims=True)
    direction = np.where(norm > SHORT_STEP, direction / np.maximum(norm, 1e-9), (1.0, 0.0))
    forward = (shift * direction).sum(-1)
    sideways = np.abs(shift[..., 1] * direction[:, 0] - shift[..., 0] * direction[:, 1])
    with np.errstate(invalid="ignore"):
        jumped = (forward > MAX_FORWARD_SHIFT * growth) | (sideways > MAX_LATERAL_SHIFT * growth)
    return jumped.any(1)


def choose(
    limits: ValidatorConfig,
    candidates: np.ndarray,
    logits: np.ndarray,
    speed: float,
    expected: np.ndarray | None,
    touches: Callable[[np.ndarray], np.ndarray] | None,
) -> GateReport:
    """Choose the highest-scored candidate that passes every check.

    candidates: float32 [K, 6, 2] m in base_link; logits: float [K], minus infinity or NaN to exclude a candidate;
    speed: present m/s; expected: see continuity_failures, None without a previous plan; touches: function from
    trajectories [N, 6, 2] to bool [N] collisions, None to skip the check (untrained occupancy). Collisions are checked
    only for candidates that pass everything else.
    """
    failures = kinematic_failures(limits, candidates, speed)
    finite = ~failures[RejectReason.NOT_FINITE]
    if expected is not None:
        failures[RejectReason.CONTINUITY] = finite & continuity_failures(
            np.where(finite[:, None, None], candidates, 0.0), expected
        )
    fine = ~np.any(list(failures.values()), axis=0)
    usable = ~np.isnan(logits) & (logits > -np.inf)
    if touches is not None:
        collides = np.zeros(len(candidates), bool)
        tested = fine & usable
        if tested.any():
            collides[tested] = touches(candidates[tested])
        failures[RejectReason.COLLISION] = collides
        fine &= ~collides
    order = np.argsort(-np.where(usable, logits, -np.inf), kind="stable")
    order = order[usable[order]]
    passing = order[fine[order]]
    reasons = tuple(tuple(r for r, failed in failures.items() if failed[k]) for k in range(len(candidates)))
    return GateReport(order, int(passing[0]) if len(passing) else -1, reasons)


def slower_path(
    limits: ValidatorConfig, report: GateReport, candidates: np.ndarray, speed: float, obstacles: ObstacleMap
) -> tuple[int, np.ndarray] | None:
    """Slow the best candidate if it hits something, or could not stop GAP behind what is ahead of it.

    Returns its index and slower waypoints float32 [6, 2] on its path; None if it need not be slowed, if it fails by
    more than a collision, or if no deceleration within the limits avoids the collision. speed: present m/s.
    """
    best = int(report.order[0]) if len(report.order) else -1
    failed = set(report.reasons[best]) if best >= 0 else {RejectReason.NOT_FINITE}
    if failed - {RejectReason.COLLISION}:
        return None
    path = candidates[best]
    gap = GAP if speed > CREEPING else 0.0
    if not failed and not obstacles.touches_later(stopping_way(path, path, STOPPING, gap)):
        return None
    for deceleration in SLOWER:
        if deceleration > limits.max_deceleration_mps2:
            break
        waypoints = slowed(path, speed, deceleration)
        way = stopping_way(path, waypoints, max(deceleration, STOPPING), gap)
        if not obstacles.touches(waypoints[None])[0] and not obstacles.touches_later(way):
            return best, waypoints
    return None


class StuckDetector:
    """Detects a vehicle that has stood too long, so that uncertain obstacles may be ignored."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew, e.g. because it is known why the vehicle stands."""
        self._since: tuple[int, int] | None = None  # stamp [ns] and epoch
        self._resumed_at: np.ndarray | None = None  # [2] m

    def is_stuck(self, stamp: int, epoch: int, pose: np.ndarray, speed: float) -> bool:
        """Returns whether the vehicle has stood for STUCK_AFTER, or did and has not driven RESUME_DISTANCE since.

        stamp: ns; pose: float64 [4, 4] ego2fixed; speed: m/s.
        """
        place = pose[:2, 3]
        if self._resumed_at is not None and float(np.hypot(*(place - self._resumed_at))) < RESUME_DISTANCE:
            return True
        self._resumed_at = None
        if abs(speed) > STANDING:
            self._since = None
        elif self._since is None or self._since[1] != epoch or self._since[0] > stamp:
            self._since = stamp, epoch
        if self._since is None or stamp - self._since[0] <= STUCK_AFTER * 1e9:
            return False
        self._resumed_at, self._since = place.copy(), None
        return True
