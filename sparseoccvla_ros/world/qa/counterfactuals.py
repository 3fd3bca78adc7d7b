"""What the car should do and why, and what would happen if it did something else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core import geometry
from ...planning.plan_words import CHANGED, TURNED, driving_action
from ...planning.trajectory import SUBSTEPS, SWEEP_TIMES
from ..agents.traffic import GREEN
from ..labels.annotations import ego_plan, first_contact, on_road
from .scene_relations import SceneView, near_distance

MANOEUVRES = ("keep", "accelerate", "brake", "lane_left", "lane_right", "turn_left", "turn_right")
LANE, RADIUS, LOWEST = 3.3, 9.0, 4.0
"""Metres a lane change goes aside, radius of a turn, and the least speed (m/s) at which either is driven."""
BENT = 0.12
"""Radians over the next 25 m or 4 s from which on the road ahead bends."""


@dataclass(frozen=True)
class Advice:
    """action: what to do next, in few words; reason: why, as a clause."""

    action: str
    reason: str


def advice(view: SceneView) -> Advice | None:
    """What the expert does within the next 3 s and why, from what the cameras show.

    None where its motion has a reason that nothing shows: it rolls on towards a red light that is about to change.
    """
    speeds, heading = view.expert.speed, float(view.expert.heading[-1])
    lowest, later = float(speeds.min()), float(speeds[-1])
    side = "left" if heading > TURNED else "right" if heading < -TURNED else ""
    action = driving_action(view.speed, speeds, heading, _turns(view))
    held = lowest < view.speed - CHANGED or action.startswith("stay stopped")
    if not held and view.light not in (None, GREEN) and view.room < 20:
        return None
    if held and view.yields and view.yields_to is None:
        return None
    return Advice(action, _reason(view, held, later > view.speed + CHANGED, side))


def _turns(view: SceneView) -> bool:
    """Whether a change of heading is a turn, not a bend of the street."""
    return view.turning


def _slows(view: SceneView, side: str) -> str:
    """Why the ego slows down where nobody is in its way."""
    if side and _turns(view):
        return "the turn is sharp"
    if side or abs(view.bend(max(25.0, 4.0 * view.speed))) > BENT:
        return "the road bends"
    return "a junction is ahead" if view.place == "before" and view.room < 60 else "the road is narrow"


def _reason(view: SceneView, held: bool, faster: bool, side: str) -> str:
    gap = view.lead[1] if view.lead else np.inf
    reach = 8.0 + 2.5 * view.speed
    if held:
        if view.yields_to is not None:
            return "a pedestrian crosses the road"
        if view.light not in (None, GREEN) and view.room < min(gap + 2.0, 8.0 + 5.0 * view.speed):
            return f"the light is {view.light}"
        if view.lead and gap < 2 * reach:
            return f"a {view.lead[0].word} is {near_distance(gap)} m ahead"
        return _slows(view, side)
    if view.light == GREEN and view.room < 40:
        return "the light is green"
    if view.lead and gap < reach:
        if faster:
            return f"the {view.lead[0].word} ahead drives on"
        return f"a {view.lead[0].word} is {near_distance(gap)} m ahead"
    return "the road is free"


def sweep_of(manoeuvre: str, speed: float) -> np.ndarray | None:
    """Poses x, y, yaw float64 [30, 3] at SWEEP_TIMES of a manoeuvre in base_link; None where it makes no sense.

    keep, accelerate (2.5 m/s^2) and brake (4 m/s^2) go straight; lane changes take 3 s; turns follow a circle.
    """
    time = SWEEP_TIMES
    zero = np.zeros_like(time)
    if manoeuvre in ("keep", "brake") and speed < 2.0:
        return None
    if manoeuvre == "keep":
        return np.stack([speed * time, zero, zero], -1)
    if manoeuvre == "accelerate":
        return np.stack([speed * time + 1.25 * time**2, zero, zero], -1)
    if manoeuvre == "brake":
        moving = np.minimum(time, speed / 4.0)
        return np.stack([speed * moving - 2.0 * moving**2, zero, zero], -1)
    rate = max(speed, LOWEST)
    sign = 1.0 if manoeuvre.endswith("left") else -1.0
    if manoeuvre.startswith("lane"):
        share = time / time[-1]
        y = sign * LANE * share**2 * (3 - 2 * share)
        slope = sign * LANE * 6 * share * (1 - share) / time[-1]
        return np.stack([rate * time, y, np.arctan2(slope, rate)], -1)
    # A turn is driven no faster than 6 m/s, where 9 m of radius are 4 m/s^2.
    angle = np.minimum(min(rate, 6.0) * time / RADIUS, np.pi / 2)
    beyond = np.maximum(min(rate, 6.0) * time - RADIUS * np.pi / 2, 0.0)
    return np.stack([RADIUS * np.sin(angle), sign * (RADIUS * (1 - np.cos(angle)) + beyond), sign * angle], -1)


@dataclass(frozen=True)
class Outcome:
    """What comes of a sweep. event: collision, off_road, red_light or safe; thing: what it collides with; seconds until
    then; waypoints float32 [6, 2]: the trajectory asked about."""

    event: str
    thing: str
    seconds: float
    waypoints: np.ndarray


def outcome(view: SceneView, manoeuvre: str) -> Outcome | None:
    """The first thing that goes wrong within 3 s; None where the cameras could not tell.

    Others drive on as they do; so a contact from behind is nobody's answer (the one behind would brake), nor is one
    with something that no camera shows.
    """
    sweep = sweep_of(manoeuvre, view.speed)
    if sweep is None:
        return None
    waypoints = sweep[SUBSTEPS - 1 :: SUBSTEPS, :2].astype(np.float32)
    found: list[tuple[float, int, str, str]] = []
    contact = first_contact(view.scene, view.time, sweep)
    if contact is not None:
        found.append((contact.seconds, 0, "collision", str(contact.instance)))
    off = _leaves_road(view, sweep)
    if off is not None:
        found.append((off, 1, "off_road", ""))
    red = _runs_red(view, sweep)
    if red is not None:
        found.append((red, 2, "red_light", ""))
    if not found:
        return Outcome("safe", "", 3.0, waypoints)
    seconds, _, event, what = min(found)
    if event == "collision":
        word = _struck(view, int(what), sweep, seconds)
        return None if word is None else Outcome(event, word, seconds, waypoints)
    return Outcome(event, "", seconds, waypoints)


def _struck(view: SceneView, instance: int, sweep: np.ndarray, seconds: float) -> str | None:
    count = len(view.scene.standing)
    for thing in view.things:
        if thing.instance == instance:
            x, y, yaw = sweep[round(seconds / SWEEP_TIMES[0]) - 1]
            later = view.scene.moving[instance - count].mover if instance >= count else None
            place = later.rectangle(view.time + seconds) if later else view.scene.standing[instance].rectangle
            there = geometry.apply(geometry.inverse(view.frame), np.array([place[0], place[1], 0.0]))
            along = (there[0] - x) * np.cos(yaw) + (there[1] - y) * np.sin(yaw)
            return thing.word if along > 0 else None
    # Trees, poles and houses have no boxes.
    annotated = set(view.boxes.instance.tolist())
    return "obstacle" if instance not in annotated and view.pixels_of(instance) > 0 else None


def _leaves_road(view: SceneView, sweep: np.ndarray) -> float | None:
    plans = ego_plan(sweep)
    corner = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * 0.5
    local = corner[None] * plans[:, None, 3:]
    c, s = np.cos(plans[:, 2:3]), np.sin(plans[:, 2:3])
    x = plans[:, :1] + c * local[..., 0] - s * local[..., 1]
    y = plans[:, 1:2] + s * local[..., 0] + c * local[..., 1]
    points = geometry.apply(view.frame, np.stack([x, y, np.zeros_like(x)], -1))[..., :2]
    off = ~on_road(view.scene, points).all(1)
    return float(SWEEP_TIMES[int(off.argmax())]) if off.any() else None


def _runs_red(view: SceneView, sweep: np.ndarray) -> float | None:
    """When the front passes the stop line while the light that is seen is not green, by the light's own clock."""
    if view.light is None or view.room < 0:
        return None
    mover = view.scene.ego.mover
    passed = sweep[:, 0] > view.room
    colours = [view.scene.signals.colour(mover.stops[0][1], view.time + t) for t in SWEEP_TIMES]
    wrong = np.flatnonzero(passed[1:] & ~passed[:-1])
    if len(wrong) and colours[int(wrong[0]) + 1] != GREEN:
        return float(SWEEP_TIMES[int(wrong[0]) + 1])
    return None
