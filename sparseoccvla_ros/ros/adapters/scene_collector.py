"""Collects the messages of one stamp, which arrive at different times, into a scene."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from sparseoccvla_ros.core.types import NANOSECONDS, REASONING_MAX_AGE, CameraFrames, Plan, Reasoning, SceneQueries
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels

from .. import messages
from ..lifecycle_base import message_class
from ..msg_utils import decode
from ..topics import BY_NAME

STAMPED = ("frames", "occupancy/queries", "reasoning/state", "planning/plan")
KEPT = 24
"""Messages per topic kept until the plan of their stamp arrives."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that belongs to one plan. reasoning: the newest up to the stamp; None if missing, older than
    REASONING_MAX_AGE, or of another epoch.

    delays: wall time from the arrival of the frames to that of other messages, seconds.
    """

    frames: CameraFrames
    queries: SceneQueries
    voxels: SparseVoxels
    plan: Plan
    reasoning: Reasoning | None
    delays: dict[str, float]

    @property
    def forecasts(self) -> tuple[SparseVoxels, ...]:
        """Forecast voxels at core.types.HORIZONS; may be empty."""
        return self.reasoning.forecasts if self.reasoning is not None else ()


class SceneCollector:
    """Stores serialised messages by stamp and decodes those of a stamp only on request. Thread-safe."""

    def __init__(self, config: OccupancyConfig) -> None:
        self._config = config
        self._raw: dict[str, OrderedDict[int, tuple[bytes, float]]] = {name: OrderedDict() for name in STAMPED}
        self._lock = threading.Lock()

    def keep(self, name: str, stamp: int, raw: bytes) -> None:
        """Store a serialised message of a topic in STAMPED."""
        with self._lock:
            kept = self._raw[name]
            kept[stamp] = (raw, time.monotonic())
            while len(kept) > KEPT:
                kept.popitem(last=False)

    def collect(self, stamp: int) -> Scene | None:
        """Return the scene of a stamp, or None if its frames, queries or plan are missing."""
        with self._lock:
            found = {name: kept.get(stamp) for name, kept in self._raw.items()}
            states = self._raw["reasoning/state"]
            before = max((s for s in states if 0 <= stamp - s <= REASONING_MAX_AGE * NANOSECONDS), default=None)
            state = states[before] if before is not None else None
        frames, queries, plan = (found[name] for name in ("frames", "occupancy/queries", "planning/plan"))
        if frames is None or queries is None or plan is None:
            return None
        decoded = messages.queries_from_msg(_decode("occupancy/queries", queries[0]))
        reasoning = messages.reasoning_from_msg(_decode("reasoning/state", state[0])) if state is not None else None
        if reasoning is not None and reasoning.epoch != decoded.epoch:
            reasoning = None
        return Scene(
            frames=messages.frames_from_msg(_decode("frames", frames[0])),
            queries=decoded,
            voxels=occupied_voxels(decoded, config=self._config),
            plan=messages.plan_from_msg(_decode("planning/plan", plan[0])),
            reasoning=reasoning,
            delays={"frames to queries": queries[1] - frames[1], "frames to plan": plan[1] - frames[1]},
        )


def _decode(name: str, raw: bytes) -> Any:
    return decode(raw, message_class(BY_NAME[name].type))
