"""The planner's previous plans: where they put the vehicle by now, and whether it can have come here from there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.geometry import apply, inverse
from ..core.types import WAYPOINT_TIMES, EgoState, SceneQueries
from .trajectory_validator import MAX_LATERAL_SHIFT, START_ERROR

CONTINUITY_AGE = 1.0
"""s after which continuity with the previous plan is no longer required."""


@dataclass(frozen=True, eq=False)
class PreviousPlan:
    """A plan that was made.

    stamp: ns; waypoints: float32 [6, 2] m in the base_link of `ego`, None for a braking or rejected plan.
    """

    stamp: int
    epoch: int
    ego: EgoState
    waypoints: np.ndarray | None

    def teleported(self, queries: SceneQueries, max_deceleration: float) -> bool:
        """Returns whether the vehicle has moved further since than its speeds allow. max_deceleration: m/s^2."""
        seconds = (queries.stamp - self.stamp) / 1e9
        top_speed = max(abs(queries.ego.speed), abs(self.ego.speed))
        max_mean_speed = top_speed + max_deceleration * seconds
        moved = float(np.linalg.norm(queries.ego.pose[:3, 3] - self.ego.pose[:3, 3]))
        return moved > max_mean_speed * seconds + START_ERROR

    def expected(self, queries: SceneQueries) -> np.ndarray | None:
        """Returns where this plan puts the vehicle 0.5 s and 1 s from now, float64 [2, 2] m in base_link now.

        None if the plan is too old or not followed by the vehicle (e.g. in a recording), or has no path; NaN rows are
        beyond its end.
        """
        if self.waypoints is None:
            return None
        elapsed = (queries.stamp - self.stamp) / 1e9
        if elapsed > CONTINUITY_AGE:
            return None
        knots = np.concatenate([[0.0], WAYPOINT_TIMES])
        path = np.concatenate([np.zeros((1, 3)), np.pad(self.waypoints, ((0, 0), (0, 1)))])
        path = apply(inverse(queries.ego.pose) @ self.ego.pose, path)
        times = elapsed + np.array([0.0, 0.5, 1.0])
        at = np.stack([np.interp(times, knots, path[:, axis]) for axis in (0, 1)], axis=1)
        if np.linalg.norm(at[0]) > MAX_LATERAL_SHIFT:
            return None
        at[times > knots[-1]] = np.nan
        return at[1:]


class PlanMemory:
    """The two newest plans, since planning the newest stamp again must give the identical plan."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the plans."""
        self._newest: PreviousPlan | None = None
        self._second_newest: PreviousPlan | None = None

    def previous_to(self, queries: SceneQueries) -> PreviousPlan | None:
        """Returns the plan before that of the queries, None without one in their epoch."""
        newest = self._newest
        if newest is not None and (newest.stamp, newest.epoch) == (queries.stamp, queries.epoch):
            newest = self._second_newest
        return newest if newest is not None and newest.epoch == queries.epoch else None

    def add(self, queries: SceneQueries, waypoints: np.ndarray | None) -> None:
        """Add a plan, or replace the one of the same stamp. waypoints: as for PreviousPlan."""
        newest = self._newest
        if newest is None or (newest.stamp, newest.epoch) != (queries.stamp, queries.epoch):
            self._second_newest = newest
        # copy, because the caller may reuse its arrays for the next scene
        ego = replace(queries.ego, pose=queries.ego.pose.copy(), twist=queries.ego.twist.copy())
        self._newest = PreviousPlan(queries.stamp, queries.epoch, ego, waypoints)
