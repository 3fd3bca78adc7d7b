"""Live playback of a bag with faults: publishes its raw messages through a FaultProxy."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import CompressedImage

from ..camera_sync.images import decode_compressed
from ..camera_sync.profiles import profile
from ..core.errors import InvalidInput
from ..data.bags.playback import Clock, Playback
from ..data.bags.reader import BagReader
from ..ros.lifecycle_base import message_class
from ..ros.messages import time_msg
from ..ros.msg_utils import decode, stamp_of
from ..ros.qos import PROFILES
from .proxy import FaultProxy, Sample, restamped


class FaultySource:
    """Plays a bag in a loop in a thread, with images passed through `proxy`; every loop is a backward clock jump.

    jump_ns: added to every stamp and to /clock. sent: camera -> {stamp: whether the image was sent undamaged, or
    damaged to a valid JPEG of other content, which cannot be detected}; access under `lock`. valid: number of images
    of the second kind.
    """

    def __init__(self, bag: Path, namespace: str, seed: int, rate: float = 1.0) -> None:
        self.proxy = FaultProxy(seed)
        self.jump_ns = 0
        self.lock = threading.Lock()
        self.sent: dict[str, dict[int, bool]] = defaultdict(dict)
        self.newest = 0
        self.valid = 0
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("faulty_source", context=self.context, namespace=namespace)
        self._reader = BagReader(bag)
        cameras = profile("nuscenes").cameras
        self._cameras = {camera.image_topic: name for name, camera in cameras.items()}
        self.image_topics = {name: camera.image_topic for name, camera in cameras.items()}
        self._playback = Playback(self._reader, rate=rate, loop=True, clock_hz=50.0)
        self._outputs: dict[str, Any] = {}
        for topic in self._reader.topics.values():
            qos = PROFILES["latched" if topic.latched else "output"]
            self._outputs[topic.name] = self.node.create_publisher(message_class(topic.type), topic.name, qos)
        self._clock = self.node.create_publisher(ClockMsg, "/clock", PROFILES["output"])
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty source", daemon=True)

    def start(self) -> None:
        """Start the playback."""
        self._thread.start()

    def close(self) -> None:
        """Stop the playback and destroy the node."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        self._reader.close()
        self.node.destroy_node()
        self.context.try_shutdown()

    def _run(self) -> None:
        self._playback.start(time.monotonic())
        while not self._ended.is_set():
            now = time.monotonic()
            for event in self._playback.due(now):
                if isinstance(event, Clock):
                    with self.lock:
                        self.newest = event.stamp + self.jump_ns
                    self._clock.publish(ClockMsg(clock=time_msg(event.stamp + self.jump_ns)))
                elif event.topic in self._cameras:
                    sample = Sample(event.topic, stamp_of(event.raw) + self.jump_ns, event.raw)
                    self._pass_on(self.proxy.put(sample, now))
                else:
                    self._publish_other(event.topic, event.type, event.raw)
            self._pass_on(list(self.proxy.due(time.monotonic())))
            wait = self._playback.next_time()
            time.sleep(0.005 if wait is None else min(max(wait - time.monotonic(), 0.001), 0.02))

    def _pass_on(self, samples: list[Sample]) -> None:
        for sample in samples:
            whole = not sample.damaged
            if sample.damaged and _decodes(sample.data):
                self.valid += 1
                whole = True
            with self.lock:
                known = self.sent[self._cameras[sample.topic]]
                known[sample.stamp] = whole or known.get(sample.stamp, False)
            self._outputs[sample.topic].publish(restamped(sample.data, sample.stamp))

    def _publish_other(self, topic: str, kind: str, raw: bytes) -> None:
        """Publish calibration unchanged, and transforms and odometry with jump_ns added to their stamps."""
        if kind == "tf2_msgs/msg/TFMessage" and self.jump_ns and not self._reader.topics[topic].latched:
            message: Any = decode(raw, message_class(kind))
            for item in message.transforms:
                stamp = item.header.stamp.sec * 10**9 + item.header.stamp.nanosec + self.jump_ns
                item.header.stamp = time_msg(stamp)
            self._outputs[topic].publish(message)
        elif kind == "nav_msgs/msg/Odometry" and self.jump_ns:
            self._outputs[topic].publish(restamped(raw, stamp_of(raw) + self.jump_ns))
        else:
            self._outputs[topic].publish(raw)


def _decodes(raw: bytes) -> bool:
    try:
        message = decode(raw, CompressedImage)
        decode_compressed(bytes(message.data), message.format)
    except InvalidInput:
        return False
    return True
