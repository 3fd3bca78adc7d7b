"""Data of the planning evaluation: samples (moments with ground truth), predictions and methods.

Everything is in base_link at the stamp (x forward, y left, origin under the rear axle); the protocols convert to
their own frames. Step t is 0.5 s * t after the stamp; waypoints are steps 1..6, boxes steps 0..6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import STEPS, Command, CommandSource, Plan, check_array
from ...core.vehicle import NUSCENES_CAR, Vehicle
from ...planning.ego_history import FEATURE_NAMES

PEOPLE: tuple[str, ...] = tuple(
    f"human.pedestrian.{kind}"
    for kind in (
        "adult",
        "child",
        "wheelchair",
        "stroller",
        "personal_mobility",
        "police_officer",
        "construction_worker",
    )
)
EMERGENCY: tuple[str, ...] = ("vehicle.emergency.ambulance", "vehicle.emergency.police")
DETECTED_VEHICLES: tuple[str, ...] = tuple(
    f"vehicle.{kind}"
    for kind in ("car", "motorcycle", "bicycle", "bus.bendy", "bus.rigid", "truck", "construction", "trailer")
)
"""Vehicles that belong to a nuScenes detection class; emergency vehicles belong to none."""
OTHERS: tuple[str, ...] = (
    "animal",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
CATEGORIES: frozenset[str] = frozenset((*PEOPLE, *EMERGENCY, *DETECTED_VEHICLES, *OTHERS))
"""The 23 nuScenes category names. Protocols match by name because indices differ between releases of the data set."""
ROAD_EXTENT = 50.0
"""Distance from base_link to each side of the drivable raster, m."""
ROAD_CELLS = 1000
"""Cells (0.1 m) per side of the drivable raster."""


@dataclass(frozen=True, eq=False)
class AgentBoxes:
    """Annotated objects now and in the next six steps.

    centres: float64 [A, 7, 2] m; yaws: float64 [A, 7] rad, of the long side, counter-clockwise from x; present: bool
    [A, 7], annotated at that step (elsewhere centre and yaw may be NaN); sizes: float64 [A, 2] m, length along the yaw
    and width; categories: nuScenes names [A]; visibility: int8 [A], nuScenes token 1 (least) .. 4. Source: annotations
    of the present and future keyframes; ground truth only, never an input of a planner.
    """

    centres: np.ndarray
    yaws: np.ndarray
    present: np.ndarray
    sizes: np.ndarray
    categories: tuple[str, ...]
    visibility: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.categories)
        check_array("agents.centres", self.centres, np.float64, (count, STEPS + 1, 2), finite=False)
        check_array("agents.yaws", self.yaws, np.float64, (count, STEPS + 1), finite=False)
        check_array("agents.present", self.present, np.bool_, (count, STEPS + 1))
        check_array("agents.sizes", self.sizes, np.float64, (count, 2))
        check_array("agents.visibility", self.visibility, np.int8, (count,))
        unknown = sorted(set(self.categories) - CATEGORIES)
        if unknown:
            raise InvalidInput("agents.categories", f"{unknown[0]!r} is no nuScenes category")
        for name, values in (("centres", self.centres), ("yaws", self.yaws)):
            if not np.isfinite(values[self.present]).all():
                raise InvalidInput(f"agents.{name}", "is not finite where the agent is present")

    @classmethod
    def none(cls) -> AgentBoxes:
        """Returns no agents."""
        steps = STEPS + 1
        return cls(
            np.zeros((0, steps, 2)), np.zeros((0, steps)), np.zeros((0, steps), bool), np.zeros((0, 2)), (),
            np.zeros(0, np.int8),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sample:
    """A moment to plan from, with its ground truth.

    token: unique name; scene: its drive (the unit of the bootstrap); truth: float64 [6, 2] m, driven positions of
    base_link; mask: bool [6], False past the end of the recording (truth is finite but meaningless there);
    ego_features: float32 [FEATURE_NAMES], planning.ego_history.EgoHistory.features at the stamp; command and
    command_source: input of planners; drivable: bool [1000, 1000], row = y, column = x, both from -50 m, 0.1 m cells,
    None without a map; boundaries: road edges, float32 [P, 2] m each, None without a map; tags: subsets it belongs to
    (night, rain, a city); ego: the recording car, used only by the drivable-area measure (each protocol has its own).
    """

    token: str
    scene: str
    truth: np.ndarray
    mask: np.ndarray
    agents: AgentBoxes
    ego_features: np.ndarray
    command: Command = Command.STRAIGHT
    command_source: CommandSource = CommandSource.DEFAULT
    ego: Vehicle = NUSCENES_CAR
    drivable: np.ndarray | None = None
    boundaries: tuple[np.ndarray, ...] | None = None
    tags: frozenset[str] = field(default=frozenset())

    def __post_init__(self) -> None:
        for name in ("token", "scene"):
            if not getattr(self, name):
                raise InvalidInput(f"sample.{name}", "is empty")
        check_array("sample.truth", self.truth, np.float64, (STEPS, 2))
        check_array("sample.mask", self.mask, np.bool_, (STEPS,))
        check_array("sample.ego_features", self.ego_features, np.float32, (len(FEATURE_NAMES),))
        if self.drivable is not None:
            check_array("sample.drivable", self.drivable, np.bool_, (ROAD_CELLS, ROAD_CELLS))
        for line in self.boundaries or ():
            check_array("sample.boundaries", line, np.float32, (None, 2))

    @property
    def complete(self) -> bool:
        """Whether all six steps have a truth; most protocols skip other samples."""
        return bool(self.mask.all())

    @property
    def speed(self) -> float | None:
        """Current speed along x, m/s; None if the history does not have it."""
        known = self.ego_features[FEATURE_NAMES.index("has_velocity")] > 0
        return float(self.ego_features[FEATURE_NAMES.index("vx")]) if known else None

    @property
    def future_command(self) -> Command:
        """Command derived from the truth: a turn if 2 m or more to a side at its last valid step. Oracle only."""
        valid = np.flatnonzero(self.mask)
        return Command.of_offset(self.truth[valid[-1], 1] if len(valid) else 0.0)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Output of a method: waypoints float [6, 2] m, or None with the reason (no plan, unparsable text).

    Non-finite waypoints count as missing. command, source: the command given to the method, None if it takes none;
    chosen: index of the anchor or candidate, -1 if none.
    """

    waypoints: np.ndarray | None
    command: Command | None = None
    source: CommandSource | None = None
    chosen: int = -1
    reason: str = ""

    def __post_init__(self) -> None:
        if self.waypoints is not None and np.shape(self.waypoints) != (STEPS, 2):
            raise InvalidInput("prediction.waypoints", f"want [{STEPS}, 2], got {list(np.shape(self.waypoints))}")

    @property
    def usable(self) -> bool:
        """Whether it has six finite waypoints."""
        return self.waypoints is not None and bool(np.isfinite(self.waypoints).all())

    @classmethod
    def of_plan(cls, plan: Plan) -> Prediction:
        """Converts a plan as changed by the gate; a rejected plan has no waypoints."""
        waypoints = plan.waypoints if len(plan.waypoints) else None
        return cls(waypoints, plan.command, plan.command_source, plan.chosen, ",".join(plan.reasons))


@dataclass(frozen=True)
class Method:
    """A row of the report. predict: maps a sample to its prediction, None if missing; oracle: uses the future; about:
    one line for the report's legend."""

    name: str
    predict: Callable[[Sample], Prediction | None]
    oracle: bool = False
    about: str = ""

    @classmethod
    def stored(cls, name: str, predictions: Mapping[str, Prediction], oracle: bool = False, about: str = "") -> Method:
        """Creates a method with precomputed predictions, by token."""
        return cls(name, lambda sample: predictions.get(sample.token), oracle, about)


GROUND_TRUTH = Method(
    "ground truth", lambda sample: Prediction(sample.truth), oracle=True, about="self-test: L2 and collision must be 0"
)
