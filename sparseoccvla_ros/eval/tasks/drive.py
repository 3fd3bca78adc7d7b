"""The interface of a drive for evaluation, such as a seed of the world or a nuScenes scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ...core.types import CameraFrames, Command, CommandSource
from ...planning.ego_history import EgoHistory
from ...world.qa.questions import Question
from ...world.qa.reasons import Surroundings
from ..metrics.plan_reactions import TwoPlans
from .planning_samples import Sample


class Drive(Protocol):
    """Frame sets in time order by index, the on-line inputs up to each, and the ground truth.

    name: unique; clips: index ranges in time order, memories restart with each; presents: indices that are evaluated.
    """

    name: str

    @property
    def clips(self) -> Sequence[range]: ...

    @property
    def presents(self) -> Sequence[int]: ...

    def token(self, index: int) -> str:
        """Returns a unique name of a set."""
        ...

    def frames(self, index: int, epoch: int) -> CameraFrames:
        """Returns a set as camera_sync publishes it."""
        ...

    def history(self, index: int) -> EgoHistory:
        """Returns the planner's ego history up to a set, for use at its stamp."""
        ...

    def command(self, index: int) -> tuple[Command, CommandSource]:
        """Returns the command at a set, derived without the future, and its source."""
        ...

    def semantics(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns labels uint8 [X, Y, Z] (17 = free) and camera visibility bool [X, Y, Z]; None without labels."""
        ...

    def ray_origins(self, index: int) -> np.ndarray:
        """Returns the ray origins for RayIoU, float64 [O, 3] m in base_link."""
        ...

    def future(self, index: int) -> np.ndarray:
        """Returns float64 [6, 4, 4]: base_link at 0.5, 1, .. 3 s to present base_link."""
        ...

    def future_semantics(self, index: int) -> np.ndarray | None:
        """Returns labels uint8 [3, X, Y, Z] at HORIZONS, each in base_link of its own time; None if one is missing."""
        ...

    def two_plans(self, index: int) -> TwoPlans | None:
        """Returns a set under the recorded plan and another; None if reactions of other actors are unknown."""
        ...

    def in_window(self, index: int) -> bool:
        """Whether SparseWorld's forecast protocol includes the set."""
        ...

    def questions(self, index: int) -> list[Question]:
        """Returns the questions about a set."""
        ...

    def surroundings(self, index: int) -> Surroundings | None:
        """Returns what the reason of an answer may name at a set; None without a scene graph."""
        ...

    def sample(self, index: int) -> Sample:
        """Returns a set for the planning evaluation."""
        ...
