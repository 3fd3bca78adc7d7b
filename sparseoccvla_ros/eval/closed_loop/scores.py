"""Published benchmark scores of a rollout.

PDMS and EPDMS score every recorded plan: other actors as they moved afterwards (replay), progress relative to the
expert's plan from the same state, no human filter, the world's own vehicle. AlpaSim, nuPlan and HUGSIM compare with the
expert's drive of the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...world.agents.traffic import RED, STEP, Phases
from ..metrics.driving import alpasim, bench2drive, hugsim, nuplan, pdm_score, tracker
from ..metrics.driving.pdm_score import Version
from ..metrics.driving.polygons import Areas
from ..metrics.driving.traffic_scene import ObjectKind, Objects, RedLights, TrafficScene
from ..metrics.driving.vehicle import corners
from .expert import ZOE
from .forecast import objects_of
from .road_map import inside_junction, lane_width
from .rollout import SPEED_LIMIT, Planned, Rollout

_FUTURE = 51


@dataclass(frozen=True)
class DriveScores:
    """Scores of one drive. route_completion, driving_score, efficiency in percent; others 0..1; None if undefined."""

    policy: str
    seed: int
    scenario: str | None
    maneuver: str
    end: str
    seconds: float
    infractions: tuple[str, ...]
    outside: float
    route_completion: float
    driving_score: float
    success: bool
    efficiency: float | None
    smoothness: float | None
    pdms: float | None
    epdms: float | None
    hd_score: float | None
    alpasim: float | None
    cls: float | None
    missing_plans: int


def outside_share(rollout: Rollout) -> float:
    """Returns the share of the driven distance outside the route's lanes, by Bench2Drive's rule."""
    centres = ZOE.centres(rollout.states[:, :3])
    placed = np.concatenate([centres, rollout.states[:, 2:3]], -1)
    distance, wrong = rollout.world.lane_offset(placed)
    streets = rollout.world.streets
    width = min(lane_width(streets.main), lane_width(streets.cross))
    return bench2drive.outside_share(centres, distance, width, wrong, inside_junction(streets, centres))


def summary(rollout: Rollout) -> dict[str, Any]:
    """Returns the scores that need no reference drive, for a JSON file; infractions with their time in s."""
    infractions = [i for _, i in rollout.infractions]
    outside, completion = outside_share(rollout), float(rollout.completion[-1])
    return {
        "seed": rollout.seed,
        "scenario": rollout.simulator.scenario,
        "maneuver": rollout.maneuver,
        "end": rollout.end.value,
        "seconds": round(STEP * (len(rollout.states) - 1), 1),
        "route_completion": completion,
        "driving_score": bench2drive.driving_score(completion, infractions, outside),
        "success": bench2drive.success(rollout.end, infractions, outside),
        "infractions": [[round(time, 1), i.value] for time, i in rollout.infractions],
        "outside": outside,
    }


def score(rollout: Rollout, recorded: Rollout) -> DriveScores:
    """Returns all scores of a drive; recorded: the expert's drive of the same seed."""
    vehicles = (rollout.kinds == ObjectKind.VEHICLE) | (rollout.kinds == ObjectKind.BICYCLE)
    pdms, epdms = planned_scores(rollout)
    return DriveScores(
        policy=rollout.policy,
        **{**summary(rollout), "infractions": tuple(i.value for _, i in rollout.infractions)},
        efficiency=bench2drive.efficiency(
            rollout.completion, rollout.states[:, 3], [row[vehicles] for row in rollout.speeds]
        ),
        smoothness=bench2drive.smoothness(rollout.states[:, 5:7], rollout.states[:, 9]),
        pdms=pdms,
        epdms=epdms,
        hd_score=hd_score(rollout, recorded),
        alpasim=alpasim_score(rollout, recorded).score,
        cls=closed_loop_score(rollout, recorded).score,
        missing_plans=rollout.missing_plans,
    )


def planned_scores(rollout: Rollout) -> tuple[float | None, float | None]:
    """Returns mean PDMS and EPDMS over the plans followed by 5 s of the drive, or (None, None); EPDMS without EC."""
    values: list[tuple[float, float]] = []
    for plan in rollout.planned:
        if plan.step + _FUTURE > len(rollout.states):
            continue
        scene = _scene(rollout, plan)
        poses = np.stack([plan.poses, plan.reference])
        drives = tracker.track(poses, np.stack([plan.state, plan.state]), ZOE)[0]
        row = [pdm_score.score(drives[0], drives[1], scene, version).score for version in Version]
        values.append((row[0], row[1]))
    if not values:
        return None, None
    pdms, epdms = np.mean(values, 0)
    return float(pdms), float(epdms)


def _scene(rollout: Rollout, plan: Planned) -> TrafficScene:
    future = rollout.actors[plan.step : plan.step + _FUTURE].transpose(1, 0, 2)
    x, y = plan.state[:2]
    near = np.hypot(*(future[:, 0, :2] - [x, y]).T) < 80.0
    objects = objects_of(rollout.kinds[near], future[near], rollout.standing.near(float(x), float(y)))
    stops = rollout.simulator.mover.stops
    signals: Phases = rollout.simulator.scene.signals
    on = [bool(stops) and signals.colour(stops[0][1], STEP * (plan.step + k)) == RED for k in range(41)]
    red = RedLights(rollout.world.red, np.repeat(np.array(on)[:, None], len(rollout.world.red), 1))
    return TrafficScene(rollout.world.road, objects, red, plan.history, ZOE)


