"""The world's streets as map surfaces of the metrics: lanes, connectors, roadblocks, the junction."""

from __future__ import annotations

import numpy as np

from ...world.kernels.ground import MEDIAN_START, STOP_LINE
from ...world.roads.curves import Curve
from ...world.roads.streets import Street, Streets
from ..metrics.driving.polygons import project
from ..metrics.driving.traffic_scene import RoadMap, Surface

_REACH = 330.0
"""Distance from the junction up to which surfaces are listed, m."""
_STEP = 2.0
_CHUNK = 40.0
"""Length of a roadblock polygon, m: short polygons have tight bounding boxes."""


def lane_width(street: Street) -> float:
    """Returns the width of a driving lane between its lines, m."""
    if len(street.lanes) > 1:
        return float(street.lanes[1] - street.lanes[0])
    inner = street.median + 0.45 if street.median else 0.12
    return float(2.0 * (street.lanes[0] - inner))


def strip(path: np.ndarray, half_width: float) -> np.ndarray:
    """Returns the polygon [2 N, 2] of the band around poses [N, 3]."""
    normal = np.stack([-np.sin(path[:, 2]), np.cos(path[:, 2])], -1)
    return np.concatenate([path[:, :2] + half_width * normal, (path[:, :2] - half_width * normal)[::-1]])


def _street_strip(
    street: Street, low: float, high: float, inner: float, outer: float, chunk: float = _CHUNK
) -> list[np.ndarray]:
    """Returns polygons of a street between two offsets (left positive) and arc lengths, in overlapping chunks."""
    low, high = max(low, street.pieces[0].s0, -_REACH), min(high, street.pieces[-1].s1, _REACH)
    out = []
    start = low
    while start < high - 1e-6:
        end = min(start + chunk, high)
        # Chunks overlap by 0.1 m, so all corners of a box across their border lie on the road.
        s = np.linspace(start - 0.05, end + 0.05, max(int((end - start) / _STEP), 1) + 1)
        out.append(np.concatenate([street.pose(s, outer)[:, :2], street.pose(s, inner)[::-1, :2]]))
        start = end
    return out


def junction(streets: Streets) -> np.ndarray:
    """Returns the polygon where the streets meet, with its rounded corners."""
    a, b, r = streets.cross.half_width, streets.main.half_width, streets.corner
    points: list[np.ndarray] = []
    arms = set(streets.arms)
    # Counter-clockwise from the corner on the right of the arm that leaves to the north.
    for quadrant, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        if sy not in arms:
            points += [np.array([[sx * (a + r), sy * b]])]
            continue
        turn = np.linspace(0.0, 0.5 * np.pi, 9)
        arc = np.stack([sx * (a + r - r * np.sin(turn)), sy * (b + r - r * np.cos(turn))], -1)
        points.append(arc if quadrant % 2 == 0 else arc[::-1])
    return np.concatenate(points)


def connectors(streets: Streets) -> list[np.ndarray]:
    """Returns a polygon for every straight path across the junction."""
    out = []
    for street, other in ((streets.main, streets.cross), (streets.cross, streets.main)):
        if street is streets.cross and len(streets.arms) == 1:
            continue
        reach = other.half_width + STOP_LINE[0]
        for lane in street.lanes:
            for way in (1.0, -1.0):
                path = street.pose(np.linspace(-reach, reach, 12), -way * lane)
                out.append(strip(path, 0.5 * lane_width(street)))
    return out


def lanes(streets: Streets) -> list[tuple[np.ndarray, Street, float]]:
    """Returns (polygon, street, direction 1 or -1 along it) of every driving lane."""
    out = []
    for street, other in ((streets.main, streets.cross), (streets.cross, streets.main)):
        gap, half = other.half_width + STOP_LINE[0], 0.5 * lane_width(street)
        for side in (1.0, -1.0):
            if street is streets.cross and side not in streets.arms:
                continue
            low, high = (gap, _REACH) if side > 0 else (-_REACH, -gap)
            for lane in street.lanes:
                for way in (1.0, -1.0):
                    middle = -way * lane
                    # One polygon per lane: a box in two chunks of one lane would count as being in multiple lanes.
                    for polygon in _street_strip(street, low, high, middle - half, middle + half, 2 * _REACH):
                        out.append((polygon, street, way))
    return out


def drivable(streets: Streets) -> list[np.ndarray]:
    """Returns the drivable polygons: both streets between their kerbs, without the median."""
    out = []
    for street, other in ((streets.main, streets.cross), (streets.cross, streets.main)):
        inside = other.half_width + (MEDIAN_START if street.median else streets.corner)
        half = street.half_width
        for side in (1.0, -1.0):
            if street is streets.cross and side not in streets.arms:
                continue
            # Full width up to where the median begins; the junction's polygon covers the rest.
            near, far = (0.0, inside) if side > 0 else (-inside, 0.0)
            beyond = (inside, _REACH) if side > 0 else (-_REACH, -inside)
            out += _street_strip(street, near, far, -half, half)
            if street.median:
                out += _street_strip(street, *beyond, street.median, half)
                out += _street_strip(street, *beyond, -half, -street.median)
            else:
                out += _street_strip(street, *beyond, -half, half)
    return out


