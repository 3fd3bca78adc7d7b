"""Scene generation: signal timing, traffic that turns and yields, and crossing pedestrians.

A seed determines the place once (scenario.Plan). Traffic is drawn for it until the ego drives like a good driver:
comfortably, on green or amber, and without contact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .agents.actors import (
    EGO,
    LEAD_SECONDS,
    TAIL_SECONDS,
    Moving,
    without_collisions,
)
from .agents.pedestrians import Crossing, People, crossing
from .agents.traffic import GREEN, RED, Mover, Phases, overlap, simulate, walk
from .roads.curves import Curve, join, turn
from .roads.static_scene import Layout, Placed
from .roads.streets import CROSSWALK, SIDEWALK, STOP_LINE, Street
from .scenario import NOMINAL, Plan, draw
from .shapes import objects, vehicles
from .shapes.objects import Shape

ATTEMPTS = 6
"""Largest number of traffic draws per place; the last one has no crossing pedestrians."""
BRAKE, PUSH, SIDEWAYS = 3.8, 2.2, 3.0
"""Largest accelerations of the ego in m/s^2: braking, accelerating, lateral."""
_GREEN_TIMES, _RED_TIMES = (12.0, 24.0), (14.0, 26.0)
_CLEARING = 2.0


def generate(
    seed: int, maneuver: str | None, seconds: float
) -> tuple[Plan, list[Placed], list[Moving], Mover, Phases, tuple[Crossing, ...]]:
    """Generate the world of a seed: its plan, what stands and what moves, the ego, the signals and the crossings.

    Drives of up to NOMINAL seconds are the same regardless of their length.
    """
    plan = draw(np.random.default_rng([seed, 29]), maneuver)
    standing = Layout(plan.streets, np.random.default_rng([seed, 31]), plan.furnishing).build()
    span = max(seconds, NOMINAL)
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, 37, attempt])
        ego = _ego(plan, rng)
        lights = _lights(plan, ego, rng)
        ego.speed = min(ego.speed, _entry_speed(ego, lights))
        driven = _vehicles(plan, ego, lights, rng)
        people = _crossers(plan, ego, lights, standing, rng)
        if attempt == ATTEMPTS - 1:
            driven, people = [m for m in driven if m.mover.stops[:1] != ego.stops[:1]], []
        crowd = People([c for c, _ in people])
        simulate([ego, *(m.mover for m in driven)], lights, span + TAIL_SECONDS + 1.0, -LEAD_SECONDS, crowd)
        crossers = [Moving(shape, c.mover) for c, shape in people]
        walkers = _walkers(plan, rng, span + TAIL_SECONDS + 1.0)
        moving = without_collisions(ego, [*crossers, *driven, *walkers], standing, span)
        kept = {id(m.mover) for m in moving}
        held = [crowd.crossings[i].mover for i in np.unique(ego.yields) if i >= 0]
        if _good(ego, lights) and all(id(m) in kept for m in held):
            break
    ego.held_by = tuple(c.mover for c in crowd.crossings)
    return plan, standing, moving, ego, lights, crowd.crossings


def _good(ego: Mover, lights: Phases) -> bool:
    """Return whether the ego drives comfortably and passes no red light."""
    lateral = ego.speeds**2 * np.abs(ego.path.curvature_at(ego.travelled))
    if ego.forces.min() < -BRAKE or ego.forces.max() > PUSH or lateral.max() > SIDEWAYS:
        return False
    fronts = ego.travelled + ego.front
    for line, approach in ego.stops:
        for k in np.flatnonzero((fronts[:-1] < line) & (fronts[1:] >= line)):
            if lights.colour(approach, float(ego.times[k])) == RED:
                return False
    return True


def _entry_speed(mover: Mover, lights: Phases) -> float:
    """Return the highest speed in m/s from which an initial vehicle can still stop gently at its line."""
    rooms = [line - mover.start - mover.front for line, a in mover.stops if lights.colour(a, -LEAD_SECONDS) != GREEN]
    return min((float(np.sqrt(2 * 1.4 * max(r - 1.0, 0.0))) for r in rooms if r > 0), default=np.inf)


_LEFT_OF = {("main", 1.0): ("cross", 1.0), ("main", -1.0): ("cross", -1.0),
            ("cross", 1.0): ("main", -1.0), ("cross", -1.0): ("main", 1.0)}  # fmt: skip


def route(plan: Plan, name: str, way: float, lane: int, go: str, begin: float, end: float) -> Curve:
    """Return a path over the junction: from `begin` metres before its centre on a lane to `end` metres after it.

    name: main or cross; way: 1 along the street, -1 against it; go: left, straight or right.
    """
    streets = {"main": plan.streets.main, "cross": plan.streets.cross}
    inward = streets[name]
    offset = inward.lanes[lane]
    if go == "straight":
        return inward.lane(-way * offset, -way * begin, way * end, 0.1)
    out_name, out_way = _LEFT_OF[name, way]
    if go == "right":
        out_way = -out_way
    outward = streets[out_name]
    closed = out_name == "main" and out_way == plan.closed
    target = outward.lanes[0 if go == "left" or closed else -1]
    if go == "left":
        leave = inward.half_width + 2.8
        before = min(leave + offset - target, outward.half_width + 4.9)
    else:
        # As wide as the kerb's corner allows: the path keeps 1.75 m from the kerb at the narrowest point.
        corner = plan.streets.corner
        room = (outward.half_width - target + inward.half_width - offset) / np.sqrt(2)
        radius = float(np.clip(corner + (room - 1.75) / (np.sqrt(2) - 1), corner + 0.5, 14.0))
        before, leave = target + radius, offset + radius
    near = inward.lane(-way * offset, -way * begin, -way * before, 0.1)
    away = outward.lane(-out_way * target, out_way * leave, out_way * end, 0.1)
    return join([near, turn(near.at(near.length), away.at(0.0)), away])


def _line(plan: Plan, path: Curve, name: str, way: float, offset: float) -> float:
    """Return the arc length on a path of its approach's stop line."""
    streets = plan.streets
    street, other = (streets.main, streets.cross) if name == "main" else (streets.cross, streets.main)
    x, y, _ = street.pose(-way * (other.half_width + STOP_LINE[1]), -way * offset)
    return path.nearest(float(x), float(y))[0]


