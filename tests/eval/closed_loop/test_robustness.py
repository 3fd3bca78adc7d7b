"""What disturbs the chain reaches it as its name says, and what it costs is counted drive by drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import CameraFrames, EgoState, Reasoning
from sparseoccvla_ros.eval.closed_loop.evaluation import failed, version_of
from sparseoccvla_ros.eval.closed_loop.policies import BlindLaneKeeping
from sparseoccvla_ros.eval.closed_loop.robustness import (
    DISTURBED,
    Disturbance,
    LateReasoning,
    groups_of,
    section,
    table,
)
from sparseoccvla_ros.eval.closed_loop.rollout import drive


def frames() -> CameraFrames:
    return CameraFrames(
        5, 1, ("CAM_FRONT", "CAM_BACK"), np.full(2, 5), np.ones(2, bool), np.full((2, 16, 16, 3), 100, np.uint8),
        np.stack([np.eye(4)] * 2), EgoState(np.eye(4), np.zeros(6), "map"),
    )  # fmt: skip


def test_each_disturbance_does_what_it_says_and_nothing_else():
    rng = np.random.default_rng(0)
    own = frames()
    assert Disturbance(latency=0.3).disturbed(own, rng) is own
    lost = Disturbance(lost="CAM_BACK").disturbed(own, rng)
    assert lost.valid.tolist() == [True, False]
    assert lost.images[0].all()
    assert not lost.images[1].any()
    noisy = Disturbance(noise=16.0).disturbed(own, rng)
    assert noisy.images.std() == pytest.approx(16.0, rel=0.1)
    assert noisy.images.mean() == pytest.approx(100.0, abs=2.0)
    assert noisy.ego is own.ego
    places = np.stack([Disturbance(pose=0.3).disturbed(own, rng).ego.pose for _ in range(400)])
    assert places[:, :2, 3].std() == pytest.approx(0.3, rel=0.15)
    assert np.arctan2(places[:, 1, 0], places[:, 0, 0]).std() == pytest.approx(0.3 * np.radians(5), rel=0.15)
    assert own.images.all(), "what the vehicle itself has stays as it was"


def test_late_reasoning_is_that_of_sets_before_unless_it_is_too_old():
    def said(seconds: float) -> Reasoning:
        empty = np.zeros(4, np.float32)
        return Reasoning(round(1e9 * seconds), 1, empty, np.zeros(18, np.float32), np.zeros((2, 3), np.float32), ())

    late = LateReasoning(2)
    heard = [late(said(0.5 * k)) for k in range(4)]
    assert [h and h.stamp / 1e9 for h in heard] == [None, None, 0.0, 0.5]
    assert late(said(5.0)) is None


def test_all_groups_have_names_and_others_are_refused():
    assert groups_of(()) == ()
    assert len(groups_of(("all",))) == len(DISTURBED) == 19
    assert groups_of(("latency",))[0] == "chain+latency:0.1"
    assert version_of("chain+latency:0.1", "tiny") == version_of("chain", "tiny") != version_of("coast", "tiny")
    with pytest.raises(InvalidInput, match="'fog' is not one of"):
        groups_of(("fog",))


def test_what_is_lost_is_counted_drive_by_drive(tmp_path):
    def row(policy: str, seed: int, score: float):
        return replace(failed(f"{policy} (tiny)", seed, None, "no reason"), driving_score=score, success=score > 50)

    rows = [row("chain", s, 80.0 + s) for s in (1, 2, 3)]
    assert section(rows, tmp_path) == ""
    rows += [row("chain+noise:16", s, 70.0 + s) for s in (2, 3, 4)] + [row("chain-no-language", 1, 0.0)]
    head, lines, bars = table(rows)
    over_ros = [replace(r, policy=r.policy.replace("chain (", "nodes (")) for r in rows]
    assert table(over_ros) == (head, lines, bars)
    assert [line[0] for line in lines] == ["none", "noise 16 of 255"]
    assert lines[1][head.index("driving score lost")].startswith("10.00 [10.00, 10.00]")
    assert [bar.value for bar in bars] == [82.0, 73.0]
    assert "noise 16 of 255" in section(rows, tmp_path)
    assert (tmp_path / "robustness.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_plan_that_comes_late_is_followed_late():
    rollouts = [drive(BlindLaneKeeping(), 70_001, score_every=0, longest=2.0, latency=s) for s in (0.0, 0.7)]
    prompt, late = (r.states[:, 3] for r in rollouts)
    assert (late[1:8] < prompt[1:8]).all(), "it brakes while there is no path"
    np.testing.assert_array_equal(prompt[0], late[0])
