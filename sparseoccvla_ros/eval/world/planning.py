"""Plans of the chain in every public protocol, beside what has to be beaten, what is taken away, and obedience."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import Command, CommandSource, PlanStatus
from ...planning.ego import EgoHistory
from ...planning.manoeuvres import TURN_OFFSET
from ...planning.planner import Planner
from ..planning.ablations import ABLATIONS, PlannerInputs, other_commands, ungated
from ..planning.baselines import BASELINES, anchor_oracle, best_of
from ..planning.ego_mlp import EgoMlp
from ..planning.evaluate import Evaluation, evaluate, write_csv
from ..planning.protocols import OMNIDRIVE
from ..planning.report import report, scene_interval
from ..planning.samples import ROAD_CELLS, Method, Prediction, Sample
from .chain import Step
from .intervals import Estimate
from .known import Known
from .tables import Block

CHAIN, BLIND = "SparseOccVLA", "SparseOccVLA, blind"
_ABOUT = {
    CHAIN: "the on-line chain: cameras, occupancy, language model, planner, gate",
    BLIND: "the same chain on black images",
}


def turned(waypoints: np.ndarray) -> Command:
    """What a trajectory [6, 2] m does: TURN_OFFSET or more to a side after 3 s is a turn."""
    lateral = float(waypoints[-1, 1])
    if lateral >= TURN_OFFSET:
        return Command.LEFT
    return Command.RIGHT if lateral <= -TURN_OFFSET else Command.STRAIGHT


def planner_inputs(token: str, step: Step, history: EgoHistory, planner: Planner, command: Command) -> PlannerInputs:
    """What the planner read of a step, for ablations. history: as it was given to the chain."""
    kind, stamp = planner.config.ego, step.queries.stamp
    if kind == "none":
        features = np.zeros(0, np.float32)
    else:
        features = history.features(stamp) if kind == "causal" else history.paper_features(stamp, command)
    reasoning = step.reasoning
    return PlannerInputs(
        token, step.queries.features, step.queries.centres, features, kind,
        None if reasoning is None else reasoning.token, None if reasoning is None else reasoning.anchor_scores,
        command, CommandSource.ROUTE,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Kept:
    """A sample with its drivable raster packed to an eighth."""

    sample: Sample
    road: np.ndarray

    @classmethod
    def of(cls, sample: Sample) -> _Kept:
        if sample.drivable is None:
            raise InvalidInput("sample.drivable", "is missing")
        return cls(replace(sample, drivable=None), np.packbits(sample.drivable))

    def whole(self) -> Sample:
        road = np.unpackbits(self.road, count=ROAD_CELLS**2).reshape(ROAD_CELLS, ROAD_CELLS).view(bool)
        return replace(self.sample, drivable=road)


class PlanningTask:
    """Collects samples and what the chain answered; everything else is computed at the end.

    planner: whose inputs are ablated, None where it does not take part; anchors: float32 [18, 6, 2] m or None.
    """

    def __init__(self, planner: Planner | None, anchors: np.ndarray | None) -> None:
        self._planner, self._anchors = planner, anchors
        self._samples: list[_Kept] = []
        self._inputs: dict[str, PlannerInputs] = {}
        self._answers: dict[str, dict[str, Prediction]] = {}
        self._candidates: dict[str, np.ndarray] = {}
        self._status: dict[str, Counter[str]] = {}
        self._reasons: dict[str, Counter[str]] = {}

    def add(self, sample: Sample) -> None:
        """A moment to plan from."""
        self._samples.append(_Kept.of(sample))

    def answer(self, row: str, token: str, step: Step, inputs: PlannerInputs | None = None) -> None:
        """The plan of a row's chain for a moment; inputs: what the planner read, for the sighted chain."""
        if step.plan is None:
            return
        self._answers.setdefault(row, {})[token] = Prediction.of_plan(step.plan)
        self._status.setdefault(row, Counter())[step.plan.status.value] += 1
        self._reasons.setdefault(row, Counter()).update(step.plan.reasons)
        if inputs is not None:
            self._inputs[token] = inputs
            self._candidates[token] = step.plan.candidates

    def result(self, known: Known, csv: Path | None = None) -> tuple[dict[str, Any], list[Block], list[str]]:
        """Plain numbers, tables of obedience, and ready Markdown of the protocols; csv: file of all samples."""
        mlp = EgoMlp()
        error = mlp.fit(known.features, known.truth, np.ones(known.truth.shape[:2], bool))
        methods = [*BASELINES, mlp.method()]
        if self._anchors is not None:
            methods.append(anchor_oracle(self._anchors.astype(np.float64)))
        methods += [Method.stored(row, found, about=_ABOUT[row]) for row, found in self._answers.items()]
        if self._candidates:
            methods.append(best_of(CHAIN, self._candidates))
        evaluation = evaluate(self._whole(), methods)
        if csv is not None:
            write_csv(evaluation, csv)
        overall = report(evaluation)
        numbers: dict[str, Any] = {
            "all": overall.to_dict(),
            "ego_mlp": {"seeds": list(known.seeds), "samples": len(known.features), "train_l1_m": error},
        }
        markdown = [overall.to_markdown()]
        if any("turning" in tags for tags in evaluation.tags):
            turning = report(evaluation, "turning")
            numbers["turning"] = turning.to_dict()
            # Conventions and legend are those of the first.
            markdown.append(turning.to_markdown().split("### Protocols")[0].rstrip() + "\n")
        blocks = [self._obedience(evaluation, numbers)]
        if self._answers:
            blocks.insert(0, self._verdicts(numbers))
        if self._planner is not None and self._inputs:
            blocks.append(self._counterfactual(numbers))
            ablated = report(evaluate(self._whole(), self._ablations(), (OMNIDRIVE,)))
            numbers["ablations"] = ablated.to_dict()
            markdown.append("### Ablations (without gate, OmniDrive's protocol)\n\n" + ablated.to_markdown())
        return numbers, blocks, markdown

    def _whole(self) -> Iterator[Sample]:
        return (kept.whole() for kept in self._samples)

    def _ablations(self) -> list[Method]:
        assert self._planner is not None
        others = other_commands([kept.sample for kept in self._samples])
        out = []
        for ablation in ABLATIONS:
            answers = {
                token: ungated(self._planner, ablation.change(inputs, others[token]))[0]
                for token, inputs in self._inputs.items()
            }
            out.append(Method.stored(ablation.name, answers, ablation.oracle, ablation.about))
        return out

    def _verdicts(self, numbers: dict[str, Any]) -> Block:
        """How far the planner itself trusts its plans; a braking plan is judged like any other."""
        numbers["status"] = {
            row: {"status": dict(count), "reasons": dict(self._reasons[row])} for row, count in self._status.items()
        }
        rows = [
            [row, *(str(count[status.value]) for status in PlanStatus),
             ", ".join(f"{name} {n}" for name, n in self._reasons[row].most_common(6))]
            for row, count in self._status.items()
        ]  # fmt: skip
        return Block("Status of plans", ["", *(s.value for s in PlanStatus), "most frequent reasons"], rows)

    def _obedience(self, evaluation: Evaluation, numbers: dict[str, Any]) -> Block:
        """Of the moments at which the route asks for a turn: who turns; the expert often has to wait first."""
        samples = [kept.sample for kept in self._samples]
        told = np.array([s.command is not Command.STRAIGHT for s in samples])
        turns = np.array([s.future_command is s.command for s in samples])
        rows, out = [], {}
        for method in evaluation.methods:
            row: dict[str, Any] = {}
            for name, keep in (
                ("told_to_turn_and_the_expert_does", told & turns),
                ("told_to_turn_and_the_expert_does_not_yet", told & ~turns),
                ("told_straight", ~told),
            ):
                obeys, scenes = [], []
                for k in np.flatnonzero(keep):
                    answer = evaluation.answers[method.name][k]
                    usable = answer is not None and answer.usable and answer.waypoints is not None
                    # No plan obeys nothing.
                    obeys.append(float(usable and turned(answer.waypoints) is samples[k].command))
                    scenes.append(samples[k].scene)
                values = np.array(obeys, np.float64)
                value = float(values.mean()) if len(values) else float("nan")
                row[name] = {"n": len(values), "share": Estimate(value, scene_interval(values, scenes))}
            out[method.name] = row
            rows.append([method.name, *(f"{c['share'].text()} (n {c['n']})" for c in row.values())])
        numbers["obedience"] = out
        return Block(
            "Does it turn when the command says so? (percent of moments)",
            ["method", "told to turn, and the expert does", "told to turn, the expert not yet", "told straight: stays"],
            rows,
            [f"A turn ends {TURN_OFFSET:g} m or more to the commanded side after 3 s; no usable plan counts as no."],
        )

    def _counterfactual(self, numbers: dict[str, Any]) -> Block:
        """The same moments under every command."""
        assert self._planner is not None
        rows, out = [], {}
        for command in Command:
            changed = [ungated(self._planner, replace(inputs, command=command))[0] for inputs in self._inputs.values()]
            does = [turned(answer.waypoints) for answer in changed if answer.usable and answer.waypoints is not None]
            shares = {c.value: does.count(c) / len(does) if does else float("nan") for c in Command}
            out[command.value] = {"n": len(does), **shares}
            rows.append([command.value, str(len(does)), *(f"{100 * v:.1f}" for v in shares.values())])
        numbers["counterfactual_commands"] = out
        return Block(
            "The same moments under every command (percent of plans without gate)",
            ["told", "n", *(f"goes {c.value}" for c in Command)],
            rows,
        )
