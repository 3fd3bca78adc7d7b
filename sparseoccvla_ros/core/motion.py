"""Transfer of a planned trajectory to the ego frame of a later scene."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from . import geometry
from .types import STEP_SECONDS, STEPS, Plan, PlanStatus, SceneQueries

POSES_KEPT = 32
"""Scenes whose pose is kept until their plan arrives."""


def carry_over(waypoints: np.ndarray, pose_then: np.ndarray, pose_now: np.ndarray, elapsed: float) -> np.ndarray | None:
    """Convert a trajectory planned `elapsed` seconds ago to the present ego frame, at the same six horizons from now.

    waypoints: float32 [6, 2] m in the ego frame of `pose_then`; poses: float64 [4, 4] ego2fixed, the same fixed frame.
    It is interpolated linearly between waypoints and extrapolated at its last velocity. None when `elapsed` is
    negative or not before the trajectory's end.
    """
    if not 0.0 <= elapsed < STEPS * STEP_SECONDS:
        return None
    known = np.concatenate([np.zeros((1, 2)), waypoints.astype(np.float64)])
    known = np.concatenate([known, known[-1:] + (known[-1:] - known[-2:-1]) * STEPS])
    times = np.append(np.arange(STEPS + 1) * STEP_SECONDS, 2 * STEPS * STEP_SECONDS)
    wanted = elapsed + np.arange(1, STEPS + 1) * STEP_SECONDS
    moved = np.stack([np.interp(wanted, times, known[:, axis]) for axis in (0, 1)] + [np.zeros(STEPS)], -1)
    then2now = geometry.inverse(pose_now) @ pose_then
    return geometry.apply(then2now, moved)[:, :2].astype(np.float32)


class PlannedMotion:
    """The newest plan in the ego frame of later scenes of the same epoch. Plans may arrive late."""

    def __init__(self) -> None:
        self._poses: OrderedDict[int, np.ndarray] = OrderedDict()
        self._plan: Plan | None = None

    def clear(self) -> None:
        """Forget scenes and plan."""
        self._poses.clear()
        self._plan = None

    def add(self, plan: Plan) -> None:
        """Store a plan; a rejected one is ignored, because it has no waypoints."""
        if plan.status is not PlanStatus.REJECTED:
            self._plan = plan

    def at(self, queries: SceneQueries) -> np.ndarray | None:
        """Return the newest plan carried over to a scene, float32 [6, 2] m; None without a recent plan of its epoch."""
        self._poses[queries.stamp] = queries.ego.pose
        while len(self._poses) > POSES_KEPT:
            self._poses.popitem(last=False)
        plan = self._plan
        pose_then = None if plan is None or plan.epoch != queries.epoch else self._poses.get(plan.stamp)
        if plan is None or pose_then is None:
            return None
        return carry_over(plan.waypoints, pose_then, queries.ego.pose, (queries.stamp - plan.stamp) / 1e9)
