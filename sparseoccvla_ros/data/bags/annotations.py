"""Writers of boxes, map areas and occupancy grids in a bag, for display in viewers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS
from .writer import LATCHED_QOS, BagWriter, qos

_CUBE, _LINE_STRIP, _ADD = 1, 4, 0
"""Marker.CUBE, Marker.LINE_STRIP and Marker.ADD."""


@dataclass(frozen=True, eq=False)
class Cube:
    """A box to display. kind, id: namespace and id of its marker; pose: of its centre, float64 [4, 4] in the message's
    frame; size: length, width, height m; colour: red, green, blue 0..1."""

    kind: str
    id: int
    pose: np.ndarray
    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    text: str = ""


def write_cubes(
    bag: BagWriter, topic: str, stamp_ns: int, frame_id: str, cubes: Sequence[Cube], seconds: float
) -> None:
    """Write a visualization_msgs/MarkerArray of boxes with a lifetime of `seconds`."""
    made = [
        _marker(
            bag, stamp_ns, frame_id, seconds, type=_CUBE, ns=cube.kind, id=cube.id, pose=bag.pose(cube.pose),
            scale=bag.construct("geometry_msgs/msg/Vector3", x=cube.size[0], y=cube.size[1], z=cube.size[2]),
            color=_colour(bag, cube.colour), text=cube.text,
        )
        for cube in cubes
    ]  # fmt: skip
    bag.write(topic, bag.construct("visualization_msgs/msg/MarkerArray", markers=made), stamp_ns, qos())


@dataclass(frozen=True, eq=False)
class Area:
    """A map area. kind, id: namespace and id of its marker; polygon: float64 [V, 2] m, not closed; on_route: sets the
    marker's text to "route" and its colour to green."""

    kind: str
    id: int
    polygon: np.ndarray
    on_route: bool = False


def write_areas(bag: BagWriter, topic: str, stamp_ns: int, frame_id: str, areas: Sequence[Area]) -> None:
    """Write a latched visualization_msgs/MarkerArray of outlines (closed LINE_STRIPs); without areas an empty one."""
    made = []
    for area in areas:
        outline = np.concatenate([area.polygon, area.polygon[:1]]).tolist()
        points = [bag.construct("geometry_msgs/msg/Point", x=x, y=y, z=0.0) for x, y in outline]
        made.append(
            _marker(
                bag, stamp_ns, frame_id, 0.0, type=_LINE_STRIP, ns=area.kind, id=area.id, pose=bag.pose(np.eye(4)),
                scale=bag.construct("geometry_msgs/msg/Vector3", x=0.1, y=0.0, z=0.0),
                color=_colour(bag, (0.2, 0.8, 0.2) if area.on_route else (0.6, 0.6, 0.6)), points=points,
                text="route" if area.on_route else "",
            )
        )  # fmt: skip
    bag.write(topic, bag.construct("visualization_msgs/msg/MarkerArray", markers=made), stamp_ns, LATCHED_QOS)


def _colour(bag: BagWriter, colour: tuple[float, float, float]) -> Any:
    return bag.construct("std_msgs/msg/ColorRGBA", r=colour[0], g=colour[1], b=colour[2], a=0.5)


def _marker(bag: BagWriter, stamp_ns: int, frame_id: str, seconds: float, **fields: Any) -> Any:
    """A visualization_msgs/Marker with a lifetime of `seconds` (0: no expiry)."""
    whole = int(seconds)
    rest = round((seconds - whole) * NANOSECONDS)
    nothing = np.zeros(0, np.uint8)
    empty: dict[str, Any] = {
        "action": _ADD, "frame_locked": False, "points": [], "colors": [], "texture_resource": "",
        "uv_coordinates": [], "text": "", "mesh_resource": "", "mesh_use_embedded_materials": False,
        "texture": bag.construct("sensor_msgs/msg/CompressedImage", header=bag.header(0, ""), format="", data=nothing),
        "mesh_file": bag.construct("visualization_msgs/msg/MeshFile", filename="", data=nothing),
        "lifetime": bag.construct("builtin_interfaces/msg/Duration", sec=whole, nanosec=rest),
        "header": bag.header(stamp_ns, frame_id),
    }  # fmt: skip
    return bag.construct("visualization_msgs/msg/Marker", **empty | fields)


def write_occupancy_grid(
    bag: BagWriter,
    topic: str,
    stamp_ns: int,
    frame_id: str,
    origin: np.ndarray,
    resolution: float,
    cells: np.ndarray,
) -> None:
    """Write a nav_msgs/OccupancyGrid. origin: corner of cell (0, 0), float64 [4, 4] in the frame; resolution: m; cells:
    int8 [rows along y, columns along x], 0 free .. 100 occupied, -1 unknown. Raises InvalidInput("cells")."""
    if cells.ndim != 2 or cells.dtype != np.int8:
        raise InvalidInput("cells", f"want int8 [rows, columns], got {cells.dtype} {list(cells.shape)}")
    info = bag.construct(
        "nav_msgs/msg/MapMetaData",
        map_load_time=bag.stamp(stamp_ns), resolution=resolution, width=cells.shape[1], height=cells.shape[0],
        origin=bag.pose(origin),
    )  # fmt: skip
    data = np.ascontiguousarray(cells).ravel()
    message = bag.construct("nav_msgs/msg/OccupancyGrid", header=bag.header(stamp_ns, frame_id), info=info, data=data)
    bag.write(topic, message, stamp_ns, qos())
