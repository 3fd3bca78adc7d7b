"""The dataclasses that stages exchange, with and without ROS.

Arrays are numpy, C-contiguous, host memory. Stamps are integer nanoseconds. The frame is base_link at the stamp
(x forward, y left, z up, origin under the middle of the rear axle on the ground) unless a field says otherwise.
Each class validates itself on construction and raises InvalidInput naming the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from .errors import InvalidInput
from .trace import Trace
from .voxels import SparseVoxels

NANOSECONDS = 1_000_000_000
"""Nanoseconds per second; stamps are integer nanoseconds."""
HORIZONS: tuple[float, ...] = (1.0, 2.0, 3.0)
"""Times of the occupancy forecasts, seconds after the stamp."""
STEPS = 6
STEP_SECONDS = 0.5
"""A trajectory has 6 waypoints, 0.5 s apart: 0.5 .. 3.0 s."""
WAYPOINT_TIMES = np.arange(1, STEPS + 1) * STEP_SECONDS
"""float64 [6], seconds after the stamp."""
REASONING_MAX_AGE = 2.0
"""Largest age of reasoning relative to a frame set at which it is still used, seconds."""


def check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int | None, ...], finite: bool = True) -> None:
    """Raise InvalidInput unless `array` has the dtype and shape (None = any length) and, if asked, finite numbers."""
    if not isinstance(array, np.ndarray):
        raise InvalidInput(name, f"want a numpy array, got {type(array).__name__}")
    if array.dtype != np.dtype(dtype):
        raise InvalidInput(name, f"want {np.dtype(dtype)}, got {array.dtype}")
    fits = array.ndim == len(shape) and all(w is None or w == g for w, g in zip(shape, array.shape, strict=True))
    if not fits:
        want = "[" + ", ".join("any" if w is None else str(w) for w in shape) + "]"
        raise InvalidInput(name, f"want shape {want}, got {list(array.shape)}")
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(name, "holds a number that is not finite")


BASE_FRAME = "base_link"
"""Default name of the vehicle frame (REP-105)."""


@dataclass(frozen=True, eq=False)
class EgoState:
    """Pose and velocity of the vehicle at one stamp.

    pose: float64 [4, 4], ego2fixed, metres; twist: float64 [6] = vx, vy, vz (m/s), wx, wy, wz (rad/s) in base_link;
    fixed_frame: name of the fixed frame (map, odom or world); base_frame: this vehicle's name for base_link.
    """

    pose: np.ndarray
    twist: np.ndarray
    fixed_frame: str
    base_frame: str = BASE_FRAME

    def __post_init__(self) -> None:
        check_array("ego.pose", self.pose, np.float64, (4, 4))
        check_array("ego.twist", self.twist, np.float64, (6,))
        if not self.fixed_frame:
            raise InvalidInput("ego.fixed_frame", "is empty")
        if not self.base_frame:
            raise InvalidInput("ego.base_frame", "is empty")

    @property
    def speed(self) -> float:
        """Speed along x, m/s, negative in reverse."""
        return float(self.twist[0])


@dataclass(frozen=True, eq=False)
class CameraFrames:
    """One frame set: synchronised camera images, prepared for a preset.

    stamp: ns, the reference camera's; epoch: incremented whenever time or pose jumps (every temporal memory must be
    cleared when it changes); names [N]; stamps int64 [N] ns; valid bool [N], False where the camera was missing and
    its image is black or held over; images uint8 [N, H, W, 3] RGB; ego2img float64 [N, 4, 4], base_link at `stamp`
    to pixels of the prepared image with each camera's own pose at its own stamp folded in
    (Ida x K x inv(T_global<-cam(t_cam)) x T_global<-ego(t)); ego at `stamp`; trace: see core.trace.
    """

    stamp: int
    epoch: int
    names: tuple[str, ...]
    stamps: np.ndarray
    valid: np.ndarray
    images: np.ndarray
    ego2img: np.ndarray
    ego: EgoState
    trace: Trace = ()

    def __post_init__(self) -> None:
        n = len(self.names)
        if n == 0 or len(set(self.names)) != n:
            raise InvalidInput("names", f"want distinct camera names, got {list(self.names)}")
        check_array("stamps", self.stamps, np.int64, (n,))
        check_array("valid", self.valid, np.bool_, (n,))
        check_array("images", self.images, np.uint8, (n, None, None, 3))
        check_array("ego2img", self.ego2img, np.float64, (n, 4, 4))
        if not self.valid.any():
            raise InvalidInput("valid", "every camera is missing")

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the cameras without a valid image in this set."""
        return tuple(n for n, ok in zip(self.names, self.valid, strict=True) if not ok)


LIGHT_COLOURS = ("red", "amber", "green")


@dataclass(frozen=True)
class TrafficLight:
    """The traffic light ahead: colour, one of LIGHT_COLOURS; probability 0..1 that it is lit and seen; distance from
    the origin of base_link to its stop line along the way there, m, negative past it.

    Raises InvalidInput for other values.
    """

    colour: str
    probability: float
    distance: float

    def __post_init__(self) -> None:
        if self.colour not in LIGHT_COLOURS:
            raise InvalidInput("traffic_light", f"colour {self.colour!r} is not one of {', '.join(LIGHT_COLOURS)}")
        if not (0.0 <= self.probability <= 1.0 and math.isfinite(self.distance)):
            raise InvalidInput("traffic_light", f"probability {self.probability}, distance {self.distance} m")


