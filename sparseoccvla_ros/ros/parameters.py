"""The parameters of every node: one table for declaration, YAML files, docs and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sparseoccvla_ros.camera_sync.config import MissingPolicy, SyncConfig
from sparseoccvla_ros.camera_sync.profiles import DEFAULT as DEFAULT_PROFILE
from sparseoccvla_ros.core.classes import PALETTES
from sparseoccvla_ros.core.errors import with_code
from sparseoccvla_ros.core.types import REASONING_MAX_AGE
from sparseoccvla_ros.core.vehicle import NUSCENES_CAR
from sparseoccvla_ros.planning.config import ValidatorConfig


@dataclass(frozen=True)
class Param:
    """One parameter.

    default: also sets the type; low/high: allowed range of a number (unit in `unit`); choices: allowed strings;
    live: may change while the node is active; fixed: never after start. All others may change while it is unconfigured,
    so a wrong value that made configure fail can be corrected without a restart.
    """

    name: str
    default: Any
    what: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    fixed: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor that `ros2 param describe` shows."""
        parts = [self.what]
        if self.unit:
            parts.append(f"[{self.unit}]")
        if self.choices:
            parts.append("one of: " + ", ".join(self.choices))
        out = ParameterDescriptor(name=self.name, description=" ".join(parts), read_only=self.fixed)
        if isinstance(self.default, float) and self.low is not None:
            out.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=float(self.high), step=0.0)]
        elif isinstance(self.default, int) and not isinstance(self.default, bool) and self.low is not None:
            out.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        out.additional_constraints = ", ".join(self.choices)
        return out

    def problem(self, value: Any) -> str | None:
        """Return why a value is refused, or None."""
        if self.choices and value not in self.choices:
            return f"{self.name} is '{value}', want one of: {', '.join(self.choices)}"
        if self.low is not None and not self.low <= value <= self.high:
            return f"{self.name} is {value}, want {self.low} .. {self.high} {self.unit}".rstrip()
        return None


_ALWAYS = (
    Param("autostart", True, "configure and activate without waiting for a lifecycle manager", fixed=True),
    Param("diagnostics_period", 1.0, "time between two /diagnostics messages", "s", 0.1, 10.0, fixed=True),
)
COMMON = (
    Param("preset", "tiny", "folder below models/, or a path to one, with config.yaml and weights"),
    *_ALWAYS,
    Param("stale_after", 1.5, "no input for this long makes the node STALE", "s", 0.1, 60.0, live=True),
)
_SHOWN = (
    Param(
        "palette",
        "live",
        "colours of points and markers: calm ones, or those of the occupancy literature",
        choices=tuple(PALETTES),
        live=True,
    ),
)
_MODEL = (
    Param("device", "auto", "where the model runs", choices=("auto", "cpu", "cuda")),
    Param("threads", 1, "CPU threads of the model", "threads", 1, 64),
)

_SYNC = SyncConfig()
_PROFILE = Param(
    "profile", DEFAULT_PROFILE, "cameras, topics and frames of a vehicle or bag: a name in config/profiles, or a file"
)
_LIMITS = ValidatorConfig()
_VEHICLE = (
    Param("vehicle.length_m", NUSCENES_CAR.length_m, "bumper to bumper", "m", 0.5, 30.0),
    Param("vehicle.width_m", NUSCENES_CAR.width_m, "overall width", "m", 0.3, 5.0),
    Param("vehicle.wheel_base_m", NUSCENES_CAR.wheel_base_m, "rear axle (base_link) to front axle", "m", 0.2, 20.0),
    Param("vehicle.rear_overhang_m", NUSCENES_CAR.rear_overhang_m, "rear axle back to the bumper", "m", 0.01, 10.0),
    Param("vehicle.height_m", NUSCENES_CAR.height_m, "ground to roof, for pictures", "m", 0.3, 6.0),
)
_VALIDATOR = tuple(
    Param(f"validator.{name}", getattr(_LIMITS, name), what, unit, low, high)
    for name, what, unit, low, high in (
        ("max_speed_mps", "maximum speed over any step", "m/s", 0.1, 70.0),
        ("max_acceleration_mps2", "maximum acceleration", "m/s^2", 0.1, 20.0),
        ("max_deceleration_mps2", "maximum deceleration", "m/s^2", 0.1, 20.0),
        ("max_lateral_acceleration_mps2", "maximum lateral acceleration", "m/s^2", 0.1, 20.0),
        ("max_jerk_mps3", "maximum longitudinal jerk", "m/s^3", 0.1, 200.0),
        ("max_curvature_per_m", "maximum curvature, one over the turning radius", "1/m", 0.001, 2.0),
        (
            "comfortable_deceleration_mps2",
            "deceleration of the braking path, unless more is needed",
            "m/s^2",
            0.1,
            20.0,
        ),
        ("collision_margin_m", "kept free around the outline", "m", 0.0, 3.0),
        (
            "max_obstacle_height_m",
            "obstacles that begin higher are ignored: the vehicle passes under them",
            "m",
            0.3,
            6.0,
        ),
    )
)

