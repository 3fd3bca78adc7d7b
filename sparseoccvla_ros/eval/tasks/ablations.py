"""Test-time ablations of the planner's inputs, without retraining.

An ablation is data: a name, a description for the report, and a change of the planner's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.errors import InvalidInput
from ...core.types import Command, CommandSource
from ...planning.model.anchor_scorer import mask_other_commands
from ...planning.planner import Planner
from .planning_samples import Prediction, Sample

SPEED_COLUMNS: dict[str, tuple[int, ...]] = {"none": (), "causal": (12, 13), "paper": (18, 19, 34, 35)}
"""Columns of vx and vy in the ego vector, by the planner's `ego` setting (planning.ego_history)."""
_PAPER_COMMAND = slice(3, 6)


@dataclass(frozen=True, eq=False)
class PlannerInputs:
    """Inputs of planning.Planner.forward for one sample, unbatched.

    token: of the sample; features: float32 [Q, C]; centres: float32 [Q, 3] m in base_link; ego: float32 [F], of
    ego_kind (none, causal, paper); reasoning: float32 [D] or None; anchor_scores: float32 [A] logits of the language
    model or None; command and its source.
    """

    token: str
    features: np.ndarray
    centres: np.ndarray
    ego: np.ndarray
    ego_kind: str
    reasoning: np.ndarray | None
    anchor_scores: np.ndarray | None
    command: Command
    source: CommandSource

    def __post_init__(self) -> None:
        if self.ego_kind not in SPEED_COLUMNS:
            raise InvalidInput("inputs.ego_kind", f"want one of {', '.join(SPEED_COLUMNS)}, got {self.ego_kind!r}")


@dataclass(frozen=True)
class OtherCommands:
    """Alternative commands of a sample: shuffled, that of another sample; future, derived from the true future."""

    shuffled: Command
    future: Command


@dataclass(frozen=True)
class Ablation:
    """A change of the planner's inputs. about: description for the report; oracle: the planner gets the future."""

    name: str
    about: str
    change: Callable[[PlannerInputs, OtherCommands], PlannerInputs]
    oracle: bool = False


def other_commands(samples: Sequence[Sample], seed: int = 0) -> dict[str, OtherCommands]:
    """Returns alternative commands by token. Shuffling permutes the commands of the whole set, keeping frequencies."""
    order = np.random.default_rng(seed).permutation(len(samples))
    return {
        sample.token: OtherCommands(samples[other].command, sample.future_command)
        for sample, other in zip(samples, order, strict=True)
    }


def _scaled_speed(inputs: PlannerInputs, factor: float) -> PlannerInputs:
    ego = inputs.ego.copy()
    ego[list(SPEED_COLUMNS[inputs.ego_kind])] *= np.float32(factor)
    return replace(inputs, ego=ego)


def _commanded(inputs: PlannerInputs, command: Command, source: CommandSource) -> PlannerInputs:
    ego = inputs.ego
    if inputs.ego_kind == "paper":
        # the paper's ego vector repeats the command
        ego = ego.copy()
        ego[_PAPER_COMMAND] = [c is command for c in Command]
    return replace(inputs, ego=ego, command=command, source=source)


SHUFFLED = Ablation(
    "command shuffled",
    "commands permuted over the whole set",
    lambda i, other: _commanded(i, other.shuffled, i.source),
)
AS_GIVEN, NO_LANGUAGE = "as given", "no language"
ABLATIONS: tuple[Ablation, ...] = (
    Ablation(AS_GIVEN, "nothing is changed", lambda i, _: i),
    Ablation("no ego", "ego features and their masks 0", lambda i, _: replace(i, ego=np.zeros_like(i.ego))),
    Ablation("speed x0.5", "present velocity halved", lambda i, _: _scaled_speed(i, 0.5)),
    Ablation("speed x1.5", "present velocity raised by half", lambda i, _: _scaled_speed(i, 1.5)),
    Ablation(
        "always straight",
        "command straight everywhere",
        lambda i, _: _commanded(i, Command.STRAIGHT, CommandSource.DEFAULT),
    ),
    SHUFFLED,
    Ablation(
        "future command",
        "command read off the true future, as published planners do",
        lambda i, other: _commanded(i, other.future, CommandSource.ORACLE),
        oracle=True,
    ),
    Ablation(
        "language score off",
        "anchor scores of the language model left out",
        lambda i, _: replace(i, anchor_scores=None),
    ),
    Ablation(
        "reasoning token 0",
        "reasoning token zeroed where there is one",
        lambda i, _: i if i.reasoning is None else replace(i, reasoning=np.zeros_like(i.reasoning)),
    ),
    Ablation(
        NO_LANGUAGE,
        "neither token nor scores, as when they come too late",
        lambda i, _: replace(i, reasoning=None, anchor_scores=None),
    ),
    Ablation(
        "no vision",
        "query features 0, as if every image were black",
        lambda i, _: replace(i, features=np.zeros_like(i.features)),
    ),
)


