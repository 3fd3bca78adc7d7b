"""The dataclasses that stages exchange refuse what does not fit, and name the field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import (
    HORIZONS,
    STEPS,
    WAYPOINT_TIMES,
    CameraFrames,
    Command,
    CommandSource,
    EgoState,
    Plan,
    PlanStatus,
    Reasoning,
    SceneQueries,
    check_array,
)
from sparseoccvla_ros.core.voxels import SparseVoxels


def ego():
    return EgoState(np.eye(4), np.array([4.0, 0, 0, 0, 0, 0.1]), "map")


def frames():
    return CameraFrames(
        stamp=10,
        epoch=0,
        names=("left", "right"),
        stamps=np.array([10, 11]),
        valid=np.array([True, False]),
        images=np.zeros((2, 8, 16, 3), np.uint8),
        ego2img=np.stack([np.eye(4)] * 2),
        ego=ego(),
    )


def queries():
    return SceneQueries(
        stamp=10,
        epoch=0,
        ego=ego(),
        features=np.zeros((5, 16), np.float32),
        centres=np.zeros((5, 3), np.float32),
        points=np.zeros((5, 4, 3), np.float32),
        labels=np.zeros((5, 4), np.uint8),
        scores=np.zeros((5, 4), np.float32),
        view_features=np.zeros((2, 16), np.float32),
    )


def reasoning():
    return Reasoning(
        stamp=10,
        epoch=0,
        token=np.zeros(8, np.float32),
        anchor_scores=np.zeros(18, np.float32),
        fused_features=np.zeros((5, 16), np.float32),
        forecasts=(SparseVoxels.empty(),) * len(HORIZONS),
    )


def plan():
    return Plan(
        stamp=10,
        epoch=0,
        waypoints=np.zeros((STEPS, 2), np.float32),
        heading=np.zeros(STEPS, np.float32),
        speed=np.zeros(STEPS, np.float32),
        acceleration=np.zeros(STEPS, np.float32),
        candidates=np.zeros((3, STEPS, 2), np.float32),
        scores=np.zeros(3, np.float32),
        chosen=1,
        command=Command.LEFT,
        command_source=CommandSource.TOPIC,
        status=PlanStatus.OK,
    )


def test_good_ones_are_taken():
    assert frames().missing == ("right",)
    assert ego().speed == 4.0
    assert queries().trained is False
    assert reasoning().forecast_motion == "constant_velocity"
    assert plan().score_source == "ego"
    assert np.allclose(WAYPOINT_TIMES, (0.5, 1.0, 1.5, 2.0, 2.5, 3.0))


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (frames, "names", ()),
        (frames, "names", ("left", "left")),
        (frames, "stamps", np.array([10, 11], np.int32)),
        (frames, "stamps", np.array([10])),
        (frames, "valid", np.array([False, False])),
        (frames, "valid", np.array([1, 0])),
        (frames, "images", np.zeros((2, 8, 16, 1), np.uint8)),
        (frames, "images", np.zeros((2, 8, 16, 3), np.float32)),
        (frames, "ego2img", np.stack([np.full((4, 4), np.nan)] * 2)),
        (frames, "ego2img", np.zeros((2, 3, 4))),
        (queries, "features", np.zeros((5, 16))),
        (queries, "centres", np.zeros((4, 3), np.float32)),
        (queries, "points", np.full((5, 4, 3), np.inf, np.float32)),
        (queries, "labels", np.zeros((5, 3), np.uint8)),
        (queries, "scores", np.zeros((5, 3), np.float32)),
        (queries, "view_features", np.zeros((2, 8), np.float32)),
        (reasoning, "token", np.zeros((1, 8), np.float32)),
        (reasoning, "anchor_scores", np.full(18, np.nan, np.float32)),
        (reasoning, "fused_features", [[0.0]]),
        (reasoning, "forecasts", (SparseVoxels.empty(),)),
        (plan, "waypoints", np.zeros((5, 2), np.float32)),
        (plan, "heading", np.zeros(5, np.float32)),
        (plan, "speed", np.full(STEPS, np.nan, np.float32)),
        (plan, "acceleration", np.zeros(STEPS)),
        (plan, "candidates", np.zeros((3, 4, 2), np.float32)),
        (plan, "scores", np.zeros(2, np.float32)),
        (plan, "chosen", 3),
        (plan, "chosen", -2),
    ],
)
def test_the_field_that_does_not_fit_is_named(make, field, value):
    with pytest.raises(InvalidInput) as caught:
        replace(make(), **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("pose", np.eye(3)), ("pose", np.full((4, 4), np.nan)), ("twist", np.zeros(5)), ("fixed_frame", "")],
)
def test_ego_state_refuses(field, value):
    with pytest.raises(InvalidInput) as caught:
        replace(ego(), **{field: value})
    assert caught.value.field == f"ego.{field}"


def test_a_rejected_plan_is_empty():
    none = np.zeros(0, np.float32)
    empty = replace(
        plan(),
        waypoints=np.zeros((0, 2), np.float32),
        heading=none,
        speed=none,
        acceleration=none,
        chosen=-1,
        status=PlanStatus.REJECTED,
    )
    assert len(empty.waypoints) == 0


def test_enumerations_are_their_strings():
    """They travel in messages, logs and parameters as text."""
    assert Command("left") is Command.LEFT
    assert {source.value for source in CommandSource} == {"topic", "route", "default", "timeout", "oracle"}
    assert {status.value for status in PlanStatus} == {"ok", "degraded", "braking", "rejected"}


def test_check_array_names_dtype_and_shape():
    with pytest.raises(InvalidInput, match="want float32, got float64"):
        check_array("x", np.zeros(3), np.float32, (3,))
    with pytest.raises(InvalidInput, match=r"want shape \[any, 3\], got \[3\]"):
        check_array("x", np.zeros(3, np.float32), np.float32, (None, 3))
    with pytest.raises(InvalidInput, match="got list"):
        check_array("x", [1.0], np.float32, (1,))
    check_array("x", np.array([np.nan]), np.float64, (1,), finite=False)
