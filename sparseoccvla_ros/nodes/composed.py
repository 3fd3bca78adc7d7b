"""The four stages in one process, each with its own executor thread; between them dataclasses pass as they are."""

from __future__ import annotations

import signal
import sys
import threading

import rclpy

from sparseoccvla_ros.ros.stage_links import Handover
from sparseoccvla_ros.ros.stage_node import StageNode, spin

from .camera_sync import CameraSyncNode
from .occupancy import OccupancyNode
from .planning import PlanningNode
from .reasoning import ReasoningNode

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter. torch lets go of it at every operation; with Python's own 5 ms each of
thousands a second waits that long to come back, and half as many plans come out (measured on two cores)."""
NODES: tuple[type[StageNode], ...] = (CameraSyncNode, OccupancyNode, ReasoningNode, PlanningNode)


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros composed`."""
    sys.setswitchinterval(SWITCH_SECONDS)
    rclpy.init(args=args, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    handover = Handover()
    nodes = [make(handover=handover) for make in NODES]
    threads = []
    for node in nodes:
        node.publish_diagnostics()
        node.autostart()
        thread = threading.Thread(target=spin, args=([node], None, ended), name=node.get_name(), daemon=True)
        thread.start()
        threads.append(thread)
    ended.wait()
    for thread in threads:
        thread.join(5.0)
    for node in nodes:
        node.close()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
