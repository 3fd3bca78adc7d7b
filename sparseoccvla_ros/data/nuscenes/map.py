"""Drivable area and road edges around the ego, from the vector maps of nuScenes' map expansion.

maps/expansion/<location>.json, map API format 1.3. The area is rasterised like the masks of the map API (corners
rounded to whole cells); edges are the outlines of the union of road segments and lanes, as in BEV-Planner, but from a
raster of 0.1 m instead of exact polygons.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput

ROAD_EXTENT = 50.0
"""Half side of the area that the planning protocols evaluate, m from base_link."""
_CELLS_PER_METRE = 10
_RIM = 100
"""Extra cells around the raster, so that its border does not count as a road edge."""
_EDGE_LAYERS = ("road_segment", "lane")


@dataclass(frozen=True, eq=False)
class Ground:
    """Polygon in global coordinates: outline float64 [N, 2] m and holes; low, high: bounds [2]."""

    outline: np.ndarray
    holes: tuple[np.ndarray, ...]
    low: np.ndarray
    high: np.ndarray


class Roads:
    """Vector map of one location. Raises InvalidInput("maps") for a missing or damaged file or another format."""

    def __init__(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInput("maps", f"{path} cannot be read: {error}") from None
        try:
            nodes = {n["token"]: (float(n["x"]), float(n["y"])) for n in content["node"]}
            polygons = {p["token"]: _ground(p, nodes) for p in content["polygon"]}
            self._drivable = [polygons[t] for area in content["drivable_area"] for t in area["polygon_tokens"]]
            self._edged = [polygons[r["polygon_token"]] for layer in _EDGE_LAYERS for r in content[layer]]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput("maps", f"{path} is no map of the expansion: {error!r}") from None

    def drivable(self, pose: np.ndarray, extent: float) -> np.ndarray:
        """Drivable area around an ego2global [4, 4]: bool [20 * extent] squared, 0.1 m cells in base_link, row = y."""
        return _drawn(self._drivable, pose, extent, 0)

    def around(self, pose: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Drivable area and road edges around an ego2global [4, 4], as in eval.tasks.planning_samples.Sample.

        Returns (bool [1000, 1000], row = y, column = x; lines float32 [P, 2] m in base_link).
        """
        rim = _drawn(self._edged, pose, ROAD_EXTENT, _RIM)
        outlines, _ = cv2.findContours(rim.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        lines = []
        for outline in outlines:
            closed = np.concatenate([outline[:, 0], outline[:1, 0]]).astype(np.float64)
            lines.append(((closed - _RIM) / _CELLS_PER_METRE - ROAD_EXTENT).astype(np.float32))
        return self.drivable(pose, ROAD_EXTENT), tuple(lines)


def map_file(root: Path, location: str) -> Path:
    """Path of a location's vector map in a data root."""
    return root / "maps" / "expansion" / f"{location}.json"


def _ground(polygon: dict[str, Any], nodes: dict[str, tuple[float, float]]) -> Ground:
    outline = np.array([nodes[t] for t in polygon["exterior_node_tokens"]], np.float64)
    holes = tuple(np.array([nodes[t] for t in hole["node_tokens"]], np.float64) for hole in polygon["holes"])
    if outline.ndim != 2 or len(outline) < 3:
        raise ValueError(f"polygon {polygon['token']} has fewer than three corners")
    return Ground(outline, tuple(h for h in holes if len(h) > 2), outline.min(0), outline.max(0))


def _drawn(polygons: list[Ground], pose: np.ndarray, extent: float, rim: int) -> np.ndarray:
    """Polygons rasterised around a pose: bool [20 * extent + 2 * rim] squared."""
    yaw = geometry.yaw_of(pose)
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    reach = np.sqrt(2) * (extent + rim / _CELLS_PER_METRE)
    image = np.zeros((round(2 * extent * _CELLS_PER_METRE) + 2 * rim,) * 2, np.uint8)

    def cells(points: np.ndarray) -> np.ndarray:
        local = (points - pose[:2, 3]) @ turn
        return np.round((local + extent) * _CELLS_PER_METRE + rim).astype(np.int32)

    for polygon in polygons:
        if (polygon.low > pose[:2, 3] + reach).any() or (polygon.high < pose[:2, 3] - reach).any():
            continue
        # Each polygon in its own image, so that its holes do not erase other polygons.
        part = np.zeros_like(image)
        cv2.fillPoly(part, [cells(polygon.outline)], 1)
        for hole in polygon.holes:
            cv2.fillPoly(part, [cells(hole)], 0)
        image |= part
    return image.astype(bool)
