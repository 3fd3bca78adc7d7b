"""Share of delivered images: six cameras from one process to another over DDS, with or without our Fast DDS profile.

The receiver subscribes as camera_sync does (best effort, messages as objects); the sender publishes as a driver does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from ..bringup.supervisor import big_message_environment
from ..ros.msg_utils import block, header
from ..ros.qos import PROFILES

CAMERAS = 6
HEIGHT, WIDTH = 900, 1600
JPEG_BYTES = 150_000
"""Size of a nuScenes image file."""
KINDS: dict[str, type] = {"raw": Image, "jpeg": CompressedImage}
_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")


@dataclass(frozen=True)
class Delivery:
    """Images of six cameras: number sent and received, latency in ms, MB per second, cores used by both processes."""

    sent: int
    received: int
    latency_ms: float
    latency_p95_ms: float
    mb_per_s: float
    cores: float

    @property
    def share(self) -> float:
        """Share of the images received, 0..1."""
        return self.received / self.sent


def measure_delivery(profile: bool, seconds: float, rate: float = 12.0) -> dict[str, Delivery]:
    """Send raw images, then JPEG files, for `seconds` each at `rate` Hz; returns the delivery of each kind.

    profile: whether both processes get config/fastdds_big_messages.xml, as launched nodes with images do. Uses the
    domain of this process's environment. Raises RuntimeError when a process fails.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _VARIABLES}
    environment |= big_message_environment() if profile else {}
    command = [sys.executable, "-m", __name__]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "text": True}
    with (
        subprocess.Popen([*command, "receive"], **pipes) as receiver,
        subprocess.Popen([*command, "send", str(seconds), str(rate)], **pipes) as sender,
    ):
        try:
            sent_text, _ = sender.communicate(timeout=60 + 4 * seconds)
            got_text, _ = receiver.communicate(timeout=30)
        finally:
            for process in (sender, receiver):
                process.kill()
    if sender.returncode or receiver.returncode:
        raise RuntimeError("a process of the delivery measurement failed; its error is above")
    sent, got = json.loads(sent_text), json.loads(got_text)
    out = {}
    for kind in KINDS:
        times = sorted(got[kind]["latencies"]) or [float("nan")]
        out[kind] = Delivery(
            sent[kind]["count"],
            len(got[kind]["latencies"]),
            1e3 * statistics.median(times),
            1e3 * times[int(0.95 * (len(times) - 1))],
            sent[kind]["count"] * sent[kind]["bytes"] / 1e6 / sent[kind]["seconds"],
            (sent[kind]["cpu"] + got[kind]["cpu"]) / sent[kind]["seconds"],
        )
    return out


def _send(seconds: float, rate: float) -> dict[str, Any]:
    """Publish every camera's image at each tick, as CDR with the steady clock in its stamp."""
    rclpy.init()
    node = Node("delivery_sender")
    pixels = np.random.default_rng(0).integers(0, 255, HEIGHT * WIDTH * 3, np.uint8)
    image = Image(header=header(1, "camera"), height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    image.data = block(pixels)
    packed = CompressedImage(header=header(1, "camera"), format="jpeg", data=block(pixels[:JPEG_BYTES]))
    out = {}
    for kind, message in (("raw", image), ("jpeg", packed)):
        # Reliable is offered, as by drivers and bag players; the subscriber's QoS decides.
        publishers = [
            node.create_publisher(KINDS[kind], f"delivery/{kind}{i}", PROFILES["output"]) for i in range(CAMERAS)
        ]
        data = bytearray(serialize_message(message))
        until = time.monotonic() + 40
        while any(p.get_subscription_count() < 1 for p in publishers):
            if time.monotonic() > until:
                raise RuntimeError("the receiver was not found")
            time.sleep(0.02)
        time.sleep(0.3)
        ticks = round(seconds * rate)
        began, cpu = time.monotonic(), time.process_time()
        for tick in range(ticks):
            time.sleep(max(0.0, began + tick / rate - time.monotonic()))
            for publisher in publishers:
                sec, nanosec = divmod(time.monotonic_ns(), 10**9)
                data[4:12] = np.array([sec, nanosec], "<u4").tobytes()
                publisher.publish(bytes(data))
        took, used = time.monotonic() - began, time.process_time() - cpu
        time.sleep(0.5)
        out[kind] = {"count": ticks * CAMERAS, "bytes": len(data), "seconds": took, "cpu": used}
    node.destroy_node()
    rclpy.try_shutdown()
    return out


def _receive(ended: threading.Event) -> dict[str, Any]:
    """Receive until `ended`; returns latencies in s and CPU seconds per kind."""
    rclpy.init()
    node = Node("delivery_receiver")
    out: dict[str, Any] = {kind: {"latencies": [], "cpu": 0.0} for kind in KINDS}
    last = [psutil.Process().cpu_times()]

    def take(kind: str, message: Any) -> None:
        stamp = message.header.stamp
        out[kind]["latencies"].append((time.monotonic_ns() - stamp.sec * 10**9 - stamp.nanosec) / 1e9)
        now = psutil.Process().cpu_times()
        out[kind]["cpu"] += now.user + now.system - last[0].user - last[0].system
        last[0] = now

    for kind, message_type in KINDS.items():
        for i in range(CAMERAS):
            callback = lambda message, kind=kind: take(kind, message)  # noqa: E731
            node.create_subscription(message_type, f"delivery/{kind}{i}", callback, PROFILES["sensor"])
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    while not ended.is_set():
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return out


def _main(role: str, *numbers: str) -> None:
    if role == "send":
        result = _send(*map(float, numbers))
    else:
        ended = threading.Event()

        def wait_for_end() -> None:
            sys.stdin.read()
            ended.set()

        threading.Thread(target=wait_for_end, daemon=True).start()
        result = _receive(ended)
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    _main(*sys.argv[1:])
