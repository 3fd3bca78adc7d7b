"""Closed-loop drives of the current policy with the expert's plans as labels (DAgger, Ross et al., AISTATS 2011).

Recorded drives cover only states that an expert reaches; the planner's own drives lead to others. Here the trained
stack drives, and at every frame set the expert's plan from that state is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..core import geometry
from ..core.errors import InvalidInput
from ..core.types import WAYPOINT_TIMES, CommandSource
from ..data.dataset import COMMANDS
from ..data.synthetic.dataset import SPLITS
from ..eval.closed_loop.expert import Expert
from ..eval.closed_loop.policies import ChainPolicy, expert_path
from ..eval.closed_loop.road_map import WorldMap
from ..eval.closed_loop.rollout import Rollout, drive
from ..pipeline import SparseOccVLA
from ..planning.ego_history import EgoHistory
from ..planning.trajectory_follower import TimedPath
from ..world.agents.traffic import STEP
from ..world.sim.scenarios import place_of
from ..world.sim.simulator import LONGEST, Simulator
from .features.rollouts import write_rollout
from .features.synthetic import HALF, QUERY_FIELDS, file_digest

FARTHEST = 6.0
"""m; maximum distance from the route at which the expert's plan is used as a label."""
STANDING = 5.0
"""s; after standing still for longer, frame sets are skipped until the vehicle moves again."""
_ROWS = np.round(WAYPOINT_TIMES / STEP).astype(int)


class _Learner(ChainPolicy):
    """Follows the stack's plans, replaces a share of them by the expert's, and records the expert's plans."""

    def __init__(self, model: SparseOccVLA, expert_share: float) -> None:
        super().__init__(model, "learner")
        self._share = expert_share

    def begin(self, simulator: Simulator, world: WorldMap, expert: Expert) -> None:
        super().begin(simulator, world, expert)
        self._expert, self._rng = expert, np.random.default_rng([simulator.scene.seed, 67])
        self._history, self._stood = EgoHistory(), 0.0
        self.rows: list[dict[str, np.ndarray]] = []

    def plan(self) -> TimedPath | None:
        simulator, frames = self._simulator, self.frames()
        command, pose = simulator.command(), frames.ego.pose
        self._history.add(frames.stamp, pose, frames.ego.twist)
        step = self._model.step(frames, command, CommandSource.ROUTE)
        wanted = self._expert.plan()
        off = float(np.hypot(*(simulator.route.at(simulator.along)[:2] - simulator.state.pose[:2])))
        self._stood = self._stood + 0.5 if simulator.state.speed < 0.1 else 0.0
        if off < FARTHEST and self._stood <= STANDING:
            kept = {name: np.asarray(getattr(step.queries, name)) for name in QUERY_FIELDS}
            back = geometry.inverse(pose)
            self.rows.append({
                **{name: v.astype(np.float16) if name in HALF else v for name, v in kept.items()},
                "time": np.array(simulator.time), "pose": pose, "twist": frames.ego.twist.astype(np.float32),
                "ego": self._history.features(frames.stamp), "command": np.array(COMMANDS.index(command), np.uint8),
                "future": np.stack([back @ geometry.planar(*wanted[k]) for k in _ROWS]).astype(np.float32),
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

    Only frame sets before the first infraction are kept: states after a collision are of no use for training. The
    arrays are empty if no frame set is left.
    """
    learner = _Learner(model, expert_share)
    rollout = drive(learner, seed, scenario, score_every=0, longest=longest)
    until = min((time for time, _ in rollout.infractions), default=np.inf)
    rows = [row for row in learner.rows if row["time"] < until]
    return {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}, rollout


def make_rollouts(
    preset: str, seeds: Sequence[int], families: Sequence[str], expert_share: float, out: Path
) -> Iterator[str]:
    """Drive all seeds, cycling through the scenario families, and write a file per drive; yields a line for each.

    Args:
        preset: The preset that drives.
        seeds: Of the training split.
        families: If empty, the seeds' own traffic is driven.
        expert_share: As for roll_out.
        out: Folder of the files; existing drives are skipped.

    Raises:
        InvalidInput: A seed, or the scene where its family takes place, is not in the training split, or the preset
            cannot drive.
    """
    places = [families[k % len(families)] if families else None for k in range(len(seeds))]
    for seed, family in zip(seeds, places, strict=True):
        at = place_of(family, seed)[0] if family else seed
        if not {seed, at} <= set(SPLITS["train"]):
            raise InvalidInput("seeds", f"{seed} {family or ''} plays at {at}, which is not of the training split")
    model = SparseOccVLA.from_preset(preset)
    if model.encoder is None or model.planner is None:
        raise InvalidInput("preset", "; ".join(model.absent.values()))
    weights = {name: file_digest(path) for name, path in model.preset.weights.items()}
    for seed, family in zip(seeds, places, strict=True):
        file = out / f"{seed:08d}-{family or 'own'}-{expert_share:g}.safetensors"
        if file.is_file():
            yield f"{seed} {family or ''}: {file.name} is there already; another planner's drives need another folder"
            continue
        arrays, rollout = roll_out(model, seed, family, expert_share)
        told = {"seed": str(seed), "scenario": family or "", "expert_share": f"{expert_share:g}"}
        told |= {"encoder" if name == "occupancy" else name: digest for name, digest in weights.items()}
        if arrays:
            write_rollout(file, arrays, told)
        count = len(arrays["time"]) if arrays else 0
        driven = f"{rollout.completion[-1]:.0f} % of the route, {rollout.end.value}"
        yield f"{seed} {family or ''}: {count} frame sets, {driven}"
