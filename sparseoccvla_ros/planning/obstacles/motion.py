"""Where obstacles will be: clusters of movable voxels, tracked over frame sets and moved on at constant velocity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...core.geometry import inverse
from ...core.types import WAYPOINT_TIMES
from ...core.voxels import SparseVoxels
from .collision import MOVABLE_HOLD, ForecastLayer
from .grid import GROUPS, group_of

LONGEST_GAP = 1.2
"""s between two frame sets beyond which tracks start anew."""
TIME_CONSTANT = 0.8
"""s over which velocities are averaged: a centre is off by half a voxel at each end."""
STANDING = (1.5, 0.6, 0.6)
"""m/s below which a cluster of each of GROUPS is taken to stand; large ones flicker most, and people walk slowly."""
FASTEST = 16.0
"""m/s; a cluster that has moved faster is another one."""
SAME_WAY = 0.7
"""Cosine of the angle to the vehicle's heading from which a cluster of vehicles drives the same way."""
BRAKING_OVER, CENTRE_ERROR = 0.4, 0.4
"""s over which the latest speed of a vehicle is measured at least, and m by which that may be too short."""
NEAR, NEAR_KNOWN = 2.0, 4.0
"""m of tolerance around the place of the same cluster before: with unknown velocity in addition to what FASTEST allows,
and with known velocity."""


@dataclass(frozen=True, eq=False)
class _Track:
    """A cluster. group: index into GROUPS; place, velocity: float64 [2] m and m/s in the fixed frame, velocity
    averaged, None until it has been seen twice; rows: its voxels; past: ages (s) and places of it, newest first."""

    group: int
    place: np.ndarray
    velocity: np.ndarray | None
    rows: np.ndarray
    past: tuple[tuple[float, np.ndarray], ...] = ()


class ObstacleTracker:
    """Tracks clusters of voxels over the frame sets of a drive."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all tracks."""
        self._tracks: list[_Track] = []
        self._before: list[_Track] = []
        self._stamp, self._stamp_before, self._epoch = -1, -1, -1

    def layers(self, stamp: int, epoch: int, pose: np.ndarray, voxels: SparseVoxels) -> tuple[ForecastLayer, ...]:
        """Add a frame set and return the movable voxels at WAYPOINT_TIMES; the same if asked again.

        stamp: ns; pose: float64 [4, 4] ego2fixed. Clusters of unknown velocity stand for MOVABLE_HOLD seconds.
        """
        if (stamp, epoch) != (self._stamp, self._epoch):
            self._before, self._stamp_before = self._tracks, self._stamp
            if epoch != self._epoch:
                self._before = []
            self._stamp, self._epoch = stamp, epoch
        seconds = (stamp - self._stamp_before) / 1e9
        known = self._before if 0.0 < seconds <= LONGEST_GAP else []
        self._tracks = _followed(_clusters(voxels, pose), known, seconds)
        if not self._tracks:
            return ()
        rows = np.concatenate([track.rows for track in self._tracks])
        velocity = np.concatenate([np.tile(_predicted(track, pose), (len(track.rows), 1)) for track in self._tracks])
        known_rows = np.concatenate([np.full(len(t.rows), t.velocity is not None) for t in self._tracks])
        shift = velocity @ inverse(pose)[:2, :2].T
        out = []
        for time in WAYPOINT_TIMES.tolist():
            there = known_rows | (time <= MOVABLE_HOLD)
            out.append(_moved(voxels, rows[there], shift[there], time))
        return tuple(out)


def _clusters(voxels: SparseVoxels, pose: np.ndarray) -> list[_Track]:
    """Returns the clusters of each group: columns of voxels that touch, or are a voxel apart."""
    group = group_of(voxels.labels)
    centres = voxels.centres()
    found = []
    for index in range(len(GROUPS)):
        rows = np.flatnonzero(group == index)
        if not len(rows):
            continue
        x, y = voxels.indices[rows, 0], voxels.indices[rows, 1]
        layer = np.zeros(voxels.grid.shape[:2], np.uint8)
        layer[x, y] = 1
        _, names = cv2.connectedComponents(cv2.dilate(layer, np.ones((3, 3), np.uint8)))
        of = names[x, y]
        for name in np.unique(of):
            own = rows[of == name]
            place = pose[:2, :3] @ centres[own].mean(0) + pose[:2, 3]
            found.append(_Track(index, place, None, own))
    return found


def _followed(now: Sequence[_Track], before: Sequence[_Track], seconds: float) -> list[_Track]:
    """Returns the clusters with the velocity of the nearest cluster before, each of which is used once."""
    pairs = []
    for i, track in enumerate(now):
        for k, old in enumerate(before):
            if track.group == old.group:
                reach = NEAR + FASTEST * seconds if old.velocity is None else NEAR_KNOWN
                expected = old.place if old.velocity is None else old.place + old.velocity * seconds
                gap = float(np.hypot(*(track.place - expected)))
                if gap < reach:
                    pairs.append((gap, i, k))
    out, used = list(now), set()
    for _, i, k in sorted(pairs):
        if out[i].velocity is None and k not in used:
            used.add(k)
            old = before[k]
            velocity = (out[i].place - old.place) / seconds
            if old.velocity is not None:
                velocity = old.velocity + (velocity - old.velocity) * seconds / (seconds + TIME_CONSTANT)
            older = tuple((age + seconds, place) for age, place in old.past if age < BRAKING_OVER)
            out[i] = _Track(out[i].group, out[i].place, velocity, out[i].rows, ((seconds, old.place), *older))
    return out


def _predicted(track: _Track, pose: np.ndarray) -> np.ndarray:
    """Returns the velocity [2] at which a cluster is assumed to move on. pose: float64 [4, 4] ego2fixed.

    0 while it is unknown or too low to be told from 0. Vehicles ahead that drive the same way may brake, which the
    average shows a second late: they are assumed to be as slow as they were over the last BRAKING_OVER.
    """
    velocity = track.velocity
    if velocity is None or np.hypot(*velocity) < STANDING[track.group]:
        return np.zeros(2)
    speed, forward = float(np.hypot(*velocity)), pose[:2, 0]
    ahead = (track.place - pose[:2, 3]) @ forward > 0 and velocity @ forward > SAME_WAY * speed
    age, before = next((past for past in track.past if past[0] >= BRAKING_OVER), (0.0, track.place))
    if track.group or not ahead or not age:
        return velocity
    latest = (float((track.place - before) @ velocity) / speed + CENTRE_ERROR) / age
    return velocity * min(max(latest / speed, 0.0), 1.0)


def _moved(voxels: SparseVoxels, rows: np.ndarray, velocity: np.ndarray, seconds: float) -> ForecastLayer:
    """Returns the voxels `rows` moved by velocity [N, 2] m/s in base_link; those that leave the grid are dropped."""
    centres = voxels.grid.centre_of(voxels.indices[rows]).astype(np.float64)
    centres[:, :2] += seconds * velocity
    indices, inside = voxels.grid.index_of(centres)
    kept = rows[inside]
    moved = SparseVoxels(indices[inside].astype(np.int16), voxels.labels[kept], voxels.scores[kept], voxels.grid)
    return ForecastLayer(seconds, moved, np.eye(4))
