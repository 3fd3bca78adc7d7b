"""Path tracking: pure pursuit steering and speed control with preview, and braking without a usable path.

Pure pursuit: Coulter, CMU-RI-TR-92-01. Poses and paths are in one fixed frame (map or odom); the reference point is the
rear axle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import InvalidInput


@dataclass(frozen=True)
class FollowerConfig:
    """Settings of a TrajectoryFollower.

    wheelbase: m; max_age: s after which a path is too old to follow; lookahead_time, lookahead: pure pursuit distance
    as seconds of driving, and its minimum and maximum in m; preview: s ahead at which the target speed is evaluated;
    stop_brake: m/s^2, deceleration without a path; acceleration: lower and upper limit, m/s^2.
    """

    wheelbase: float = 2.588
    max_age: float = 1.0
    lookahead_time: float = 0.55
    lookahead: tuple[float, float] = (2.8, 9.0)
    preview: float = 0.35
    stop_brake: float = 3.0
    acceleration: tuple[float, float] = (-7.0, 2.5)

    def __post_init__(self) -> None:
        for name in ("wheelbase", "max_age", "lookahead_time", "stop_brake"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"follower.{name}", f"want more than 0, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class TimedPath:
    """Path to follow. stamp: s; times: float64 [N] s after the stamp, increasing from 0; points: float64 [N, 2] m,
    target positions of the rear axle, the first one its position at the stamp."""

    stamp: float
    times: np.ndarray
    points: np.ndarray

    @classmethod
    def of_waypoints(cls, stamp: float, pose: np.ndarray, times: np.ndarray, waypoints: np.ndarray) -> TimedPath:
        """Build from waypoints [K, 2] m in base_link at times [K] s, planned at pose [3] (x, y, yaw)."""
        c, s = np.cos(pose[2]), np.sin(pose[2])
        points = pose[:2] + waypoints @ np.array([[c, s], [-s, c]])
        return cls(stamp, np.concatenate([[0.0], times]), np.concatenate([pose[None, :2], points]))


@dataclass(frozen=True)
class Control:
    """Control command. acceleration: m/s^2; steering: rad at the front wheels, left positive; both rounded to float32
    as in ackermann_msgs/AckermannDrive; stopped_by: why it brakes to a stop, empty while following."""

    acceleration: float
    steering: float
    stopped_by: str = ""

    def __post_init__(self) -> None:
        # Rounded to float32, so that driving with and without ROS messages is bit-identical.
        for name in ("acceleration", "steering"):
            object.__setattr__(self, name, float(np.float32(getattr(self, name))))


class TrajectoryFollower:
    """Controller that follows the newest path; without a usable path it brakes to a stop at the last steering angle."""

    def __init__(self, config: FollowerConfig | None = None) -> None:
        self.config = config or FollowerConfig()
        self._steering = 0.0

    def reset(self) -> None:
        """Reset the steering angle to 0."""
        self._steering = 0.0

    def control(self, path: TimedPath | None, now: float, pose: np.ndarray, speed: float) -> Control:
        """Compute the control at `now` (s of the path's clock) for pose [3] (x, y, yaw) and speed in m/s."""
        reason = self._unusable(path, now)
        if reason or path is None:
            return Control(-self.config.stop_brake, self._steering, reason)
        age = max(now - path.stamp, 0.0)
        steps = np.hypot(*np.diff(path.points, axis=0).T)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        here = self._project(path.points, along, pose[:2])
        return Control(
            self._acceleration(path.times, along, age, here, speed), self._steer(path, along, here, pose, speed)
        )

    def _unusable(self, path: TimedPath | None, now: float) -> str:
        if path is None or len(path.times) < 2:
            return "no path"
        if not (np.isfinite(path.points).all() and np.isfinite(path.times).all() and (np.diff(path.times) > 0).all()):
            return "path is not finite"
        if now - path.stamp > self.config.max_age:
            return "path is too old"
        return "path is from the future" if path.stamp - now > self.config.max_age else ""

    @staticmethod
    def _project(points: np.ndarray, along: np.ndarray, at: np.ndarray) -> float:
        step = np.diff(points, axis=0)
        square = np.maximum((step**2).sum(-1), 1e-12)
        share = np.clip(((at - points[:-1]) * step).sum(-1) / square, 0.0, 1.0)
        gap = np.hypot(*(points[:-1] + share[:, None] * step - at).T)
        i = int(gap.argmin())
        return float(along[i] + share[i] * (along[i + 1] - along[i]))

    def _acceleration(self, times: np.ndarray, along: np.ndarray, age: float, here: float, speed: float) -> float:
        """Compute the acceleration towards the previewed speed and the path's position for the present time."""
        c = self.config
        middle = min(age + c.preview, float(times[-1]) - 0.25)
        wanted = float(np.interp(middle + 0.25, times, along) - np.interp(middle - 0.25, times, along)) / 0.5
        behind = float(np.interp(age, times, along)) - here
        if wanted < 0.25 and behind < 0.5:
            return -c.stop_brake if speed > 0.3 else -1.0
        return float(np.clip((wanted - speed) / 0.5 + 0.4 * behind, *c.acceleration))

    def _steer(self, path: TimedPath, along: np.ndarray, here: float, pose: np.ndarray, speed: float) -> float:
        c = self.config
        reach = float(np.clip(c.lookahead_time * speed, *c.lookahead))
        if along[-1] < 0.5:
            return self._steering
        goal = here + reach
        target = np.array([np.interp(goal, along, path.points[:, i]) for i in (0, 1)])
        if goal > along[-1]:  # extrapolate straight beyond the end
            last = path.points[-1] - path.points[int(np.searchsorted(along, along[-1] - 0.5)) - 1]
            target = path.points[-1] + (goal - along[-1]) * last / max(float(np.hypot(*last)), 1e-9)
        dx, dy = target - pose[:2]
        across = dy * np.cos(pose[2]) - dx * np.sin(pose[2])
        distance = max(float(dx**2 + dy**2), 1.0)
        self._steering = float(np.arctan(2.0 * c.wheelbase * across / distance))
        return self._steering
