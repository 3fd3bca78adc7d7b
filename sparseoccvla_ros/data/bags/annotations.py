"""Boxes and maps in a bag: what viewers show around the car."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS
from .writer import BagWriter, qos

_CUBE, _ADD = 1, 0
"""Marker.CUBE and Marker.ADD."""


@dataclass(frozen=True, eq=False)
class Cube:
    """A box to show. kind and id tell it from others; pose: its middle, float64 [4, 4] in the message's frame; size:
    length, width, height m; colour: red, green, blue 0..1."""

    kind: str
    id: int
    pose: np.ndarray
    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    text: str = ""


def write_cubes(
    bag: BagWriter, topic: str, stamp_ns: int, frame_id: str, cubes: Sequence[Cube], seconds: float
) -> None:
    """visualization_msgs/MarkerArray of boxes that vanish after so many seconds."""
    header = bag.header(stamp_ns, frame_id)
    whole = int(seconds)
    rest = round((seconds - whole) * NANOSECONDS)
    lifetime = bag.construct("builtin_interfaces/msg/Duration", sec=whole, nanosec=rest)
    nothing = np.zeros(0, np.uint8)
    image = bag.construct("sensor_msgs/msg/CompressedImage", header=bag.header(0, ""), format="", data=nothing)
    mesh = bag.construct("visualization_msgs/msg/MeshFile", filename="", data=nothing)
    markers = []
    for cube in cubes:
        (length, width, height), (red, green, blue) = cube.size, cube.colour
        markers.append(
            bag.construct(
                "visualization_msgs/msg/Marker",
                header=header, ns=cube.kind, id=cube.id, type=_CUBE, action=_ADD, pose=bag.pose(cube.pose),
                scale=bag.construct("geometry_msgs/msg/Vector3", x=length, y=width, z=height),
                color=bag.construct("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=0.5),
                lifetime=lifetime, frame_locked=False, points=[], colors=[], texture_resource="", texture=image,
                uv_coordinates=[], text=cube.text, mesh_resource="", mesh_file=mesh,
                mesh_use_embedded_materials=False,
            )
        )  # fmt: skip
    bag.write(topic, bag.construct("visualization_msgs/msg/MarkerArray", markers=markers), stamp_ns, qos())


def write_occupancy_grid(
    bag: BagWriter,
    topic: str,
    stamp_ns: int,
    frame_id: str,
    origin: np.ndarray,
    resolution: float,
    cells: np.ndarray,
) -> None:
    """nav_msgs/OccupancyGrid. origin: corner of cell (0, 0), float64 [4, 4] in the frame; resolution: m; cells: int8
    [rows along y, columns along x], 0 free .. 100 occupied, -1 unknown. Raises InvalidInput("cells")."""
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
