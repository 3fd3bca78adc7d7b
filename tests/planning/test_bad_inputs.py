"""Fuzz: whatever arrives, the planner answers with a flagged stop, a flagged plan or a refusal; it never crashes and
never hands out an unflagged path for a broken input.

SPARSEOCCVLA_FUZZ_EXAMPLES raises the number of sequences (each is several plans); 10000 runs in a few minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.core.types import LIGHT_COLOURS, STEPS, Command, CommandSource, PlanStatus, TrafficLight
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.planning.config import ValidatorConfig
from sparseoccvla_ros.planning.planner import Planner
from sparseoccvla_ros.planning.trajectory_validator import kinematic_failures

EXAMPLES = int(os.environ.get("SPARSEOCCVLA_FUZZ_EXAMPLES", "30"))
S = 1_000_000_000
STOPPED = (PlanStatus.BRAKING, PlanStatus.REJECTED)

FAULTS = {
    "none": None,
    "nan_features": STOPPED,
    "nan_centres": STOPPED,
    "empty_queries": STOPPED,
    "wrong_width": STOPPED,
    "nan_pose": (PlanStatus.REJECTED,),
    "nan_twist": (PlanStatus.REJECTED,),
    "skewed_pose": (PlanStatus.REJECTED,),
    "absurd_speed": (PlanStatus.REJECTED,),
    "reversed_time": STOPPED,
    "teleport": STOPPED,
    "nan_reasoning": None,
    "other_epoch_reasoning": None,
    "short_scores": None,
    "huge_scores": None,
    "wild_history": None,
    "full_of_obstacles": None,
    "missing_cameras": None,
    "untrained": None,
    "wild_token": None,
    "wild_light": None,
}
"""Fault and the states it must end in (None: any, as long as it is flagged)."""
FLAGGED_ONLY = {"none", "huge_scores", "full_of_obstacles", "wild_history", "wild_token", "wild_light"}
"""Faults a plan may survive unflagged, because the input is legal."""

wild = st.one_of(st.floats(-(2.0**126), 2.0**126, width=32), st.sampled_from([0.0, 1e30, -1e30, 3e38]))
step = st.tuples(
    st.sampled_from(sorted(FAULTS)),
    st.integers(0, 2**31),
    wild,
    st.sampled_from(list(Command)),
    st.floats(-3.0, 25.0),
    st.integers(1, S),
)


def full_of_obstacles(rng: np.random.Generator) -> SparseVoxels:
    count = int(rng.integers(0, 3000))
    index = np.column_stack([rng.integers(0, n, count) for n in OCC3D_GRID.shape]).astype(np.int16)
    scores = rng.choice(np.array([0, 0.5, 1, np.nan], np.float32), count)
    return SparseVoxels(index, rng.integers(0, 17, count).astype(np.uint8), scores)


def every_fault(test: Callable) -> Callable:
    """Adds sequences that hold each fault once, after a sound scene, to those that are drawn."""
    faults = sorted(FAULTS)
    for first in range(0, len(faults), 3):
        together = ("none", *faults[first : first + 3])
        steps = [(fault, first, 1e30, Command.LEFT, 8.0, S // 2) for fault in together]
        test = example(steps=steps, brake=True, mode="causal")(test)
    return test


@every_fault
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(step, min_size=1, max_size=4), brake=st.booleans(), mode=st.sampled_from(["none", "causal", "paper"])
)
def test_no_input_crashes_or_passes_unflagged(
    make_planner, make_queries, make_history, make_reasoning, steps, brake, mode
):
    planner: Planner = make_planner(on_reject="brake" if brake else "empty", ego=mode, hidden=32)
    stamp, pose = 1_700_000_000 * S, planar(3.0, 4.0, 0.2)
    planned = False
    for fault, seed, value, command, speed, gap in steps:
        rng = np.random.default_rng(seed)
        pose = pose @ planar(max(speed, 0.0) * gap / S, 0, 0)
        stamp += gap
        queries = make_queries(speed=speed, stamp=stamp, pose=pose.copy(), count=6)
        history, reasoning, voxels = make_history(queries, 2.5), make_reasoning(stamp=stamp), SparseVoxels.empty()
        if fault == "nan_features":
            queries.features[rng.integers(6), rng.integers(128)] = rng.choice([np.nan, np.inf])
        elif fault == "nan_centres":
            queries.centres[rng.integers(6), 1] = np.nan
        elif fault == "empty_queries":
            queries = make_queries(speed=speed, stamp=stamp, pose=pose.copy(), count=0)
        elif fault == "wrong_width":
            narrow = int(rng.integers(1, 127))
            queries = replace(
                queries, features=queries.features[:, :narrow], view_features=queries.view_features[:, :narrow]
            )
        elif fault == "nan_pose":
            queries.ego.pose[rng.integers(3), rng.integers(4)] = np.nan
        elif fault == "nan_twist":
            queries.ego.twist[rng.integers(6)] = np.inf
        elif fault == "skewed_pose":
            queries.ego.pose[:3, :3] *= 1.0 + float(rng.uniform(0.05, 9))
        elif fault == "absurd_speed":
            queries.ego.twist[0] = rng.choice([-1, 1]) * 60.1 * 10.0 ** rng.uniform(0, 30)
        elif fault == "reversed_time":
            queries = replace(queries, stamp=1_600_000_000 * S)
        elif fault == "teleport":
            pose = pose @ planar(0, 1e4, 0)
            queries = make_queries(speed=speed, stamp=stamp, pose=pose.copy(), count=6)
        elif fault == "wild_light":
            away = float(rng.uniform(-1.0, 1.0) * 10.0 ** rng.uniform(0.0, 37.0))
            light = TrafficLight(str(rng.choice(LIGHT_COLOURS)), float(rng.uniform()), away)
            queries = replace(queries, traffic_light=light)
        elif fault == "nan_reasoning":
            (reasoning.token if seed % 2 else reasoning.anchor_scores)[3] = np.nan
        elif fault == "other_epoch_reasoning":
            reasoning = make_reasoning(stamp=stamp, epoch=7)
        elif fault == "short_scores":
            reasoning = make_reasoning(stamp=stamp, scores=np.zeros(seed % 18))
        elif fault == "huge_scores":
            reasoning.anchor_scores[:] = rng.permutation(np.linspace(-1, 1, 18)).astype(np.float32) * np.float32(value)
        elif fault == "wild_token":
            reasoning.token[:] = np.float32(value)
        elif fault == "wild_history":
            history.clear()
            for _ in range(40):
                at = stamp + int(rng.integers(-4 * S, S))
                history.add(at, planar(*rng.uniform(-1e6, 1e6, 2), rng.uniform(-9, 9)), rng.normal(0, 1e3, 6))
        elif fault == "full_of_obstacles":
            voxels = full_of_obstacles(rng)
            reasoning = make_reasoning(stamp=stamp, forecasts=tuple(full_of_obstacles(rng) for _ in range(3)))
        elif fault == "missing_cameras":
            queries = replace(queries, missing=("CAM_BACK",))
        elif fault == "untrained":
            queries = replace(queries, trained=False)
        if fault in ("reversed_time", "teleport") and not planned:
            # nothing came before: there is no way to tell
            continue
        try:
            plan = planner.plan(queries, voxels, reasoning, history, command, CommandSource.TOPIC)
        except InvalidInput:
            continue
        check(plan, FAULTS[fault], fault, queries.ego.speed, brake)
        # a broken ego state leaves the planner without a place to continue from
        planned = planned or fault not in ("nan_pose", "skewed_pose", "nan_twist", "absurd_speed")


@pytest.mark.parametrize("part", ["scorer", "decoder"])
def test_10_weights_that_are_no_numbers_plan_nothing(make_planner, make_queries, make_history, make_reasoning, part):
    planner: Planner = make_planner(hidden=32)
    with torch.no_grad():
        for weight in getattr(planner, part).parameters():
            weight.fill_(float("nan"))
    queries = make_queries()
    history = make_history(queries, 2.5)
    plan = planner.plan(queries, SparseVoxels.empty(), make_reasoning(), history, Command.LEFT, CommandSource.TOPIC)
    check(plan, STOPPED, "weights", queries.ego.speed, plan.status is PlanStatus.BRAKING)


def check(plan, expected, fault: str, speed: float, brake: bool) -> None:
    for name in ("waypoints", "heading", "speed", "acceleration", "candidates", "scores"):
        assert np.isfinite(getattr(plan, name)).all(), name
    fine = ("slowed", "red_light")  # what the gate does about the scene is no fault
    assert (plan.status is PlanStatus.OK) == all(r.startswith("skipped:") or r in fine for r in plan.reasons)
    if expected is not None:
        assert plan.status in expected, (fault, plan.reasons)
    if fault not in FLAGGED_ONLY:
        assert plan.status is not PlanStatus.OK, fault
        assert plan.reasons
    if plan.status in STOPPED:
        assert plan.chosen == -1
        assert plan.reasons
        assert len(plan.waypoints) == (STEPS if plan.status is PlanStatus.BRAKING else 0)
        if plan.status is PlanStatus.BRAKING:
            assert brake
            assert (np.diff(np.abs(plan.speed), prepend=abs(speed)) <= 1e-4).all()
    else:
        followed = kinematic_failures(ValidatorConfig(), plan.waypoints[None], speed)
        assert not any(bad[0] for bad in followed.values())
