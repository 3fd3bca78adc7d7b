"""Converts Lanelet2 maps to surfaces for PDMS and EPDMS, using simple-lanelet2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ...data.bags.drive import Drive
from ..metrics.driving.polygons import inside
from ..metrics.driving.traffic_scene import Surface

VEHICLE_LANES = ("road", "highway", "play_street", "emergency_lane", "bus_lane", "road_shoulder", "")
"""Lanelet subtypes used by cars."""
_PARKING = ("parking_lot", "parking_space")
_EVERY = 1.0
"""Spacing (m) of the positions of the drive that select the lanelets of the route."""


def read_lanelets(path: Path, origin: str, drive: Drive) -> list[tuple[Surface, np.ndarray, bool]]:
    """Returns (kind, polygon [V, 2] in the drive's frame, on route) of every lanelet, junction and car park.

    Lanelets with a `turn_direction` (Autoware) are connectors, the others lanes; all are drivable. Junctions are the
    polygons of type intersection_area or, without any, the connectors. The route consists of the driven lanelets and
    adjacent ones in the same direction.

    Args:
        path: .osm file.
        origin: LAT,LON of the origin of the drive's frame; not needed if points have local_x and local_y.
        drive: The drive that selects the lanelets of the route.

    Raises:
        InvalidInput: simple-lanelet2 is not installed, the file cannot be read, or its location is unknown.
    """
    try:
        from lanelet2 import io, projection  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise InvalidInput("map", "needs simple-lanelet2: pip install simple-lanelet2==1.2.3") from None
    place = _origin(origin)
    projector = projection.UtmProjector(io.Origin(*(place or (0.0, 0.0))))
    if place is None:
        projector = projection.MercatorProjector(io.Origin(0.0, 0.0))
    try:
        loaded, _ = io.loadRobust(str(path), projector)
    except (RuntimeError, OSError, ValueError) as error:
        raise InvalidInput("map", f"{path} is no Lanelet2 map: {error}") from None
    lanelets = [item for item in loaded.laneletLayer if _tag(item, "subtype") in VEHICLE_LANES]
    if not lanelets:
        raise InvalidInput("map", f"{path} has no lanelet of a road")
    polygons = {
        item.id: np.concatenate([_points(item.leftBound, place), _points(item.rightBound, place)[::-1]])
        for item in lanelets
    }
    used = _used(lanelets, polygons, drive)
    surfaces, connectors = [], []
    for item in lanelets:
        polygon = polygons[item.id]
        connector = bool(_tag(item, "turn_direction"))
        surfaces.append((Surface.LANE_CONNECTOR if connector else Surface.LANE, polygon, item.id in used))
        surfaces.append((Surface.ROADBLOCK, polygon, False))
        connectors += [polygon] if connector else []
    areas = [(_tag(area, "type"), _points(area, place)) for area in loaded.polygonLayer]
    junctions = [polygon for kind, polygon in areas if kind == "intersection_area"]
    surfaces += [(Surface.INTERSECTION, polygon, False) for polygon in junctions or connectors]
    surfaces += [(Surface.CAR_PARK, polygon, False) for kind, polygon in areas if kind in _PARKING]
    return surfaces


def _origin(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput("map_origin", f"want LAT,LON in degrees, got {text!r}") from None
    return latitude, longitude


def _tag(item: Any, name: str) -> str:
    return str(item.attributes[name]) if name in item.attributes else ""


def _points(line: Any, place: tuple[float, float] | None) -> np.ndarray:
    """Returns the points of a line, float64 [V, 2]."""
    if place is not None:
        return np.array([(point.x, point.y) for point in line])
    if any("local_x" not in point.attributes for point in line):
        raise InvalidInput("map", "its points have no local_x and local_y: give --map-origin LAT,LON")
    return np.array([(float(point.attributes["local_x"]), float(point.attributes["local_y"])) for point in line])


def _used(lanelets: list[Any], polygons: dict[int, np.ndarray], drive: Drive) -> set[int]:
    way = np.append(0.0, np.cumsum(np.hypot(*np.diff(drive.poses[:, :2], axis=0).T)))
    rows = np.unique(np.searchsorted(way, np.arange(0.0, way[-1], _EVERY)))
    places = drive.poses[rows]
    driven = set()
    for item in lanelets:
        left, right = polygons[item.id], item.rightBound
        first, last = left[0], left[len(left) - len(right) - 1]
        along = np.arctan2(*(last - first)[::-1])
        held = inside(places[:, :2], polygons[item.id]) & (np.cos(places[:, 2] - along) > 0.3)
        if held.any():
            driven.add(item.id)
    # Lanes sharing a border have the same direction if it is the left of one and the right of the other.
    border = {item.id: (item.leftBound.id, item.rightBound.id) for item in lanelets}
    out = set(driven)
    grown = True
    while grown:
        beside = {
            own for own, (left, right) in border.items()
            if own not in out and any(left == border[other][1] or right == border[other][0] for other in out)
        }  # fmt: skip
        out |= beside
        grown = bool(beside)
    return out