def inside_junction(streets: Streets, points: np.ndarray) -> np.ndarray:
    """Whether points [..., 2] lie between the stop lines of the junction, as a rectangle."""
    half = np.array([streets.cross.half_width, streets.main.half_width]) + STOP_LINE[0]
    return (np.abs(points) < half).all(-1)


def route_connector(streets: Streets, route: Curve) -> np.ndarray | None:
    """Returns the route's path across the junction as a polygon, or None if it does not cross it."""
    poses = route.at(np.arange(0.0, route.length, 0.5))
    rows = np.flatnonzero(inside_junction(streets, poses[:, :2]))
    if not len(rows):
        return None
    first, last = max(rows[0] - 2, 0), min(rows[-1] + 2, len(poses) - 1)
    return strip(poses[first : last + 1], 0.5 * min(lane_width(streets.main), lane_width(streets.cross)))


class WorldMap:
    """The surfaces around a route.

    Attributes: road (RoadMap for the metrics), red (route connectors, red while the ego's signal is red), junction.

    Args:
        streets: The scene's streets.
        route: The ego's path of rear-axle poses.
        begin, end: Arc lengths of the driven part of the route, m.
    """

    def __init__(self, streets: Streets, route: Curve, begin: float, end: float) -> None:
        self.streets = streets
        self.junction = junction(streets)
        connector = route_connector(streets, route)
        surfaces: list[tuple[Surface, np.ndarray, bool]] = []
        driven = route.at(np.arange(begin - 10.0, end + 40.0, 2.0))
        for polygon, street, way in lanes(streets):
            surfaces.append((Surface.LANE, polygon, self._on_route(polygon, street, way, driven)))
        straight = connector is not None and abs(np.sin(route.at(end)[2] - route.at(begin)[2])) < 0.5
        reds = []
        for polygon in connectors(streets):
            same = straight and self._with_route(polygon, route)
            surfaces.append((Surface.LANE_CONNECTOR, polygon, same))
            if same:
                reds.append(polygon)
        if connector is not None and not straight:
            surfaces.append((Surface.LANE_CONNECTOR, connector, True))
            reds.append(connector)
        surfaces += [(Surface.ROADBLOCK, p, False) for p in drivable(streets)]
        surfaces.append((Surface.INTERSECTION, self.junction, False))
        line = route.at(np.arange(begin - 20.0, end + 60.0, 1.0))[:, :2]
        self.road = RoadMap(surfaces, line)
        self.red = tuple(reds)

    @staticmethod
    def _on_route(polygon: np.ndarray, street: Street, way: float, driven: np.ndarray) -> bool:
        """Whether a lane belongs to a stretch of road along the route; parallel lanes of that direction count too."""
        count = len(polygon) // 2
        middle = 0.5 * (polygon[:count] + polygon[count:][::-1])
        s, _ = street.at(float(middle[count // 2, 0]), float(middle[count // 2, 1]))
        heading = float(street.pose(s)[2]) + (np.pi if way < 0 else 0.0)
        gap = np.hypot(*(driven[:, None, :2] - middle).transpose(2, 0, 1))
        row, _ = np.unravel_index(gap.argmin(), gap.shape)
        return bool(gap.min() < 4.5 and np.cos(driven[row, 2] - heading) > 0.7)

    @staticmethod
    def _with_route(polygon: np.ndarray, route: Curve) -> bool:
        """Whether a straight connector is near a straight route and has its direction."""
        count = len(polygon) // 2
        middle = 0.5 * (polygon[count // 2] + polygon[-1 - count // 2])
        direction = polygon[count - 1] - polygon[0]
        s, distance = route.nearest(float(middle[0]), float(middle[1]))
        yaw = float(route.at(s)[2])
        heading = np.arctan2(direction[1], direction[0])
        return bool(distance < 9.0 and np.cos(yaw - heading) > 0.7)

    def lane_offset(self, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Locates box centres with headings [T, 3] relative to the lanes.

        Returns the distance [T] (m) to the nearest centre line of a driving or parking lane, or of the route inside the
        junction, and whether that lane's traffic is oncoming, bool [T].
        """
        distance, wrong = np.full(len(poses), np.inf), np.zeros(len(poses), bool)
        for street in (self.streets.main, self.streets.cross):
            s, lateral = street.locate(poses[:, :2]).T
            turned = np.cos(poses[:, 2] - street.pose(s)[:, 2])
            for offset in (*street.lanes, *([street.parking] if street.parking else [])):
                for way in (1.0, -1.0):
                    gap = np.abs(lateral + way * offset)
                    against = (way * turned < -0.5) & (offset != street.parking)
                    wrong = np.where(gap < distance, against, wrong)
                    distance = np.minimum(distance, gap)
        inside = inside_junction(self.streets, poses[:, :2])
        on_path = project(poses[:, :2], self.road.centerline)[1]
        return np.where(inside, np.minimum(distance, on_path), distance), wrong
