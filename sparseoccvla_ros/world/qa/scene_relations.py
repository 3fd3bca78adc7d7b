"""What the cameras show of a scene at one time, as a graph of things: the ground on which questions are asked.

A thing counts as seen when enough pixels of small images show it, whatever hides the rest of it. The frame is
base_link; distances are from its origin to the nearest point of a box, directions those of the box's centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...core import geometry
from ...core.classes import CLASSES
from ...core.errors import InvalidInput
from ...core.types import Command
from ..agents.traffic import AMBER, GREEN, RED
from ..labels.annotations import Boxes, Expert, boxes, expert
from ..render.camera_rig import Camera, load_rig
from ..render.raster import PinholeRays, cast
from ..render.weather import Weather
from ..roads.streets import Street
from ..scene import Scene
from ..shapes.objects import SIGNAL_LAMPS
from ..shapes.solids import Primitives

HEIGHT, WIDTH, CUT = 128, 352, 70
"""The images that decide: 198 x 352 whole, the upper 70 rows cut off, as the tiny preset sees them."""
SEEN_PIXELS = 16
"""From so many pixels (all cameras together) on a thing is seen;"""
HIDDEN_PIXELS = 3
"""up to so many it is not; what lies between is doubtful, and nothing is asked that depends on it."""
LAMP_PIXELS = 2
LEAD_OFFSET, LEAD_REACH = 1.7, 45.0
"""Metres beside and along the ego's path within which a vehicle is ahead in the own lane."""
RIDER = "cyclist"
ROAD_USERS = ("car", "truck", "bus", "trailer", "construction vehicle", "motorcycle", "bicycle", RIDER, "pedestrian")
VEHICLES = ROAD_USERS[:6]
DIRECTIONS = ("front", "front left", "left", "back left", "back", "back right", "right", "front right")
DISTANCES = (5, 10, 15, 20, 25, 30, 40)
"""Distances in metres that answers name; the nearest one is right."""
COVERED = 0.85
"""Share of a side that some camera must look at before anything is said to be absent there."""
CLEAR_SIGHT = 1.5
"""In fog nothing is seen beyond so many lengths of its haze, where a fifth of a thing's light arrives."""
NEAR_JUNCTION = 16.0
"""Metres beside the junction's edges within which a drive that changes streets is turning."""


@dataclass(frozen=True)
class Thing:
    """One seen box. word: its class in plain words; x, y: centre m; distance m; angle rad, left positive; speed m/s;
    instance: owner in the scene; row: its place in SceneView.boxes; pixels: how many show it."""

    word: str
    x: float
    y: float
    distance: float
    angle: float
    speed: float
    instance: int
    row: int
    pixels: int

    @property
    def direction(self) -> str:
        """One of DIRECTIONS: sectors of 45 degrees about the axes and diagonals."""
        return DIRECTIONS[round(self.angle / (np.pi / 4)) % 8]

    def within(self, side: str) -> bool:
        """Whether it lies ahead, behind, left or right: quarters about the axes; `around` is all four."""
        middle = {"ahead": 0.0, "left": np.pi / 2, "behind": np.pi, "right": -np.pi / 2}
        if side == "around":
            return True
        return bool(abs(np.angle(np.exp(1j * (self.angle - middle[side])))) <= np.pi / 4)


@dataclass(frozen=True)
class OwnLane:
    """Where the ego drives: along m on the street, offset m right of its centreline as it drives, way 1 along the
    street and -1 against it."""

    street: Street
    along: float
    offset: float
    way: float


def near_distance(metres: float) -> int | None:
    """The one of DISTANCES that is nearest, None beyond 45 m."""
    return None if metres > 45.0 else min(DISTANCES, key=lambda d: abs(d - metres))


