"""A chain deprived of language hears what its policy's name says, and the loss is counted drive by drive."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from sparseoccvla_ros.core.types import Reasoning
from sparseoccvla_ros.eval.closed_loop.evaluation import POLICIES, failed, language_gain_table, page, version_of
from sparseoccvla_ros.eval.closed_loop.language_ablations import CHANGED, change, swapped
from sparseoccvla_ros.planning.config import PlanningConfig


def reasoning(stamp: int, value: float) -> Reasoning:
    return Reasoning(
        stamp, 1, np.full(4, value, np.float32), np.full(18, value, np.float32), np.zeros((2, 3), np.float32), ()
    )


@dataclass
class Model:
    planner: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(uses_reasoning=True))
    reasoner: None = None
    reasoning_filter: object = staticmethod(lambda own: own)


def test_each_policy_takes_away_what_it_says():
    silent, unscored = Model(), Model()
    change(silent, "chain-no-language")
    assert not silent.planner.uses_reasoning
    change(unscored, "chain-no-llm-scores")
    own = reasoning(5, 2.0)
    heard = unscored.reasoning_filter(own)
    assert not heard.anchor_scores.any()
    assert heard.token is own.token
    gated = Model(SimpleNamespace(config=PlanningConfig(gate_forecasts=False)))
    change(gated, "chain-gated")
    assert gated.planner.config.gate_forecasts


def test_another_scenes_language_keeps_time_and_forecasts_and_varies():
    hear = swapped([reasoning(k, float(k)) for k in range(10)])
    heard = [hear(reasoning(1_000_000_000 * k, -1.0)) for k in range(20)]
    assert [h.stamp for h in heard] == [1_000_000_000 * k for k in range(20)]
    assert all(h.token[0] == h.anchor_scores[0] >= 0 for h in heard)
    assert len({float(h.token[0]) for h in heard}) > 4
    again = hear(reasoning(0, -1.0))
    np.testing.assert_array_equal(again.token, heard[0].token)


def test_the_worth_of_language_is_paired_by_drive():
    def row(policy: str, seed: int, driving: float):
        return replace(failed(f"{policy} (tiny)", seed, None, "no reason"), driving_score=driving, success=driving > 50)

    rows = [row("chain", s, 80.0) for s in (1, 2, 3)] + [row("chain-no-language", s, 40.0) for s in (2, 3, 4)]
    head, lines = language_gain_table(rows)
    assert lines[0][:2] == ["chain minus chain-no-language", "2"]
    assert lines[0][head.index("driving score")].startswith("40.00 [40.00, 40.00]")
    assert lines[0][head.index("success %")].startswith("100.00")
    assert "What language is worth" in page(rows, "command")
    assert language_gain_table(rows[:3])[1] == []
    short = [replace(row, pdms=None) if row.seed == 2 else replace(row, epdms=None) for row in rows]
    cells = dict(zip(*language_gain_table(short)[:1], language_gain_table(short)[1][0], strict=True))
    assert (cells["PDMS"], cells["EPDMS"][:4]) == ("0.00", "0.00")


def test_they_are_policies_of_the_same_weights():
    assert set(CHANGED) < set(POLICIES)
    assert version_of("chain-no-language", "tiny") == version_of("chain", "tiny") != version_of("coast", "tiny")
