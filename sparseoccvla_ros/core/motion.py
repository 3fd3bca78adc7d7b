"""Carrying a trajectory from the frame of one moment to that of another."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from . import geometry
from .types import STEP_SECONDS, STEPS, Plan, PlanStatus, SceneQueries

POSES_KEPT = 32
"""Scenes whose pose is remembered until their plan comes."""


def carry_over(waypoints: np.ndarray, pose_then: np.ndarray, pose_now: np.ndarray, elapsed: float) -> np.ndarray | None:
    """A trajectory planned `elapsed` seconds ago, seen from the present ego frame at the same six horizons.

    waypoints: float32 [6, 2] m in the ego frame of `pose_then`; poses: float64 [4, 4] ego2fixed, the same fixed frame.
    Between waypoints it is interpolated linearly, past its end it goes on at its last velocity. None when `elapsed` is
    negative or beyond the trajectory's end.
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
    """Where the newest plan leads the ego, seen from later scenes of the same drive. Plans may come late."""

    def __init__(self) -> None:
        self._poses: OrderedDict[int, np.ndarray] = OrderedDict()
        self._plan: Plan | None = None

    def clear(self) -> None:
        """Forget scenes and plan."""
        self._poses.clear()
        self._plan = None

    def add(self, plan: Plan) -> None:
        """Take a plan; a rejected one says nothing about where the ego will go."""
        if plan.status is not PlanStatus.REJECTED:
            self._plan = plan

    def at(self, queries: SceneQueries) -> np.ndarray | None:
        """float32 [6, 2] m: the newest plan carried over to a scene; None without a plan of its drive."""
        self._poses[queries.stamp] = queries.ego.pose
        while len(self._poses) > POSES_KEPT:
            self._poses.popitem(last=False)
        plan = self._plan
        pose_then = None if plan is None or plan.epoch != queries.epoch else self._poses.get(plan.stamp)
        if plan is None or pose_then is None:
            return None
        return carry_over(plan.waypoints, pose_then, queries.ego.pose, (queries.stamp - plan.stamp) / 1e9)