@dataclass(frozen=True, eq=False)
class SceneQueries:
    """Output of the occupancy encoder for a scene: the language model's only visual input.

    features float32 [Q, C]; centres float32 [Q, 3] m; points float32 [Q, R, 3] m; labels uint8 [Q, R], most likely
    class of each point; scores float32 [Q, R], its probability 0..1; view_features float32 [V, C], pooled image
    features for the global tokens; missing: cameras without an image; trained: False if weights are random; voxels:
    occupied voxels of the encoder's voxel head, None for an encoder without one (voxels are then made from the points);
    traffic_light: the one ahead, None if none is lit and seen; trace: see core.trace.
    """

    stamp: int
    epoch: int
    ego: EgoState
    features: np.ndarray
    centres: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    view_features: np.ndarray
    missing: tuple[str, ...] = ()
    trained: bool = False
    voxels: SparseVoxels | None = None
    traffic_light: TrafficLight | None = None
    trace: Trace = ()

    def __post_init__(self) -> None:
        check_array("features", self.features, np.float32, (None, None))
        q, c = self.features.shape
        check_array("centres", self.centres, np.float32, (q, 3))
        check_array("points", self.points, np.float32, (q, None, 3))
        r = self.points.shape[1]
        check_array("labels", self.labels, np.uint8, (q, r))
        check_array("scores", self.scores, np.float32, (q, r))
        check_array("view_features", self.view_features, np.float32, (None, c))


@dataclass(frozen=True, eq=False)
class Reasoning:
    """Output of the language model for a scene, from one prefill.

    token float32 [D], the reasoning token T_r; anchor_scores float32 [A], a logit per trajectory anchor;
    fused_features float32 [Q, C], queries after residual fusion with the language model's occupancy tokens;
    forecasts: voxels at HORIZONS seconds, in base_link at `stamp`; forecast_motion: the future ego motion they are
    conditioned on (planned, constant_velocity, oracle); text: the newest answer or description, may be empty;
    base_frame: this vehicle's name for base_link.
    """

    stamp: int
    epoch: int
    token: np.ndarray
    anchor_scores: np.ndarray
    fused_features: np.ndarray
    forecasts: tuple[SparseVoxels, ...]
    forecast_motion: str = "constant_velocity"
    text: str = ""
    trained: bool = False
    base_frame: str = BASE_FRAME

    def __post_init__(self) -> None:
        check_array("token", self.token, np.float32, (None,))
        check_array("anchor_scores", self.anchor_scores, np.float32, (None,))
        check_array("fused_features", self.fused_features, np.float32, (None, None))
        if self.forecasts and len(self.forecasts) != len(HORIZONS):
            raise InvalidInput("forecasts", f"want {len(HORIZONS)} horizons, got {len(self.forecasts)}")


TURN_OFFSET = 2.0
"""m of lateral offset after 3 s from which a trajectory counts as a turn, as in ST-P3 (Hu et al., ECCV 2022)."""


class Command(StrEnum):
    """Navigation command: the next turn of the route."""

    LEFT = "left"
    STRAIGHT = "straight"
    RIGHT = "right"

    @classmethod
    def of_offset(cls, lateral: float) -> Command:
        """Returns the turn of a path that ends `lateral` m to the left: TURN_OFFSET or more to a side."""
        return cls.LEFT if lateral >= TURN_OFFSET else cls.RIGHT if lateral <= -TURN_OFFSET else cls.STRAIGHT


class CommandSource(StrEnum):
    """Source of the command; part of every plan."""

    TOPIC = "topic"
    ROUTE = "route"
    DEFAULT = "default"
    """No command has been received yet: straight."""
    TIMEOUT = "timeout"
    """The last command is too old: straight, with a warning."""
    ORACLE = "oracle"
    """From the future ground truth; evaluation only."""


class PlanStatus(StrEnum):
    """Usability of a plan."""

    OK = "ok"
    DEGRADED = "degraded"
    """Usable, but something was missing, see `reasons`."""
    BRAKING = "braking"
    """No candidate passed the gate: the waypoints brake to a stop."""
    REJECTED = "rejected"
    """No trajectory: waypoints are empty."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A timed trajectory and how it was chosen.

    waypoints float32 [6, 2] m at WAYPOINT_TIMES ([0, 2] when rejected); heading float32 [6] rad; speed float32 [6]
    m/s; acceleration float32 [6] m/s^2; candidates float32 [K, 6, 2]; scores float32 [K], probability 0..1;
    chosen: index of the candidate, -1 if none passed; score_source: "language+ego" or "ego" (reasoning was late);
    reasons: enumerated strings, the same in logs, diagnostics and docs; base_frame: this vehicle's name for base_link;
    trace: see core.trace.
    """

    stamp: int
    epoch: int
    waypoints: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    candidates: np.ndarray
    scores: np.ndarray
    chosen: int
    command: Command
    command_source: CommandSource
    status: PlanStatus
    score_source: str = "ego"
    reasons: tuple[str, ...] = field(default=())
    trained: bool = False
    base_frame: str = BASE_FRAME
    trace: Trace = ()

    def __post_init__(self) -> None:
        steps = len(self.waypoints)
        if steps not in (0, STEPS):
            raise InvalidInput("waypoints", f"want {STEPS} or none, got {steps}")
        check_array("waypoints", self.waypoints, np.float32, (steps, 2))
        for name in ("heading", "speed", "acceleration"):
            check_array(name, getattr(self, name), np.float32, (steps,))
        k = len(self.candidates)
        check_array("candidates", self.candidates, np.float32, (k, STEPS, 2))
        check_array("scores", self.scores, np.float32, (k,))
        if not -1 <= self.chosen < k:
            raise InvalidInput("chosen", f"{self.chosen} is not one of {k} candidates")