STAGES = ("camera_sync", "occupancy", "reasoning", "planning")

TABLES: dict[str, tuple[Param, ...]] = {
    "camera_sync": (
        *COMMON,
        _PROFILE,
        Param("reference_camera", "", "its stamp is the stamp of the frame set; empty takes the profile's"),
        Param("tolerance", _SYNC.tolerance, "largest spread of the stamps in a frame set", "s", 0.0, 1.0),
        Param("policy", _SYNC.policy.value, "what to do when a camera is missing", choices=tuple(MissingPolicy)),
        Param("max_hold", _SYNC.max_hold, "policy hold: oldest image that stands in for a missing one", "s", 0.0, 5.0),
        Param("max_rate", 30.0, "frame sets per second; more are dropped before decoding", "Hz", 0.1, 60.0, live=True),
        Param("tf_timeout", _SYNC.tf_timeout, "how long a frame set waits for the pose at its stamp", "s", 0.0, 5.0),
        Param("base_frame", "", "vehicle frame in tf (REP-105); empty takes the profile's"),
        Param("fixed_frames", [""], "fixed frames to try in this order; empty takes the profile's"),
        Param("odometry_topic", "", "odometry used where tf has no pose; empty takes the profile's"),
        Param("calibration_file", "", "YAML file with intrinsics and extrinsics; empty uses CameraInfo and tf"),
        Param("mosaic_rate", 2.0, "how often the debug mosaic is published; 0 never", "Hz", 0.0, 30.0, live=True),
        Param(
            "rectified",
            "",
            "images are rectified: P of CameraInfo describes them, D is left alone; empty takes the profile's",
            choices=("", "true", "false"),
        ),
    ),
    "occupancy": (
        *COMMON,
        *_MODEL,
        Param(
            "runtime",
            "torch",
            "what computes; engines come from ./run export; where one is missing torch computes and says why",
            choices=("torch", "compiled", "onnx", "openvino", "tensorrt"),
        ),
        Param("marker_rate", 1.0, "how often markers and legend are published; 0 never", "Hz", 0.0, 30.0, live=True),
        Param("marker_limit", 20000, "maximum number of cubes in a marker", "cubes", 1, 200000, live=True),
        *_SHOWN,
    ),
    "reasoning": (
        *COMMON,
        *_MODEL,
        Param("forecast_motion", "planned", "ego motion of forecasts", choices=("planned", "constant_velocity")),
        Param("question_period", 10.0, "time between two self-questions; 0 never", "s", 0.0, 3600.0, live=True),
        Param(
            "self_question", "What should the car do next, and why?", "question that the node asks itself", live=True
        ),
        Param(
            "answering_rate",
            1.25,
            "most states per second while answers are being written",
            "Hz",
            0.1,
            60.0,
            live=True,
        ),
        Param("max_tokens", 48, "longest answer", "tokens", 1, 1000, live=True),
        Param("time_limit", 15.0, "longest time to answer", "s", 0.1, 600.0, live=True),
        Param("queue_limit", 4, "questions that may wait; more are refused", "questions", 1, 100),
        Param("marker_rate", 1.0, "how often occupancy/forecast/markers is published", "Hz", 0.0, 30.0, live=True),
        Param("marker_limit", 20000, "maximum number of cubes in a marker", "cubes", 1, 200000, live=True),
        *_SHOWN,
    ),
    "planning": (
        *COMMON,
        *_MODEL,
        Param("command_timeout", 3.0, "older commands count as straight, with a warning", "s", 0.1, 600.0, live=True),
        Param("max_age", 2.0, "queries older than this by the node's clock are refused", "s", 0.1, 60.0, live=True),
        Param(
            "reasoning_max_age", REASONING_MAX_AGE, "older reasoning is not used for scores", "s", 0.0, 10.0, live=True
        ),
        Param(
            "reasoning_wait", 0.0, "how long a plan waits for the reasoning of its frame set", "s", 0.0, 60.0, live=True
        ),
        Param("on_reject", _LIMITS.on_reject, "when no candidate passes the gate", choices=("brake", "empty")),
        Param(
            "publish_empty_on_stop",
            True,
            "send one empty Path when a plan is rejected, none is made for stale_after, or the node is deactivated",
            live=True,
        ),
        *_VEHICLE,
        *_VALIDATOR,
    ),
    "follower": (
        *COMMON[1:],
        Param("odometry_topic", "/odom", "pose and speed of the vehicle, nav_msgs/Odometry"),
        Param("wheelbase", 2.588, "between the axles of the vehicle", "m", 0.1, 10.0),
        Param("max_age", 1.0, "older paths are not followed: the vehicle stops", "s", 0.1, 10.0),
        Param("rate", 20.0, "commands per second of the node's clock", "Hz", 1.0, 100.0),
    ),
    "simulator": (
        *COMMON[1:],
        Param("seed", 90_000, "seed of the world; ~/reset starts a drive with it", "", 0, 2_000_000_000, live=True),
        Param("scenario", "", "family of situations (./run drive --help); empty: the seed's own traffic", live=True),
        Param(
            "weather",
            "",
            "weather of the next drive; empty: the seed's",
            choices=("", "clear", "hazy", "overcast", "dusk", "foggy", "night"),
            live=True,
        ),
        Param("covered", "", "cameras whose lens is covered (black images), names with blanks between", live=True),
        Param("image_delay", 0.0, "how late images arrive, in the world's time", "s", 0.0, 2.0, live=True),
        Param("longest", 60.0, "a drive ends after this long in any case", "s", 1.0, 60.0, live=True),
        Param("lockstep", True, "wait for the follower's answer before every step"),
        Param("real_time_factor", 1.0, "without lockstep: seconds of the world per second", "", 0.05, 20.0, live=True),
        Param("answer_timeout", 60.0, "lockstep: longest wait before the world goes on", "s", 0.1, 300.0, live=True),
        Param(
            "wait_for",
            [*STAGES, "follower"],
            "nodes that have to be active before a drive begins, and without which no step waits",
        ),
        Param("height", 198, "height of the images", "px", 8, 2000),
        Param("width", 352, "width of the images", "px", 8, 4000),
        Param("jpeg_quality", 0, "JPEG quality of the images; 0 sends lossless PNG", "", 0, 100, live=True),
        Param("loop", False, "drive the next seed at the end"),
        Param("out", "", "folder for summary and log of each drive; empty writes nothing"),
    ),
    "bag_player": (
        *_ALWAYS,
        Param("bag", "", "rosbag2 folder or .mcap file"),
        _PROFILE,
        Param("rate", 1.0, "speed of playback", "times real time", 0.01, 100.0),
        Param("loop", False, "start again at the end"),
        Param("start_offset", 0.0, "skip this much at the start", "s", 0.0, 86400.0),
        Param("duration", 0.0, "stop after this much of the bag; 0 plays all", "s", 0.0, 86400.0),
        Param("start_paused", False, "wait for the ~/pause service"),
        Param("clock_rate", 50.0, "how often /clock is published", "Hz", 1.0, 1000.0),
        Param(
            "wait_for",
            1,
            "subscribers of every camera of the profile to wait for before starting",
            "subscribers",
            0,
            100,
        ),
        Param("wait_timeout", 60.0, "longest wait for them", "s", 0.0, 600.0),
        Param(
            "settle", 1.0, "from the last camera's subscriber to the first message: others match later", "s", 0.0, 60.0
        ),
        Param("exclude", [""], "topics not to play"),
    ),
    "cockpit": (
        *COMMON,
        Param("host", "127.0.0.1", "address that the page is offered on; others than this machine's need its token"),
        Param("port", 8088, "port of the page", "", 1024, 65535),
        Param("rate", 4.0, "most scenes per second", "Hz", 0.1, 30.0, live=True),
    ),
    "viewer": (
        *COMMON,
        Param("out", "", "folder for the recording, the output bag and the picture; empty writes nothing"),
        Param("serve", False, "show the stack live in a browser"),
        Param("port", 9090, "port of the browser view on this machine", "", 1024, 65535),
        Param("foxglove", False, "offer every message to Foxglove on this machine; needs foxglove-sdk"),
        Param("foxglove_port", 8765, "port for Foxglove", "", 1024, 65535),
        Param("record", True, "write the outputs to a bag and a recording below out"),
        Param(
            "picture_at", 15.0, "take scene.png from the plan closest to this time after the first", "s", 0.0, 3600.0
        ),
        Param(
            "label_topic",
            "/world/occupancy",
            "cloud of voxel centres with label to show beside the prediction; empty for none",
        ),
        *_VEHICLE,
    ),
}


