"""The steps of the message path as calls to time: our implementation and, where it differs, the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import Point
from rclpy.context import Context
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2
from sparseoccvla_msgs.msg import Tensor
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.images import CompressedImage, ImagePreparer
from sparseoccvla_ros.core.classes import CAMERAS, PALETTE
from sparseoccvla_ros.core.voxels import SparseVoxels

from ..ros import markers, messages
from ..ros.qos import PROFILES

Case = tuple[Callable[[], Any], Callable[[], Any] | None]


def made_up_voxels(count: int) -> SparseVoxels:
    """Returns `count` random voxels of random classes."""
    rng = np.random.default_rng(0)
    index = rng.permutation(200 * 200 * 16)[:count]
    indices = np.stack(np.unravel_index(index, (200, 200, 16)), -1).astype(np.int16)
    return SparseVoxels(indices, rng.integers(0, 17, count).astype(np.uint8), rng.random(count, np.float32))


def image_sources() -> list[CompressedImage]:
    """Returns six JPEG files of 1600x900 pixels."""
    coarse = np.random.default_rng(0).integers(0, 255, (len(CAMERAS), 113, 200, 3), np.uint8)
    # Smooth with some grain: files of about 150 KB, as nuScenes has.
    large = [cv2.resize(c, (1600, 900), interpolation=cv2.INTER_CUBIC) for c in coarse]
    files = [cv2.imencode(".jpg", c, (cv2.IMWRITE_JPEG_QUALITY, 80))[1].tobytes() for c in large]
    return [CompressedImage(file, "jpeg") for file in files]


def image_case(image: ImageConfig | None = None) -> Case:
    """Six 1600x900 JPEG files to a preset's images: reduced decoding in parallel against full decoding and a resize."""
    image, sources = image or ImageConfig(), image_sources()
    preparer = ImagePreparer(image)
    out = np.empty((len(sources), image.height, image.width, 3), np.uint8)
    geometry = preparer.geometry(900, 1600)
    rows, columns = geometry.resized
    bottom, left = slice(geometry.top, geometry.top + image.height), geometry.left

    def ours() -> np.ndarray:
        preparer.prepare_all([(s, o, None) for s, o in zip(sources, out, strict=True)])
        return out

    def plain() -> np.ndarray:
        images = []
        for source in sources:
            file = np.frombuffer(source.data, np.uint8)
            whole = cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            small = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
            images.append(small[bottom, left : left + image.width])
        return np.stack(images)

    return ours, plain


def message_cases(count: int = 10_000) -> dict[str, Case]:
    """Returns name -> (our call, the plain one or None), for `count` voxels and six prepared images."""
    rng = np.random.default_rng(0)
    voxels = made_up_voxels(count)
    images = rng.integers(0, 255, (6, 128, 352, 3), dtype=np.uint8)
    received = serialize_message(messages.tensor_to_msg(images))

    def typed_cubes() -> bytes:
        marker = Marker(type=Marker.CUBE_LIST)
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in voxels.centres().astype(float).tolist()]
        colours = (PALETTE[voxels.labels] / 255.0).tolist()
        marker.colors = [ColorRGBA(r=r, g=g, b=b, a=1.0) for r, g, b in colours]
        return serialize_message(MarkerArray(markers=[marker]))

    height, width = images.shape[1:3]
    return {
        f"six 1600x900 JPEG files to {height}x{width}": image_case(ImageConfig(height, width)),
        f"{count} voxels as CUBE_LIST": (lambda: markers.cubes(voxels, 1, "o", count), typed_cubes),
        f"{count} voxels as PointCloud2": (lambda: serialize_message(messages.cloud_to_msg([(0.0, voxels)], 1)), None),
        f"{count} voxels as OccupancyGrid": (lambda: serialize_message(messages.grid_to_msg(voxels, 1)), None),
        "six 128x352 images out": (lambda: serialize_message(messages.tensor_to_msg(images)), None),
        "six 128x352 images in": (
            lambda: messages.tensor_from_msg(deserialize_message(received, Tensor), "images"),
            None,
        ),
    }


@contextmanager
def voxel_publisher(count: int) -> Iterator[Callable[[], None]]:
    """Yield a call that publishes `count` voxels as PointCloud2 and CUBE_LIST, built as by the occupancy node."""
    context = Context()
    rclpy.init(context=context)
    node = Node("bench_voxels", context=context)
    try:
        voxels = made_up_voxels(count)
        cloud = node.create_publisher(PointCloud2, "bench/points", PROFILES["output"])
        cubes = node.create_publisher(MarkerArray, "bench/markers", PROFILES["output"])

        def publish() -> None:
            cloud.publish(messages.cloud_to_msg([(0.0, voxels)], 1))
            cubes.publish(markers.cubes(voxels, 1, "occupancy", count))

        yield publish
    finally:
        node.destroy_node()
        context.try_shutdown()
