"""Rooms import only from rooms below them, and nothing below ros/ knows ROS."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sparseoccvla_ros"
BELOW = {
    "core": set(),
    "camera_sync": {"core"},
    "occupancy": {"core"},
    "reasoning": {"core"},
    "planning": {"core"},
    "runtime": {"core", "camera_sync", "occupancy", "reasoning", "planning"},
}
BELOW["world"] = BELOW["view"] = BELOW["runtime"] | {"runtime", "data", "world"}
BELOW["data"] = BELOW["runtime"] | {"runtime", "world"}
BELOW["eval"] = BELOW["runtime"] | {"runtime", "data", "world"}
BELOW["train"] = BELOW["eval"] | {"eval", "view"}
ROS_FREE = tuple(BELOW)
ROS_NAMES = ("rclpy", "builtin_interfaces", "launch", "launch_ros", "tf2_ros", "cv_bridge", "rcl_interfaces")


def imports(file: Path) -> set[str]:
    """Absolute names of every module a file imports."""
    names: set[str] = set()
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join([*base, *([node.module] if node.module else [])]))
            if node.module is None:
                names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROS_FREE)
def test_room_imports_only_from_below(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "sparseoccvla_ros" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
                assert parts[1] in BELOW[room] | {room}, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", [*ROS_FREE, "cli"])
def test_room_is_free_of_ros(room: str) -> None:
    for file in sorted((PACKAGE / room).rglob("*.py")):
        for name in imports(file):
            top = name.split(".")[0]
            assert top not in ROS_NAMES, f"{file.relative_to(ROOT)} imports {name}"
            assert not top.endswith("_msgs"), f"{file.relative_to(ROOT)} imports {name}"


def test_ros_room_does_not_import_nodes() -> None:
    for file in sorted((PACKAGE / "ros").rglob("*.py")):
        assert not any(n.startswith("sparseoccvla_ros.nodes") for n in imports(file)), file


def test_only_qos_builds_profiles() -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name != "qos.py":
            assert "QoSProfile(" not in file.read_text(), f"{file.relative_to(ROOT)} builds a QoSProfile of its own"


def test_nodes_are_thin() -> None:
    for file in sorted((PACKAGE / "nodes").glob("*.py")):
        assert len(file.read_text().splitlines()) <= 300, file


def test_no_print_below_the_command_line() -> None:
    for room in (*ROS_FREE, "ros", "nodes"):
        for file in sorted((PACKAGE / room).rglob("*.py")):
            calls = [
                node
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "print"
                and not any(k.arg == "file" for k in node.keywords)
            ]
            allowed = {"anchors.py", "cli/bag.py"}
            assert not calls or file.name in allowed, f"{file.relative_to(ROOT)} prints"
