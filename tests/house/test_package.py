"""package.xml, setup.py, parameter file, launch graph and topic table agree with each other."""

import importlib
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.ros.parameters import TABLES, as_yaml
from sparseoccvla_ros.ros.topics import OPTIONAL_PACKAGES, TOPICS, markdown

ROOT = Path(__file__).resolve().parents[2]


def _setup_arguments() -> dict:
    import setuptools

    seen: dict = {}
    original, setuptools.setup = setuptools.setup, lambda **kwargs: seen.update(kwargs)
    try:
        here = os.getcwd()
        os.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        os.chdir(here)
        setuptools.setup = original
    return seen


def test_parameter_file_is_the_table() -> None:
    assert (ROOT / "config" / "params.yaml").read_text() == as_yaml()


def test_parameter_file_holds_every_default() -> None:
    content = yaml.safe_load(as_yaml())
    for node, table in TABLES.items():
        section = content[f"/**/{node}"]["ros__parameters"]
        for param in table:
            value = section
            for part in param.name.split("."):
                value = value[part]
            assert value == param.default, param.name
            assert type(value) is type(param.default), param.name


def test_every_parameter_says_what_it_is() -> None:
    for table in TABLES.values():
        assert len({p.name for p in table}) == len(table)
        for param in table:
            assert len(param.what) > 8, param.name
            number = isinstance(param.default, (int, float)) and not isinstance(param.default, bool)
            assert (param.low is not None) == number, f"{param.name}: a number needs a range, nothing else has one"
            if number:
                assert param.low <= param.default <= param.high, param.name
            if param.choices:
                assert param.default in param.choices, param.name


def test_every_topic_type_is_installed() -> None:
    for topic in TOPICS:
        package, kind, name = topic.type.split("/")
        if package in OPTIONAL_PACKAGES and importlib.util.find_spec(package) is None:
            continue
        assert hasattr(importlib.import_module(f"{package}.{kind}"), name), topic.type
        assert (ROOT / topic.file).is_file(), topic.file


def test_every_node_has_module_parameters_and_entry_point() -> None:
    scripts = _setup_arguments()["entry_points"]["console_scripts"]
    for entry in (
        *launch_config.NODES,
        launch_config.BAG_PLAYER,
        launch_config.VIEWER,
        launch_config.COCKPIT,
        launch_config.FOLLOWER,
        launch_config.SIMULATOR,
        launch_config.COMPOSED,
    ):
        module = importlib.import_module(entry.module)
        assert callable(module.main)
        assert any(s.startswith(f"{entry.name} = {entry.module}:main") for s in scripts), entry.name
        if entry is not launch_config.COMPOSED:
            known = {p.name for p in TABLES[entry.name]}
            assert set(entry.parameters) <= known, entry.name


@pytest.mark.parametrize("script", _setup_arguments()["entry_points"]["console_scripts"])
def test_every_entry_point_loads(script: str) -> None:
    name, _, target = script.partition(" = ")
    entry = EntryPoint(name, target, "console_scripts").load()
    assert callable(entry), script


