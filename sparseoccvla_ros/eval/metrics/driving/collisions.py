"""NAVSIM's no-at-fault-collision (NC) and time-to-collision (TTC).

Follows navsim `pdm_scorer` and `pdm_scorer_utils`; contact means that closed boxes share a point.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .polygons import hulls_touch
from .traffic_scene import LAST_ROAD_USER, DriveAreas, Objects
from .vehicle import DT, HEADING, VX, VY

_STOPPED = 0.05
_TTC_STOPPED = 0.005
_TTC_OFFSETS = (0, 3, 6, 9)
AHEAD, BEHIND = np.deg2rad(30.0), np.deg2rad(150.0)


class Contact(IntEnum):
    """Type of a contact, in the order in which the rules test it."""

    EGO_STOPPED, OBJECT_STOPPED, FRONT, REAR, LATERAL = range(5)


@dataclass(frozen=True)
class CollisionEvent:
    """One contact: step, index of the object, type, and whether the ego is at fault."""

    step: int
    object: int
    contact: Contact
    at_fault: bool


def speeds(states: np.ndarray) -> np.ndarray:
    """Returns speeds [T] m/s of states [T, 11]."""
    return np.hypot(states[:, VX], states[:, VY])


def relative_angle(pose: np.ndarray, point: np.ndarray) -> float:
    """Returns the angle (rad) between the heading of a pose [3] and the direction to a point [2]; NaN at the pose."""
    dx, dy = point - pose[:2]
    length = np.hypot(dx, dy)
    if length == 0.0:
        return float("nan")
    return float(np.arccos(np.clip((dx * np.cos(pose[2]) + dy * np.sin(pose[2])) / length, -1.0, 1.0)))


def touching(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [S, N]: whether ego boxes [S, 4, 2] touch object boxes [N, S, 4, 2]; only close pairs are tested."""
    low, high = boxes.min(-2), boxes.max(-2)
    near = ((low <= others.max(-2)) & (others.min(-2) <= high)).all(-1)
    result = np.zeros(near.shape, bool)
    rows = np.nonzero(near)
    if len(rows[0]):
        result[rows] = hulls_touch(boxes[rows[1]], others[rows])
    return result.T


def collision_events(states: np.ndarray, areas: DriveAreas, objects: Objects) -> list[CollisionEvent]:
    """Returns the contacts of a drive [T, 11] in time order; after a no-fault contact its object is ignored."""
    count = len(states)
    touched = touching(areas.corners, objects.boxes[:, :count])
    speed = speeds(states)
    excused: set[int] = set()
    events = []
    for step, i in np.argwhere(touched):
        if i in excused:
            continue
        angle = relative_angle(states[step, : HEADING + 1], objects.state[i, step, :2])
        front = areas.corners[step][[0, 3]]
        unsafe = bool(areas.multiple_lanes[step] or areas.non_drivable[step])
        if speed[step] <= _STOPPED:
            contact, at_fault = Contact.EGO_STOPPED, False
        elif objects.kind[i] > LAST_ROAD_USER or objects.first_speed[i] <= _STOPPED:
            contact, at_fault = Contact.OBJECT_STOPPED, True
        elif angle > BEHIND:
            contact, at_fault = Contact.REAR, False
        elif hulls_touch(front, objects.boxes[i, step]):
            contact, at_fault = Contact.FRONT, True
        else:
            contact, at_fault = Contact.LATERAL, unsafe
        events.append(CollisionEvent(int(step), int(i), contact, at_fault))
        if not at_fault:
            excused.add(int(i))
    return events


def no_collision(events: list[CollisionEvent], objects: Objects) -> float:
    """NC: 1, or 0.5 after an at-fault contact with a static object, or 0 with a road user."""
    faults = [0.0 if objects.kind[e.object] <= LAST_ROAD_USER else 0.5 for e in events if e.at_fault]
    return min(faults, default=1.0)


def first_ttc_step(states: np.ndarray, areas: DriveAreas, objects: Objects, last: int) -> int:
    """Returns the first step up to `last` at which constant speed and heading lead to a hit within 0.9 s, or -1.

    The relative angle is between the current ego pose and the future object; an object whose first such contact does
    not count is ignored from then on. Objects are absent after their last step.
    """
    steps = np.arange(min(last + 1, len(states)))
    speed, heading = speeds(states)[steps], states[steps, HEADING]
    way = speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
    end = objects.boxes.shape[1]
    contacts = []
    for k in _TTC_OFFSETS:
        seen = steps[steps + k < end]
        boxes = areas.corners[seen] + (way[seen] * k * DT)[:, None]
        contacts += [(step, k, i) for step, i in np.argwhere(touching(boxes, objects.boxes[:, seen + k]))]
    ignored: set[int] = set()
    for step, k, i in sorted(contacts):
        if i in ignored or speed[step] < _TTC_STOPPED:
            continue
        angle = relative_angle(states[step, : HEADING + 1], objects.state[i, step + k, :2])
        unsafe = areas.multiple_lanes[step] or areas.non_drivable[step] or areas.rear_axle_in_intersection[step]
        if angle < AHEAD or (unsafe and not angle > BEHIND):
            return int(step)
        ignored.add(i)
    return -1
