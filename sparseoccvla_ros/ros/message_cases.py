"""The large messages of the graph as calls to time: ours, and where it differs the plain way of filling fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from rclpy.serialization import deserialize_message, serialize_message
from sparseoccvla_msgs.msg import Tensor
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from sparseoccvla_ros.core.occ3d import PALETTE
from sparseoccvla_ros.core.voxels import SparseVoxels

from . import markers, messages

Case = tuple[Callable[[], Any], Callable[[], Any] | None]


def message_cases(count: int = 10_000) -> dict[str, Case]:
    """Name -> (our call, the plain one or None), for `count` voxels and six prepared images."""
    rng = np.random.default_rng(0)
    index = rng.permutation(200 * 200 * 16)[:count]
    indices = np.stack(np.unravel_index(index, (200, 200, 16)), -1).astype(np.int16)
    voxels = SparseVoxels(indices, rng.integers(0, 17, count).astype(np.uint8), rng.random(count, np.float32))
    images = rng.integers(0, 255, (6, 128, 352, 3), dtype=np.uint8)
    received = serialize_message(messages.tensor_to_msg(images))

    def typed_cubes() -> bytes:
        marker = Marker(type=Marker.CUBE_LIST)
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in voxels.centres().astype(float).tolist()]
        colours = (PALETTE[voxels.labels] / 255.0).tolist()
        marker.colors = [ColorRGBA(r=r, g=g, b=b, a=1.0) for r, g, b in colours]
        return serialize_message(MarkerArray(markers=[marker]))

    return {
        f"{count} voxels as CUBE_LIST": (lambda: markers.cubes(voxels, 1, "o", count), typed_cubes),
        f"{count} voxels as PointCloud2": (lambda: serialize_message(messages.cloud_to_msg([(0.0, voxels)], 1)), None),
        f"{count} voxels as OccupancyGrid": (lambda: serialize_message(messages.grid_to_msg(voxels, 1)), None),
        "six 128x352 images out": (lambda: serialize_message(messages.tensor_to_msg(images)), None),
        "six 128x352 images in": (
            lambda: messages.tensor_from_msg(deserialize_message(received, Tensor), "images"),
            None,
        ),
    }
