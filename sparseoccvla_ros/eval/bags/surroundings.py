"""Inputs of PDMS and EPDMS from a recording: ego state, map, red lights, other objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...camera_sync.message_adapter import stamp_ns
from ...camera_sync.profiles import Profile
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS
from ...data.bags.drive import Drive, decoded
from ...data.bags.reader import BagReader
from ..metrics.driving.traffic_scene import Objects, RedLights, RoadMap, Surface, TrafficScene, kind_of_label
from ..metrics.driving.vehicle import DT, Vehicle
from .recording import ACCELERATION, AREAS, MARKERS, PATH, RED_LIGHTS, ROUTE, Track

FUTURE = 51
"""Steps of DT for which other objects must be known."""
DRIVEN = 41
AGES = (1.5, 1.0, 0.5, 0.0)
_ACCELERATIONS = ("geometry_msgs/msg/AccelStamped", "geometry_msgs/msg/AccelWithCovarianceStamped")
_ACCELERATION_TOPICS = (ACCELERATION, "/localization/acceleration")
_LINE_STRIP, _ADD = 4, 0
_STEERS_FROM = 0.1
"""Speed (m/s) above which the front wheel angle is computed from yaw rate and speed."""


@dataclass(frozen=True, eq=False)
class Motion:
    """The ego's motion without its pose: stamps int64 [T] ns, increasing; values float64 [T, 4]: speed m/s,
    acceleration m/s^2, front wheel angle rad, yaw rate rad/s."""

    stamps: np.ndarray
    values: np.ndarray

    def at(self, stamps: np.ndarray) -> np.ndarray:
        """Interpolates values [..., 4] linearly; held beyond the ends."""
        own, wanted = (self.stamps - self.stamps[0]) / NANOSECONDS, (stamps - self.stamps[0]) / NANOSECONDS
        return np.stack([np.interp(wanted, own, column) for column in self.values.T], -1)


def read_motion(reader: BagReader, profile: Profile, drive: Drive, vehicle: Vehicle) -> Motion:
    """Reads motion from the odometry twist if filled, otherwise from differences of the drive's poses; acceleration
    from its topic, otherwise from differences of the speed."""
    kinds = {name: topic.type for name, topic in reader.topics.items() if topic.count}
    rows = []
    if kinds.get(profile.odometry_topic) == "nav_msgs/msg/Odometry":
        rows = [
            (stamp_ns(m.header.stamp), m.twist.twist.linear.x, m.twist.twist.angular.z)
            for _, m in decoded(reader, [profile.odometry_topic])
        ]
    # All zeros: the recorder left the twist empty.
    if any(speed or rate for _, speed, rate in rows):
        stamps, first = np.unique(np.array([r[0] for r in rows], np.int64), return_index=True)
        speed, rate = (np.array([rows[i][column] for i in first]) for column in (1, 2))
    else:
        stamps = drive.stamps
        seconds = (stamps - stamps[0]) / NANOSECONDS
        rate = np.gradient(drive.poses[:, 2], seconds)
        x, y = (np.gradient(drive.poses[:, i], seconds) for i in (0, 1))
        speed = x * np.cos(drive.poses[:, 2]) + y * np.sin(drive.poses[:, 2])
    seconds = (stamps - stamps[0]) / NANOSECONDS
    acceleration = (speed - np.interp(seconds - DT, seconds, speed)) / DT
    for topic in (t for t in _ACCELERATION_TOPICS if kinds.get(t) in _ACCELERATIONS):
        found = [_acceleration(m) for _, m in decoded(reader, [topic])]
        known = np.array([(stamp - int(stamps[0])) / NANOSECONDS for stamp, _ in found])
        acceleration = np.interp(seconds, known, [a for _, a in found])
        break
    steering = np.zeros(len(stamps))
    last = 0.0
    for k, (v, w) in enumerate(zip(speed, rate, strict=True)):
        last = float(np.arctan(w * vehicle.wheelbase / v)) if abs(v) > _STEERS_FROM else last
        steering[k] = last
    return Motion(stamps, np.stack([speed, acceleration, steering, rate], -1))


def _acceleration(message: Any) -> tuple[int, float]:
    accel = message.accel.accel if hasattr(message.accel, "accel") else message.accel
    return stamp_ns(message.header.stamp), float(accel.linear.x)


@dataclass(frozen=True, eq=False)
class Road:
    """The map around a drive. red: connectors of the route; stamps: int64 [S] ns; on: bool [S, R], which connectors are
    red from each stamp on."""

    map: RoadMap
    red: tuple[np.ndarray, ...] = ()
    stamps: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    on: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))

    def lights(self, stamps: np.ndarray) -> RedLights:
        """Returns the red lights at stamps [T]; none before the first record."""
        row = np.searchsorted(self.stamps, stamps, side="right") - 1
        known = self.on[np.maximum(row, 0)] if len(self.on) else np.zeros((len(stamps), len(self.red)), bool)
        return RedLights(self.red, known & (row >= 0)[:, None])


def read_road(reader: BagReader, drive: Drive, surfaces: list[tuple[Surface, np.ndarray, bool]] | None) -> Road | None:
    """Reads the map of a recording; None if it has none.

    Args:
        reader: Bag with AREAS, RED_LIGHTS and ROUTE; without a route the driven path is the centreline.
        drive: The drive, in the same frame as the map.
        surfaces: Surfaces of an external map, replacing AREAS.

    Raises:
        InvalidInput: The map is invalid, in another frame, or has no drivable area.
    """
    if surfaces is None:
        surfaces = []
        for _, message in _markers(reader, AREAS):
            for marker in message.markers:
                name = marker.ns.upper()
                if name not in Surface.__members__:
                    raise InvalidInput(
                        "map", f"{AREAS}: {marker.ns!r} is not one of {', '.join(Surface.__members__).lower()}"
                    )
                surfaces.append((Surface[name], _outline(marker, drive), marker.text == "route"))
    if not surfaces:
        return None
    if not any(kind not in (Surface.LANE, Surface.LANE_CONNECTOR) for kind, _, _ in surfaces):
        raise InvalidInput("map", "has lanes but no roadblock, intersection, car park or drivable area")
    road = RoadMap(surfaces, _centreline(reader, drive))
    polygons: dict[tuple[str, int], np.ndarray] = {}
    shown: list[tuple[int, set[tuple[str, int]]]] = []
    for stamp, message in _markers(reader, RED_LIGHTS):
        named = {(m.ns, m.id): m for m in message.markers}
        polygons |= {name: _outline(m, drive) for name, m in named.items() if name not in polygons}
        first = message.markers[0].header.stamp if message.markers else None
        shown.append(((0 if first is None else stamp_ns(first)) or drive.clock.at(stamp), set(named)))
    order = list(polygons)
    on = np.array([[name in names for name in order] for _, names in shown], bool).reshape(len(shown), len(order))
    return Road(road, tuple(polygons.values()), np.array([s for s, _ in shown], np.int64), on)


def _markers(reader: BagReader, topic: str) -> list[tuple[int, Any]]:
    known = reader.topics.get(topic)
    return list(decoded(reader, [topic])) if known is not None and known.type == MARKERS else []


def _outline(marker: Any, drive: Drive) -> np.ndarray:
    if marker.type != _LINE_STRIP or marker.action != _ADD or len(marker.points) < 4:
        raise InvalidInput("map", f"{marker.ns} {marker.id} is no outline: want a closed LINE_STRIP")
    if marker.header.frame_id.lstrip("/") != drive.frame:
        raise InvalidInput("map", f"is in frame {marker.header.frame_id!r}, the drive in {drive.frame}")
    points = np.array([(p.x, p.y) for p in marker.points])
    return points[:-1] if np.array_equal(points[0], points[-1]) else points


def _centreline(reader: BagReader, drive: Drive) -> np.ndarray:
    known = reader.topics.get(ROUTE)
    if known is not None and known.type == PATH and known.count:
        _, message = next(iter(decoded(reader, [ROUTE])))
        if message.header.frame_id.lstrip("/") == drive.frame:
            line = np.array([(p.pose.position.x, p.pose.position.y) for p in message.poses]).reshape(-1, 2)
            kept = np.append(True, np.hypot(*np.diff(line, axis=0).T) > 1e-9)
            if kept.sum() > 1:
                return line[kept]
    line = drive.poses[:, :2]
    rows = [0]
    for k in range(len(line)):
        if np.hypot(*(line[k] - line[rows[-1]])) > 0.5:
            rows.append(k)
    if len(rows) < 2:
        raise InvalidInput("bag", "the vehicle does not move, and no route is recorded: there is no progress to score")
    return line[rows]


def scene_at(
    stamp: int, drive: Drive, motion: Motion, tracks: Sequence[Track], road: Road, vehicle: Vehicle
) -> TrafficScene:
    """Builds the scoring scene around the ego from a stamp on."""
    stamps = stamp + np.round(DT * np.arange(FUTURE) * NANOSECONDS).astype(np.int64)
    states = [track.at(stamps) for track in tracks]
    rows = [k for k, s in enumerate(states) if np.isfinite(s).all(1).any()]
    state = np.zeros((len(rows), FUTURE, 5))
    valid = np.zeros((len(rows), FUTURE), bool)
    for out, seen, k in zip(state, valid, rows, strict=True):
        seen[:] = np.isfinite(states[k]).all(1)
        out[:, :3] = np.where(seen[:, None], states[k], 0.0)
        if seen.sum() > 1:
            out[seen, 3:] = np.gradient(states[k][seen, :2], DT * np.flatnonzero(seen), axis=0)
    kinds = np.array([int(kind_of_label(tracks[k].kind)) for k in rows], np.int64)
    size = np.array([tracks[k].size for k in rows]).reshape(-1, 2)
    history = np.stack([state_at(stamp - round(age * NANOSECONDS), drive, motion) for age in AGES])
    return TrafficScene(road.map, Objects(kinds, size, state, valid), road.lights(stamps[:DRIVEN]), history, vehicle)


def state_at(stamp: int, drive: Drive, motion: Motion) -> np.ndarray:
    """Returns the ego's state [11] in the layout of metrics.driving, held at the drive's ends."""
    held = int(np.clip(stamp, drive.stamps[0], drive.stamps[-1]))
    speed, acceleration, steering, rate = motion.at(np.array(stamp))
    return np.array([*drive.at(np.array(held)), speed, 0.0, acceleration, 0.0, steering, 0.0, rate, 0.0])
