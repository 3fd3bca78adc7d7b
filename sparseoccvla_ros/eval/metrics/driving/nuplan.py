"""nuPlan's closed-loop score, CLS (nuplan-devkit v1.2; replayed traffic: CLS-NR, reactive: CLS-R)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import comfort
from .collisions import AHEAD, BEHIND, Contact, relative_angle, speeds, touching
from .polygons import Areas, hulls_touch, project
from .traffic_scene import LAST_ROAD_USER, ObjectKind, Objects
from .vehicle import DT, HEADING, PACIFICA, Vehicle

_STOPPED, _TTC_STOPPED = 0.05, 0.005
_LEAST_TTC = 0.95
_OUTSIDE = 0.3
_OVERSPEED = 2.23
_SHORT = 2.0
_LEAST_PROGRESS = 0.2


@dataclass(frozen=True)
class ClosedLoopScore:
    """Sub-scores 0..1; MP: making progress; SL: speed limit."""

    NC: float
    DAC: float
    MP: float
    DDC: float
    EP: float
    TTC: float
    SL: float
    C: float

    @property
    def score(self) -> float:
        """CLS."""
        return self.NC * self.DAC * self.MP * self.DDC * (5 * self.EP + 5 * self.TTC + 4 * self.SL + 2 * self.C) / 16


def share_lane(corners: np.ndarray, lanes: Areas, connected: np.ndarray) -> np.ndarray:
    """bool [T]: whether the corners [T, 4, 2] lie in one lane or in two directly connected ones.

    connected: bool [P, P], whether lane q follows lane p.
    """
    held = lanes.holders(corners)
    one = held.all(-1).any(0)
    pair = np.zeros(len(corners), bool)
    for p, q in np.argwhere(connected):
        pair |= (held[p] | held[q]).all(-1)
    return one | pair


@dataclass(frozen=True)
class Situation:
    """Per step, bool [T] each: common_lane, all corners share a lane or connected lanes; intersection, inside one."""

    common_lane: np.ndarray
    intersection: np.ndarray


def faults(states: np.ndarray, corners: np.ndarray, objects: Objects, situation: Situation) -> dict[int, bool]:
    """Returns the objects hit, by index, and whether the ego was at fault; only the first contact of each counts."""
    speed = speeds(states)
    hit: dict[int, bool] = {}
    for step, i in np.argwhere(touching(corners, objects.boxes[:, : len(states)])):
        if int(i) in hit:
            continue
        others = float(np.hypot(*objects.state[i, step, 3:]))
        angle = relative_angle(states[step, : HEADING + 1], objects.state[i, step, :2])
        if speed[step] <= _STOPPED:
            kind = Contact.EGO_STOPPED
        elif objects.kind[i] > LAST_ROAD_USER or others <= _STOPPED:
            kind = Contact.OBJECT_STOPPED
        elif angle > BEHIND:
            kind = Contact.REAR
        elif hulls_touch(corners[step][[0, 3]], objects.boxes[i, step]):
            kind = Contact.FRONT
        else:
            kind = Contact.LATERAL
        at_fault = kind in (Contact.OBJECT_STOPPED, Contact.FRONT)
        hit[int(i)] = at_fault or (kind is Contact.LATERAL and not bool(situation.common_lane[step]))
    return hit


def no_collision(hit: dict[int, bool], objects: Objects) -> float:
    """NC: product over vulnerable road users, vehicles (no collision allowed) and other objects (0.5 after one)."""
    counts = {"vulnerable": 0, "vehicle": 0, "object": 0}
    for i, at_fault in hit.items():
        kind = ObjectKind(int(objects.kind[i]))
        vulnerable = kind in (ObjectKind.PEDESTRIAN, ObjectKind.BICYCLE)
        name = "vulnerable" if vulnerable else "vehicle" if kind is ObjectKind.VEHICLE else "object"
        counts[name] += at_fault
    allowed = {"vulnerable": 0, "vehicle": 0, "object": 1}
    return float(np.prod([max(0.0, 1 - counts[n] / (allowed[n] + 1)) for n in counts]))


def drivable_area(corners: np.ndarray, areas: Areas) -> float:
    """DAC: 0 if a corner [T, 4, 2] is outside every area by 0.3 m or more."""
    outside = corners[~areas.hold(corners)]
    if not len(outside):
        return 1.0
    distance = np.full(len(outside), np.inf)
    for polygon in areas.polygons:
        distance = np.minimum(distance, project(outside, np.concatenate([polygon, polygon[:1]]))[1])
    return float((distance < _OUTSIDE).all())


def driving_direction(progress: np.ndarray) -> float:
    """DDC from the distance driven backwards in a second; progress: [T - 1] m per step along the lane's baseline."""
    backward = np.maximum(-progress, 0.0)
    most = float(np.convolve(backward, np.ones(round(1.0 / DT))).max())
    return 1.0 if most < 2.0 else 0.5 if most < 6.0 else 0.0


def expert_progress(ego: float, expert: float) -> float:
    """EP from the progress (m) of ego and expert along the expert's roadblocks."""
    return 0.0 if ego < -_SHORT else min(1.0, max(ego, _SHORT) / max(expert, _SHORT))


def time_to_collision(
    states: np.ndarray, corners: np.ndarray, objects: Objects, situation: Situation, hit: dict[int, bool]
) -> float:
    """TTC: 1 if the time to collision at constant velocities is never below 0.95 s; 0 after an at-fault collision."""
    if any(hit.values()):
        return 0.0
    speed, heading, count = speeds(states), states[:, HEADING], len(states)
    way = speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
    tracks = objects.state[:, :count]
    pace = np.hypot(tracks[..., 3], tracks[..., 4])
    theirs = pace[..., None] * np.stack([np.cos(tracks[..., 2]), np.sin(tracks[..., 2])], -1)
    for k in range(1, int(np.ceil(_LEAST_TTC / DT))):
        boxes = corners + (way * k * DT)[:, None]
        others = objects.boxes[:, :count] + (theirs * k * DT)[:, :, None]
        for step, i in np.argwhere(touching(boxes, others)):
            if int(i) in hit or speed[step] <= _TTC_STOPPED:
                continue
            angle = relative_angle(states[step, : HEADING + 1], tracks[i, step, :2])
            loose = not situation.common_lane[step] or situation.intersection[step]
            if angle < AHEAD or (loose and not angle > BEHIND):
                return 0.0
    return 1.0


def speed_limit(speed: np.ndarray, limit: np.ndarray) -> float:
    """SL from speeds and limits, [T] m/s each."""
    over = np.maximum(speed - limit, 0.0).sum() * DT
    return max(0.0, 1.0 - float(over) / (_OVERSPEED * len(speed) * DT))


def comfortable(states: np.ndarray, vehicle: Vehicle = PACIFICA) -> float:
    """C of a drive [T, 11]."""
    return float(comfort.within(comfort.traces_v2(states, vehicle)).all())


def making_progress(ep: float) -> float:
    """MP from EP."""
    return float(ep >= _LEAST_PROGRESS)
