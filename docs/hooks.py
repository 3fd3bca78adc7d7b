"""Tables of the site, made from the tables in the code: a comment `<!-- table: KIND [NAME] -->` becomes one.

MkDocs calls `on_page_markdown`; the tests call `expand`, which needs no MkDocs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer.main
import yaml
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.cli.__main__ import complete_app
from sparseoccvla_ros.eval.report.tables import markdown_table
from sparseoccvla_ros.ros.diagnostics import LEVELS, State
from sparseoccvla_ros.ros.parameters import COMMON, TABLES, Param
from sparseoccvla_ros.ros.qos import PROFILES
from sparseoccvla_ros.ros.topics import BY_NAME, OUTPUTS, TOPICS, Topic

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sparseoccvla_ros"
MESSAGES = ROOT / "ros2_ws" / "src" / "sparseoccvla_msgs"
MARKER = re.compile(r"^<!-- table: (\w+)(?: (\S+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return expand(markdown)


def expand(markdown: str) -> str:
    """A page with its tables. Raises KeyError on a marker that means nothing."""
    return MARKER.sub(lambda found: KINDS[found[1]](*([found[2]] if found[2] else [])), markdown)


def _code(values: Iterable[object], between: str = " ") -> str:
    return between.join(f"`{value}`" for value in values)


# --- topics


def _topic_rows(topics: Iterable[Topic], pages: str = "") -> Iterator[tuple[str, ...]]:
    """Rows of topics. pages: relative path from the page to topics.md and messages.md."""
    for topic in topics:
        package, _, kind = topic.type.split("/")
        message = f"{package}/{kind}"
        if package == MESSAGES.name:
            message = f"[{message}]({pages}messages.md#{kind.lower()})"
        yield f"`{topic.name}`", message, f"[{topic.qos}]({pages}topics.md#qos)", topic.what


_TOPIC_HEAD = ("topic", "message", "QoS", "what")


def publishes(node: str) -> str:
    """Outputs of a node."""
    return markdown_table(_TOPIC_HEAD, _topic_rows((t for t in OUTPUTS if t.node in (node, "every")), pages="../"))


@cache
def inputs_of(node: str) -> tuple[str, ...]:
    """Topics of the table that a node's source subscribes to."""
    text = (PACKAGE / "nodes" / f"{node}.py").read_text()
    return tuple(dict.fromkeys(re.findall(r'self\.(?:stage_)?input\(\s*"([^"]+)"', text)))


def subscribes(node: str) -> str:
    """Inputs of a node that stand in the table of topics."""
    return markdown_table(_TOPIC_HEAD, _topic_rows((BY_NAME[name] for name in inputs_of(node)), pages="../"))


def services(node: str) -> str:
    """Services of a node, without those of every lifecycle node."""
    text = (PACKAGE / "nodes" / f"{node}.py").read_text()
    types = {"Trigger": "std_srvs/Trigger", "SetBool": "std_srvs/SetBool"}
    return markdown_table(
        ("service", "type"), ((f"`{n}`", types[k]) for k, n in re.findall(r'control\((\w+), "([^"]+)"', text))
    )


def topics() -> str:
    """Every topic with who publishes and who reads it."""

    def readers(topic: Topic) -> str:
        return ", ".join(f"[{n}](nodes/{n}.md)" for n in TABLES if topic.name in inputs_of(n))

    def source(topic: Topic) -> str:
        return {"every": "every node", "user": "you"}.get(topic.node) or f"[{topic.node}](nodes/{topic.node}.md)"

    rows = (
        (*row[:2], source(t), readers(t), t.qos, t.what) for t, row in zip(TOPICS, _topic_rows(TOPICS), strict=True)
    )
    return markdown_table(("topic", "message", "from", "read by", "QoS", "what"), rows)


def qos() -> str:
    """The profiles of ros/qos.py."""
    rows = (
        (
            f"`{name}`",
            "reliable" if profile.reliability == ReliabilityPolicy.RELIABLE else "best effort",
            "transient local" if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL else "volatile",
            str(profile.depth),
        )
        for name, profile in PROFILES.items()
    )
    return markdown_table(("profile", "reliability", "durability", "depth (keep last)"), rows)


# --- parameters, launch arguments, profiles


def parameters(node: str) -> str:
    """Parameters of a node."""
    return _parameter_table(TABLES[node]) + f"\n\n{example(node)}"


def example(node: str) -> str:
    """The node's section of config/params.yaml, to copy from; folded."""
    (section,) = re.findall(rf"^/\*\*/{node}:\n(?: .*\n|\n)+", (ROOT / "config" / "params.yaml").read_text(), re.M)
    lines = ("```yaml", *section.rstrip().splitlines(), "```")
    return '??? example "All of them with their defaults, as YAML"\n' + "\n".join(f"    {line}" for line in lines)


def _parameter_table(params: Iterable[Param]) -> str:
    head = ("parameter", "type", "default", "unit, range", "meaning", "may change")
    return markdown_table(
        head, ((f"`{p.name}`", _type(p), _default(p.default), _range(p), p.what, _changes(p)) for p in params)
    )


def _type(param: Param) -> str:
    names = {bool: "bool", int: "integer", float: "double", list: "string[]"}
    return names.get(type(param.default), "string")