def hd_score(rollout: Rollout, recorded: Rollout) -> float:
    """Returns HUGSIM's HD-score of the recorded plans.

    background: static objects (no buildings or plants), as points every 0.1 m of their footprints; ground: the road.
    """
    background = _filled(rollout.near_route(40.0).rectangles)
    vehicles = rollout.kinds == ObjectKind.VEHICLE
    frames = []
    for plan in rollout.planned:
        # Placed at the pose after the step, as in the public code; the box is centred on the vehicle's centre.
        after = rollout.states[min(plan.step + 3, len(rollout.states) - 1), :3]
        moved = tracker.global_poses(after, tracker.relative_poses(plan.state[:3], plan.poses[:31:5]))
        moved = np.concatenate([ZOE.centres(moved), moved[:, 2:]], -1)
        rows = np.minimum(plan.step + 3 + 5 * np.arange(len(moved)), len(rollout.actors) - 1)
        cars = [corners(rollout.actors[r][vehicles]) for r in rows]
        frames.append(hugsim.rate_plan(moved, cars, hugsim.Surroundings(background, _road_points(rollout, moved))))
    cameras = recorded.states[::5, :2]
    return hugsim.hd_score(hugsim.route_completion(rollout.states[:, :2], cameras), frames)


def _filled(rectangles: np.ndarray, step: float = 0.1) -> np.ndarray:
    points = [np.zeros((0, 2))]
    for x, y, yaw, length, width in rectangles:
        a = np.arange(-0.5 * length, 0.5 * length + 1e-9, step)
        b = np.arange(-0.5 * width, 0.5 * width + 1e-9, step)
        grid = np.stack(np.meshgrid(a, b), -1).reshape(-1, 2)
        points.append([x, y] + grid @ np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]))
    return np.concatenate(points)


def _road_points(rollout: Rollout, poses: np.ndarray) -> np.ndarray:
    """Returns road points [M, 2] inside the boxes at poses [N, 3], one per 0.25 m cell of each box."""
    boxes = np.concatenate([poses, np.broadcast_to([hugsim.LENGTH, hugsim.WIDTH], (len(poses), 2))], -1)
    points = _filled(boxes, 0.25)
    return points[rollout.world.road.drivable.hold(points)]


def alpasim_score(rollout: Rollout, recorded: Rollout) -> alpasim.SceneScore:
    """Returns AlpaSim's scene score; off-road: a corner of the box is outside the drivable surface."""
    boxes = ZOE.corners(rollout.states[:, :3])
    offroad = ~rollout.world.road.drivable.hold(boxes).all(-1)
    others = [corners(row) for row in rollout.actors]
    return alpasim.scene_score(boxes, others, offroad, ZOE.centres(recorded.states[:, :3]))


def closed_loop_score(rollout: Rollout, recorded: Rollout) -> nuplan.ClosedLoopScore:
    """Returns nuPlan's CLS-R of a drive."""
    states, road = rollout.states, rollout.world.road
    boxes = ZOE.corners(states[:, :3])
    objects = _whole(rollout)
    situation = nuplan.Situation(
        nuplan.share_lane(boxes, road.lanes, connected(road.lanes)), road.intersections.hold(states[:, :2])
    )
    hit = nuplan.faults(states, boxes, objects, situation)
    ep = nuplan.expert_progress(
        float(rollout.along[-1] - rollout.along[0]), float(recorded.along[-1] - recorded.along[0])
    )
    return nuplan.ClosedLoopScore(
        NC=nuplan.no_collision(hit, objects),
        DAC=nuplan.drivable_area(boxes, road.drivable),
        MP=nuplan.making_progress(ep),
        DDC=nuplan.driving_direction(np.diff(rollout.along)),
        EP=ep,
        TTC=nuplan.time_to_collision(states, boxes, objects, situation, hit),
        SL=nuplan.speed_limit(states[:, 3], np.full(len(states), SPEED_LIMIT)),
        C=nuplan.comfortable(states, ZOE),
    )


def _whole(rollout: Rollout) -> Objects:
    return objects_of(rollout.kinds, rollout.actors.transpose(1, 0, 2), rollout.near_route(30.0))


def connected(lanes: Areas) -> np.ndarray:
    """Returns bool [P, P]: which lane polygons (two equal rows of vertices each) meet end to end within 1.5 m."""
    ends = []
    for polygon in lanes.polygons:
        n = len(polygon) // 2
        ends.append([0.5 * (polygon[0] + polygon[-1]), 0.5 * (polygon[n - 1] + polygon[n])])
    at = np.array(ends)
    gap = np.hypot(*(at[:, None, :, None] - at[None, :, None, :]).transpose(4, 0, 1, 2, 3)).min((2, 3))
    return (gap < 1.5) & ~np.eye(len(at), dtype=bool)
