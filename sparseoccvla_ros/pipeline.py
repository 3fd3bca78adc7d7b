"""The whole model in one object: a frame set in; queries, voxels, reasoning and a plan out.

The nodes run the same parts, each in its own process; evaluation runs this object. By default a plan uses the reasoning
of its own frame set, for which the planning node waits if `reasoning_wait` is above 0. With `reason_behind=True` it
uses that of the previous set, as the node usually does by default: the newest that has arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .core.errors import InvalidInput
from .core.motion import PlannedMotion
from .core.types import (
    NANOSECONDS,
    REASONING_MAX_AGE,
    CameraFrames,
    Command,
    CommandSource,
    Plan,
    Reasoning,
    SceneQueries,
)
from .core.voxels import SparseVoxels
from .occupancy.encoder import OccupancyEncoder
from .occupancy.postprocess import occupied_voxels
from .planning.config import ValidatorConfig
from .planning.ego_history import EgoHistory
from .planning.planner import Planner
from .reasoning.model.reasoner import Reasoner
from .runtime.factory import build_occupancy, build_planning, build_reasoning
from .runtime.presets import STAGES, Preset, load_preset
from .runtime.warm_up import warm_up_occupancy, warm_up_planning, warm_up_reasoning

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class StepResult:
    """Results of one frame set.

    Attributes:
        queries: The encoder's scene queries.
        voxels: Occupied voxels of the queries.
        motion: float32 [6, 2] m, the previous plan in this set's ego frame, the reasoner's `future_motion`; None
            if there is none.
        reasoning: The one for the plan, before `reasoning_filter`; None without that stage and, with `reason_behind`,
            for the first set of a drive or when it is too old.
        plan: None without that stage.
        seconds: Wall time per stage.
    """

    queries: SceneQueries
    voxels: SparseVoxels
    motion: np.ndarray | None
    reasoning: Reasoning | None
    plan: Plan | None
    seconds: dict[str, float]


class SparseOccVLA:
    """The networks of a preset and their memory of the drive.

    Frame sets of a drive must come in order of time; a new `epoch` resets all memory, as in the nodes. Not thread safe.

    Args:
        preset: Preset that the networks were built from.
        encoder: Images to scene queries; `step` needs it.
        reasoner: Reasoning stage, or None.
        planner: Planning stage, or None.
        absent: Why a stage is missing, by its name.
        reason_behind: Plan with the reasoning of the previous set, and reason in a thread after `step` returns.
    """

    def __init__(
        self,
        preset: Preset,
        encoder: OccupancyEncoder | None,
        reasoner: Reasoner | None = None,
        planner: Planner | None = None,
        absent: dict[str, str] | None = None,
        reason_behind: bool = False,
    ) -> None:
        self.preset, self.encoder, self.reasoner, self.planner = preset, encoder, reasoner, planner
        self.absent = absent or {}
        self.reasoning_filter: Callable[[Reasoning], Reasoning | None] = lambda reasoning: reasoning
        """Maps each reasoning to what the planner gets; evaluation removes parts of it here."""
        in_thread = reason_behind and reasoner is not None
        self._reasoning_thread = ThreadPoolExecutor(1, "reasoning") if in_thread else None
        self._pending: Future[Reasoning] | None = None
        self._epoch: int | None = None
        self._planned = PlannedMotion()
        self._history = EgoHistory()

    @classmethod
    def from_preset(
        cls,
        preset: str | Preset,
        stages: Sequence[str] = STAGES,
        untrained: bool = False,
        device: str = "cpu",
        limits: ValidatorConfig | None = None,
        reason_behind: bool = False,
    ) -> SparseOccVLA:
        """Build, load and warm up the networks of a preset.

        Args:
            preset: Name of a folder below models/, a path to one, or what load_preset returned.
            stages: Which of occupancy, reasoning and planning to build.
            untrained: Also build stages that have no weights; otherwise they are left out and named in `absent`.
            device: auto, cpu or cuda.
            limits: Of the vehicle; default: nuScenes' car.
            reason_behind: As for the class.

        Raises:
            InvalidInput: A stage is unknown, the preset cannot be loaded, or the device is missing.
        """
        for stage in stages:
            if stage not in STAGES:
                raise InvalidInput("stages", f"{stage!r} is not one of {', '.join(STAGES)}")
        preset = load_preset(preset) if isinstance(preset, str) else preset
        absent = {}
        for stage in STAGES:
            if stage not in preset.stages:
                absent[stage] = f"preset {preset.name} has no {stage}"
            elif stage in preset.untrained and not untrained:
                absent[stage] = f"{stage} of preset {preset.name} is untrained (--untrained runs it all the same)"
            elif "occupancy" in absent:
                absent[stage] = f"{stage} needs occupancy"
        used = set(stages) - set(absent)
        encoder = build_occupancy(preset, device) if "occupancy" in used else None
        reasoner = build_reasoning(preset, device) if "reasoning" in used else None
        planner = build_planning(preset, device, limits) if "planning" in used else None
        if encoder is not None:
            warm_up_occupancy(encoder, preset)
        if reasoner is not None:
            warm_up_reasoning(reasoner, preset)
        if planner is not None:
            warm_up_planning(planner, preset)
        return cls(preset, encoder, reasoner, planner, absent, reason_behind)

    @property
    def stages(self) -> list[str]:
        """Names of the stages that this object has."""
        networks = (self.encoder, self.reasoner, self.planner)
        return [name for name, network in zip(STAGES, networks, strict=True) if network is not None]

    @property
    def target_points(self) -> tuple[float, ...]:
        """Distances (m) along a route of the planner's target points."""
        return () if self.planner is None else self.planner.config.target_points

    def perception(self) -> SparseOccVLA:
        """Returns a model with the same encoder, without reasoning and planning."""
        return SparseOccVLA(self.preset, self.encoder, absent=self.absent)

    def reset(self) -> None:
        """Reset all memory of the drive."""
        self.finish()
        self._pending = None
        self._epoch = None
        self._planned.clear()
        self._history.clear()
        for network in (self.encoder, self.reasoner, self.planner):
            if network is not None:
                network.reset()

    def finish(self) -> None:
        """Wait for the reasoning that is running in the thread, if any."""
        if self._pending is not None:
            wait([self._pending])

    def step(
        self,
        frames: CameraFrames,
        command: Command = Command.STRAIGHT,
        source: CommandSource = CommandSource.DEFAULT,
        history: EgoHistory | None = None,
        target_points: np.ndarray | None = None,
    ) -> StepResult:
        """Run every stage on one frame set.

        Args:
            frames: Images of one instant, as camera_sync or data/bags/offline_sync.py prepare them for the preset.
            command: Direction in which the route leads next.
            source: Source of the command.
            history: Ego history up to this set; default: collected from the sets of this drive.
            target_points: float32 [R, 2] m in base_link, of the route that the command comes from (Planner.plan).

        Raises:
            InvalidInput: The encoder is missing, or the set does not fit the preset.
        """
        if self.encoder is None:
            raise InvalidInput("stages", self.absent.get("occupancy", "occupancy was not asked for"))
        if frames.epoch != self._epoch:
            self.reset()
            self._epoch = frames.epoch
        if history is None:
            history = self._history
            history.add(frames.stamp, frames.ego.pose, frames.ego.twist)
        encoder, reasoner, planner = self.encoder, self.reasoner, self.planner
        seconds: dict[str, float] = {}

        def timed(name: str, work: Callable[[], T]) -> T:
            began = time.perf_counter()
            result = work()
            seconds[name] = time.perf_counter() - began
            return result

        queries = timed("occupancy", lambda: encoder.encode(frames))
        voxels = timed("voxels", lambda: occupied_voxels(queries, encoder.grid, self.preset.occupancy))
        motion, reasoning, plan = self._planned.at(queries), None, None
        if reasoner is not None and self._reasoning_thread is None:
            reasoning = timed("reasoning", lambda: reasoner.reason(queries, motion))
        elif self._pending is not None:
            # If `encode` raised above, the future stays pending for the next set or `reset`.
            future, self._pending = self._pending, None
            reasoning = timed("reasoning", future.result)
            if frames.stamp - reasoning.stamp > REASONING_MAX_AGE * NANOSECONDS:
                reasoning = None
        if planner is not None:
            filtered = None if reasoning is None else self.reasoning_filter(reasoning)
            given = queries, voxels, filtered, history, command, source, target_points
            plan = timed("planning", lambda: planner.plan(*given))
            self._planned.add(plan)
        if self._reasoning_thread is not None and reasoner is not None:
            self._pending = self._reasoning_thread.submit(reasoner.reason, queries, motion)
        return StepResult(queries, voxels, motion, reasoning, plan, seconds)
