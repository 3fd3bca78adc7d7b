"""Reasons for dropping images and frame sets, and the statistics of synchronisation."""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum

import numpy as np


class DropReason(StrEnum):
    """Reasons for dropping an image or a frame set; the strings are the same in logs, diagnostics and docs."""

    DUPLICATE = "duplicate"
    """Image: this camera already delivered this stamp."""
    LATE = "late"
    """Image: a set with a newer stamp was already formed."""
    FOREIGN_CLOCK = "foreign_clock"
    """Image: its stamp belongs to another clock: from before a jump, or of a camera whose clock is off."""
    QUEUE_FULL = "queue_full"
    """Image: the camera's queue overflowed, and the oldest image was dropped."""
    UNMATCHED = "unmatched"
    """Image: no set needed it; normal if cameras run at different rates."""
    CLOCK_BACKWARD = "clock_backward"
    """Image: flushed because the clock jumped back."""
    CLOCK_FORWARD = "clock_forward"
    """Image: flushed because the clock jumped ahead."""
    RESET = "reset"
    """Image or set: flushed by a reset, or a waiting set of an epoch that has ended."""
    MISSING_CAMERA = "missing_camera"
    """Set: a camera had no image for it (policy strict)."""
    SPREAD = "spread"
    """Set: all cameras had an image, but their stamps spread further than the tolerance (policy strict)."""
    OVERLOAD = "overload"
    """Set: a newer complete set was ready before this one was taken, or too many were waiting for poses."""
    POSE_TIMEOUT = "pose_timeout"
    """Set: neither tf nor odometry reached its stamps in time."""
    POSE_TOO_OLD = "pose_too_old"
    """Set: older than the history of tf and odometry."""
    MOUNT_UNKNOWN = "mount_unknown"
    """Set: the pose of a camera on the vehicle is unknown."""
    MOUNT_IMPLAUSIBLE = "mount_implausible"
    """Set: a camera's frame is not an optical frame (image rows do not run downwards)."""
    NO_CALIBRATION = "no_calibration"
    """Set: a camera has no intrinsics yet."""
    CALIBRATION_MISMATCH = "calibration_mismatch"
    """Image: its size is not the one its camera was calibrated for."""
    DECODE = "decode"
    """Image: it cannot be decoded."""
    NO_IMAGE = "no_image"
    """Set: after decoding, no camera (policy strict: not every camera) has an image left."""
    NO_TWIST = "no_twist"
    """Set: the ego's velocity is unknown: no odometry twist and no earlier pose to differentiate from."""
    IMPLAUSIBLE_MOTION = "implausible_motion"
    """Set: poses or odometry imply a motion that is too fast for any vehicle."""


SPREAD_EDGES_MS = (0, 5, 10, 20, 30, 40, 50, 60, 80, 100, 150)
"""Lower edges of the spread histogram's bins; the last bin is open."""


class SyncStatistics:
    """Statistics of a synchroniser since its start; clock jumps do not clear the counters."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self.sets = 0
        """Frame sets formed."""
        self.incomplete_sets = 0
        """Frame sets with a held or missing camera."""
        self.resets = 0
        self.drops: Counter[DropReason] = Counter()
        self.last_stamp: dict[str, int | None] = dict.fromkeys(cameras)
        """Newest stamp per camera since the last clock jump, ns."""
        self.missing: tuple[str, ...] = ()
        """Cameras that are silent at present."""
        self._steps: dict[str, deque[int]] = {c: deque(maxlen=16) for c in cameras}
        self._periods: dict[str, int] = {}
        self._spreads: deque[int] = deque(maxlen=512)
        self._histogram = np.zeros(len(SPREAD_EDGES_MS), np.int64)

    def arrived(self, camera: str, stamp: int) -> None:
        """Record the stamp of an image."""
        last = self.last_stamp[camera]
        if last is not None and stamp > last:
            self._steps[camera].append(stamp - last)
            steps = sorted(self._steps[camera])
            self._periods[camera] = steps[len(steps) // 2]
        self.last_stamp[camera] = stamp if last is None else max(last, stamp)

    def turned(self) -> None:
        """Count a clock jump and drop the stamps before it: intervals across it are meaningless."""
        self.resets += 1
        for camera, steps in self._steps.items():
            steps.clear()
            self.last_stamp[camera] = None
        self._periods.clear()

    def formed(self, spread_ns: int, complete: bool) -> None:
        """Record a frame set."""
        self.sets += 1
        self.incomplete_sets += not complete
        self._spreads.append(spread_ns)
        self._histogram[int(np.searchsorted(SPREAD_EDGES_MS, spread_ns / 1e6, "right")) - 1] += 1

    def period(self, camera: str) -> int | None:
        """Return the median interval between a camera's recent stamps, ns; None before the second image."""
        return self._periods.get(camera)

    def flat(self) -> dict[str, float | int | str]:
        """Return all statistics as one flat dictionary, for diagnostics."""
        spreads = self._spreads or (0,)
        out: dict[str, float | int | str] = {
            "sets": self.sets,
            "incomplete_sets": self.incomplete_sets,
            "resets": self.resets,
            "missing": " ".join(self.missing),
            "spread_p50_ms": round(float(np.median(spreads)) / 1e6, 3),
            "spread_max_ms": round(max(spreads) / 1e6, 3),
        }
        bins = zip(SPREAD_EDGES_MS, self._histogram, strict=True)
        out.update({f"spread_from_{edge}_ms": int(n) for edge, n in bins})
        for camera, stamp in self.last_stamp.items():
            out[f"{camera}.last_stamp_ns"] = stamp or 0
            period = self.period(camera)
            out[f"{camera}.rate_hz"] = round(1e9 / period, 2) if period else 0.0
        out.update({f"dropped.{reason.value}": self.drops[reason] for reason in DropReason})
        return out