def _ego(plan: Plan, rng: np.random.Generator) -> Mover:
    main = plan.streets.main
    offset = main.lanes[plan.lane]
    path = route(plan, "main", 1.0, plan.lane, plan.maneuver, 70.0 - plan.start, 440.0)
    x, y, _ = main.pose(plan.start, -offset)
    begin, _ = path.nearest(float(x), float(y))
    stops = () if plan.beyond else ((_line(plan, path, "main", 1.0, offset), "main_east"),)
    speed = plan.desired * float(rng.uniform(0.6, 1.0))
    speed = min(speed, float(np.sqrt(1.8 / max(np.abs(path.curvature_at(begin + np.arange(0, 30.0))).max(), 1e-3))))
    rate = float(rng.uniform(1.2, 1.7))
    return Mover(path, EGO.length_m, EGO.width_m, begin, speed, plan.desired, rate, EGO.centre_m, stops)


def _arrival(ego: Mover) -> float:
    """Estimate when the undisturbed ego reaches its stop line, seconds of the drive; 5 if it has none."""
    if not ego.stops:
        return 5.0
    return (ego.stops[0][0] - ego.start) / (0.9 * ego.desired) - LEAD_SECONDS


def _lights(plan: Plan, ego: Mover, rng: np.random.Generator) -> Phases:
    """Draw green times: the ego stops and continues, passes on green, or arrives around the end of green."""
    arrival = _arrival(ego)
    mode = rng.choice(["stopped", "green", "late"], p=[0.5, 0.3, 0.2])
    if mode == "stopped":
        first = arrival + float(rng.uniform(1.0, 7.0))
        end = first + float(rng.uniform(*_GREEN_TIMES))
    else:
        end = arrival + float(rng.uniform(4.0, 18.0) if mode == "green" else rng.uniform(-7.0, 1.0))
        first = -60.0
    amber = 3.0
    main, cross = [], []
    if mode == "stopped":
        # The preceding green of the cross street; it may begin within the drive.
        begin = first - float(rng.uniform(9.0, 30.0))
        cross.append((begin, first - _CLEARING - amber))
        main.append((-60.0, begin - _CLEARING - amber))
    while first < 60.0:
        main.append((first, end))
        red = float(rng.uniform(*_RED_TIMES))
        cross.append((end + amber + _CLEARING, end + amber + red - _CLEARING - amber))
        first = end + amber + red
        end = first + float(rng.uniform(*_GREEN_TIMES))
    # Oncoming traffic would conflict with a left turn, so its approach is held at red.
    held = frozenset({"main_west"}) if plan.maneuver == "left" else frozenset()
    good = [[w for w in windows if w[1] - w[0] > 2.0] for windows in (main, cross)]
    return Phases(tuple(good[0]), tuple(good[1]), amber, held)


