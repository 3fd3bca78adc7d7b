"""Reasons why a candidate is rejected or a plan is not OK; the same strings in plans, logs, diagnostics and docs."""

from __future__ import annotations

from enum import StrEnum


class RejectReason(StrEnum):
    """Reasons of the gate for rejecting a candidate trajectory."""

    NOT_FINITE = "not_finite"
    """A waypoint is NaN or infinite."""
    SPEED = "speed"
    """Faster than `validator.max_speed_mps`."""
    ACCELERATION = "acceleration"
    """Accelerates harder than `validator.max_acceleration_mps2`."""
    DECELERATION = "deceleration"
    """Brakes harder than `validator.max_deceleration_mps2`."""
    LATERAL_ACCELERATION = "lateral_acceleration"
    """Lateral acceleration above `validator.max_lateral_acceleration_mps2`."""
    JERK = "jerk"
    """Acceleration changes faster than `validator.max_jerk_mps3`."""
    CURVATURE = "curvature"
    """Turns tighter than `validator.max_curvature_per_m`."""
    REVERSE = "reverse"
    """Goes backwards."""
    START = "start"
    """The first waypoint is too far from where the present velocity leads in 0.5 s."""
    CONTINUITY = "continuity"
    """Jumps sideways or ahead relative to the previous plan."""
    COLLISION = "collision"
    """The outline plus `validator.collision_margin_m` touches an obstacle of the present or forecast occupancy."""


class PlanReason(StrEnum):
    """Entries of a plan's `reasons` besides `rejected:<RejectReason>` and `skipped:<RejectReason>`."""

    UNTRAINED_WEIGHTS = "untrained_weights"
    """Encoder or planner has random weights."""
    COLLISION_UNCHECKED = "collision_unchecked"
    """Candidates were not checked for collisions, because the encoder is untrained."""
    MISSING_CAMERA = "missing_camera"
    """A camera delivered no usable image; followed by `:NAME`."""
    REASONING_LATE = "reasoning_late"
    """No reasoning within `reasoning_max_age`; the anchor scores do not include the language model."""
    REASONING_EPOCH = "reasoning_epoch_mismatch"
    """The reasoning is from another epoch, i.e. from before a jump of clock or pose."""
    REASONING_FUTURE = "reasoning_from_future"
    """The reasoning has a later stamp than the queries."""
    REASONING_INVALID = "reasoning_invalid"
    """The reasoning has the wrong size for the planner, or a number that is not finite."""
    REASONING_UNTRAINED = "reasoning_untrained"
    """The reasoning comes from random weights; a trained planner ignores it."""
    FORECAST_MISSING = "forecast_missing"
    """Collision was checked against the present occupancy only."""
    COMMAND_TIMEOUT = "command_timeout"
    """The last command is older than `command_timeout`; the plan assumes straight."""
    VOXELS_EMPTY = "voxels_empty"
    """The occupancy has no voxel at all, not even ground."""
    QUERIES_EMPTY = "queries_empty"
    """The message contains no query."""
    QUERIES_INVALID = "queries_invalid"
    """The queries have the wrong size for the planner, or a number that is not finite."""
    EGO_INVALID = "ego_state_invalid"
    """Pose or velocity is not finite, or the pose is not a rigid transform."""
    EGO_SPEED_ABSURD = "ego_speed_absurd"
    """The speed exceeds 60 m/s, more than any car drives."""
    EGO_TELEPORT = "ego_teleport"
    """The pose moved further since the previous plan than the velocity explains."""
    EGO_HISTORY_MISSING = "ego_history_missing"
    """The ego history has no state for the stamp of the queries."""
    STAMP_REVERSED = "stamp_reversed"
    """The queries are older than those of the previous plan."""
    SLOWED = "slowed"
    """The path is driven more slowly than the network planned, because at its speed it would hit an obstacle."""
    RED_LIGHT = "red_light"
    """The line of a red light, or of an amber one that it can stop at, is an obstacle."""
    RESUMING = "resuming"
    """It stood for five seconds: for eight metres only obstacles of 80 % count, and the network plans as if driving."""
    MODEL_NOT_FINITE = "model_not_finite"
    """The network returned a number that is not finite."""


def rejected(reason: RejectReason) -> str:
    """Returns the entry of `Plan.reasons` for one cause when every candidate failed."""
    return f"rejected:{reason.value}"


def skipped(reason: RejectReason) -> str:
    """Returns the entry of `Plan.reasons` when a higher-ranked candidate was skipped for this cause."""
    return f"skipped:{reason.value}"


def missing_camera(name: str) -> str:
    """Returns the entry of `Plan.reasons` for a camera without a usable image."""
    return f"{PlanReason.MISSING_CAMERA.value}:{name}"
