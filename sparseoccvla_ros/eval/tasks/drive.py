"""What an evaluation asks of a drive, be it a seed of the world or a scene of nuScenes."""

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
    """Frame sets in order of time by index, what is known up to each, and its truth.

    name: unique; clips: indices of pieces, from old to new, memories start anew with each; presents: indices that are
    judged.
    """

    name: str

    @property
    def clips(self) -> Sequence[range]: ...

    @property
    def presents(self) -> Sequence[int]: ...

    def token(self, index: int) -> str:
        """Unique name of a set."""
        ...

    def frames(self, index: int, epoch: int) -> CameraFrames:
        """A set as camera_sync publishes it."""
        ...

    def history(self, index: int) -> EgoHistory:
        """The planner's memory up to a set: it answers for the set's stamp."""
        ...

    def command(self, index: int) -> tuple[Command, CommandSource]:
        """What the car is told, without a look ahead, and where that comes from."""
        ...

    def semantics(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Labels uint8 [X, Y, Z] (17 = free) and what a camera sees of them, bool [X, Y, Z]; None without labels."""
        ...

    def ray_origins(self, index: int) -> np.ndarray:
        """float64 [O, 3] m in base_link: where RayIoU's rays start."""
        ...

    def future(self, index: int) -> np.ndarray:
        """float64 [6, 4, 4]: base_link at the next six half-seconds to present base_link."""
        ...

    def future_semantics(self, index: int) -> np.ndarray | None:
        """Labels uint8 [3, X, Y, Z] at HORIZONS, each in base_link of its own time; None where one is not known."""
        ...

    def two_plans(self, index: int) -> TwoPlans | None:
        """A set under the recorded plan and another; None where nobody can say how others would react."""
        ...

    def in_window(self, index: int) -> bool:
        """Whether SparseWorld's forecast protocol counts the set."""
        ...

    def questions(self, index: int) -> list[Question]:
        """What can be asked about a set."""
        ...

    def surroundings(self, index: int) -> Surroundings | None:
        """What an answer's reason may name at a set; None where no scene graph is known."""
        ...

    def sample(self, index: int) -> Sample:
        """A set for the planning evaluation."""
        ...
