"""Causal ego status features, computed only from samples at or before their stamp.

The layout `paper` is that of AD-MLP (Zhai et al., arXiv 2305.10430) and of BEVFormer's can_bus (Li et al., ECCV 2022).
"""

from __future__ import annotations

from bisect import bisect_right
from enum import StrEnum

import numpy as np

from ..core.errors import InvalidInput
from ..core.geometry import inverse, planar, quaternion, yaw_of
from ..core.types import Command, check_array

PAST_SECONDS: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
"""Ages of the past poses, newest first."""
FEATURE_NAMES: tuple[str, ...] = (
    *(f"{axis}(-{age:g}s)" for age in PAST_SECONDS for axis in ("x", "y", "yaw")),
    "vx",
    "vy",
    "yaw_rate",
    "ax",
    "ay",
    *(f"has_pose(-{age:g}s)" for age in PAST_SECONDS),
    "has_velocity",
    "has_acceleration",
)
"""Entries of `EgoHistory.features`: m, rad, m/s, rad/s, m/s^2, then masks (1 present, 0 missing)."""
PAPER_DIMS = 21 + 18
"""Length of `EgoHistory.paper_features`."""
WINDOW_NS = 3_000_000_000
"""Length of the history: one second more than the features reach back."""
MAX_GAP_NS = 1_100_000_000
"""Maximum gap for interpolating poses (a slow machine gets one frame set per second)."""
MAX_AGE_NS = 250_000_000
"""Maximum age of the newest sample, from which the state at the stamp is extrapolated."""
MAX_SPEED = 70.0
"""m/s between two samples above which the pose has jumped."""
JUMP_FLOOR = 1.0
"""m that a pose may always move between two samples (localisation corrections)."""
_DIFFERENCE_NS = 500_000_000
_GRAVITY = 9.81


def as_if_driving(features: np.ndarray, speed: float) -> np.ndarray:
    """Returns `EgoHistory.features` of a vehicle of which only is known that it drives straight on at `speed` m/s."""
    out = np.zeros_like(features)
    out[FEATURE_NAMES.index("vx")], out[FEATURE_NAMES.index("has_velocity")] = speed, 1.0
    return out


class SampleOutcome(StrEnum):
    """Result of `EgoHistory.add`."""

    ADDED = "added"
    DUPLICATE = "duplicate"
    """Same stamp as a stored sample: ignored."""
    TELEPORT = "teleport"
    """The pose jumped: stored as the start of a new segment, never interpolated with earlier samples."""
    STALE = "stale"
    """Out of order and inconsistent with its neighbours: dropped."""
    RESET = "reset"
    """More than WINDOW_NS older than the newest sample, so time jumped back: stored after clearing the history."""


