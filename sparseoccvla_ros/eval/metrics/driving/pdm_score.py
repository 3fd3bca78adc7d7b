"""PDMS and EPDMS (NAVSIM v1.1 and v2): sub-scores of tracked drives, their aggregation and the human filter.

A drive is [41, 11] at 10 Hz; make it with tracker.plan_to_10hz and tracker.track.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from . import collisions, comfort
from .polygons import touches
from .traffic_scene import DriveAreas, Objects, RedLights, TrafficScene


class Version(Enum):
    """PDMS (navsim tag v1.1) or EPDMS (navsim main of 2025-10-27)."""

    PDMS = "v1"
    EPDMS = "v2"


_LAST_TTC_STEP = {Version.PDMS: 40, Version.EPDMS: 31}
_SHORT = 5.0
"""Progress (m) of the best drive up to which progress is not compared."""
_OFF_CENTRE, _OFF_CENTRE_STEPS = 0.5, 20
_ONCOMING_WINDOW = 10
_WEIGHTS = {"EP": 5.0, "TTC": 5.0, "LK": 2.0, "HC": 2.0, "EC": 2.0}
_FILTERED = ("NC", "DAC", "DDC", "TLC", "TTC", "LK")


@dataclass(frozen=True)
class SubScores:
    """Sub-scores in 0..1, named as in the papers; `comfort` is C of PDMS or HC of EPDMS.

    progress: raw, m; first_at_fault_step, first_ttc_step: -1 if never; EC: None without a previous frame; TLC and LK
    are 1 in PDMS, which has neither.
    """

    NC: float
    DAC: float
    DDC: float
    TLC: float
    EP: float
    TTC: float
    LK: float
    comfort: float
    progress: float
    first_at_fault_step: int
    first_ttc_step: int
    version: Version
    EC: float | None = None

    @property
    def multiplier(self) -> float:
        """Product of the multiplicative sub-scores."""
        product = self.NC * self.DAC
        return product if self.version is Version.PDMS else product * self.DDC * self.TLC

    @property
    def score(self) -> float:
        """PDMS, or EPDMS (with EC if available)."""
        if self.version is Version.PDMS:
            return self.multiplier * (5 * self.EP + 5 * self.TTC + 2 * self.comfort) / 12
        row = {"EP": self.EP, "TTC": self.TTC, "LK": self.LK, "HC": self.comfort, "EC": self.EC}
        return self.multiplier * weighted_mean(row)


def weighted_mean(row: dict[str, float | None]) -> float:
    """Returns the weighted-average part of EPDMS; without EC the weights of the others are renormalised."""
    parts = [(weight, row[name]) for name, weight in _WEIGHTS.items() if row[name] is not None]
    return sum(weight * float(value or 0.0) for weight, value in parts) / sum(weight for weight, _ in parts)


def at_start(objects: Objects, corners: np.ndarray) -> np.ndarray:
    """bool [N]: objects that overlap the ego box [4, 2] at the first step; EPDMS's log replay removes them."""
    return collisions.touching(corners[None], objects.boxes[:, :1])[0]


def drivable_area(areas: DriveAreas) -> float:
    """DAC: 0 if any corner is outside the drivable area at any step."""
    return float(not areas.non_drivable.any())


def driving_direction(areas: DriveAreas, version: Version) -> float:
    """DDC from the distance driven off the route's lanes within a second (11 increments)."""
    counted = areas.oncoming.copy()
    if version is Version.EPDMS:
        counted &= ~areas.centre_in_intersection
    moved = np.concatenate([[0.0], np.hypot(*np.diff(areas.centres, axis=0).T)]) * counted
    sums = np.convolve(moved, np.ones(_ONCOMING_WINDOW + 1))[: len(moved)]
    most = float(sums.max())
    return 1.0 if most < 2.0 else 0.5 if most < 6.0 else 0.0


def traffic_lights(areas: DriveAreas, lights: RedLights) -> float:
    """TLC: 0 if the ego box touches a red connector of the route at any step."""
    on = lights.on[: len(areas.corners)]
    return float(not any((touches(areas.corners, p) & on[:, i]).any() for i, p in enumerate(lights.polygons)))


def lane_keeping(areas: DriveAreas) -> float:
    """LK: 0 after 20 consecutive steps more than 0.5 m off the centreline; intersections neither count nor reset."""
    run = 0
    for off in areas.deviation[~areas.centre_in_intersection] > _OFF_CENTRE:
        run = run + 1 if off else 0
        if run >= _OFF_CENTRE_STEPS:
            return 0.0
    return 1.0


def rate(states: np.ndarray, scene: TrafficScene, version: Version, with_history: bool = True) -> SubScores:
    """Returns the sub-scores of one drive [41, 11] before progress is compared with other drives (EP is 1).

    with_history: False sets HC to 1, as the official code does without a history.
    """
    areas = DriveAreas(states[:, :3], scene.road, scene.vehicle)
    objects = scene.objects
    if version is Version.EPDMS:
        objects = objects.without(at_start(objects, areas.corners[0]))
    events = collisions.collision_events(states, areas, objects)
    ttc = collisions.first_ttc_step(states, areas, objects, _LAST_TTC_STEP[version])
    comfortable = True
    if version is Version.PDMS:
        comfortable = comfort.within(comfort.traces_v1(states)).all()
    elif with_history:
        longer = np.concatenate([comfort.history_to_10hz(scene.history), states])
        comfortable = comfort.within(comfort.traces_v2(longer, scene.vehicle)).all()
    return SubScores(
        NC=collisions.no_collision(events, objects),
        DAC=drivable_area(areas),
        DDC=driving_direction(areas, version),
        TLC=traffic_lights(areas, scene.red_lights) if version is Version.EPDMS else 1.0,
        EP=1.0,
        TTC=float(ttc < 0),
        LK=lane_keeping(areas) if version is Version.EPDMS else 1.0,
        comfort=float(comfortable),
        progress=max(0.0, float(areas.progress[-1] - areas.progress[0])),
        first_at_fault_step=next((e.step for e in events if e.at_fault), -1),
        first_ttc_step=ttc,
        version=version,
    )


def compare_progress(rows: list[SubScores]) -> list[SubScores]:
    """Returns the rows with EP relative to the best of them; they must include the reference planner."""
    norm = progress_norm(rows)
    out = []
    for row in rows:
        if row.version is Version.PDMS:
            ep = row.progress * row.multiplier / norm if norm > _SHORT else float(row.multiplier > 0)
        else:
            ep = min(max(row.progress / norm, 0.0), 1.0) if norm > _SHORT else 1.0
        out.append(replace(row, EP=ep))
    return out


def progress_norm(rows: list[SubScores]) -> float:
    """Returns the largest product (m) of raw progress and multiplicative sub-scores."""
    return max(row.progress * row.multiplier for row in rows)


def score(states: np.ndarray, reference: np.ndarray, scene: TrafficScene, version: Version) -> SubScores:
    """Returns the sub-scores of a drive, with progress relative to the reference planner's drive (both [41, 11])."""
    rows = [rate(states, scene, version), rate(reference, scene, version)]
    return compare_progress(rows)[0]


def filter_by_human(plan: SubScores, human: SubScores) -> SubScores:
    """Applies EPDMS's human filter: a sub-score that is 0 for the recorded human becomes 1; EC is never filtered."""
    excused = {name: 1.0 for name in _FILTERED if getattr(human, name) == 0.0}
    return replace(plan, **excused)
