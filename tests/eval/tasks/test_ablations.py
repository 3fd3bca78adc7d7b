"""Each ablation changes what it says and nothing else, and the planner runs under every one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import Command, CommandSource
from sparseoccvla_ros.eval.tasks.ablations import (
    ABLATIONS,
    LANGUAGE,
    SWAPS,
    OtherCommands,
    PlannerInputs,
    other_commands,
    partners,
    run_ablations,
    swapped,
    ungated,
)
from sparseoccvla_ros.eval.tasks.planning import planner_inputs
from sparseoccvla_ros.planning.anchors import AnchorSet
from sparseoccvla_ros.planning.config import PlanningConfig
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES, PAPER_DIMS, EgoHistory
from sparseoccvla_ros.planning.planner import Planner

ANCHORS = Path(__file__).parents[3] / "models" / "tiny" / "anchors.npz"
CHANGED = {
    "as given": set(),
    "no ego": {"ego"},
    "speed x0.5": {"ego"},
    "speed x1.5": {"ego"},
    "always straight": {"command", "source"},
    "command shuffled": {"command"},
    "future command": {"command", "source"},
    "language score off": {"anchor_scores"},
    "reasoning token 0": {"reasoning"},
    "no language": {"reasoning", "anchor_scores"},
    "no vision": {"features"},
}
OTHER = OtherCommands(shuffled=Command.STRAIGHT, future=Command.RIGHT)
each_ablation = pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: a.name)


@pytest.fixture
def inputs() -> PlannerInputs:
    rng = np.random.default_rng(5)
    config = PlanningConfig()
    return PlannerInputs(
        token="a",
        features=rng.standard_normal((20, config.query_dims)).astype(np.float32),
        centres=rng.uniform(-30, 30, (20, 3)).astype(np.float32),
        ego=rng.uniform(0.5, 1.5, len(FEATURE_NAMES)).astype(np.float32),
        ego_kind="causal",
        reasoning=rng.standard_normal(config.reasoning_dims).astype(np.float32),
        anchor_scores=rng.standard_normal(18).astype(np.float32),
        command=Command.LEFT,
        source=CommandSource.ROUTE,
    )


@each_ablation
def test_changes_only_what_it_says(ablation, inputs):
    before = {f.name: np.copy(getattr(inputs, f.name)) for f in fields(inputs)}
    after = ablation.change(inputs, OTHER)
    different = {f.name for f in fields(after) if not np.array_equal(before[f.name], getattr(after, f.name))}
    assert different == CHANGED[ablation.name]
    assert all(np.array_equal(before[f.name], getattr(inputs, f.name)) for f in fields(inputs))
    assert ablation.about
    assert ablation.oracle == (after.source is CommandSource.ORACLE)


def test_every_ablation_is_listed_once():
    assert [a.name for a in ABLATIONS] == list(CHANGED)


@each_ablation
def test_the_planner_runs_and_obeys_the_command(ablation, inputs):
    torch.manual_seed(0)
    planner = Planner(PlanningConfig(), AnchorSet.load(ANCHORS)).eval()
    changed = ablation.change(inputs, OTHER)
    prediction, candidates = ungated(planner, changed)
    assert prediction.usable
    assert candidates.shape == (18, 6, 2)
    assert planner.anchors.group(changed.command)[prediction.chosen]
    again, _ = ungated(planner, changed)
    assert prediction.waypoints.tobytes() == again.waypoints.tobytes()


def test_a_moment_hears_the_language_of_another_scene(inputs):
    """The same answer as if that language were its own, and nothing else of the other moment."""
    torch.manual_seed(0)
    planner = Planner(PlanningConfig(), AnchorSet.load(ANCHORS)).eval()
    rng = np.random.default_rng(6)
    there = replace(
        inputs,
        token="b",
        features=inputs.features[::-1].copy(),
        reasoning=rng.standard_normal(inputs.reasoning.shape).astype(np.float32),
        anchor_scores=rng.standard_normal(18).astype(np.float32),
    )
    kept = [("scene", run_ablations(planner, inputs, Command.LEFT).inputs), ("other", there)]
    found = swapped(planner, kept)
    assert set(found) == {s.name for s in SWAPS} < set(LANGUAGE)
    half = replace(inputs, features=inputs.features.astype(np.float16).astype(np.float32))
    for name, heard in (
        ("language of another scene", replace(half, reasoning=there.reasoning, anchor_scores=there.anchor_scores)),
        ("reasoning token of another scene", replace(half, reasoning=there.reasoning)),
    ):
        np.testing.assert_array_equal(found[name]["a"].waypoints, ungated(planner, heard)[0].waypoints)
        assert set(found[name]) == {"a", "b"}
    assert swapped(planner, kept[:1]) == {}


def test_partners_are_of_other_scenes_and_used_evenly():
    scenes = ["a"] * 6 + ["b"] * 6 + ["c"] * 6
    found = partners(scenes)
    assert all(scenes[k] != scenes[own] for own, k in enumerate(found))
    assert sorted(found) == list(range(18))
    assert partners(["a", "a"]) is None


def test_speed_columns_are_where_the_features_hold_speed(inputs):
    """By feeding a history and looking where its velocity comes out."""
    by_name = {a.name: a for a in ABLATIONS}
    history = EgoHistory()
    history.add(0, np.eye(4), np.array([3.25, 0.75, 0, 0, 0, 0.0]))
    for kind, ego in (
        ("causal", history.features(0)),
        ("paper", history.paper_features(0, Command.LEFT)),
        ("none", np.zeros(0, np.float32)),
    ):
        halved = by_name["speed x0.5"].change(replace(inputs, ego=ego, ego_kind=kind), OTHER).ego
        np.testing.assert_array_equal(halved, np.where(np.isin(ego, (3.25, 0.75)), ego / 2, ego))


def test_the_papers_ego_vector_repeats_the_command(inputs):
    history = EgoHistory()
    paper = replace(inputs, ego=history.paper_features(0, Command.LEFT), ego_kind="paper")
    assert len(paper.ego) == PAPER_DIMS
    ablation = next(a for a in ABLATIONS if a.name == "future command")
    after = ablation.change(paper, OTHER)
    np.testing.assert_array_equal(after.ego, history.paper_features(0, Command.RIGHT))


def test_shuffling_keeps_the_frequencies_and_repeats_itself(make_sample):
    commands = [Command.LEFT] * 3 + [Command.STRAIGHT] * 15 + [Command.RIGHT] * 2
    samples = [make_sample(token=str(k), command=c) for k, c in enumerate(commands)]
    first, second, other = other_commands(samples, 1), other_commands(samples, 1), other_commands(samples, 2)
    assert first == second != other
    assert sorted(o.shuffled for o in first.values()) == sorted(commands)
    assert {o.future for o in first.values()} == {Command.STRAIGHT}


def test_unknown_ego_kind_is_refused(inputs):
    with pytest.raises(InvalidInput, match=r"inputs\.ego_kind"):
        replace(inputs, ego_kind="can_bus")


@pytest.mark.parametrize("listens", [True, False])
def test_a_planner_that_knows_no_language_is_given_none(inputs, listens):
    planner = SimpleNamespace(config=PlanningConfig(ego="none"), uses_reasoning=listens)
    said = SimpleNamespace(token=inputs.reasoning, anchor_scores=inputs.anchor_scores)
    queries = SimpleNamespace(stamp=0, features=inputs.features, centres=inputs.centres)
    step = SimpleNamespace(queries=queries, reasoning=said)
    found = planner_inputs("a", step, EgoHistory(), planner, inputs.command, inputs.source)
    assert (found.reasoning is not None) is listens
    assert (found.anchor_scores is not None) is listens
