"""The site: tables from the code, commands that parse, links that lead somewhere, a README of one screen."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from PIL import Image

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.nodes.camera_sync import _REFUSALS
from sparseoccvla_ros.ros.diagnostics import State
from sparseoccvla_ros.ros.parameters import TABLES
from sparseoccvla_ros.ros.topics import OUTPUTS, TOPICS
from tests.docs.commands import ROOT, TEXTS, commands

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/hooks.py, which MkDocs loads by its path too."""
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_marker_becomes_a_table(hooks: ModuleType) -> None:
    for page in PAGES:
        text = hooks.expand(page.read_text())
        assert not re.search(r"^<!-- table", text, re.M), _name(page)
        assert "| None |" not in text, _name(page)


@pytest.mark.parametrize("node", TABLES)
def test_a_nodes_page_holds_all_of_it(hooks: ModuleType, node: str) -> None:
    text = hooks.expand((DOCS / "nodes" / f"{node}.md").read_text())
    for param in TABLES[node]:
        assert re.search(rf"^\| .*{re.escape(param.name)}.* \|.*{re.escape(param.what[:20])}", text, re.M), param.name
        if param.low is not None:
            assert f"{param.low:g} to {param.high:g}" in text, param.name
    if node not in ("viewer", "cockpit"):
        for topic in OUTPUTS:
            assert topic.node != node or f"`{topic.name}`" in text, topic.name


def test_every_topic_reason_state_and_argument_has_a_row(hooks: ModuleType) -> None:
    topics = hooks.expand((DOCS / "topics.md").read_text())
    assert all(f"| `{topic.name}` |" in topics for topic in TOPICS)
    reasons = hooks.expand((DOCS / "diagnostics.md").read_text())
    assert all(f"| `{state.value}` |" in reasons for state in State)
    assert not re.search(r"^\| `[a-z_]+` \|  \|$", reasons, re.M), "every reason needs a docstring"
    launch = hooks.expand((DOCS / "launch.md").read_text())
    assert all(f"| `{a.name}` |" in launch for a in launch_config.ARGUMENTS + launch_config.BAG_ARGUMENTS)


def test_the_hours_of_the_recipe_are_those_of_its_file() -> None:
    steps = yaml.safe_load((ROOT / "models" / "tiny" / "recipe.yaml").read_text())["steps"]
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]*) ?\|", (DOCS / "training.md").read_text(), re.M))
    assert {name: float(hours or 0) for name, hours in told.items()} == {n: s.get("hours", 0) for n, s in steps.items()}


@pytest.mark.parametrize("stage", ["camera_sync", "occupancy", "reasoning", "planning", "follower", "simulator"])
def test_inputs_are_found_in_the_source(hooks: ModuleType, stage: str) -> None:
    expected = {
        "camera_sync": {"occupancy/ready", "/tf", "/tf_static", "/odom"},
        "occupancy": {"frames"},
        "reasoning": {"occupancy/queries", "planning/plan", "reasoning/question"},
        "planning": {"occupancy/queries", "reasoning/state", "planning/command", "planning/route", "planning/goal"},
        "follower": {"planning/path", "/odom"},
        "simulator": {"control/command", "planning/path"},
    }
    assert set(hooks.inputs_of(stage)) == expected[stage]


# --- commands


def _commands(text: str) -> list[str]:
    """Every `./run ...` of a page."""
    return [command for command in commands(text) if command.startswith("./run ")]


def _refusal(command: str, root: Any) -> str | None:
    """Why a command of the docs would not parse; placeholders are in capitals or begin with my_."""
    words = [w for w in shlex.split(re.sub(r"[\[\]|]| \.\.\.", " ", command))[1:] if w != "\\"]
    if words[0] in ("env", "--help", "VERB"):
        return None
    verb = root
    while words and words[0] in getattr(verb, "commands", {}):
        verb = verb.commands[words.pop(0)]
    if verb is root:
        return f"no verb {words[0]}"
    if verb.name == "test":
        return None
    if verb.name == "launch":
        given = dict(w.split(":=", 1) for w in words if ":=" in w and not w.startswith("NAME"))
        try:
            launch_config.resolve(
                {k: v for k, v in given.items() if not (v.isupper() or v.startswith("my_"))}, with_bag=True
            )
        except InvalidInput as error:
            return str(error)
    options = {o for p in verb.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    unknown = [w for w in words if w.startswith("--") and w.split("=")[0] not in options]
    return f"{verb.name} has no {unknown}" if unknown else None


def test_commands_parse(hooks: ModuleType) -> None:
    asked = [(_name(page), c) for page in TEXTS for c in _commands(page.read_text())]
    assert not [(page, c, why) for page, c in asked if (why := _refusal(c, hooks.command()))]


def test_a_wrong_command_is_found(hooks: ModuleType) -> None:
    for command in ("./run nothing", "./run demo --nothing", "./run launch nothing:=1", "./run bag info --nothing B"):
        assert _refusal(command, hooks.command()), command
    text = "a `./run doctor`\n\n    ./run demo  # once\n\n```\n./run test\n```\n"
    assert sorted(_commands(text)) == ["./run demo", "./run doctor", "./run test"]


# --- links, length, build


def test_links_lead_somewhere() -> None:
    for page in TEXTS:
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text()):
            if "://" not in link and not link.startswith("mailto:"):
                assert (page.parent / link).exists(), f"{_name(page)}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = {p for line in yaml.safe_load(text)["nav"] for p in re.findall(r"[\w/]+\.md", str(line))}
    assert named == {p.relative_to(DOCS).as_posix() for p in PAGES}


def test_the_site_names_no_machine_and_fetches_nothing() -> None:
    for page in (*TEXTS, ROOT / "mkdocs.yml"):
        text = page.read_text()
        assert not re.search(r"(?<![\w.])/(work|home|root|tmp|opt/pypi)/", text), page
        assert not re.search(r"<script|unpkg|cdn\.", text), page


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readme_begins_with_a_moving_picture() -> None:
    first = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())[0]
    assert (ROOT / first).stat().st_size < 4_000_000
    with Image.open(ROOT / first) as film:
        assert film.n_frames >= 20  # type: ignore[attr-defined]


def test_troubleshooting_knows_what_somebody_has_to_mend() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    assert text.count("\n| ") - text.count("\n| symptom") >= 30
    assert not [reason for reason in _REFUSALS if f"`{reason}" not in text]


def _tool(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A tool of requirements/docs.txt."""
    folder = Path(sys.prefix, "docs")
    if not folder.is_dir():
        pytest.skip(f"{module} is not installed: ./run docs does that")
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(folder)])
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
    )


@pytest.mark.slow
def test_spelling() -> None:
    done = _tool("codespell_lib", "--toml", "pyproject.toml", *map(str, TEXTS), "mkdocs.yml", "docs/hooks.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = _tool("mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    built = [p for p in (tmp_path / "site").rglob("*.html")]
    assert len(built) >= len(PAGES)
    for page in built:
        assert not re.search(r'<(script|link|img|iframe)[^>]+(src|href)="?https?:', page.read_text()), page
