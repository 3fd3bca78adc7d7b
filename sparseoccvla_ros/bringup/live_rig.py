"""./run rig check on a running vehicle: the topics of a profile, listened to for some seconds."""

from __future__ import annotations

import time
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

DISCOVERY_SECONDS = 2.0
"""Until the topics of other processes are known."""
_QOS = {"/tf": "transforms", "/tf_static": "latched"}


def check_live(
    profile: Profile,
    image: ImageConfig,
    seconds: float = 10.0,
    calibration_file: str = "",
    domain_id: int | None = None,
) -> RigReport:
    """What a running vehicle gives to the encoder under a profile. Raises InvalidInput as RigCheck does."""
    context = Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node("rig_check", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        _spin(executor, DISCOVERY_SECONDS)
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


def _spin(executor: SingleThreadedExecutor, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=min(left, 0.1))
