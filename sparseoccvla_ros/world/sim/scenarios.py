"""Named traffic scenarios, each generated from a seed, that cover the abilities of Bench2Drive.

A family selects a suitable place, clears the ego's path there and adds actors; the rest of the scene is the seed's.
Added actors are positioned along the ego's route: metres ahead of its first pose and metres to its left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from ...core.errors import InvalidInput
from ..agents.actors import Moving
from ..agents.traffic import STEP, Mover, Phases, overlap
from ..render.weather import Weather
from ..roads.curves import Curve
from ..roads.static_scene import Placed
from ..scenario import NOMINAL, Plan, draw
from ..scene import EgoMotion, Scene
from ..shapes import objects, vehicles
from ..shapes.objects import Shape

_SPACING = 1000
"""Seed increment between the places that a family tries."""
_CLEAR = 4.5
"""Distance in m from the route within which other vehicles are removed if a family clears the road."""


@dataclass(eq=False)
class Script:
    """Scripted behaviour of an added actor along its path.

    The script starts when the ego is `within` metres of `at` (both along the ego's route). Before, the actor stands if
    `holds`; then it accelerates by `acceleration` m/s^2 for `seconds` and afterwards follows the traffic model.
    """

    mover: Mover
    at: float
    within: float
    holds: bool = False
    acceleration: float = 0.0
    seconds: float = 0.0
    begun: float | None = None

    def waits(self, along: float, time: float) -> bool:
        """Return whether the actor still stands, with the ego at `along` m of its route; starts the script if due."""
        if self.begun is None and self.at - along <= self.within:
            self.begun = time
        return self.holds and self.begun is None

    def force(self, along: float, time: float) -> float | None:
        """Return the scripted acceleration in m/s^2, None while the traffic model applies."""
        if self.waits(along, time):
            return -8.0
        if self.begun is not None and time < self.begun + self.seconds:
            return self.acceleration
        return None


@dataclass
class Stage:
    """Changes that a family makes to a scene.

    route, begin, speed: the ego's path, its arc length and speed (m/s) at 0 s; moving, standing, scripts: additions;
    signals: replacement of the scene's, None to keep them; clears: whether other actors are removed from the ego's way.
    """

    plan: Plan
    scene: Scene
    rng: np.random.Generator
    route: Curve
    begin: float
    speed: float
    moving: list[Moving] = field(default_factory=list)
    standing: list[Placed] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    signals: Phases | None = None
    clears: bool = True

    @property
    def right(self) -> float:
        """Offset from the ego's lane to vehicles parked on the right (negative), m."""
        main = self.plan.streets.main
        lane = main.lanes[self.plan.lane]
        return -((main.parking or main.half_width - 1.1) - lane)

    @property
    def beside(self) -> float:
        """Offset from the ego's lane to the adjacent lane of the same direction, m, left positive."""
        lanes, lane = self.plan.streets.main.lanes, self.plan.lane
        other = lanes[lane - 1] if lane else lanes[lane + 1]
        return float(lanes[lane] - other)

    def path(self, ahead: np.ndarray, across: np.ndarray, backwards: bool = False) -> Curve:
        """Return a smooth path through points given along and across the route."""
        s = np.arange(ahead[0], ahead[-1], 0.25)
        offset = np.interp(s, ahead, across)
        for _ in range(2):  # two box filters of 6 m remove kinks
            offset = np.convolve(np.pad(offset, 12, mode="edge"), np.ones(25) / 25, mode="valid")
        pose = self.route.at(self.begin + s)
        points = pose[:, :2] + offset[:, None] * np.stack([-np.sin(pose[:, 2]), np.cos(pose[:, 2])], -1)
        if backwards:
            points = points[::-1]
        step = np.gradient(points, axis=0)
        return Curve(points, np.arctan2(step[:, 1], step[:, 0]))

    def add(self, shape: Shape, path: Curve, start: float, speed: float, desired: float) -> Mover:
        """Add an actor that is `start` m along its path at 0 s."""
        mover = Mover(path, shape.length, shape.width, start, speed, desired, 1.6, shape.centre)
        times = -2.0 + STEP * np.arange(round((2.0 + NOMINAL) / STEP))
        mover.times, mover.travelled = times, start + speed * times
        mover.speeds, mover.forces = np.full(len(times), speed), np.zeros(len(times))
        self.moving.append(Moving(shape, mover))
        return mover

    def place(self, shape: Shape, ahead: float, across: float) -> None:
        """Add a standing object at `ahead` m along and `across` m left of the route."""
        pose = self.route.at(self.begin + ahead)
        x, y = pose[:2] + across * np.array([-np.sin(pose[2]), np.cos(pose[2])])
        self.standing.append(Placed(shape, (float(x), float(y), float(pose[2]))))


def _lead_brakes(stage: Stage) -> None:
    path = stage.path(np.array([0.0, 380.0]), np.zeros(2))
    gap = float(stage.rng.uniform(13.0, 18.0))
    car = stage.add(vehicles.car(stage.rng), path, gap, stage.speed, stage.plan.desired)
    stage.scripts.append(Script(car, stage.begin + float(stage.rng.uniform(18, 30)), 0.0, False, -6.0, 2.6))


def _cut_in(stage: Stage) -> None:
    at = float(stage.rng.uniform(24.0, 30.0))
    path = stage.path(np.array([0.0, at, at + 16.0, 380.0]), np.array([stage.beside, stage.beside, 0.0, 0.0]))
    stage.add(vehicles.car(stage.rng), path, 13.0, 0.85 * stage.speed, 0.75 * stage.plan.desired)


def _pull_out(stage: Stage) -> None:
    at = float(stage.rng.uniform(38.0, 48.0))
    path = stage.path(np.array([at - 5.0, at + 3.0, at + 15.0, 380.0]), np.array([stage.right, stage.right, 0.0, 0.0]))
    car = stage.add(vehicles.car(stage.rng), path, 3.0, 0.0, 0.8 * stage.plan.desired)
    stage.scripts.append(Script(car, stage.begin + at, float(stage.rng.uniform(24.0, 30.0)), holds=True))


def _jaywalker(stage: Stage) -> None:
    at = float(stage.rng.uniform(38.0, 48.0))
    stage.place(vehicles.truck(stage.rng), at - 6.0, stage.right)
    pose = stage.route.at(stage.begin + at)
    normal = np.array([-np.sin(pose[2]), np.cos(pose[2])])
    points = pose[:2] + np.arange(stage.right - 1.6, 14.0, 0.2)[:, None] * normal
    walk = Curve(points, np.full(len(points), pose[2] + 0.5 * np.pi))
    person = stage.add(objects.pedestrian(stage.rng), walk, 0.0, 0.0, float(stage.rng.uniform(1.3, 1.9)))
    stage.scripts.append(Script(person, stage.begin + at, float(stage.rng.uniform(22.0, 27.0)), holds=True))


def _arrival(stage: Stage) -> float:
    """Estimate the time in s at which the undisturbed ego reaches its stop line."""
    line = stage.scene.ego.mover.stops[0][0] - stage.scene.ego.mover.front
    return (line - stage.begin) / (0.92 * stage.plan.desired)


def _red_light(stage: Stage) -> None:
    green = _arrival(stage) + float(stage.rng.uniform(4.0, 9.0))
    stage.signals = Phases(((green, 600.0),), ((-60.0, green - 5.0),))


def _amber(stage: Stage) -> None:
    amber = max(_arrival(stage) - float(stage.rng.uniform(1.2, 3.2)), 0.5)
    stage.signals = Phases(((-60.0, amber), (amber + 18.0, 600.0)), ((amber + 5.0, amber + 13.0),))


def _unprotected_left(stage: Stage) -> None:
    stage.signals = Phases(((-60.0, 600.0),), ())
    main = stage.plan.streets.main
    start = float(stage.rng.uniform(55.0, 75.0))
    for k in range(int(stage.rng.integers(2, 4))):
        path = main.lane(main.lanes[0], start + 60.0, -260.0)
        speed = float(stage.rng.uniform(8.0, 10.0))
        stage.add(vehicles.car(stage.rng), path, 60.0 - k * float(stage.rng.uniform(16.0, 24.0)), speed, speed)


def _as_drawn(stage: Stage) -> None:
    stage.clears = False


def _cyclist(stage: Stage) -> None:
    path = stage.path(np.array([0.0, 380.0]), np.full(2, -0.5))
    speed = float(stage.rng.uniform(4.2, 5.5))
    stage.add(objects.bicycle(stage.rng, rider=True), path, float(stage.rng.uniform(20.0, 28.0)), speed, speed)


def _blocked_lane(stage: Stage) -> None:
    stage.place(vehicles.truck(stage.rng), float(stage.rng.uniform(45.0, 55.0)), 0.0)


def _oncoming(stage: Stage) -> None:
    """An oncoming car overtakes in the ego's lane and returns to its own lane late."""
    across = 2.0 * stage.plan.streets.main.lanes[0]
    path = stage.path(np.array([-60.0, 50.0, 68.0, 170.0]), np.array([across, across, 0.0, 0.0]), backwards=True)
    speed = float(stage.rng.uniform(7.0, 9.0))
    stage.add(vehicles.car(stage.rng), path, path.length - 160.0, speed, speed)


@dataclass(frozen=True)
class Family:
    """Kind of scenario. ability: its group in the results; maneuver: the ego's, None for any; suits: place test."""

    ability: str
    maneuver: str | None
    build: Callable[[Stage], None]
    suits: Callable[[Plan, int], bool] = lambda plan, seed: True
    green: bool = True


def _straight_road(plan: Plan, seed: int) -> bool:
    return bool(plan.beyond or plan.start < -95.0)


def _two_lanes(plan: Plan, seed: int) -> bool:
    return len(plan.streets.main.lanes) == 2 and plan.closed != 1 and _straight_road(plan, seed)


def _parking(plan: Plan, seed: int) -> bool:
    outer = plan.lane == len(plan.streets.main.lanes) - 1 and plan.closed != 1
    return plan.streets.main.parking > 0 and outer and not plan.streets.main.cycling and _straight_road(plan, seed)


def _undivided(plan: Plan, seed: int) -> bool:
    main = plan.streets.main
    return len(main.lanes) == 1 and not main.median and plan.closed != 1 and _straight_road(plan, seed)


def _junction(plan: Plan, seed: int) -> bool:
    return not plan.beyond and plan.start > -110.0


def _weather(*words: str) -> Callable[[Plan, int], bool]:
    return lambda plan, seed: Weather.generate(seed).word in words


FAMILIES: dict[str, Family] = {
    "lead_brakes": Family("emergency brake", "straight", _lead_brakes, _straight_road),
    "cut_in": Family("merging", "straight", _cut_in, _two_lanes),
    "parked_car_pulls_out": Family("merging", "straight", _pull_out, _parking),
    "jaywalker": Family("emergency brake", "straight", _jaywalker, _parking),
    "red_light": Family("traffic signs", "straight", _red_light, _junction, green=False),
    "amber_dilemma": Family("traffic signs", "straight", _amber, _junction, green=False),
    "unprotected_left": Family(
        "give way", "left", _unprotected_left, lambda plan, seed: _junction(plan, seed) and len(plan.streets.arms) == 2
    ),
    "t_junction_left": Family(
        "give way", "left", _unprotected_left, lambda plan, seed: _junction(plan, seed) and len(plan.streets.arms) == 1
    ),
    "right_turn_over_crosswalk": Family("give way", "right", _as_drawn, _junction, green=False),
    "cyclist_ahead": Family("overtaking", "straight", _cyclist, _straight_road),
    "blocked_lane": Family("overtaking", "straight", _blocked_lane, _two_lanes),
    "oncoming_in_lane": Family("emergency brake", "straight", _oncoming, _undivided),
    "fog_or_dusk": Family("traffic signs", None, _as_drawn, _weather("foggy", "dusk"), green=False),
}


def place_of(name: str, seed: int) -> tuple[int, str | None]:
    """Return (scene seed, maneuver) of a family for a seed. Raises InvalidInput("scenario") for unknown families."""
    if name not in FAMILIES:
        raise InvalidInput("scenario", f"{name!r} is not one of {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    for step in count():
        candidate = seed + step * _SPACING
        plan = draw(np.random.default_rng([candidate, 29]), family.maneuver)
        if family.suits(plan, candidate):
            return candidate, family.maneuver
    raise AssertionError


def staged(name: str, seed: int) -> tuple[Scene, list[Script]]:
    """Return the scene of a family and seed, and the scripts of its added actors."""
    at, maneuver = place_of(name, seed)
    family = FAMILIES[name]
    scene = Scene.generate(at, NOMINAL, maneuver)
    plan = draw(np.random.default_rng([at, 29]), maneuver)
    begin, speed = (float(v) for v in scene.ego.mover.motion(0.0))
    stage = Stage(plan, scene, np.random.default_rng([seed, 41]), scene.ego.mover.path, begin, speed)
    if family.green:
        stage.signals = Phases(((-60.0, 600.0),), ())
    family.build(stage)
    return _assembled(stage), stage.scripts


def _assembled(stage: Stage) -> Scene:
    scene, moving, crossings = stage.scene, list(stage.scene.moving), stage.scene.crossings
    extra = [m.mover.rectangle(0.0) for m in stage.moving] + [p.rectangle for p in stage.standing]
    swept = [m.mover.rectangle_at(np.arange(0.0, min(m.mover.path.length, 60.0), 2.0)) for m in stage.moving]
    taken = np.concatenate([np.stack(extra), *swept]) if extra else np.zeros((0, 5))
    if stage.clears:
        # Pedestrians follow signals that may have changed; vehicles near the ego or an added actor would interfere.
        on_foot = {id(c.mover) for c in crossings}
        crossings = ()
        near = stage.route.at(stage.begin + np.arange(-35.0, 120.0, 2.0))[:, :2]
        moving = [m for m in moving if id(m.mover) not in on_foot and not _disturbs(m, near, np.array(extra))]
    standing = [p for p in scene.standing if not (len(taken) and overlap(taken, p.rectangle, 0.2).any())]
    ego = scene.ego
    assert isinstance(ego, EgoMotion)
    return Scene(
        scene.seed, scene.streets, [*standing, *stage.standing], [*moving, *stage.moving], ego,
        stage.signals or scene.signals, scene.maneuver, crossings,
    )  # fmt: skip


def _disturbs(item: Moving, near: np.ndarray, extra: np.ndarray) -> bool:
    if item.shape.name == "pedestrian":
        return False
    now = item.mover.rectangle(0.0)
    if len(extra) and overlap(extra, now, 6.0).any():
        return True
    return bool(np.hypot(*(near - now[:2]).T).min() < _CLEAR)
