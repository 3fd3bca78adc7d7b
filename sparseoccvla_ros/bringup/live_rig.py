"""./run rig check on a running vehicle: subscribes to the topics of a profile for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from ..camera_sync.config import ImageConfig
from ..camera_sync.profiles import Profile
from ..camera_sync.rig.check import RigCheck, RigReport
from ..ros.lifecycle_base import message_class
from ..ros.qos import PROFILES

DISCOVERY_SECONDS = 10.0
"""Longest wait for discovery of the profile's image topics; 2 s is usual, a busy machine takes longer."""
_QOS = {"/tf": "transforms", "/tf_static": "latched"}


def check_live(
    profile: Profile,
    image: ImageConfig,
    seconds: float = 10.0,
    calibration_file: str = "",
    domain_id: int | None = None,
) -> RigReport:
    """Check what the encoder would get from a running vehicle under a profile. Raises InvalidInput as RigCheck does."""
    context = Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node("rig_check", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        wanted = {camera.image_topic for camera in profile.cameras.values()}
        _spin(executor, DISCOVERY_SECONDS, lambda: wanted <= {name for name, _ in node.get_topic_names_and_types()})
        kinds = {name: types[0] for name, types in node.get_topic_names_and_types()}
        check = RigCheck(profile, image, kinds, calibration_file)

        def take(topic: str, message: Any) -> None:
            check.add(topic, message, time.time_ns())

        for topic, kind in check.wanted.items():
            quality = PROFILES[_QOS.get(topic, "sensor")]
            node.create_subscription(message_class(kind), topic, partial(take, topic), quality)
        _spin(executor, seconds)
        return check.report()
    finally:
        executor.shutdown(timeout_sec=2.0)
        node.destroy_node()
        context.try_shutdown()


def _spin(executor: SingleThreadedExecutor, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
    until = time.monotonic() + seconds
    while not done() and (left := until - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=min(left, 0.1))
