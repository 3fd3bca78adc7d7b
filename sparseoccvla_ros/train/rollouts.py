"""Closed-loop drives of the current policy with the expert's plans as labels (DAgger, Ross et al., AISTATS 2011).

Recorded drives cover only states that an expert reaches; the planner's own drives lead to others. Here the trained
stack drives, and at every frame set the expert's plan from that state is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.errors import InvalidInput
from ..core.types import SceneQueries
from ..data.dataset import COMMANDS
from ..data.synthetic.dataset import SPLITS
from ..eval.closed_loop.expert import Expert
from ..eval.closed_loop.policies import ChainPolicy, expert_path
from ..eval.closed_loop.rollout import Episode, Rollout, drive
from ..pipeline import SparseOccVLA
from ..planning.ego_history import EgoHistory
from ..planning.trajectory_follower import TimedPath
from ..runtime.presets import Preset
from ..world.sim.scenarios import place_of
from ..world.sim.simulator import LONGEST, Simulator
from .features.rollouts import write_rollout
from .features.speed_variants import future_of, speed_variants
from .features.synthetic import file_digest, query_arrays

FARTHEST = 6.0
"""m from the route; where a drive ends, because the expert's plan is no label any more."""
STANDING = 5.0
"""s; after standing still for longer, the expert drives and nothing is recorded until the vehicle moves again."""
STUCK = 20.0
"""s; where a drive ends after standing still, longer than a red light."""


class _Learner(ChainPolicy):
    """Follows the stack's plans, replaces a share of them by the expert's, and records the expert's plans."""

    def __init__(self, model: SparseOccVLA, expert_share: float) -> None:
        super().__init__(model, "learner")
        self._share = expert_share

    def begin(self, simulator: Simulator, expert: Expert) -> None:
        super().begin(simulator, expert)
        self._rng = np.random.default_rng([simulator.scene.seed, 67])
        self._rng_of_variants = np.random.default_rng([simulator.scene.seed, 71])
        self._history, self.stood = EgoHistory(), 0.0
        self.rows: list[dict[str, np.ndarray]] = []
        self.queries: list[SceneQueries] = []

    def plan(self) -> TimedPath | None:
        simulator = self._simulator
        wanted = self._expert.plan()
        self.stood = self.stood + 0.5 if simulator.state.speed < 0.1 else 0.0
        if self.stood > STANDING:
            return expert_path(simulator, wanted)
        frames = self.frames()
        self._history.add(frames.stamp, frames.ego.pose, frames.ego.twist)
        step = self.step(frames)
        self.queries.append(step.queries)
        self.rows.append({
            "time": np.array(simulator.time), "pose": frames.ego.pose, "twist": frames.ego.twist.astype(np.float32),
            "ego": self._history.features(frames.stamp),
            "command": np.array(COMMANDS.index(self.choice(frames).command), np.uint8),
            "future": future_of(simulator.state.pose, wanted),
            **speed_variants(self._expert, simulator, self._rng_of_variants),
        })  # fmt: skip
        if self._rng.random() < self._share:
            return expert_path(simulator, wanted)
        return self.path_of(step.plan)


def roll_out(
    model: SparseOccVLA, seed: int, scenario: str | None, expert_share: float, longest: float = LONGEST
) -> tuple[dict[str, np.ndarray], Rollout]:
    """Drive once; returns (arrays as from features.synthetic.make_features, the rollout).

    Args:
        model: The stack that drives, with at least occupancy and planning.
        seed: Of the world, and of the choice of expert plans.
        scenario: A family of world.sim.scenarios, or None for the seed's own traffic.
        expert_share: Share of expert plans among those followed, 0..1.
        longest: Maximum duration of the drive, s.

    The drive ends with its first infraction, FARTHEST from the route, or STUCK: what follows is of no use for training.
    The arrays also hold FIELDS of speed_variants and the route, as Drive.route.
    """
    learner = _Learner(model, expert_share)
    rollout = drive(
        learner, seed, scenario, score_every=0, longest=longest, until=lambda e: _lost(e) or learner.stood > STUCK
    )
    until = min((time for time, _ in rollout.infractions), default=np.inf)
    rows = [row for row in learner.rows if row["time"] < until] or learner.rows[:1]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return query_arrays(learner.queries[: len(rows)]) | arrays | {"route": rollout.simulator.way[:, :2]}, rollout


def _lost(episode: Episode) -> bool:
    simulator = episode.simulator
    off = np.hypot(*(simulator.route.at(simulator.along)[:2] - simulator.state.pose[:2]))
    return bool(episode.rollout.infractions) or off > FARTHEST


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Drives of a preset with a file each, by seed, made by several processes.

    preset: the preset that drives; families: scenario families that take turns over the seeds, empty for the seeds' own
    traffic; expert_share: as for roll_out; folder: of the files; weights: their sha256 by stage.
    """

    preset: Preset
    seeds: tuple[int, ...]
    families: tuple[str, ...]
    expert_share: float
    folder: Path
    weights: dict[str, str]

    @classmethod
    def of(
        cls, preset: Preset, seeds: Sequence[int], families: Sequence[str], expert_share: float, folder: Path
    ) -> Rollouts:
        """Check and create. Raises InvalidInput: the preset cannot drive, or a seed, or the scene where its family
        takes place, is not in the training split."""
        if not {"occupancy", "planning"} <= set(preset.weights):
            raise InvalidInput("preset", f"{preset.name} has no trained encoder and planner to drive with")
        weights = {name: file_digest(path) for name, path in preset.weights.items()}
        out = cls(preset, tuple(seeds), tuple(families), expert_share, folder, weights)
        for seed in out.seeds:
            family = out.family(seed)
            at = place_of(family, seed)[0] if family else seed
            if not {seed, at} <= set(SPLITS["train"]):
                raise InvalidInput("seeds", f"{seed} {family or ''} plays at {at}, which is not of the training split")
        return out

    def family(self, seed: int) -> str | None:
        """Returns the scenario family of a seed."""
        return self.families[self.seeds.index(seed) % len(self.families)] if self.families else None

    def file(self, item: int) -> Path:
        """Returns the file of a seed's drive."""
        return self.folder / f"{item:08d}-{self.family(item) or 'own'}-{self.expert_share:g}.safetensors"

    def make(self, item: int) -> None:
        """Drive a seed and write its file."""
        arrays, rollout = roll_out(self._model, item, self.family(item), self.expert_share)
        told = {"seed": str(item), "scenario": self.family(item) or "", "expert_share": f"{self.expert_share:g}"}
        told |= {"encoder" if name == "occupancy" else name: digest for name, digest in self.weights.items()}
        ended = ", ".join(name.value for _, name in rollout.infractions) or rollout.end.value
        told["driven"] = f"{rollout.completion[-1]:.0f} % of the route, {len(arrays['time'])} frame sets, {ended}"
        write_rollout(self.file(item), arrays, told)

    @cached_property
    def _model(self) -> SparseOccVLA:
        return SparseOccVLA.from_preset(self.preset)
