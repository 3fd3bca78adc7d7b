"""The four stages in one process, each with its own executor thread; dataclasses pass between them uncopied."""

from __future__ import annotations

import sys
from functools import partial

from sparseoccvla_ros.ros.intra_process import Handover
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.process import run

from .camera_sync import CameraSyncNode
from .occupancy import OccupancyNode
from .planning import PlanningNode
from .reasoning import ReasoningNode

SWITCH_SECONDS = 0.0005
"""Seconds a thread may hold the interpreter lock. torch releases it at every operation, thousands per second; with
Python's default of 5 ms each waits that long to get it back, which halves the plan rate (measured on two cores)."""
NODES: tuple[type[StageNode], ...] = (CameraSyncNode, OccupancyNode, ReasoningNode, PlanningNode)


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros composed`."""
    sys.setswitchinterval(SWITCH_SECONDS)
    handover = Handover()
    return run(*(partial(make, handover=handover) for make in NODES), args=args)


if __name__ == "__main__":
    sys.exit(main())
