"""Why a candidate was refused and why a plan is not OK: the same strings in plans, logs, diagnostics and docs."""

from __future__ import annotations

from enum import StrEnum


class RejectReason(StrEnum):
    """What the gate holds against one candidate trajectory."""

    NOT_FINITE = "not_finite"
    """A waypoint is NaN or infinite."""
    SPEED = "speed"
    """Faster than `validator.max_speed_mps`."""
    ACCELERATION = "acceleration"
    """Speeds up harder than `validator.max_acceleration_mps2`."""
    DECELERATION = "deceleration"
    """Brakes harder than `validator.max_deceleration_mps2`."""
    LATERAL_ACCELERATION = "lateral_acceleration"
    """Pushes sideways harder than `validator.max_lateral_acceleration_mps2`."""
    JERK = "jerk"
    """Acceleration changes faster than `validator.max_jerk_mps3`."""
    CURVATURE = "curvature"
    """Turns tighter than `validator.max_curvature_per_m`."""
    REVERSE = "reverse"
    """Goes backwards."""
    START = "start"
    """The first waypoint is not where the vehicle can be in half a second."""
    CONTINUITY = "continuity"
    """Jumps sideways or ahead of the plan before it."""
    COLLISION = "collision"
    """The outline, with `validator.collision_margin_m` around it, touches a predicted obstacle."""


class PlanReason(StrEnum):
    """What a plan's `reasons` may hold besides `rejected:<RejectReason>` and `skipped:<RejectReason>`."""

    UNTRAINED_WEIGHTS = "untrained_weights"
    """Encoder or planner has random weights."""
    COLLISION_UNCHECKED = "collision_unchecked"
    """The encoder is untrained: its occupancy says nothing about obstacles."""
    MISSING_CAMERA = "missing_camera"
    """Followed by `:NAME`."""
    REASONING_LATE = "reasoning_late"
    """No reasoning within `reasoning_max_age`; the planner scored alone."""
    REASONING_EPOCH = "reasoning_epoch_mismatch"
    """The reasoning is from before a jump of the clock."""
    REASONING_FUTURE = "reasoning_from_future"
    """The reasoning is stamped after the queries."""
    REASONING_INVALID = "reasoning_invalid"
    """The reasoning has another size than the planner wants, or a number that is not finite."""
    REASONING_UNTRAINED = "reasoning_untrained"
    """The reasoning comes from random weights; a trained planner does not use it."""
    FORECAST_MISSING = "forecast_missing"
    """Collision was checked against the present occupancy only."""
    COMMAND_TIMEOUT = "command_timeout"
    """The last command is older than `command_timeout`; straight was taken."""
    VOXELS_EMPTY = "voxels_empty"
    """The encoder sees nothing at all, not even ground."""
    QUERIES_EMPTY = "queries_empty"
    """The message holds no query."""
    QUERIES_INVALID = "queries_invalid"
    """The queries have another size than the planner wants, or a number that is not finite."""
    EGO_INVALID = "ego_state_invalid"
    """Pose or velocity is not finite."""
    EGO_SPEED_ABSURD = "ego_speed_absurd"
    """The velocity is beyond any car (60 m/s)."""
    EGO_TELEPORT = "ego_teleport"
    """The pose moved further than the velocity explains."""
    EGO_HISTORY_MISSING = "ego_history_missing"
    """Too few earlier poses for the features of ego motion."""
    STAMP_REVERSED = "stamp_reversed"
    """The queries are older than those of the plan before."""
    MODEL_NOT_FINITE = "model_not_finite"
    """The network returned a number that is not finite."""


def rejected(reason: RejectReason) -> str:
    """Entry of `Plan.reasons` when every candidate failed: one of the causes."""
    return f"rejected:{reason.value}"


def skipped(reason: RejectReason) -> str:
    """Entry of `Plan.reasons` when a better ranked candidate was passed over for this cause."""
    return f"skipped:{reason.value}"


def missing_camera(name: str) -> str:
    """Entry of `Plan.reasons` for a camera that delivered no image."""
    return f"{PlanReason.MISSING_CAMERA.value}:{name}"
