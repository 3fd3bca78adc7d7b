"""Inputs of PDMS and EPDMS besides the ego: road areas, red lights, other objects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from .polygons import Areas, project
from .vehicle import PACIFICA, Vehicle, corners, wrap


class Surface(IntEnum):
    """Type of a map polygon."""

    LANE, LANE_CONNECTOR, ROADBLOCK, INTERSECTION, CAR_PARK, DRIVABLE = range(6)


class ObjectKind(IntEnum):
    """Type of an object; the first three are road users, the others are static."""

    VEHICLE, PEDESTRIAN, BICYCLE, TRAFFIC_CONE, BARRIER, CONSTRUCTION_SIGN, GENERIC = range(7)


LAST_ROAD_USER = ObjectKind.BICYCLE
_WORDS = {
    ObjectKind.PEDESTRIAN: ("pedestrian", "person", "human", "walker"),
    ObjectKind.BICYCLE: ("bicycle", "cyclist"),
    ObjectKind.TRAFFIC_CONE: ("cone",),
    ObjectKind.BARRIER: ("barrier",),
    ObjectKind.CONSTRUCTION_SIGN: ("sign",),
    ObjectKind.VEHICLE: ("vehicle", "car", "truck", "bus", "trailer", "motorcycle", "van", "construction"),
}
"""Words by kind, in order of precedence: "vehicle.bicycle" is a bicycle."""


def kind_of_label(label: str) -> ObjectKind:
    """Returns the metrics' object kind for a label of any data set, or a shape of the world."""
    known = label.lower()
    return next((kind for kind, words in _WORDS.items() if any(w in known for w in words)), ObjectKind.GENERIC)


@dataclass(frozen=True)
class Objects:
    """Tracks at 10 Hz.

    kind: int [N], see ObjectKind; size: [N, 2] length, width; state: [N, T, 5] = x, y, heading of the box centre,
    vx, vy (global); valid: bool [N, T], whether it is present. A track has at least one valid step.
    """

    kind: np.ndarray
    size: np.ndarray
    state: np.ndarray
    valid: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def boxes(self) -> np.ndarray:
        """Corners [N, T, 4, 2], NaN where an object is absent."""
        size = np.broadcast_to(self.size[:, None], (*self.state.shape[:2], 2))
        boxes = corners(np.concatenate([self.state[..., :3], size], -1))
        return np.where(self.valid[..., None, None], boxes, np.nan)

    @cached_property
    def first_speed(self) -> np.ndarray:
        """Speed [N] at the first valid step, m/s."""
        first = self.valid.argmax(1)
        return np.hypot(*np.moveaxis(self.state[np.arange(len(self)), first, 3:], -1, 0))

    def without(self, gone: np.ndarray) -> Objects:
        """Returns a copy in which the objects of `gone` (bool [N]) are never valid; indices stay."""
        return Objects(self.kind, self.size, self.state, self.valid & ~gone[:, None])


def interpolate_tracks(state: np.ndarray, steps: int) -> np.ndarray:
    """Interpolates tracks at 2 Hz [N, F, 5] (NaN where not observed) to 10 Hz [N, steps, 5].

    Linear between the first and the last observation, bridging gaps, with unwrapped heading; an object observed once
    stays there at every step.
    """
    out = np.full((len(state), steps, 5), np.nan)
    wanted = np.arange(steps)
    for row, track in zip(out, state, strict=True):
        seen = np.flatnonzero(~np.isnan(track[:, 0]))
        seen = seen[5 * seen < steps]
        if len(seen) == 1:
            row[:] = track[seen[0]]
        elif len(seen):
            times = 5 * seen
            held = (wanted >= times[0]) & (wanted <= times[-1])
            for column in range(5):
                values = np.unwrap(track[seen, column]) if column == 2 else track[seen, column]
                row[held, column] = np.interp(wanted[held], times, values)
            row[:, 2] = wrap(row[:, 2])
    return out


class RoadMap:
    """The surfaces around a route.

    Args:
        surfaces: (kind, polygon [V, 2], whether it belongs to the route) each; the last is used for lanes and lane
            connectors only.
        centerline: Points [C, 2] of the route, without repetition.
    """

    def __init__(self, surfaces: list[tuple[Surface, np.ndarray, bool]], centerline: np.ndarray) -> None:
        lanes = (Surface.LANE, Surface.LANE_CONNECTOR)
        self.surfaces = tuple(surfaces)
        self.lanes = Areas(p for kind, p, _ in surfaces if kind in lanes)
        self.route_lanes = Areas(p for kind, p, on_route in surfaces if kind in lanes and on_route)
        self.drivable = Areas(p for kind, p, _ in surfaces if kind not in lanes)
        self.intersections = Areas(p for kind, p, _ in surfaces if kind == Surface.INTERSECTION)
        self.centerline = np.asarray(centerline, np.float64)[:, :2]


@dataclass(frozen=True)
class RedLights:
    """Connectors of the route: polygons, and on, bool [T, R], whether each is red at each step."""

    polygons: tuple[np.ndarray, ...]
    on: np.ndarray


@dataclass(frozen=True)
class TrafficScene:
    """Surroundings of the ego for 4 s from one moment (objects up to 5 s, for PDMS).

    history: the ego's states [4, 11] at -1.5, -1, -0.5 and 0 s.
    """

    road: RoadMap
    objects: Objects
    red_lights: RedLights
    history: np.ndarray
    vehicle: Vehicle = PACIFICA


class DriveAreas:
    """Ego boxes of a drive relative to the map areas and the centreline.

    Attributes (T steps): corners [T, 4, 2], centres [T, 2]; bool [T] each: multiple_lanes, non_drivable, oncoming,
    centre_in_intersection, rear_axle_in_intersection; progress, deviation [T] m of the centre along and from the
    centreline.
    """

    def __init__(self, poses: np.ndarray, road: RoadMap, vehicle: Vehicle) -> None:
        self.corners, self.centres = vehicle.corners(poses), vehicle.centres(poses)
        held = road.lanes.holders(self.corners)
        self.multiple_lanes = (held.any(-1).sum(0) > 1) & ~held.all(-1).any(0)
        self.non_drivable = ~road.drivable.hold(self.corners).all(-1)
        self.oncoming = ~road.route_lanes.hold(self.centres)
        self.centre_in_intersection = road.intersections.hold(self.centres)
        self.rear_axle_in_intersection = road.intersections.hold(poses[:, :2])
        self.progress, self.deviation = project(self.centres, road.centerline)
