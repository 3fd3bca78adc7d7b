"""Ego pose and twist at a stamp, from tf or else odometry; a twist never uses samples after the stamp.

A source is kept as long as it works, because poses of two fixed frames must not mix in one temporal memory.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ..core import geometry
from ..core.errors import InvalidInput
from ..core.tf_buffer import Extrapolation, TransformBuffer, TransformError
from .config import SyncConfig
from .drop_reasons import DropReason

RESTART_NS = 2 * 10**9
"""Stamps of a source that fall back by more than this mean a restart; no recording stamps transforms further ahead."""
_MIN_BASELINE_NS = 5 * 10**6
_STEADY_ACCELERATION = 5.0


class Unresolved(Exception):
    """Poses that a set needs are missing. waiting: they may still arrive."""

    def __init__(self, reason: DropReason, message: str, waiting: bool) -> None:
        self.reason = reason
        self.waiting = waiting
        super().__init__(message)


@dataclass(frozen=True)
class PoseSource:
    """A source of ego poses. kind: "tf" or "odometry"; fixed_frame: frame of the poses; buffer: holds the poses."""

    kind: str
    fixed_frame: str
    buffer: TransformBuffer


def describe_parent_conflicts(transforms: TransformBuffer) -> list[str]:
    """Return a sentence for every tf frame with conflicting publishers."""
    return [
        f"{child} has several parents in tf: {', '.join(parents)}; only one may be published"
        for child, parents in sorted(transforms.parent_conflicts().items())
    ]


class EgoMotion:
    """Ego poses and twists from a tf buffer and an odometry history."""

    def __init__(self, config: SyncConfig, transforms: TransformBuffer) -> None:
        self._config = config
        self._base = config.base_frame
        self.transforms = transforms
        self.odometry = TransformBuffer()
        self.odometry_frame = ""
        self._twists: list[tuple[int, tuple[float, ...]]] = []
        self.current: PoseSource | None = None
        """The source in use."""
        self.floor = 0
        """Stamp of the last relocation, ns; poses before it are not differentiated."""

    def add_odometry(self, stamp: int, pose: np.ndarray, twist: Sequence[float] | None, fixed_frame: str) -> None:
        """Add a pose float64 [4, 4] ego2fixed and a twist [6] in base_link, or None, at a stamp.

        An all-zero twist counts as missing, because publishers without one leave the field zero.
        """
        frame = fixed_frame.lstrip("/")
        if not frame or frame == self._base:
            raise InvalidInput("odometry", f"fixed frame {fixed_frame!r} must be named and not be {self._base}")
        values: tuple[float, ...] = ()
        if twist is not None:
            values = tuple(float(v) for v in twist)
            if len(values) != 6 or not np.isfinite(values).all():
                raise InvalidInput("odometry", "twist: want six finite numbers")
        newest = self.odometry.newest(self.odometry_frame, self._base) if self.odometry_frame else None
        if frame != self.odometry_frame or (newest is not None and stamp < newest - RESTART_NS):
            self.odometry.clear(everything=True)
            self._twists.clear()
            self.odometry_frame = frame
        if self.odometry.set(frame, self._base, stamp, pose) and any(values):
            insort(self._twists, (int(stamp), values))
            if len(self._twists) > 2048:
                del self._twists[:1024]

    def keep_only(self, oldest: int, newest: int) -> None:
        """Drop poses and twists outside oldest..newest [ns], after a clock jump."""
        for buffer in (self.transforms, self.odometry):
            buffer.keep_only(oldest, newest)
        self._twists = [entry for entry in self._twists if oldest <= entry[0] <= newest]
        self.floor = 0

    def poses(self, stamps: Sequence[int], expired: bool) -> tuple[PoseSource, list[np.ndarray]]:
        """Return a source and its ego poses ego2fixed at all stamps.

        Falls back to a source of lower rank only once waiting is over (`expired`) or useless. Raises Unresolved.
        """
        failures: list[tuple[PoseSource, TransformError]] = []
        for source in self._sources():
            try:
                found = [source.buffer.lookup(source.fixed_frame, self._base, stamp) for stamp in stamps]
            except TransformError as error:
                failures.append((source, error))
                if not expired and _may_come(error):
                    break
                continue
            self.current = source
            return source, found
        if not failures:
            frames = " or ".join(self._config.fixed_frames) or "a fixed frame"
            text = f"no pose of {self._base} in {frames}: nothing received from tf or odometry"
            raise Unresolved(DropReason.POSE_TIMEOUT, text, waiting=not expired)
        best, failure = failures[0]
        hopeless = not any(_may_come(each) for _, each in failures)
        reason = DropReason.POSE_TOO_OLD if hopeless else DropReason.POSE_TIMEOUT
        text = "; ".join([f"{best.kind}: {failure}", *describe_parent_conflicts(self.transforms)])
        raise Unresolved(reason, text, waiting=not (expired or hopeless))

    def twist(self, source: PoseSource, stamp: int) -> np.ndarray | None:
        """Return vx, vy, vz [m/s], wx, wy, wz [rad/s] in base_link from samples up to the stamp; None if unknown.

        Odometry's own twist if available, else differentiated from the poses of `source` at or before the stamp.
        """
        reported = self.reported_twist(stamp)
        if reported is not None:
            return reported
        try:
            last = source.buffer.newest_before(source.fixed_frame, self._base, stamp)
            oldest = source.buffer.oldest_common(source.fixed_frame, self._base)
            first = max(last - round(self._config.twist_window * 1e9), oldest, self.floor)
            if last - first < _MIN_BASELINE_NS:
                return None
            start, end = (source.buffer.lookup(source.fixed_frame, self._base, at) for at in (first, last))
        except TransformError:
            return None
        return _log(geometry.inverse(start) @ end) / ((last - first) / 1e9)

    def reported_twist(self, stamp: int) -> np.ndarray | None:
        """Return the newest odometry twist at or before a stamp; None if older than `max_twist_age`."""
        at = bisect_right(self._twists, stamp, key=lambda entry: entry[0])
        if at == 0 or stamp - self._twists[at - 1][0] > self._config.max_twist_age * 1e9:
            return None
        return np.array(self._twists[at - 1][1])

    def _sources(self) -> list[PoseSource]:
        ranked = [PoseSource("tf", frame, self.transforms) for frame in self._config.fixed_frames]
        if self.odometry_frame:
            ranked.append(PoseSource("odometry", self.odometry_frame, self.odometry))
        if self.current in ranked:
            ranked.remove(self.current)
            ranked.insert(0, self.current)
        return ranked


class RelocationGuard:
    """Detects ego poses that moved further between two sets than driving can explain."""

    def __init__(self, config: SyncConfig) -> None:
        self._config = config
        self._last: tuple[int, np.ndarray, str, float] | None = None

    def clear(self) -> None:
        """Forget the last pose, after a clock jump."""
        self._last = None

    def moved(self, stamp: int, pose: np.ndarray, fixed_frame: str, reported: np.ndarray | None) -> bool:
        """Whether this pose is a relocation relative to the last one; a new fixed frame always is."""
        if self._last is None:
            return False
        then, before, frame, speed = self._last
        if frame != fixed_frame:
            return True
        seconds = max(0, stamp - then) / 1e9
        if reported is not None:
            speed = max(speed, float(np.linalg.norm(reported[:3])))
        allowed = speed * seconds + 0.5 * _STEADY_ACCELERATION * seconds**2
        distance = float(np.linalg.norm(pose[:3, 3] - before[:3, 3]))
        return distance > self._config.pose_jump and distance > 3 * allowed

    def note(self, stamp: int, pose: np.ndarray, fixed_frame: str, twist: np.ndarray | None) -> None:
        """Store a set's pose; an unknown speed is taken as `max_speed`."""
        speed = self._config.max_speed if twist is None else float(np.linalg.norm(twist[:3]))
        self._last = (stamp, pose, fixed_frame, speed)


def _may_come(error: TransformError) -> bool:
    return not isinstance(error, Extrapolation) or error.in_future


def _log(matrix: np.ndarray) -> np.ndarray:
    """Return the twist [6] that produces this rigid motion in unit time (logarithm of SE(3))."""
    omega = Rotation.from_matrix(matrix[:3, :3]).as_rotvec()
    angle = float(np.linalg.norm(omega))
    x, y, z = omega
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    factor = 1 / 12 if angle < 1e-4 else (1 - 0.5 * angle / np.tan(0.5 * angle)) / angle**2
    linear = matrix[:3, 3] - 0.5 * skew @ matrix[:3, 3] + factor * skew @ skew @ matrix[:3, 3]
    return np.concatenate([linear, omega])
