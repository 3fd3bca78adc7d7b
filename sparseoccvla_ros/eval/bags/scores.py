"""Scores of one plan against the recorded drive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ...core.types import NANOSECONDS, WAYPOINT_TIMES
from ...core.vehicle import Vehicle
from ...data.bags.drive import Drive
from ..metrics.comfort import comfort
from ..metrics.driving import pdm_score, tracker
from ..metrics.driving import vehicle as driving
from ..metrics.driving.collisions import touching
from ..metrics.driving.vehicle import DT, corners, wrap
from .recording import Planned, Track
from .surroundings import DRIVEN, FUTURE, Motion, Road, scene_at, state_at

AHEAD = np.array([0.0, 0.3, 0.6, 0.9])
"""Times (s) by which the ego is projected ahead at its speed for the time to collision, as in NAVSIM."""
LONGEST_GAP = 1.0
"""Longest gap (s) in the recorded motion that is interpolated."""
SECONDS = 3.0
"""Length of a plan that is compared with the drive, s."""
LIMITS = {"acceleration": 4.05, "lateral": 4.89, "jerk": 8.37}
"""NAVSIM's comfort limits, m/s^2 and m/s^3."""


@dataclass(frozen=True)
class PlanScores:
    """Scores of one plan; None if the recording lacks the data.

    Attributes:
        ade_m: Mean distance to the driven positions over 3 s, every 0.5 s.
        fde_1s_m, fde_2s_m, fde_3s_m: Distance after 1, 2 and 3 s.
        heading_deg: Heading error after 3 s.
        acceleration, lateral, jerk: Maxima of the plan, m/s^2 and m/s^3.
        comfortable: 1 if all three are below LIMITS.
        no_collision: 1 if the plan hits no recorded box.
        ttc: 1 if it would hit none within 0.9 s at any step.
        pdms, epdms: 0..1, EPDMS without EC; need boxes, a map and 5 s of the drive.
        epdms_filtered: EPDMS with the human filter, the human being the recorded driver.
    """

    stamp: int
    ade_m: float
    fde_1s_m: float
    fde_2s_m: float
    fde_3s_m: float
    heading_deg: float
    acceleration: float
    lateral: float
    jerk: float
    comfortable: float
    no_collision: float | None = None
    ttc: float | None = None
    pdms: float | None = None
    epdms: float | None = None
    epdms_filtered: float | None = None


OUT_OF_ONE = ("comfortable", "no_collision", "ttc", "pdms", "epdms", "epdms_filtered")
"""Scores in which a moment without a plan counts 0."""
NAMES = tuple(f.name for f in fields(PlanScores) if f.name != "stamp")


def score_plan(plan: Planned, drive: Drive, tracks: Sequence[Track], body: Vehicle) -> PlanScores | None:
    """Scores a plan; None if the plan or the drive ends within 3 s, or their motion was not recorded."""
    start = drive.at(np.array([plan.stamp]))[0]
    times = np.asarray(WAYPOINT_TIMES, np.float64)
    # A plan may end up to 0.02 s before 3 s (rounded times).
    planned = plan.at(start, np.minimum(times, np.where(times - plan.times[-1] < 0.02, plan.times[-1], times)))
    driven = drive.at(plan.stamp + np.round(times * NANOSECONDS).astype(np.int64))
    if not (np.isfinite(start).all() and np.isfinite(planned).all() and np.isfinite(driven).all()):
        return None
    if not_recorded(plan.stamp, drive):
        return None
    gaps = np.hypot(*(planned - driven)[:, :2].T)
    own = tracker.relative_poses(start, planned)[:, :2]
    speed = drive.speed(plan.stamp)
    felt = comfort(own, speed if np.isfinite(speed) else None)
    largest = {name: float(getattr(felt, name)) for name in LIMITS}
    no_collision, ttc = _safety(plan, start, drive, tracks, body) if tracks else (None, None)
    return PlanScores(
        stamp=plan.stamp,
        ade_m=float(gaps.mean()),
        fde_1s_m=float(gaps[1]),
        fde_2s_m=float(gaps[3]),
        fde_3s_m=float(gaps[5]),
        heading_deg=float(np.degrees(np.abs(wrap(planned[-1, 2] - driven[-1, 2])))),
        acceleration=largest["acceleration"],
        lateral=largest["lateral"],
        jerk=largest["jerk"],
        comfortable=float(all(largest[n] < limit for n, limit in LIMITS.items())),
        no_collision=no_collision,
        ttc=ttc,
    )


