"""Plans of the chain under every protocol, with baselines, ablations and obedience to commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.types import TURN_OFFSET, Command, CommandSource, PlanStatus
from ...pipeline import StepResult
from ...planning.ego_history import EgoHistory
from ...planning.planner import Planner
from ..metrics.intervals import Estimate, over_scenes
from ..protocols.planning import OMNIDRIVE
from ..report.planning_tables import Report, report
from ..report.tables import Block
from .ablations import (
    ABLATIONS,
    AS_GIVEN,
    LANGUAGE,
    SHUFFLED,
    SWAPS,
    AblationResult,
    PlannerInputs,
    other_commands,
    swapped,
)
from .baselines import BASELINES, anchor_oracle, best_of
from .ego_mlp import EgoMlp
from .planning_loop import Evaluation, evaluate, write_csv
from .planning_samples import ROAD_CELLS, Method, Prediction, Sample
from .priors import TrainingPriors

CHAIN, BLIND = "SparseOccVLA", "SparseOccVLA, blind"
_ABOUT = {
    CHAIN: "the on-line chain: cameras, occupancy, language model, planner, gate",
    BLIND: "the same chain on black images",
}


def turned(waypoints: np.ndarray) -> Command:
    """Classifies a trajectory [6, 2] m: a lateral offset of TURN_OFFSET or more after 3 s is a turn."""
    return Command.of_offset(float(waypoints[-1, 1]))


def planner_inputs(
    token: str, step: StepResult, history: EgoHistory, planner: Planner, command: Command, source: CommandSource
) -> PlannerInputs:
    """Returns the planner's inputs of a step, for ablations; without language if the planner does not use it. Other
    arguments: as given to the chain."""
    kind, stamp = planner.config.ego, step.queries.stamp
    if kind == "none":
        features = np.zeros(0, np.float32)
    else:
        features = history.features(stamp) if kind == "causal" else history.paper_features(stamp, command)
    reasoning = step.reasoning if planner.uses_reasoning else None
    return PlannerInputs(
        token, step.queries.features, step.queries.centres, features, kind,
        None if reasoning is None else reasoning.token, None if reasoning is None else reasoning.anchor_scores,
        command, source,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Kept:
    """A sample with its drivable raster packed to bits."""

    sample: Sample
    road: np.ndarray | None

    @classmethod
    def of(cls, sample: Sample) -> _Kept:
        return cls(replace(sample, drivable=None), None if sample.drivable is None else np.packbits(sample.drivable))

    def whole(self) -> Sample:
        if self.road is None:
            return self.sample
        road = np.unpackbits(self.road, count=ROAD_CELLS**2).reshape(ROAD_CELLS, ROAD_CELLS).view(bool)
        return replace(self.sample, drivable=road)


class PlanningTask:
    """Collects samples and the chain's plans. Picklable; `merge` adds those of other processes."""

    def __init__(self) -> None:
        self._samples: list[_Kept] = []
        self._answers: dict[str, dict[str, Prediction]] = {}
        self._candidates: dict[str, np.ndarray] = {}
        self._ablation_results: dict[str, AblationResult] = {}
        self._swapped: dict[str, dict[str, Prediction]] = {}
        self._status: dict[str, Counter[str]] = {}
        self._reasons: dict[str, Counter[str]] = {}

    def add(self, sample: Sample) -> None:
        """Adds a sample."""
        self._samples.append(_Kept.of(sample))

    def answer(self, row: str, token: str, step: StepResult) -> None:
        """Adds the plan of a row's chain for a sample."""
        if step.plan is None:
            return
        self._answers.setdefault(row, {})[token] = Prediction.of_plan(step.plan)
        self._status.setdefault(row, Counter())[step.plan.status.value] += 1
        self._reasons.setdefault(row, Counter()).update(step.plan.reasons)
        if row == CHAIN:
            self._candidates[token] = step.plan.candidates

    def add_ablations(self, token: str, answers: AblationResult) -> None:
        """Adds the planner's predictions under ablation for a sample."""
        self._ablation_results[token] = answers

    def swap(self, planner: Planner) -> None:
        """Plans every sample with the language of another scene; call after merging all scenes."""
        scenes = {kept.sample.token: kept.sample.scene for kept in self._samples}
        self._swapped = swapped(
            planner,
            [(scenes[t], d.inputs) for t, d in self._ablation_results.items() if d.inputs.reasoning is not None],
        )

    def merge(self, other: PlanningTask) -> None:
        """Adds the samples and predictions of another task."""
        self._samples += other._samples
        self._candidates |= other._candidates
        self._ablation_results |= other._ablation_results
        for row, found in other._answers.items():
            self._answers.setdefault(row, {}).update(found)
            self._status.setdefault(row, Counter()).update(other._status[row])
            self._reasons.setdefault(row, Counter()).update(other._reasons[row])

    def result(
        self, known: TrainingPriors | None, anchors: np.ndarray | None, csv: Path | None = None
    ) -> tuple[dict[str, Any], list[Block], list[str]]:
        """Returns plain numbers, tables of subsets and obedience, and ready Markdown of the protocols.

        known: training data of the ego-only MLP; anchors: float32 [18, 6, 2] m or None; csv: file for all samples.
        """
        numbers: dict[str, Any] = {}
        methods = list(BASELINES)
        if known is not None and len(known.features):
            mlp = EgoMlp()
            error = mlp.fit(known.features, known.truth, np.ones(known.truth.shape[:2], bool))
            numbers["ego_mlp"] = {"source": known.source, "samples": len(known.features), "train_l1_m": error}
            methods.append(mlp.method())
        if anchors is not None:
            methods.append(anchor_oracle(anchors.astype(np.float64)))
        methods += [Method.stored(row, found, about=_ABOUT[row]) for row, found in self._answers.items()]
        if self._candidates:
            methods.append(best_of(CHAIN, self._candidates))
        evaluation = evaluate(self._whole(), methods)
        if csv is not None:
            write_csv(evaluation, csv)
        overall = report(evaluation)
        numbers["all"] = overall.to_dict()
        markdown = [overall.to_markdown()]
        tags = sorted({tag for tags in evaluation.tags for tag in tags})
        subsets = {tag: report(evaluation, tag) for tag in tags}
        numbers["subsets"] = {tag: found.to_dict() for tag, found in subsets.items()}
        blocks = [self._obedience(evaluation, numbers)]
        if subsets:
            blocks.insert(0, _subsets(subsets))
        if self._answers:
            blocks.insert(0, self._verdicts(numbers))
        if self._ablation_results:
            blocks.append(self._counterfactual(numbers))
            without = evaluate(self._whole(), self._ablations(), (OMNIDRIVE,))
            ablated = report(without)
            numbers["ablations"] = ablated.to_dict()
            blocks.append(_worth(without, numbers))
            markdown.append("### Ablations (without gate, OmniDrive's protocol)\n\n" + ablated.to_markdown())
        return numbers, blocks, markdown

    def _whole(self) -> Iterator[Sample]:
        return (kept.whole() for kept in self._samples)

    def _ablations(self) -> list[Method]:
        others = other_commands([kept.sample for kept in self._samples])
        out = []
        for ablation in ABLATIONS:
            answers = {
                token: found.told[others[token].shuffled] if ablation is SHUFFLED else found.answers[ablation.name]
                for token, found in self._ablation_results.items()
            }
            out.append(Method.stored(ablation.name, answers, ablation.oracle, ablation.about))
        about = {swap.name: swap.about for swap in SWAPS}
        return out + [Method.stored(name, found, about=about[name]) for name, found in self._swapped.items()]

    def _verdicts(self, numbers: dict[str, Any]) -> Block:
        """Returns the planner's status counts; braking plans are scored like all others."""
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
        """Returns how often each method follows the command, also where the expert does not turn within 3 s."""
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
                    # A missing plan counts as disobedience.
                    obeys.append(float(usable and turned(answer.waypoints) is samples[k].command))
                    scenes.append(samples[k].scene)
                row[name] = {"n": len(obeys), "share": over_scenes(np.array(obeys, np.float64), scenes)}
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
        """Returns the manoeuvres of all samples under every command."""
        rows, out = [], {}
        for command in Command:
            changed = [found.told[command] for found in self._ablation_results.values()]
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