class SceneView:
    """A scene at `time` s of its drive through a car's cameras (all of them at that time).

    weather: the seed's where None. Raises InvalidInput where the next 3 s lie outside the drive.
    """

    def __init__(
        self, scene: Scene, time: float, rig: tuple[Camera, ...] | None = None, weather: Weather | None = None
    ) -> None:
        if not 0.0 <= time <= scene.duration:
            raise InvalidInput("time", f"{time} s is outside the drive of {scene.duration} s")
        self.scene, self.time = scene, time
        self.rig = rig or load_rig()
        self.weather = weather or Weather.generate(scene.seed)
        self.frame, twist = scene.ego.at(time)
        self.speed = float(twist[0])
        self.command: Command = scene.ego.command(time)
        self.boxes: Boxes = boxes(scene, time)
        self.expert: Expert = expert(scene, time)
        self._covered: dict[str, bool] = {}
        self._pixels, self._lamps = self._look()

    def _look(self) -> tuple[np.ndarray, int]:
        """Pixels per owner int64 [owners], and pixels of the lit lamps of the ego's traffic light."""
        state = self.scene.at(self.time)
        table = Primitives.concatenate([state.fixed, state.moving])
        total = len(self.scene.standing) + len(self.scene.moving)
        pixels, lamps = np.zeros(total, np.int64), 0
        lit = self._lit_rows()
        for camera in self.rig:
            k = camera.scaled(HEIGHT + CUT, WIDTH)
            k[1, 2] -= CUT
            depth, row = cast(table, PinholeRays(k, self.frame @ camera.camera2ego, HEIGHT, WIDTH))
            seen = row >= 0
            if self.weather.foggy:
                seen &= depth < CLEAR_SIGHT / self.weather.haze
            row = row[seen]
            pixels += np.bincount(table.owner[row], minlength=total)
            lamps += int(np.isin(row, lit).sum())
        return pixels, lamps

    def _lit_rows(self) -> list[int]:
        """Rows of the scene's fixed primitives that glow for the ego: its signal is the one it drives towards."""
        if not self.scene.ego.mover.stops:
            return []
        line, approach = self.scene.ego.mover.stops[0]
        yaw = float(self.scene.ego.mover.path.at(line)[2])
        part = (RED, AMBER, GREEN).index(self.scene.signals.colour(approach, self.time))
        for first, pose in self.scene.signal_rows:
            if np.cos(pose[2] - yaw) > 0.7:
                return [first + k for k in SIGNAL_LAMPS[part]]
        return []

    @cached_property
    def things(self) -> tuple[Thing, ...]:
        """Everything seen, nearest first."""
        return tuple(t for t in self._things if t.pixels >= SEEN_PIXELS)

    @cached_property
    def doubtful(self) -> tuple[Thing, ...]:
        """What few pixels show."""
        return tuple(t for t in self._things if HIDDEN_PIXELS < t.pixels < SEEN_PIXELS)

    @cached_property
    def _things(self) -> list[Thing]:
        out = []
        distance = self.boxes.distance()
        for row in np.argsort(distance, kind="stable"):
            x, y = (float(v) for v in self.boxes.centre[row, :2])
            word = CLASSES[self.boxes.label[row]].replace("_", " ")
            if self.boxes.attributes[row] == "cycle.with_rider":
                word = RIDER
            instance = int(self.boxes.instance[row])
            speed = float(np.hypot(*self.boxes.velocity[row]))
            seen = int(self._pixels[instance])
            out.append(
                Thing(word, x, y, float(distance[row]), float(np.arctan2(y, x)), speed, instance, int(row), seen)
            )
        return out

    def covers(self, side: str) -> bool:
        """Whether the cameras look at a side (`Thing.within`), so that what they do not show there is not there."""
        if side not in self._covered:
            angles = np.radians(np.arange(-180.0, 180.0, 3.0))
            own = np.array([Thing("", 0.0, 0.0, 0.0, float(a), 0.0, 0, 0, 0).within(side) for a in angles])
            shown = np.zeros(len(angles), bool)
            for camera in self.rig:
                axis = np.arctan2(camera.camera2ego[1, 2], camera.camera2ego[0, 2])
                off = np.angle(np.exp(1j * (angles - axis)))
                focal, middle = camera.intrinsics[0, 0], camera.intrinsics[0, 2]
                # Left is positive, and columns count from the left.
                shown |= (off < np.arctan2(middle, focal)) & (off > -np.arctan2(camera.width - middle, focal))
            self._covered[side] = bool(shown[own].mean() >= COVERED)
        return self._covered[side]

    def pixels_of(self, instance: int) -> int:
        """How many pixels show an owner of the scene's primitives."""
        return int(self._pixels[instance])

    @cached_property
    def room(self) -> float:
        """Metres from the front bumper to the ego's stop line, negative past it and where there is none to come."""
        mover = self.scene.ego.mover
        if not mover.stops:
            return -np.inf
        return mover.stops[0][0] - float(mover.motion(self.time)[0]) - mover.front

    @cached_property
    def light(self) -> str | None:
        """red, amber or green; None where the ego is past its stop line or no lamp can be seen."""
        if self.room <= -1.0 or self._lamps < LAMP_PIXELS:
            return None
        return self.scene.signals.colour(self.scene.ego.mover.stops[0][1], self.time)

    @cached_property
    def lead(self) -> tuple[Thing, float] | None:
        """The seen vehicle or cyclist next on the ego's path, and the metres between the bumpers."""
        mover = self.scene.ego.mover
        here = float(mover.motion(self.time)[0])
        best: tuple[Thing, float] | None = None
        for thing in self.things:
            if thing.word not in (*VEHICLES, RIDER) or thing.x < 0:
                continue
            x, y = geometry.apply(self.frame, np.array([thing.x, thing.y, 0.0]))[:2]
            s, beside = mover.path.nearest(float(x), float(y))
            gap = s - here - mover.front - 0.5 * float(self.boxes.size[thing.row, 0])
            if beside < LEAD_OFFSET and -1.0 < gap < LEAD_REACH and (best is None or gap < best[1]):
                best = thing, max(gap, 0.0)
        return best

    @cached_property
    def place(self) -> str:
        """before, on or after the junction."""
        half = self.scene.streets.cross.half_width
        if self.room > -1.0:
            return "before"
        x, y = self.frame[:2, 3]
        inside = abs(x) < half + 4 and abs(y) < self.scene.streets.main.half_width + 4
        return "on" if inside else "after"

    @cached_property
    def own_lane(self) -> OwnLane | None:
        """The lane the ego drives in; None near the junction and where it is not lined up with one."""
        streets = self.scene.streets
        pairs = [(streets.main, streets.cross.half_width), (streets.cross, streets.main.half_width)]
        x, y, yaw = float(self.frame[0, 3]), float(self.frame[1, 3]), geometry.yaw_of(self.frame)
        for street, other in pairs:
            s, lateral = street.at(x, y)
            turned = yaw - float(street.pose(s)[2])
            if abs(lateral) > street.half_width or abs(np.sin(turned)) > 0.05 or abs(s) < other + 8:
                continue
            way = 1.0 if np.cos(turned) > 0 else -1.0
            offset = -way * lateral
            if min(abs(offset - lane) for lane in street.lanes) <= 0.4:
                return OwnLane(street, s, offset, way)
        return None

    def lane_beside(self, side: str) -> float | None:
        """Lateral offset in metres (left positive) of the neighbouring lane of the same direction, None where there is
        none or the ego is not lined up with its lane."""
        if self.own_lane is None:
            return None
        own = self.own_lane.offset
        # Traffic keeps right, so the kerb is on the right: lanes further from the centre line are right of the car.
        lanes = self.own_lane.street.lanes
        others = [lane - own for lane in lanes if (lane - own) * (-1 if side == "left" else 1) > 1.0]
        return -min(others, key=abs) if others else None

    def along_lane(self, thing: Thing) -> tuple[float, float]:
        """Metres ahead of the rear axle and to the left of the ego's own lane of a thing, along the street's bend."""
        if self.own_lane is None:
            return thing.x, thing.y
        lane = self.own_lane
        x, y = (float(v) for v in geometry.apply(self.frame, np.array([thing.x, thing.y, 0.0]))[:2])
        s, lateral = lane.street.at(x, y)
        return lane.way * (s - lane.along), lane.way * lateral + lane.offset

    @cached_property
    def turning(self) -> bool:
        """Within the next 3 s the ego is about to change from one street to the other."""
        if self.scene.maneuver == "straight":
            return False
        streets, sweep = self.scene.streets, self.expert.sweep
        points = geometry.apply(self.frame, np.column_stack([sweep[:, :2], np.zeros(len(sweep))]))[:, :2]
        reach = np.array([streets.cross.half_width, streets.main.half_width]) + NEAR_JUNCTION
        return bool((np.abs(points) < reach).all(1).any())

    def bend(self, reach: float) -> float:
        """Radians by which the ego's way turns over the next `reach` metres, left positive."""
        mover = self.scene.ego.mover
        here = float(mover.motion(self.time)[0])
        yaw = mover.path.at(np.array([here, here + reach]))[:, 2]
        return float(yaw[1] - yaw[0])

    @cached_property
    def _held(self) -> int | None:
        """Instance of the person who makes the ego brake or wait within the next second."""
        mover = self.scene.ego.mover
        if not mover.held_by:
            return None
        first, last = np.searchsorted(mover.times, [self.time, self.time + 1.0])
        slow = (mover.forces[first:last] < -0.3) | (mover.speeds[first:last] < 0.5)
        who = mover.yields[first:last][slow & (mover.yields[first:last] >= 0)]
        if not len(who):
            return None
        person = mover.held_by[int(who[0])]
        movers = [m.mover for m in self.scene.moving]
        return next((len(self.scene.standing) + i for i, m in enumerate(movers) if m is person), None)

    @property
    def yields(self) -> bool:
        """Somebody who crosses makes the ego brake or wait, seen or not."""
        return self._held is not None

    @cached_property
    def yields_to(self) -> Thing | None:
        """The seen person for whom the ego brakes or waits."""
        return next((t for t in self.things if t.instance == self._held), None)
