"""Dockerfiles install what ./run asks for and call it: there is no second way to set up."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TOOLS = {"build-essential", "cmake", "git", "python3-dev", "python3-venv"}
"""What ./run and docs/installation.md name as prerequisites."""
APT = re.compile(
    r"apt-get update && apt-get install -y --no-install-recommends (?P<packages>[a-z0-9 +-]+?)\s*"
    r"&& rm -rf /var/lib/apt/lists/\*"
)
RUN = re.compile(r"(source /opt/ros/\w+/setup\.bash && )?\./run env true")


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments) in order, continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def test_there_is_one_for_the_cpu_and_one_for_a_gpu() -> None:
    assert [file.name for file in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_only_calls_run(file: Path) -> None:
    found = instructions(file)
    assert found[0][0] == "FROM"
    image, _, tag = found[0][1].partition(":")
    assert image in ("ros", "nvidia/cuda")
    assert tag
    assert "latest" not in tag, "an image without a version is another one tomorrow"
    assert {word for word, _ in found} == {"FROM", "SHELL", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}
    assert ("COPY", ". .") in found
    assert next(rest for word, rest in found if word == "ENTRYPOINT").endswith('"./run"]')
    apt, *others = [rest for word, rest in found if word == "RUN"]
    packages = APT.fullmatch(apt)
    assert packages, apt
    assert set(packages["packages"].split()) == TOOLS
    assert all(RUN.fullmatch(other) for other in others), others
    assert others


def test_the_tools_are_those_of_run_and_of_the_page() -> None:
    page = (ROOT / "docs" / "installation.md").read_text()
    assert all(tool in page for tool in TOOLS)
    assert all(tool in (ROOT / "run").read_text() for tool in TOOLS - {"git"})


def test_nothing_of_this_machine_gets_into_an_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "out"} <= set(ignored)
