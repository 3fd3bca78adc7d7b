"""What the nodes do with a frame set, as plain objects one after the other: the on-line chain without ROS.

Reasoning is always that of the same frame set, as with the planning node's `reasoning_wait`; on a slow machine the
node takes the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from .core.errors import InvalidInput
from .core.motion import carry_over
from .core.types import CameraFrames, Command, CommandSource, Plan, PlanStatus, Reasoning, SceneQueries
from .core.voxels import SparseVoxels
from .occupancy.encoder import OccupancyEncoder
from .occupancy.postprocess import occupied_voxels
from .planning.ego_history import EgoHistory
from .planning.planner import Planner
from .reasoning.model.reasoner import Reasoner
from .runtime.factory import build_occupancy, build_planning, build_reasoning
from .runtime.presets import STAGES, Preset
from .runtime.warm_up import warm_up_occupancy, warm_up_planning, warm_up_reasoning

BLACK = 1
"""Grey level (of 255) of the images of a blind chain: at 0 the encoder would take its cameras for broken."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Stages:
    """The networks of a preset that take part; absent: why a stage does not, by name."""

    preset: Preset
    encoder: OccupancyEncoder | None
    reasoner: Reasoner | None
    planner: Planner | None
    absent: dict[str, str] = field(default_factory=dict)

    @classmethod
    def build(
        cls, preset: Preset, untrained: bool = False, wanted: Sequence[str] = STAGES, device: str = "cpu"
    ) -> Stages:
        """On a device, warmed up. A stage without weights is left out unless `untrained` wants it."""
        absent = {}
        for stage in STAGES:
            if stage not in preset.stages:
                absent[stage] = f"preset {preset.name} has no {stage}"
            elif stage in preset.untrained and not untrained:
                absent[stage] = f"{stage} of preset {preset.name} is untrained (--untrained runs it all the same)"
            elif "occupancy" in absent:
                absent[stage] = f"{stage} needs occupancy"
        used = set(wanted) - set(absent)
        encoder = build_occupancy(preset, device) if "occupancy" in used else None
        reasoner = build_reasoning(preset, device) if "reasoning" in used else None
        planner = build_planning(preset, device) if "planning" in used else None
        for stage, warm in ((encoder, warm_up_occupancy), (reasoner, warm_up_reasoning), (planner, warm_up_planning)):
            if stage is not None:
                warm(stage, preset)
        return cls(preset, encoder, reasoner, planner, absent)

    @property
    def running(self) -> list[str]:
        """Names of the stages that take part."""
        return [n for n, s in zip(STAGES, (self.encoder, self.reasoner, self.planner), strict=True) if s is not None]

    def only_encoder(self) -> Stages:
        """The same without reasoning and planning."""
        return replace(self, reasoner=None, planner=None)


@dataclass(frozen=True, eq=False)
class Step:
    """What came of one frame set. motion: float32 [6, 2] m, the plan before, carried over, None where there is none;
    reasoning, plan: None without their stage; seconds: wall clock by stage."""

    queries: SceneQueries
    voxels: SparseVoxels
    motion: np.ndarray | None
    reasoning: Reasoning | None
    plan: Plan | None
    seconds: dict[str, float]


def blinded(frames: CameraFrames) -> CameraFrames:
    """The same set with black images."""
    return replace(frames, images=np.full_like(frames.images, BLACK))


class Chain:
    """Runs frame sets of one drive in order of time. A new epoch drops every memory, as in the nodes."""

    def __init__(self, stages: Stages) -> None:
        if stages.encoder is None:
            raise InvalidInput("stages", "a chain begins with an encoder")
        self._encoder, self._reasoner, self._planner = stages.encoder, stages.reasoner, stages.planner
        self._config = stages.preset.occupancy
        self._epoch: int | None = None
        self._last: tuple[Plan, np.ndarray] | None = None

    def step(self, frames: CameraFrames, history: EgoHistory, command: Command, source: CommandSource) -> Step:
        """history: of the ego up to the set."""
        if frames.epoch != self._epoch:
            self._epoch, self._last = frames.epoch, None
            for stage in (self._encoder, self._reasoner, self._planner):
                if stage is not None:
                    stage.reset()
        seconds: dict[str, float] = {}

        def timed(name: str, work: Callable[[], T]) -> T:
            began = time.perf_counter()
            result = work()
            seconds[name] = time.perf_counter() - began
            return result

        queries = timed("occupancy", lambda: self._encoder.encode(frames))
        voxels = timed("voxels", lambda: occupied_voxels(queries, self._encoder.grid, self._config))
        motion, reasoning, plan = self._planned_motion(queries), None, None
        if self._reasoner is not None:
            reasoner = self._reasoner
            reasoning = timed("reasoning", lambda: reasoner.reason(queries, motion))
        if self._planner is not None:
            planner = self._planner
            plan = timed("planning", lambda: planner.plan(queries, voxels, reasoning, history, command, source))
            if plan.status is not PlanStatus.REJECTED:
                self._last = plan, queries.ego.pose
        return Step(queries, voxels, motion, reasoning, plan, seconds)

    def _planned_motion(self, queries: SceneQueries) -> np.ndarray | None:
        if self._last is None:
            return None
        plan, pose = self._last
        return carry_over(plan.waypoints, pose, queries.ego.pose, (queries.stamp - plan.stamp) / 1e9)