def declare(node: Node, table: Iterable[Param], configured: Callable[[], bool] = lambda: True) -> SimpleNamespace:
    """Declare a table and return the values as attributes (dots in names become double underscores).

    configured: returns whether the node is configured, in which case only live parameters may change. An integer is
    accepted for a float (`rate: 2`).
    Raises rclpy's InvalidParameter* on a value outside its range; ValueError naming the parameter on a bad choice.
    Later changes of parameters update the returned attributes.
    """
    table = tuple(table)
    values = SimpleNamespace()
    for param in table:
        kind = {"type": ParameterType.PARAMETER_STRING_ARRAY} if isinstance(param.default, list) else {}
        descriptor = param.descriptor()
        if kind:
            descriptor.type = kind["type"]
        value = _declare(node, param, descriptor)
        problem = param.problem(value) if not isinstance(param.default, list) else None
        if problem:
            raise ValueError(with_code("parameter", problem))
        setattr(values, param.name.replace(".", "__"), value)
    by_name = {param.name: param for param in table}

    def accept(changes: list[Parameter]) -> SetParametersResult:
        for change in changes:
            param = by_name.get(change.name)
            if param is None:
                continue
            problem = param.problem(change.value)
            if problem is None and not param.live and configured():
                problem = f"{param.name} may change while the node is unconfigured only: clean it up first"
            if problem:
                return SetParametersResult(successful=False, reason=with_code("parameter", problem))
        for change in changes:
            if change.name in by_name:
                setattr(values, change.name.replace(".", "__"), change.value)
        return SetParametersResult(successful=True)

    def as_floats(changes: list[Parameter]) -> list[Parameter]:
        return [
            Parameter(c.name, value=float(c.value))
            if c.type_ == Parameter.Type.INTEGER and isinstance(getattr(by_name.get(c.name), "default", None), float)
            else c
            for c in changes
        ]

    node.add_pre_set_parameters_callback(as_floats)
    node.add_on_set_parameters_callback(accept)
    return values


