"""Why a candidate was refused and why a plan is not OK: the same strings in plans, logs, diagnostics and docs."""

from __future__ import annotations

from enum import StrEnum


class RejectReason(StrEnum):
    """What the gate holds against one candidate trajectory."""

    NOT_FINITE = "not_finite"
    SPEED = "speed"
    ACCELERATION = "acceleration"
    DECELERATION = "deceleration"
    LATERAL_ACCELERATION = "lateral_acceleration"
    JERK = "jerk"
    CURVATURE = "curvature"
    REVERSE = "reverse"
    START = "start"
    """The first waypoint is not where the vehicle can be in half a second."""
    CONTINUITY = "continuity"
    """Jumps sideways or ahead of the plan before it."""
    COLLISION = "collision"


class PlanReason(StrEnum):
    """What a plan's `reasons` may hold besides `rejected:<RejectReason>` and `skipped:<RejectReason>`."""

    UNTRAINED_WEIGHTS = "untrained_weights"
    COLLISION_UNCHECKED = "collision_unchecked"
    MISSING_CAMERA = "missing_camera"
    """Followed by `:NAME`."""
    REASONING_LATE = "reasoning_late"
    REASONING_EPOCH = "reasoning_epoch_mismatch"
    REASONING_FUTURE = "reasoning_from_future"
    REASONING_INVALID = "reasoning_invalid"
    REASONING_UNTRAINED = "reasoning_untrained"
    FORECAST_MISSING = "forecast_missing"
    """Collision was checked against the present occupancy only."""
    COMMAND_TIMEOUT = "command_timeout"
    VOXELS_EMPTY = "voxels_empty"
    QUERIES_EMPTY = "queries_empty"
    QUERIES_INVALID = "queries_invalid"
    EGO_INVALID = "ego_state_invalid"
    EGO_SPEED_ABSURD = "ego_speed_absurd"
    EGO_TELEPORT = "ego_teleport"
    EGO_HISTORY_MISSING = "ego_history_missing"
    STAMP_REVERSED = "stamp_reversed"
    MODEL_NOT_FINITE = "model_not_finite"


def rejected(reason: RejectReason) -> str:
    """Entry of `Plan.reasons` when every candidate failed: one of the causes."""
    return f"rejected:{reason.value}"


def skipped(reason: RejectReason) -> str:
    """Entry of `Plan.reasons` when a better ranked candidate was passed over for this cause."""
    return f"skipped:{reason.value}"


def missing_camera(name: str) -> str:
    """Entry of `Plan.reasons` for a camera that delivered no image."""
    return f"{PlanReason.MISSING_CAMERA.value}:{name}"