def _default(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
    if isinstance(value, list):
        text = "[" + ", ".join(v for v in value if v) + "]"
    return f"`{text}`" if text else "empty"


def _range(param: Param) -> str:
    if param.choices:
        return ", ".join(f"`{c}`" if c else "empty" for c in param.choices)
    limits = f"{param.low:g} to {param.high:g}" if param.low is not None else ""
    return " ".join(part for part in (limits, param.unit) if part)


def _changes(param: Param) -> str:
    return "any time" if param.live else "at start only" if param.fixed else "while unconfigured"


def common_parameters() -> str:
    """Parameters that nearly every node has."""
    return _parameter_table(COMMON)


def launch_arguments() -> str:
    """Arguments of ros2 launch and ./run launch."""
    every = ((a, "") for a in launch_config.ARGUMENTS)
    bag = ((a, "with a bag") for a in launch_config.BAG_ARGUMENTS)
    rows = (
        (f"`{a.name}`", f"`{a.default}`" if a.default else "empty", _code(a.choices, ", "), a.what, when)
        for a, when in (*every, *bag)
    )
    return markdown_table(("argument", "default", "choices", "meaning", "only"), rows)


def profiles() -> str:
    """Input profiles of config/profiles."""
    rows = []
    for file in sorted((ROOT / "config" / "profiles").glob("*.yaml")):
        entry, name = yaml.safe_load(file.read_text()), file.stem
        cameras, ego = entry["shared"], entry["ego"]
        calibration = "file" if not cameras["info_topic"] or entry["mounts"] == "file" else "topics"
        pose = ", ".join(
            [
                *(f"tf `{f}`" for f in ego["fixed_frames"]),
                *([f"`{ego['odometry_topic']}`"] * bool(ego["odometry_topic"])),
            ]
        )
        image = f"`{cameras['image_topic']}` ({cameras['transport']})"
        info = f"`{cameras['info_topic']}`" if cameras["info_topic"] else "none"
        rows.append((f"`{name}`", entry["description"], image, info, calibration, pose))
    return markdown_table(("profile", "made for", "images", "CameraInfo", "calibration from", "pose from"), rows)


# --- messages and reasons


def message(name: str) -> str:
    """One interface file as it is."""
    (file,) = MESSAGES.glob(f"*/{name}.*")
    return f"```\n{file.read_text().strip()}\n```"


def _members(file: str, name: str) -> Iterator[tuple[str, str]]:
    """Values of an enumeration and the docstrings below them."""
    tree = ast.parse((PACKAGE / file).read_text())
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield str(node.value.value), " ".join(str(told).split())


def states() -> str:
    """What a node may say of itself."""
    levels = {b"\x00": "OK", b"\x01": "WARN", b"\x02": "ERROR", b"\x03": "STALE"}
    told = dict(_members("ros/diagnostics.py", "State"))
    rows = ((f"`{s.value}`", levels[LEVELS[s]], told[s.value]) for s in State)
    return markdown_table(("state", "level", "means"), rows)


def drop_reasons() -> str:
    """Why images and frame sets are lost."""
    return markdown_table(
        ("reason", "means"), ((f"`{n}`", w) for n, w in _members("camera_sync/drop_reasons.py", "DropReason"))
    )


def reject_reasons() -> str:
    """What the gate holds against a candidate."""
    return markdown_table(
        ("reason", "means"), ((f"`{n}`", w) for n, w in _members("planning/plan_reasons.py", "RejectReason"))
    )


def plan_reasons() -> str:
    """Why a plan is not simply ok."""
    return markdown_table(
        ("reason", "means"), ((f"`{n}`", w) for n, w in _members("planning/plan_reasons.py", "PlanReason"))
    )


def protocols() -> str:
    """The open-loop protocols of planning."""
    from sparseoccvla_ros.eval.protocols.planning import PROTOCOLS  # imports torch

    rows = ((p.name, p.l2.value, p.collision.value, p.boxes, p.grid, p.frame, p.road or "") for p in PROTOCOLS)
    return markdown_table(("protocol", "L2", "collision", "obstacles", "grid", "frame", "road test"), rows)


# --- verbs


@cache
def command() -> Any:
    """./run as typer's click sees it."""
    return typer.main.get_command(complete_app())


def verbs() -> str:
    """Every verb with its options."""
    return "\n\n".join(_verb(command(), "./run"))


def _verb(verb: Any, name: str) -> Iterator[str]:
    parameters = [p for p in verb.params if p.name != "help"]
    if name != "./run":
        yield f"{'#' * (1 + len(name.split()) - 1)} `{name}`"
        yield " ".join((verb.help or "").split()).replace("[", "\\[")
        if parameters:
            yield markdown_table(("option", "default", "meaning"), map(_option, parameters))
    for word, child in getattr(verb, "commands", {}).items():
        yield from _verb(child, f"{name} {word}")


def _option(parameter: Any) -> tuple[str, str, str]:
    name = parameter.name.upper() if parameter.param_type_name == "argument" else parameter.opts[-1]
    default = parameter.default
    shown = "" if default is None or callable(default) or "Sentinel" in type(default).__name__ else str(default)
    shown = "off" if shown == "False" else "on" if shown == "True" else shown
    required = " **required**" if parameter.required else ""
    return f"`{name}`", f"`{shown}`" if shown else "", f"{getattr(parameter, 'help', None) or ''}{required}"


KINDS = {
    make.__name__: make
    for make in (
        publishes, subscribes, services, topics, qos, parameters, common_parameters, launch_arguments, profiles,
        message, states, drop_reasons, reject_reasons, plan_reasons, protocols, verbs,
    )
}  # fmt: skip
"""What a marker may ask for."""
