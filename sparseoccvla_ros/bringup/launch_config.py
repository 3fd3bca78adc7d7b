"""The nodes of the stack and the arguments of a launch: one table for `ros2 launch` and `./run launch`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from sparseoccvla_ros.camera_sync.profiles import DEFAULT as DEFAULT_PROFILE
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import bundled_bag

from ..ros.topics import NAMESPACE, TOPICS


@dataclass(frozen=True)
class NodeEntry:
    """One node process of a launch.

    name: node, executable, module in nodes/ and section of the parameter file; parameters: launch arguments that become
    parameters, as {parameter: argument}; big_messages: its process gets the Fast DDS profile for large messages;
    when: launch argument that switches it on ("" = always).
    """

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    big_messages: bool = False
    when: str = ""

    @property
    def module(self) -> str:
        """Python module with `main`."""
        return f"sparseoccvla_ros.nodes.{self.name}"


@dataclass(frozen=True)
class Argument:
    """One launch argument: name, default, description, allowed values (empty = any)."""

    name: str
    default: str
    what: str
    choices: tuple[str, ...] = ()


_BOOL = ("true", "false")

NODES: tuple[NodeEntry, ...] = (
    NodeEntry("camera_sync", {n: n for n in ("preset", "profile", "calibration_file", "stale_after")}, True),
    NodeEntry("occupancy", {n: n for n in ("preset", "device", "runtime", "stale_after")}),
    NodeEntry("reasoning", {n: n for n in ("preset", "device", "stale_after")}),
    NodeEntry("planning", {n: n for n in ("preset", "device", "stale_after", "reasoning_wait")}),
)
BAG_PLAYER = NodeEntry("bag_player", {n: n for n in ("bag", "profile", "rate", "loop", "start_offset")}, True)
COMPOSED = NodeEntry(
    "composed",
    {n: n for n in ("preset", "profile", "calibration_file", "device", "runtime", "stale_after", "reasoning_wait")},
    True,
)
"""The four stages in one process; parameters given on the command line reach the nodes that declare them."""
VIEWER = NodeEntry("viewer", {n: n for n in ("preset", "out", "serve", "stale_after")}, when="view")
COCKPIT = NodeEntry(
    "cockpit",
    {"preset": "preset", "host": "cockpit_host", "port": "cockpit_port", "stale_after": "stale_after"},
    when="cockpit",
)
FOLLOWER = NodeEntry("follower", {"stale_after": "stale_after"}, when="follow")
SIMULATOR = NodeEntry(
    "simulator",
    {n: n for n in ("seed", "scenario", "lockstep", "real_time_factor", "stale_after")} | {"out": "drive_out"},
    True,
    when="simulate",
)
CLOSED_LOOP = {
    "simulate": "true", "follow": "true", "view": "true", "use_sim_time": "true", "stale_after": "60.0",
    "reasoning_wait": "60.0",
}  # fmt: skip
"""Arguments set by launch/closed_loop.launch.py and ./run drive: in lockstep, wall time must not make a node STALE."""
SOURCES = (BAG_PLAYER, SIMULATOR)
"""Nodes that publish /clock; the launch ends when they end."""

ARGUMENTS: tuple[Argument, ...] = (
    Argument("preset", "tiny", "model preset: a folder below models/ or a path"),
    Argument("profile", DEFAULT_PROFILE, "cameras, topics and frames: a name in config/profiles, or a .yaml file"),
    Argument("device", "auto", "where the models run", ("auto", "cpu", "cuda")),
    Argument(
        "runtime",
        "torch",
        "what computes the occupancy, after ./run export",
        ("torch", "compiled", "onnx", "openvino", "tensorrt"),
    ),
    Argument("calibration_file", "", "YAML with intrinsics and extrinsics; empty uses CameraInfo and tf"),
    Argument("namespace", NAMESPACE, "namespace of nodes and topics"),
    Argument("params_file", "", "YAML with parameters; empty uses config/params.yaml of the package"),
    Argument("use_sim_time", "false", "take the time from /clock", _BOOL),
    Argument("autostart", "true", "configure and activate the nodes at once", _BOOL),
    Argument("composed", "false", "run the four stages in one process", _BOOL),
    Argument("respawn", "true", "start a node again when it dies", _BOOL),
    Argument("log_level", "info", "log level of the nodes", ("debug", "info", "warn", "error", "fatal")),
    Argument("view", "false", "start the viewer node", _BOOL),
    Argument("follow", "false", "start the follower node, which turns the path into speed and turn rate", _BOOL),
    Argument("simulate", "false", "start the simulator node, which drives as the follower commands", _BOOL),
    Argument("seed", "90000", "simulator: seed of the world"),
    Argument("scenario", "", "simulator: family of situations; empty is the seed's own traffic"),
    Argument("lockstep", "true", "simulator: wait for the answer to every step", _BOOL),
    Argument("real_time_factor", "1.0", "simulator: without lockstep, seconds of the world per second"),
    Argument("drive_out", "", "simulator: folder for summary and log of the drive"),
    Argument("stale_after", "", "seconds without input that make a node STALE; empty takes the parameter file's"),
    Argument(
        "reasoning_wait", "", "planning: seconds that a plan waits for its reasoning; empty: the parameter file's"
    ),
    Argument("serve", "false", "viewer: show the stack live in a browser", _BOOL),
    Argument("cockpit", "false", "start the cockpit: one web page to see, ask and steer", _BOOL),
    Argument("cockpit_host", "127.0.0.1", "cockpit: address of the page; others than this machine's need its token"),
    Argument("cockpit_port", "8088", "cockpit: port of the page"),
    Argument("out", "", "viewer: folder for recording, picture and bag of outputs"),
    Argument("rviz", "false", "start RViz with rviz/sparseoccvla.rviz (needs a ROS install)", _BOOL),
)
BAG_ARGUMENTS: tuple[Argument, ...] = (
    Argument("bag", "", "rosbag2 folder or .mcap file to play; empty plays the bundled world"),
    Argument("rate", "1.0", "speed of playback, times real time"),
    Argument("loop", "false", "start again at the end", _BOOL),
    Argument("start_offset", "0.0", "skip this much at the start, in seconds"),
)


def resolve(given: Mapping[str, str], with_bag: bool) -> dict[str, str]:
    """Returns every argument with its given or default value. Raises InvalidInput for an unknown name or bad value."""
    arguments = ARGUMENTS + (BAG_ARGUMENTS if with_bag else ())
    values = {a.name: a.default for a in arguments}
    if with_bag:
        values["use_sim_time"] = "true"
    for name, value in given.items():
        if name not in values:
            raise InvalidInput(name, f"is no launch argument; known are {', '.join(values)}")
        values[name] = value
    for argument in arguments:
        if argument.choices and values[argument.name] not in argument.choices:
            raise InvalidInput(
                argument.name, f"is '{values[argument.name]}', want one of {', '.join(argument.choices)}"
            )
    profile(values["profile"])
    # ROS needs an absolute namespace: veh1 is read as /veh1.
    namespace = values["namespace"] = "/" + values["namespace"].strip("/")
    if namespace != "/" and not re.fullmatch(r"(/[A-Za-z_][A-Za-z0-9_]*)+", namespace):
        raise InvalidInput("namespace", f"'{values['namespace']}' is none: letters, digits and _ between slashes")
    return values


def resolve_checked(given: Mapping[str, str], with_bag: bool) -> dict[str, str]:
    """`resolve` for a launch: replaces an empty bag by the bundled one and checks files before any node starts.

    Raises InvalidInput naming the argument when its file is missing.
    """
    values = resolve(given, with_bag)
    if with_bag and not values["bag"]:
        values["bag"] = str(bundled_bag())
    for name in ("params_file", "calibration_file", *(["bag"] if with_bag else [])):
        if values[name] and not Path(values[name]).exists():
            raise InvalidInput(name, f"{values[name]} does not exist")
    return values


def process_entries(values: Mapping[str, str], with_bag: bool) -> list[NodeEntry]:
    """Returns the processes to start for resolved arguments; the source of /clock is last."""
    stages = (COMPOSED,) if values["composed"] == "true" else NODES
    chosen = [*stages, FOLLOWER, VIEWER, COCKPIT, SIMULATOR, *([BAG_PLAYER] if with_bag else [])]
    return [n for n in chosen if not n.when or values[n.when] == "true"]


def typed(text: str) -> bool | int | float | str:
    """Returns a parameter's text as the value that YAML would read."""
    if text in _BOOL:
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parameters_of(entry: NodeEntry, values: Mapping[str, str]) -> dict[str, str]:
    """Returns the parameters that the arguments set for a node, as text; an empty value keeps the parameter file's."""
    chosen = {p: values[a] for p, a in entry.parameters.items() if a in values and values[a] != ""}
    chosen["autostart"] = values["autostart"]
    chosen["use_sim_time"] = "false" if entry in SOURCES else values["use_sim_time"]
    return chosen


def rviz_settings(values: Mapping[str, str]) -> dict[str, Any]:
    """Returns the arguments of RViz's Node action: its clock, its namespace, and the topics in that namespace for those
    of RViz's configuration, which uses the default one. Raises InvalidInput("rviz") when rviz2 is not installed."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        raise InvalidInput("rviz", "rviz2 is not installed; without it use view:=true serve:=true") from None
    namespace = values["namespace"].rstrip("/")
    names = [(t.full_name, f"{namespace}/{t.name}") for t in TOPICS if not t.name.startswith("/")]
    clock = {"use_sim_time": values["use_sim_time"] == "true"}
    return {"namespace": namespace, "parameters": [clock], "remappings": names}