def _worth(evaluation: Evaluation, numbers: dict[str, Any]) -> Block:
    """Returns how much L2 and collisions increase without (parts of) language, paired by moment."""

    def errors(name: str) -> tuple[np.ndarray, np.ndarray]:
        cell = evaluation.cells[OMNIDRIVE.name, name]
        known = cell.scored[:, None] & ~np.isnan(cell.l2)
        total = np.where(known, cell.l2, 0.0).sum(1)
        l2 = np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))
        return l2, np.where(cell.scored, cell.collision.any(1), np.nan)

    own, rows, out = errors(AS_GIVEN), [], {}
    for name in LANGUAGE:
        if (OMNIDRIVE.name, name) not in evaluation.cells:
            continue
        found = {}
        for what, without, given in zip(("l2_m", "collision"), errors(name), own, strict=True):
            found[what] = over_scenes(without - given, evaluation.scenes)
        out[name] = {"n": int(np.isfinite(errors(name)[0] - own[0]).sum()), **found}
        rows.append([name, str(out[name]["n"]), found["l2_m"].text(1), found["collision"].text()])
    numbers["worth_of_language"] = out
    return Block(
        "What language is worth: without it minus with it (plans without gate)",
        ["taken away", "n", "L2 m, mean over 3 s", "collisions, points"],
        rows,
        ["Paired by moment, 95 % bootstrap over scenes: language guides the plan where the interval lies above 0."],
    )


def _subsets(subsets: dict[str, Report]) -> Block:
    """Returns L2 and collisions of every method in every subset, by OmniDrive's protocol."""
    rows = []
    for tag, found in subsets.items():
        for row in found.rows:
            if row.protocol == OMNIDRIVE.name and not row.self_test:
                l2, collision = (Estimate(v.average, v.interval) for v in (row.l2, row.collision))
                name = f"{row.method} (oracle)" if row.oracle else row.method
                rows.append([tag, name, str(row.n), str(row.missing), l2.text(1), collision.text()])
    head = ["subset", "method", "n", "missing", "L2 avg m [95 %]", "collision avg % [95 %]"]
    return Block("Subsets (OmniDrive's protocol; the others are in report.json)", head, rows)