@dataclass(frozen=True)
class Swap:
    """Like Ablation, but replaces inputs by those of a moment of another scene."""

    name: str
    about: str
    change: Callable[[PlannerInputs, PlannerInputs], PlannerInputs]


SWAPS: tuple[Swap, ...] = (
    Swap(
        "language of another scene",
        "token and anchor scores are those of a moment of another scene",
        lambda own, other: replace(own, reasoning=other.reasoning, anchor_scores=other.anchor_scores),
    ),
    Swap(
        "reasoning token of another scene",
        "the token is that of a moment of another scene, the scores are the own ones",
        lambda own, other: replace(own, reasoning=other.reasoning),
    ),
)
LANGUAGE = ("language score off", "reasoning token 0", NO_LANGUAGE, *(s.name for s in SWAPS))
"""Ablations and swaps that affect the language model's outputs only."""


def partners(scenes: Sequence[str]) -> list[int] | None:
    """Returns for each moment the index of one of another scene, or None with a single scene.

    scenes: scene of each moment. With scenes of equal length every moment is used once.
    """
    count = len(scenes)
    if len(set(scenes)) < 2:
        return None
    order = sorted(range(count), key=lambda i: scenes[i])
    out = [0] * count
    for place, own in enumerate(order):
        ahead = ((place + count // 2 + k) % count for k in range(count))
        out[own] = next(order[k] for k in ahead if scenes[order[k]] != scenes[own])
    return out


@torch.inference_mode()
def ungated(planner: Planner, inputs: PlannerInputs) -> tuple[Prediction, np.ndarray]:
    """Returns the planner's best-scored trajectory and all candidates float32 [K, 6, 2] m, without gate and memory.

    The gate uses the current speed and would mask the effect of an ablation.
    """

    device = planner.anchor_waypoints.device

    def row(array: np.ndarray | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)[None]

    logits, waypoints = planner(
        row(inputs.features), row(inputs.centres), row(inputs.ego), row(inputs.reasoning), row(inputs.anchor_scores)
    )
    if planner.config.command_mask:
        logits = mask_other_commands(logits, torch.from_numpy(planner.anchors.group(inputs.command)).to(device))
    best = int(logits[0].argmax())
    candidates = waypoints[0].cpu().numpy()
    return Prediction(candidates[best], inputs.command, inputs.source, best), candidates


@dataclass(frozen=True, eq=False)
class AblationResult:
    """Predictions for one sample. answers: by name of each ablation except SHUFFLED; told: under each command.

    inputs: the original inputs with features in half precision, for SWAPS, which need all scenes.
    """

    answers: dict[str, Prediction]
    told: dict[Command, Prediction]
    inputs: PlannerInputs


def run_ablations(planner: Planner, inputs: PlannerInputs, future: Command) -> AblationResult:
    """Runs every ablation on one sample, under every command because the shuffled one is known only at the end.

    future: command derived from the true future.
    """

    def answer(ablation: Ablation, shuffled: Command) -> Prediction:
        return ungated(planner, ablation.change(inputs, OtherCommands(shuffled, future)))[0]

    return AblationResult(
        {a.name: answer(a, inputs.command) for a in ABLATIONS if a is not SHUFFLED},
        {command: answer(SHUFFLED, command) for command in Command},
        replace(inputs, features=inputs.features.astype(np.float16)),
    )


def swapped(planner: Planner, kept: Sequence[tuple[str, PlannerInputs]]) -> dict[str, dict[str, Prediction]]:
    """Returns predictions by name of each of SWAPS and token. kept: scene and inputs of the moments with language.

    Empty if all are of one scene.
    """
    others = partners([scene for scene, _ in kept])
    out: dict[str, dict[str, Prediction]] = {}
    for (_, own), other in zip(kept, others or (), strict=bool(others)):
        inputs = replace(own, features=own.features.astype(np.float32))
        for swap in SWAPS:
            out.setdefault(swap.name, {})[own.token] = ungated(planner, swap.change(inputs, kept[other][1]))[0]
    return out