def test_the_cli_entry_point_starts() -> None:
    scripts = dict(s.split(" = ") for s in _setup_arguments()["entry_points"]["console_scripts"])
    module, _, function = scripts["cli"].partition(":")
    start = f"import sys; from {module} import {function} as main; sys.argv = ['cli', '--help']; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_nothing_sends_a_reader_out_of_the_repository() -> None:
    """Pages that texts name are in the repository, or named with the public project they belong to."""
    public = {"schema_nuscenes.md"}
    folders = [p for p in ROOT.iterdir() if p.is_dir() and p.name not in (".venv", ".cache", ".git")]
    pages = [*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))]
    inside = {p.name for p in pages} | {"report.md"}
    for file in (*ROOT.glob("sparseoccvla_ros/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("config/*.yaml")):
        named = set(re.findall(r"\b[\w-]+\.md\b", file.read_text()))
        assert named <= inside | public, f"{file.relative_to(ROOT)} names {named - inside - public}"


def test_everything_in_the_shared_folders_is_installed() -> None:
    arguments = _setup_arguments()
    installed = {file for _, files in arguments["data_files"] for file in files}
    for folder in ("launch", "config", "rviz", "models", "bags"):
        files = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file()}
        files = {f for f in files if "__pycache__" not in f}
        assert files, folder
        assert files <= installed, files - installed
    packages = set(arguments["packages"])
    for module in (ROOT / "sparseoccvla_ros").rglob("*.py"):
        assert ".".join(module.relative_to(ROOT).parent.parts) in packages, module


def test_package_xml_names_what_we_import() -> None:
    tree = ElementTree.parse(ROOT / "package.xml").getroot()
    assert tree.get("format") == "3"
    depends = {e.text for e in tree.iter() if e.tag.endswith("depend")}
    wanted = {t.type.split("/")[0] for t in TOPICS} | {
        "rclpy", "launch_ros", "tf2_ros", "cv_bridge", "sensor_msgs_py", "std_srvs", "lifecycle_msgs", "rcl_interfaces",
    }  # fmt: skip
    wanted -= set(OPTIONAL_PACKAGES)
    assert wanted <= depends, wanted - depends


def test_launch_arguments_resolve_and_refuse() -> None:
    values = launch_config.resolve({"rate": "2.0"}, with_bag=True)
    assert values["use_sim_time"] == "true"
    assert values["rate"] == "2.0"
    names = [e.name for e in launch_config.process_entries(values, with_bag=True)]
    assert names == ["camera_sync", "occupancy", "reasoning", "planning", "bag_player"]
    composed = launch_config.resolve({"composed": "true", "view": "true"}, with_bag=False)
    assert [e.name for e in launch_config.process_entries(composed, False)] == ["composed", "viewer"]
    with pytest.raises(ValueError, match="profile"):
        launch_config.resolve({"profile": "nope"}, with_bag=False)
    with pytest.raises(ValueError, match="speed"):
        launch_config.resolve({"speed": "1"}, with_bag=True)
    with pytest.raises(ValueError, match="rate"):
        launch_config.resolve({"rate": "1"}, with_bag=False)


@pytest.mark.parametrize("name", ["bag", "params_file", "calibration_file"])
def test_a_launch_refuses_a_missing_file(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: no/such/file"):
        launch_config.resolve_checked({name: "no/such/file"}, with_bag=True)
    assert Path(launch_config.resolve_checked({}, with_bag=True)["bag"]).is_dir()


@pytest.mark.parametrize("name", ["bringup", "nuscenes_bag"])
def test_launch_file_builds_where_launch_is_installed(name: str) -> None:
    pytest.importorskip("launch_ros", reason="launch_ros is not in the wheels")
    description = runpy.run_path(str(ROOT / "launch" / f"{name}.launch.py"))["generate_launch_description"]()
    declared = {e.name for e in description.entities if hasattr(e, "default_value")}
    assert {a.name for a in launch_config.ARGUMENTS} <= declared


def test_rviz_follows_time_and_namespace_and_is_refused_where_it_is_missing(tmp_path, monkeypatch) -> None:
    """On wall time a looping bag freezes it; in another namespace it would see nothing."""
    values = launch_config.resolve({"rviz": "true", "namespace": "veh1/front"}, with_bag=True)
    with pytest.raises(ValueError, match=r"rviz2 is not installed.*view:=true"):
        launch_config.rviz_settings(values)
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "rviz2").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    settings = launch_config.rviz_settings(values)
    assert settings["parameters"] == [{"use_sim_time": True}]
    assert settings["namespace"] == "/veh1/front"
    named = re.findall(r"Value: (/sparseoccvla/\S+)", (ROOT / "rviz" / "sparseoccvla.rviz").read_text())
    moved = dict(settings["remappings"])
    for name in {n.removesuffix("_updates") for n in named}:
        assert moved[name] == name.replace("/sparseoccvla/", "/veh1/front/")


def test_only_the_first_end_of_a_launch_asks_for_its_shutdown() -> None:
    """A second request makes `ros2 launch` end in an error."""
    launch = pytest.importorskip("launch", reason="launch is not in the wheels")
    pytest.importorskip("launch_ros", reason="launch_ros is not in the wheels")
    from sparseoccvla_ros.bringup.launch_description import SIGTERM_SECONDS, _end_of_source
    from sparseoccvla_ros.ros.lifecycle_base import StageNode

    context = launch.LaunchContext()
    (action,) = _end_of_source(object(), context)
    assert isinstance(action, launch.actions.Shutdown)
    context._set_is_shutdown(True)
    assert _end_of_source(object(), context) is None
    assert float(SIGTERM_SECONDS) > StageNode.end_seconds


@pytest.mark.parametrize("name", ["bringup", "nuscenes_bag"])
def test_launch_file_by_construction(name: str) -> None:
    text = (ROOT / "launch" / f"{name}.launch.py").read_text()
    compile(text, name, "exec")
    assert f"description(with_bag={name == 'nuscenes_bag'})" in text


@pytest.mark.parametrize(
    "verb", ["", "demo", "drive", "test", "launch", "bag", "view", "cockpit", "serve", "doctor", "bench"]
)
def test_every_verb_has_help(verb: str) -> None:
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", *([verb] if verb else []), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_closed_loop_launch_file_by_construction() -> None:
    text = (ROOT / "launch" / "closed_loop.launch.py").read_text()
    compile(text, "closed_loop", "exec")
    values = launch_config.resolve(launch_config.CLOSED_LOOP, with_bag=False)
    names = [e.name for e in launch_config.process_entries(values, with_bag=False)]
    assert {"camera_sync", "occupancy", "reasoning", "planning", "follower", "simulator", "viewer"} == set(names)
    assert launch_config.parameters_of(launch_config.SIMULATOR, values)["use_sim_time"] == "false"
    assert launch_config.parameters_of(launch_config.FOLLOWER, values)["use_sim_time"] == "true"


def test_links_of_the_workspace() -> None:
    link = ROOT / "ros2_ws" / "src" / "sparseoccvla_ros"
    assert link.is_symlink()
    assert link.resolve() == ROOT
    assert not (ROOT / "ros2_ws" / "src" / "tf2_msgs").exists(), "it would hide a real tf2_msgs"


def test_readme_holds_the_topic_table() -> None:
    assert markdown() in (ROOT / "README.md").read_text(), "paste the output of sparseoccvla_ros.ros.topics.markdown()"


def test_rooms_of_the_topic_table_exist() -> None:
    for topic in TOPICS:
        assert (ROOT / topic.room).is_dir(), topic.room


def test_the_version_has_one_owner() -> None:
    version = ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert _setup_arguments()["version"] == version
    for name in ("setup.py", "pyproject.toml", "sparseoccvla_ros/__init__.py", "CITATION.cff"):
        assert version not in (ROOT / name).read_text(), name


def test_contributing_sends_to_what_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(links) >= 20
    for link in links:
        assert (ROOT / link).exists(), link