def _vehicles(plan: Plan, ego: Mover, lights: Phases, rng: np.random.Generator) -> list[Moving]:
    """Draw cars, trucks, buses and cyclists on all lanes, some turning; none starts near the ego or on the junction."""
    out: list[Moving] = []
    occupied = ego.rectangle_at(ego.start)[None]
    spread = float(rng.uniform(22.0, 60.0))
    for name, way, lane, go, approach in _approaches(plan, rng):
        street = plan.streets.main if name == "main" else plan.streets.cross
        begin = -street.built[0] if way > 0 else street.built[1]
        end = 150.0 + (street.built[1] if way > 0 else -street.built[0])
        cycles = lane < 0
        if cycles:
            path = street.lane(-way * street.cycling, -way * begin, way * end, 0.25)
            line = _line(plan, path, name, way, street.cycling)
        else:
            path = route(plan, name, way, lane, go, begin, end if go == "straight" else 200.0)
            line = _line(plan, path, name, way, street.lanes[lane])
        along = float(rng.uniform(4, 25))
        last = 2 * NOMINAL * plan.desired if go == "straight" else line - 6.0
        while along < min(path.length - 150.0, last):
            shape = objects.bicycle(rng, rider=True) if cycles else _vehicle(rng, go)
            desired = float(rng.uniform(3.8, 5.2)) if cycles else plan.desired * float(rng.uniform(0.8, 1.05))
            mover = Mover(
                path, shape.length, shape.width, along, 0.6 * desired, desired, float(rng.uniform(1.2, 1.8)),
                stops=((line, approach),),
            )  # fmt: skip
            mover.speed = min(mover.speed, _entry_speed(mover, lights))
            plan_of_body = mover.rectangle_at(along)
            longer = plan_of_body.copy()
            longer[3] += 18.0
            if not line - 4.0 < along < line + 32.0 and not overlap(occupied, longer, 0.5).any():
                out.append(Moving(shape, mover))
                occupied = np.concatenate([occupied, plan_of_body[None]])
            along += float(rng.uniform(60, 150)) if cycles else spread * float(rng.uniform(0.45, 1.7))
    return out


def _approaches(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, float, int, str, str]]:
    """Yield street, direction, lane (-1: cyclists), maneuver and signal approach of each traffic stream."""
    streets = plan.streets
    for way, approach in ((1.0, "main_east"), (-1.0, "main_west")):
        lanes = range(len(streets.main.lanes))
        for lane in lanes:
            outer = lane == lanes[-1]
            if outer and plan.closed == way:
                continue
            yield "main", way, lane, "straight", approach
            # Right turns from the outer lane; left turns only with an ego that turns left, as oncoming traffic is held.
            if outer and -way in streets.arms and rng.random() < 0.5:
                yield "main", way, lane, "right", approach
            if lane == 0 and plan.maneuver == "left" and way > 0 and rng.random() < 0.4:
                yield "main", way, lane, "left", approach
        if streets.main.cycling and plan.closed != way and rng.random() < 0.7:
            yield "main", way, -1, "straight", approach
    for way in (1.0, -1.0):
        if -way not in streets.arms:
            continue
        for lane in range(len(streets.cross.lanes)):
            if way in streets.arms:
                yield "cross", way, lane, "straight", "cross"
                if lane == len(streets.cross.lanes) - 1 and rng.random() < 0.4:
                    yield "cross", way, lane, "right", "cross"
            else:
                # At a T-junction all traffic turns; a single lane serves both directions.
                yield "cross", way, lane, "left" if lane == 0 else "right", "cross"
                if len(streets.cross.lanes) == 1:
                    yield "cross", way, lane, "right", "cross"


def _vehicle(rng: np.random.Generator, go: str) -> Shape:
    share = rng.random()
    if share < 0.80 or go != "straight":
        return vehicles.car(rng)
    return vehicles.truck(rng) if share < 0.92 else vehicles.bus(rng)


