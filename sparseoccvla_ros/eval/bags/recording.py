"""Reads plans and tracked boxes from a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ...camera_sync.message_adapter import stamp_ns
from ...core import geometry
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS
from ...data.bags.drive import Drive, decoded
from ...data.bags.reader import BagReader
from ..metrics.driving.tracker import global_poses

PATH = "nav_msgs/msg/Path"
MULTI_DOF = "trajectory_msgs/msg/MultiDOFJointTrajectory"
AUTOWARE = ("autoware_planning_msgs/msg/Trajectory", "autoware_auto_planning_msgs/msg/Trajectory")
PLAN_TYPES = (PATH, MULTI_DOF, *AUTOWARE)
MARKERS = "visualization_msgs/msg/MarkerArray"
ANNOTATIONS = "/markers/annotations"
AREAS, RED_LIGHTS = "/map/areas", "/map/red_lights"
"""MarkerArrays of outlines: surfaces by namespace (lane, lane_connector, roadblock, intersection, car_park, drivable;
text "route" on those used by the route), and route connectors that are red until the next message."""
ROUTE = "/sparseoccvla/planning/route"
ACCELERATION = "/acceleration"
_CUBE, _ADD = 1, 0
OLDEST_PLAN = 1.0
"""Age (s) from which a plan no longer counts, as the follower's max_age."""
QUICKEST = 0.01
"""Lower bound (s) of the estimated plan period, from which missing plans are counted."""
WARM_UP = 2.0
"""Time (s) from the start within which a planner must produce its first plan."""
LONGEST_GAP = 1.5
"""Longest gap (s) between two observations of a box that is interpolated."""
FASTEST, HARDEST, INACCURATE = 70.0, 20.0, 2.0
"""Limits (m/s, m/s^2, m) of a box's motion between observations: beyond them its id belongs to another object."""
MOST_CUTS = 0.1
"""Share of observations at which ids may pass to another object; above it, they only number a message's boxes."""
UNTOLD = 0.5
"""Time (s) at both ends of a plan for which boxes are not required: the step of annotated data sets."""


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan: stamp ns; times float64 [K] s from it, increasing, all > 0; poses float64 [K, 3] in the drive's frame."""

    stamp: int
    times: np.ndarray
    poses: np.ndarray

    def at(self, start: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Interpolates poses [M, 3] at times [M] s; start [3]: vehicle pose at the stamp. NaN beyond the plan's end."""
        columns = np.concatenate([start[None], self.poses])
        columns[:, 2] = np.unwrap(columns[:, 2])
        own = np.concatenate([[0.0], self.times])
        return np.stack([np.interp(times, own, c, right=np.nan) for c in columns.T], -1)


@dataclass(frozen=True, eq=False)
class Track:
    """An observed box: stamps int64 [S] ns; states float64 [S, 3], x, y, yaw in the drive's frame; size length and
    width m; kind: the namespace of its markers, "car" or "human.pedestrian.adult"."""

    stamps: np.ndarray
    states: np.ndarray
    size: tuple[float, float]
    kind: str = ""

    def at(self, stamps: np.ndarray) -> np.ndarray:
        """Interpolates states [M, 3] at stamps [M]; NaN where it was not observed."""
        if len(self.stamps) == 1:
            return np.where((np.abs(stamps - self.stamps[0]) < 0.05 * NANOSECONDS)[:, None], self.states[0], np.nan)
        own, wanted = (self.stamps - self.stamps[0]) / NANOSECONDS, (stamps - self.stamps[0]) / NANOSECONDS
        columns = [self.states[:, 0], self.states[:, 1], np.unwrap(self.states[:, 2])]
        out = np.stack([np.interp(wanted, own, c, left=np.nan, right=np.nan) for c in columns], -1)
        after = np.clip(np.searchsorted(own, wanted), 1, len(own) - 1)
        between = (own[after - 1] < wanted) & (wanted < own[after])
        out[between & (own[after] - own[after - 1] > LONGEST_GAP)] = np.nan
        return out


def read_plans(reader: BagReader, topic: str, drive: Drive) -> tuple[list[Planned], list[tuple[int, str]]]:
    """Reads the plans of a topic, and (stamp, reason) of those that cannot be scored.

    Raises:
        InvalidInput: The topic is missing or of another type.
    """
    known = reader.topics.get(topic)
    if known is None or known.type not in PLAN_TYPES:
        usable = [name for name, t in reader.topics.items() if t.type in PLAN_TYPES]
        what = "is not in the bag" if known is None else f"carries {known.type}"
        raise InvalidInput("topic", f"{topic} {what}; plans are on: {', '.join(usable) or 'no topic'}")
    plans, refused = [], []
    for _, message in decoded(reader, [topic]):
        try:
            plans.append(_plan(message, known.type, drive))
        except InvalidInput as error:
            refused.append((stamp_ns(message.header.stamp), str(error).removeprefix("plan: ")))
    return plans, refused


def without_plan(planned: Sequence[int], refused: Sequence[int], first: int, last: int) -> list[int]:
    """Returns stamps (ns) from `first` to `last` at which the vehicle had no plan, in addition to `refused`.

    A planner that stops leaves no messages to score, and one that rejects many frame sets in a row publishes a single
    empty path. Such gaps are filled at the planner's median period: immediately after a refused plan, from OLDEST_PLAN
    on after a good one, and from WARM_UP on before the first.

    Args:
        planned: Stamps of plans.
        refused: Stamps of empty and unusable plans.
        first: Stamp at which the planner should start.
        last: End of the evaluated interval.
    """
    told = np.unique([stamp for stamp in (*planned, *refused) if first <= stamp <= last]).tolist()
    period = OLDEST_PLAN * NANOSECONDS
    if len(told) > 2:
        period = min(max(float(np.median(np.diff(told))), QUICKEST * NANOSECONDS), period)
    good, out = set(planned) - set(refused), []
    for begin, end in pairwise([first, *told, last]):
        allowed = OLDEST_PLAN * NANOSECONDS + 1 if begin in good else WARM_UP * NANOSECONDS if begin == first else 0
        for k in range(1, int((end - begin) / period + 0.5)):
            if k * period >= allowed:
                out.append(begin + round(k * period))
    return out


def _plan(message: Any, kind: str, drive: Drive) -> Planned:
    stamp = stamp_ns(message.header.stamp)
    if kind == PATH:
        times = [(stamp_ns(p.header.stamp) - stamp) / NANOSECONDS for p in message.poses]
        poses = [_planar(p.pose.position, p.pose.orientation) for p in message.poses]
    elif kind == MULTI_DOF:
        times = [_seconds(p.time_from_start) for p in message.points]
        poses = [_planar(p.transforms[0].translation, p.transforms[0].rotation) for p in message.points]
    else:
        poses = [_planar(p.pose.position, p.pose.orientation) for p in message.points]
        times = [_seconds(p.time_from_start) for p in message.points]
        if len(times) > 1 and not any(times):
            speeds = [p.longitudinal_velocity_mps for p in message.points]
            base = message.header.frame_id.lstrip("/") == drive.base
            here = np.zeros(2) if base else drive.at(np.array([stamp]))[0, :2]
            times = times_by_speed(np.array(poses)[:, :2], np.array(speeds), here)
    if not poses:
        raise InvalidInput("plan", "is empty, which tells followers to stop")
    at, places = np.array(times), np.array(poses)
    ahead = at > 1e-6
    at, places = at[ahead], places[ahead]
    if len(at) < 2 or (np.diff(at) <= 0).any():
        raise InvalidInput("plan", "its poses carry no increasing times")
    frame = message.header.frame_id.lstrip("/")
    if frame == drive.base:
        start = drive.at(np.array([stamp]))[0]
        if not np.isfinite(start).all():
            raise InvalidInput("plan", "lies outside the recorded drive")
        places = global_poses(start, places)
    elif frame != drive.frame:
        raise InvalidInput("plan", f"is in frame {frame!r}, neither {drive.base} nor {drive.frame}")
    return Planned(stamp, at, places)


def times_by_speed(places: np.ndarray, speeds: np.ndarray, here: np.ndarray) -> list[float]:
    """Computes times of trajectory points from their speeds, for Autoware planners that leave time_from_start 0.

    Args:
        places: float64 [N, 2] m, N >= 2; points behind the vehicle get negative times.
        speeds: [N] m/s.
        here: Vehicle position [2] m.
    """
    step = np.diff(places, axis=0)
    length = np.hypot(*step.T)
    share = np.clip(((here - places[:-1]) * step).sum(-1) / np.maximum(length**2, 1e-12), 0.0, 1.0)
    gaps = np.hypot(*(places[:-1] + share[:, None] * step - here).T)
    nearest = int(np.argmin(gaps))
    seconds = length / np.maximum(0.5 * (speeds[1:] + speeds[:-1]), 0.05)
    times = np.append(0.0, np.cumsum(seconds))
    return (times - times[nearest] - share[nearest] * seconds[nearest]).tolist()


def _planar(position: Any, orientation: Any) -> tuple[float, float, float]:
    q = np.array((orientation.x, orientation.y, orientation.z, orientation.w))
    matrix = geometry.transform(np.array((position.x, position.y, position.z)), q, "plan")
    return float(position.x), float(position.y), geometry.yaw_of(matrix)


def _seconds(duration: Any) -> float:
    return duration.sec + duration.nanosec / NANOSECONDS


def watched(seen: np.ndarray, stamp: int, seconds: float) -> bool:
    """Whether boxes were recorded for `seconds` from a stamp, except UNTOLD at both ends; seen: sorted int64 [S] ns."""
    first, last = stamp + round(UNTOLD * NANOSECONDS), stamp + round((seconds - UNTOLD) * NANOSECONDS)
    begin, end = int(np.searchsorted(seen, first, side="right")) - 1, int(np.searchsorted(seen, last, side="left"))
    return begin >= 0 and end < len(seen) and bool((np.diff(seen[begin : end + 1]) <= LONGEST_GAP * NANOSECONDS).all())


def read_tracks(reader: BagReader, topic: str, drive: Drive) -> tuple[list[Track], np.ndarray, str]:
    """Reads cubes of a MarkerArray: (tracks by namespace and id, stamps int64 [S] ns of messages including empty ones,
    why the boxes are unusable or "").

    Raises:
        InvalidInput: The topic is missing, of another type, or in another frame.
    """
    known = reader.topics.get(topic)
    if known is None or known.type != MARKERS:
        what = "is not in the bag" if known is None else f"carries {known.type}, not {MARKERS}"
        raise InvalidInput("boxes", f"{topic} {what}")
    seen: dict[tuple[str, int], list[tuple[int, tuple[float, float, float], tuple[float, float]]]] = {}
    told: list[int] = []
    for record_time, message in decoded(reader, [topic]):
        told_at = drive.clock.at(record_time)
        told.append((stamp_ns(message.markers[0].header.stamp) if message.markers else 0) or told_at)
        for marker in message.markers:
            if marker.type != _CUBE or marker.action != _ADD:
                continue
            stamp = stamp_ns(marker.header.stamp) or told_at
            pose = np.array([_planar(marker.pose.position, marker.pose.orientation)])
            if marker.header.frame_id.lstrip("/") == drive.base:
                pose = global_poses(drive.at(np.array([stamp]))[0], pose)
            elif marker.header.frame_id.lstrip("/") != drive.frame:
                raise InvalidInput("boxes", f"{topic} is in frame {marker.header.frame_id!r}, not in {drive.frame}")
            if np.isfinite(pose).all():
                row = (stamp, tuple(pose[0].tolist()), (float(marker.scale.x), float(marker.scale.y)))
                seen.setdefault((marker.ns, marker.id), []).append(row)
    tracks = []
    cuts = links = 0
    for (kind, _), rows in seen.items():
        stamps, first = np.unique(np.array([r[0] for r in rows], np.int64), return_index=True)
        states = np.array([rows[i][1] for i in first])
        begins, followed = _others(stamps, states)
        cuts, links = cuts + len(begins), links + followed
        for begin, end in pairwise([0, *begins, len(stamps)]):
            tracks.append(Track(stamps[begin:end], states[begin:end], rows[first[begin]][2], kind))
    if cuts > max(1, MOST_CUTS * links):
        problem = f"the ids on {topic} number the boxes of a message, they follow no object ({cuts} of {links} jump)"
        return [], np.zeros(0, np.int64), problem
    return tracks, np.unique(np.array(told, np.int64)), ""


def _others(stamps: np.ndarray, states: np.ndarray) -> tuple[list[int], int]:
    """Returns (rows at which the id passes to another object, by implausible motion; number of checked steps)."""
    begins, looked, velocity = [], 0, None
    seconds, steps = np.diff(stamps) / NANOSECONDS, np.diff(states[:, :2], axis=0)
    for row, (dt, step) in enumerate(zip(seconds, steps, strict=True), 1):
        if dt > LONGEST_GAP:
            velocity = None
            continue
        looked += 1
        off, reach = (step, FASTEST * dt) if velocity is None else (step - velocity * dt, HARDEST * dt * dt)
        velocity = step / dt
        if np.hypot(*off) > reach + INACCURATE:
            begins.append(row)
            velocity = None
    return begins, looked
