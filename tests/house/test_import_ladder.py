"""Rooms import only from rooms below them, and nothing below ros/ knows ROS."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sparseoccvla_ros"
STAGES = {"camera_sync", "occupancy", "reasoning", "planning"}
BELOW = {
    "core": set(),
    **{stage: {"core"} for stage in STAGES},
    "runtime": {"core", *STAGES},
}
BELOW["pipeline"] = BELOW["runtime"] | {"runtime"}
BELOW["world"] = BELOW["view"] = BELOW["data"] = BELOW["pipeline"] | {"data", "world"}
BELOW["eval"] = BELOW["data"] | {"pipeline", "view"}
BELOW["train"] = BELOW["eval"] | {"eval"}
BELOW["serve"] = BELOW["pipeline"] | {"pipeline"}
"""What each room, or module beside the rooms, may import; none of them knows ROS."""
ABOVE = {
    "ros": BELOW["pipeline"] | {"pipeline"},
    "nodes": BELOW["train"] | {"ros"},  # the simulator judges its drives
    "bringup": BELOW["eval"] | {"ros"},
    "bench": BELOW["train"] | {"train", "ros", "bringup"},
    "faults": BELOW["train"] | {"train", "ros", "bringup", "bench"},
}
"""The same of those that know ROS; cli stands on everything."""
LARGEST_FOLDER = 15
ROS_FREE = tuple(BELOW)
ROS_NAMES = ("rclpy", "builtin_interfaces", "launch", "launch_ros", "tf2_ros", "cv_bridge", "rcl_interfaces")


@functools.cache
def nodes(file: Path) -> list[ast.AST]:
    """What the tests look for in a file, of one walk through it: imports, conditions and calls of print."""
    return [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.If))
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
    ]


@functools.cache
def imports(file: Path) -> set[str]:
    """Absolute names of every module a file imports."""
    names: set[str] = set()
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in nodes(file):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join([*base, *([node.module] if node.module else [])]))
            if node.module is None:
                names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def files_of(room: str) -> list[Path]:
    """The Python files of a folder, or the one module of that name."""
    module = PACKAGE / f"{room}.py"
    found = [module] if module.is_file() else sorted((PACKAGE / room).rglob("*.py"))
    assert found, room
    return found


def test_every_room_stands_on_the_ladder() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    rooms |= {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms == {*BELOW, *ABOVE, "cli"}


@pytest.mark.parametrize("room", sorted({*BELOW, *ABOVE}))
def test_room_imports_only_from_below(room: str) -> None:
    allowed = {**BELOW, **ABOVE}[room] | {room}
    for file in files_of(room):
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "sparseoccvla_ros" and len(parts) > 1 and parts[1] in {*BELOW, *ABOVE, "cli"}:
                assert parts[1] in allowed, f"{file.relative_to(ROOT)} imports {name}"


def module_graph() -> dict[str, set[str]]:
    """Which module of the package imports which, in functions too; imports for type checkers alone do not count."""
    files = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in PACKAGE.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        package = file.relative_to(ROOT).parts[:-1]
        typing = [n for n in nodes(file) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
        skipped = {id(n) for block in typing for n in ast.walk(block)}
        found: set[str] = set()
        for node in nodes(file):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                source = ".".join([*base, *([node.module] if node.module else [])])
                # A name of a package is a module or stands in its __init__.
                found |= {n if (n := f"{source}.{alias.name}") in files else source for alias in node.names}
        graph[module] = found & set(files) - {module}
    return graph


def test_no_import_circle() -> None:
    graph = module_graph()
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_folders_stay_small() -> None:
    for folder in {f.parent for f in PACKAGE.rglob("*.py")}:
        count = len([f for f in folder.glob("*.py") if f.name != "__init__.py"])
        assert count <= LARGEST_FOLDER, f"{folder.relative_to(ROOT)} holds {count} Python files"


@pytest.mark.parametrize("room", sorted({*ROS_FREE, "cli"}))
def test_room_is_free_of_ros(room: str) -> None:
    for file in files_of(room):
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
    for room in (*BELOW, *ABOVE):
        for file in files_of(room):
            calls = [
                node
                for node in nodes(file)
                if isinstance(node, ast.Call) and not any(k.arg == "file" for k in node.keywords)
            ]
            allowed = {"anchors.py", "cli/bag.py"}
            assert not calls or file.name in allowed, f"{file.relative_to(ROOT)} prints"