def not_recorded(stamp: int, drive: Drive, seconds: float = SECONDS) -> str:
    """Returns why the drive is unknown in the seconds after a stamp, or "" if it is known."""
    return drive.broken(stamp, stamp + round(seconds * NANOSECONDS), LONGEST_GAP)


def _safety(
    plan: Planned, start: np.ndarray, drive: Drive, tracks: Sequence[Track], body: Vehicle
) -> tuple[float, float]:
    """Returns (no collision, time to collision), 1 or 0 each; ignores objects that overlap the vehicle at the start."""
    outline = driving.Vehicle.of(body).corners
    times = DT * np.arange(int(min(plan.times[-1], WAYPOINT_TIMES[-1]) / DT + 1e-6) + 1)
    poses = plan.at(start, times)
    stamps = plan.stamp + np.round(times * NANOSECONDS).astype(np.int64)
    steps = np.diff(poses[:, :2], axis=0)
    speeds = np.append(np.hypot(*steps.T), np.hypot(*steps[-1])) / DT
    boxes = []
    for track in tracks:
        states = track.at(stamps)
        size = np.broadcast_to(np.array(track.size), (len(states), 2))
        boxes.append(corners(np.concatenate([states, size], -1)))
    others = np.stack(boxes)
    at_start = touching(outline(poses[:1]), others[:, :1])[0]
    others = others[~at_start]
    hits = []
    for ahead in AHEAD:
        moved = poses.copy()
        moved[:, 0] += ahead * speeds * np.cos(poses[:, 2])
        moved[:, 1] += ahead * speeds * np.sin(poses[:, 2])
        hits.append(bool(len(others)) and bool(touching(outline(moved), others).any()))
    return float(not hits[0]), float(not any(hits))


def known_for_driving(stamp: int, drive: Drive) -> bool:
    """Whether the drive is known for the 5 s that PDMS and EPDMS need."""
    seconds = DT * (FUTURE - 1)
    last = stamp + round(seconds * NANOSECONDS)
    within = bool(drive.stamps[0] <= stamp and last <= drive.stamps[-1])
    return within and not not_recorded(stamp, drive, seconds)


def driving_scores(
    plan: Planned, reference: Planned | None, drive: Drive, motion: Motion, tracks: Sequence[Track], road: Road,
    body: Vehicle,
) -> dict[str, float]:  # fmt: skip
    """Computes pdms, epdms and epdms_filtered of a plan at a stamp for which `known_for_driving` holds.

    Args:
        plan: The plan; its last pose is held up to 4 s.
        reference: Plan to which progress is compared; None uses the driven path.
        drive: The recorded drive, also the human of the filter.
        motion: The drive's speed, acceleration and steering.
        tracks: Boxes.
        road: Map and lights.
        body: The vehicle.

    Returns:
        Scores by their names in PlanScores.
    """
    vehicle = driving.Vehicle.of(body)
    scene = scene_at(plan.stamp, drive, motion, tracks, road, vehicle)
    times = DT * np.arange(DRIVEN)
    human = drive.at(plan.stamp + np.round(times * NANOSECONDS).astype(np.int64))
    ways = np.stack([
        _held(plan, human[0], times),
        human if reference is None else _held(reference, human[0], times), human,
    ])  # fmt: skip
    state = state_at(plan.stamp, drive, motion)
    drives = tracker.track(ways, np.stack([state] * len(ways)), vehicle)[0]
    out = {}
    for version, name in zip(pdm_score.Version, ("pdms", "epdms"), strict=True):
        rows = [pdm_score.rate(driven, scene, version) for driven in drives]
        scored = pdm_score.compare_progress(rows[:2])[0]
        out[name] = float(scored.score)
        if version is pdm_score.Version.EPDMS:
            out["epdms_filtered"] = float(pdm_score.filter_by_human(scored, rows[2]).score)
    return out


def _held(plan: Planned, start: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Interpolates poses [T, 3] at times, the last one held."""
    return plan.at(start, np.minimum(times, plan.times[-1]))