class EgoHistory:
    """Buffer of the last three seconds of pose and velocity, and the features computed from it.

    Not thread safe. Pass every odometry or tf sample to `add`; late and duplicate samples are allowed.
    """

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._poses: list[np.ndarray] = []
        self._twists: list[np.ndarray] = []
        self._segments: list[int] = []
        self._segment = 0

    def __len__(self) -> int:
        return len(self._stamps)

    def clear(self) -> None:
        """Clear the history, for a new epoch."""
        for column in (self._stamps, self._poses, self._twists, self._segments):
            column.clear()

    def add(self, stamp_ns: int, pose: np.ndarray, twist: np.ndarray) -> SampleOutcome:
        """Add a sample: pose float64 [4, 4] ego2fixed, twist float64 [6] m/s and rad/s in base_link.

        Raises InvalidInput, without storing it, for a wrong shape or a number that is not finite.
        """
        check_array("history.pose", pose, np.float64, (4, 4))
        check_array("history.twist", twist, np.float64, (6,))
        stamp_ns = int(stamp_ns)
        outcome = SampleOutcome.ADDED
        if self._stamps and stamp_ns < self._stamps[-1] - WINDOW_NS:
            self.clear()
            outcome = SampleOutcome.RESET
        at = bisect_right(self._stamps, stamp_ns)
        if at and self._stamps[at - 1] == stamp_ns:
            return SampleOutcome.DUPLICATE
        if at < len(self._stamps):
            before = self._joins(at - 1, stamp_ns, pose) if at else True
            if not (before and self._joins(at, stamp_ns, pose)):
                return SampleOutcome.STALE
            segment = self._segments[at]
        else:
            if at and not self._joins(at - 1, stamp_ns, pose):
                self._segment += 1
                outcome = SampleOutcome.TELEPORT
            segment = self._segment
        self._stamps.insert(at, stamp_ns)
        self._poses.insert(at, pose.copy())
        self._twists.insert(at, twist.copy())
        self._segments.insert(at, segment)
        keep = bisect_right(self._stamps, self._stamps[-1] - WINDOW_NS - 1)
        # keep the newest sample outside the window to interpolate at its edge; older ones are never read again
        keep = max(keep - 1, len(self._stamps) - 4096, 0)
        if keep:
            for column in (self._stamps, self._poses, self._twists, self._segments):
                del column[:keep]
        return outcome

    def _joins(self, index: int, stamp_ns: int, pose: np.ndarray) -> bool:
        """Returns True if a vehicle can move from the stored sample `index` to this pose in the elapsed time."""
        seconds = abs(stamp_ns - self._stamps[index]) / 1e9
        return float(np.linalg.norm(pose[:3, 3] - self._poses[index][:3, 3])) <= MAX_SPEED * seconds + JUMP_FLOOR

    def _known(self, stamp_ns: int) -> int:
        """Returns the index of the newest sample at or before the stamp, -1 if none; later ones must not be read."""
        if self._stamps and self._stamps[-1] > stamp_ns + WINDOW_NS - int(PAST_SECONDS[-1] * 1e9):
            raise InvalidInput("stamp", "is older than the ego history reaches back")
        return bisect_right(self._stamps, stamp_ns) - 1

    def _at(self, stamp_ns: int, last: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns planar pose (x, y, yaw) in the fixed frame and twist [6] at a stamp, from samples 0..last only."""
        low = bisect_right(self._stamps, stamp_ns, 0, last + 1) - 1
        if low < 0 or self._segments[low] != self._segments[last]:
            return None
        stamp = self._stamps[low]
        if low == last or stamp == stamp_ns:
            seconds = (stamp_ns - stamp) / 1e9
            if stamp_ns - stamp > MAX_AGE_NS:
                return None
            # later samples must not be read: extrapolate the newest one with its velocity
            twist = self._twists[low]
            ahead = planar(twist[0] * seconds, twist[1] * seconds, twist[5] * seconds)
            return _planar_of(self._poses[low] @ ahead), twist
        if self._stamps[low + 1] - stamp > MAX_GAP_NS:
            return None
        fraction = (stamp_ns - stamp) / (self._stamps[low + 1] - stamp)
        first, second = _planar_of(self._poses[low]), _planar_of(self._poses[low + 1])
        change = second - first
        change[2] = _wrap(change[2])
        return first + fraction * change, (1 - fraction) * self._twists[low] + fraction * self._twists[low + 1]

    def pose_at(self, stamp_ns: int, not_after: int) -> np.ndarray | None:
        """Returns the planar pose float64 [4, 4] ego2fixed at a stamp from samples up to `not_after`, None if unknown.

        z is 0 in the fixed frame, so use the pose only for the motion between two stamps.
        """
        last = self._known(not_after)
        found = self._at(stamp_ns, last) if last >= 0 and stamp_ns <= not_after else None
        return None if found is None else planar(*found[0])

    def features(self, stamp_ns: int) -> np.ndarray:
        """Returns the state at `stamp_ns` from samples at or before it, float32 [FEATURE_NAMES].

        Past poses are relative to the pose at the stamp; acceleration is the backward difference of the velocity over
        0.5 s. Missing values (start, gap, teleport) are 0 with mask 0. Raises InvalidInput("stamp") when the history
        holds a sample more than 1 s later, because samples that are needed may already be discarded.
        """
        out = np.zeros(len(FEATURE_NAMES), np.float32)
        last = self._known(stamp_ns)
        now = self._at(stamp_ns, last) if last >= 0 else None
        if now is None:
            return out
        origin = inverse(planar(*now[0]))
        masks = 3 * len(PAST_SECONDS) + 5
        for row, age in enumerate(PAST_SECONDS):
            past = self._at(stamp_ns - round(age * 1e9), last)
            if past is not None:
                out[3 * row : 3 * row + 3] = _planar_of(origin @ planar(*past[0]))
                out[masks + row] = 1.0
        velocity = 3 * len(PAST_SECONDS)
        out[velocity : velocity + 3] = now[1][[0, 1, 5]]
        out[masks + len(PAST_SECONDS)] = 1.0
        acceleration = self._acceleration(stamp_ns, last, now[1])
        if acceleration is not None:
            out[velocity + 3 : velocity + 5] = acceleration[:2]
            out[masks + len(PAST_SECONDS) + 1] = 1.0
        return out

    def _acceleration(self, stamp_ns: int, last: int, twist: np.ndarray) -> np.ndarray | None:
        before = self._at(stamp_ns - _DIFFERENCE_NS, last)
        return None if before is None else (twist[:3] - before[1][:3]) / (_DIFFERENCE_NS / 1e9)

    def paper_features(self, stamp_ns: int, command: Command) -> np.ndarray:
        """Returns float32 [39]: the 21 values of AD-MLP and the 18 of can_bus, without their leaks of the future.

        21 in alphabetical order of the fields: acceleration 3, command one-hot (left, straight, right) 3, past
        trajectory 4 x (x, y, yaw), velocity 3. 18 in BEVFormer order: translation 3 and quaternion (w, x, y, z) 4 of
        the motion since 0.5 s ago, acceleration 3 with gravity, rotation rate 3, velocity 3, change of yaw in rad and
        in degrees. The command is the planner's input, not derived from the future. Missing history is 0.
        """
        out = np.zeros(PAPER_DIMS, np.float32)
        out[3 + list(Command).index(command)] = 1.0
        last = self._known(stamp_ns)
        now = self._at(stamp_ns, last) if last >= 0 else None
        if now is None:
            return out
        causal = self.features(stamp_ns)
        acceleration = self._acceleration(stamp_ns, last, now[1])
        out[6:18] = causal[:12]
        out[18:21] = now[1][:3]
        out[31:34] = now[1][3:]
        out[34:37] = now[1][:3]
        out[30] = _GRAVITY
        if acceleration is not None:
            out[0:3] = acceleration
            out[28:31] += acceleration.astype(np.float32)
        before = self._at(stamp_ns - _DIFFERENCE_NS, last)
        out[24] = 1.0
        if before is not None:
            motion = inverse(planar(*before[0])) @ planar(*now[0])
            out[21:24] = motion[:3, 3]
            out[24:28] = quaternion(motion)[[3, 0, 1, 2]]
            out[37] = yaw_of(motion)
            out[38] = np.degrees(yaw_of(motion))
        return out


def _planar_of(pose: np.ndarray) -> np.ndarray:
    return np.array([pose[0, 3], pose[1, 3], yaw_of(pose)])


def _wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