def _crossers(
    plan: Plan, ego: Mover, lights: Phases, standing: Sequence[Placed], rng: np.random.Generator
) -> list[tuple[Crossing, Shape]]:
    """Draw pedestrians who use the junction's crosswalks, and some who cross the road elsewhere ahead of the ego."""
    streets, arrival = plan.streets, _arrival(ego)
    main, cross = streets.main, streets.cross
    wanted: list[tuple[Street, float, tuple[float, float], tuple[tuple[float, float], ...] | None]] = []
    middle = 0.5 * sum(CROSSWALK)
    for side in (-1.0, 1.0):
        for slot in rng.permutation(3)[: rng.integers(0, 4)]:
            along = side * (cross.half_width + middle + 0.9 * (slot - 1))
            wanted.append((main, along, (-2.0, 20.0), lights.cross))
    for side in streets.arms:
        entered = (plan.maneuver == "left" and side > 0) or (plan.maneuver == "right" and side < 0)
        when = (arrival - 3.0, arrival + 5.0) if entered else (-2.0, 20.0)
        count = rng.integers(1, 4) if entered else rng.integers(0, 3)
        for slot in rng.permutation(3)[:count]:
            wanted.append((cross, side * (main.half_width + middle + 0.9 * (slot - 1)), when, lights.main))
    for _ in range(int(rng.choice(3, p=[0.15, 0.4, 0.45]))):
        ahead = float(rng.uniform(35.0, 150.0))
        along = plan.start + ahead
        if abs(along) > cross.half_width + 14.0 and (plan.maneuver == "straight" or along < 0):
            reached = ahead / (0.95 * plan.desired) - LEAD_SECONDS
            wanted.append((main, along, (reached - 7.0, reached - 4.0), None))
    still = np.stack([p.rectangle for p in standing])
    out = []
    for street, along, when, windows in wanted:
        for _ in range(8):
            way = float(rng.choice([-1.0, 1.0]))
            wish = max(float(rng.uniform(*when)), -1.0)
            points = _across(street, along, way, rng)
            one = crossing(points, float(rng.uniform(1.1, 1.6)), wish, windows)
            track = one.mover.rectangle_at(np.arange(0.0, one.mover.path.length, 0.4))
            near = still[np.abs(still[:, :2] - track[:, :2].mean(0)).max(-1) < 40.0]
            if not overlap(near[:, None], track[None], 0.1).any():
                out.append((one, objects.pedestrian(rng)))
                break
            if windows is None:  # not on a crosswalk: try a position nearby
                along += float(rng.uniform(1.0, 4.0))
    return out


def _across(street: Street, along: float, way: float, rng: np.random.Generator) -> np.ndarray:
    """Draw points [4, 2] m of a crossing towards `way` (1 left): sidewalk, near kerb, far kerb, far sidewalk."""
    out = []
    for side in (-way, way):
        beyond = float(rng.uniform(0.9, 0.7 * SIDEWALK))
        off = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(2.0, 14.0))
        rest = street.pose(along + off, side * (street.half_width + beyond))[:2]
        kerb = street.pose(along, side * (street.half_width + min(beyond, 0.7)))[:2]
        out += [rest, kerb] if side == -way else [kerb, rest]
    return np.stack(out)


def _walkers(plan: Plan, rng: np.random.Generator, end: float) -> list[Moving]:
    """Draw pedestrians along the sidewalks, some of them standing."""
    out = []
    main, cross = plan.streets.main, plan.streets.cross
    busy = float(rng.uniform(0.3, 1.3))
    for street, other in ((main, cross), (cross, main)):
        low, high = street.built
        for side in (-1.0, 1.0):
            for _ in range(round(busy * (high - low) / 20.0)):
                begin = float(rng.uniform(low + 5, high - 5))
                beyond = side * (street.half_width + float(rng.uniform(1.2, 0.65 * SIDEWALK)))
                goal = begin + float(rng.choice([-1.0, 1.0])) * 60.0
                corner = other.half_width + 0.5 * SIDEWALK
                # Opposite the arm of a T-junction the sidewalk is continuous.
                runs_on = street is main and side not in plan.streets.arms
                if not runs_on:
                    if abs(begin) < corner + 2:
                        continue
                    if np.sign(begin) != np.sign(goal):
                        goal = float(np.sign(begin)) * corner
                path = street.lane(beyond, begin, goal)
                speed = 0.0 if rng.random() < 0.25 else float(rng.uniform(0.9, 1.7))
                out.append(Moving(objects.pedestrian(rng), walk(path, speed, 0.0, 0.0, end)))
    return out