def _declare(node: Node, param: Param, descriptor: ParameterDescriptor) -> Any:
    try:
        return node.declare_parameter(param.name, param.default, descriptor).value
    except InvalidParameterTypeException:
        given = node.declare_parameter(param.name, param.default, ParameterDescriptor(dynamic_typing=True)).value
        node.undeclare_parameter(param.name)
        if not (isinstance(param.default, float) and type(given) is int):
            raise
        return node.declare_parameter(param.name, float(given), descriptor, ignore_override=True).value


def section(values: SimpleNamespace, name: str) -> dict[str, Any]:
    """Return the parameters `name.*` of declared values, without the prefix."""
    prefix = f"{name}__"
    return {key.removeprefix(prefix): value for key, value in vars(values).items() if key.startswith(prefix)}


def as_yaml(nodes: Iterable[str] = tuple(TABLES)) -> str:
    """Return the text of config/params.yaml: every parameter with its default, unit, range and meaning."""
    lines = [
        "# Parameters of every node with their defaults. Made by `./run launch --print-params`; do not edit by hand."
    ]
    for node in nodes:
        lines += ["", f"/**/{node}:", "  ros__parameters:"]
        group = ""
        for param in TABLES[node]:
            indent, name = "    ", param.name
            if "." in name:
                head, name = name.split(".", 1)
                if head != group:
                    lines.append(f"    {head}:")
                    group = head
                indent = "      "
            limits = f" {param.low:g} .. {param.high:g}" if param.low is not None else ""
            choices = f" ({' | '.join(param.choices)})" if param.choices else ""
            unit = f" [{param.unit}{';' if limits and param.unit else ''}{limits}]" if param.unit or limits else ""
            lines.append(f"{indent}{name}: {_scalar(param.default)}  # {param.what}{unit}{choices}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    return repr(value)
