"""./run on machines that lack something: one clear line and the command that mends it, nothing half made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    "bash env readlink dirname cat sha256sum cut df awk uname mkdir flock nproc rm find sort grep sed tail tee xargs"
)


@pytest.fixture
def bare(tmp_path):
    """A copy of the script in an empty tree, and a PATH with only the tools that are named."""
    (tmp_path / "tree").mkdir()
    shutil.copy(ROOT / "run", tmp_path / "tree" / "run")
    shutil.copytree(ROOT / "requirements", tmp_path / "tree" / "requirements")

    def go(*words: str, tools: str = "", python: bool = True, **variables: str):
        folder = tmp_path / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for tool in (COMMON + " " + tools).split():
            found = shutil.which(tool)
            if found:
                (folder / tool).symlink_to(found)
        if python:
            name = f"python{sys.version_info.major}.{sys.version_info.minor}"
            (folder / name).symlink_to(Path(sys.base_prefix) / "bin" / name)
        clean = {"PATH": str(folder), "HOME": os.environ.get("HOME", "/"), **variables}
        return subprocess.run(
            [str(tmp_path / "tree" / "run"), *words], capture_output=True, text=True, env=clean, timeout=60
        )

    return go


def test_help_needs_nothing(bare, tmp_path):
    done = bare("--help", python=False)
    assert done.returncode == 0
    for verb in ("demo", "test", "launch", "bag", "view", "doctor", "bench"):
        assert verb in done.stdout
    assert not (tmp_path / "tree" / ".venv").exists()


@pytest.mark.parametrize(
    ("tools", "python", "missing"),
    [
        ("", False, "Python 3.11 or 3.12 was not found"),
        ("", True, "gcc is missing"),
        ("gcc g++ make", True, "cmake is missing"),
    ],
)
def test_missing_tool_is_named_with_its_remedy(bare, tmp_path, tools, python, missing):
    done = bare("doctor", tools=tools, python=python)
    assert done.returncode == 1
    assert missing in done.stderr
    assert "fix: sudo apt install" in done.stderr
    assert not (tmp_path / "tree" / ".venv").exists()


def test_broken_ros_is_named(bare):
    done = bare("doctor", python=False, ROS_DISTRO="jazzy")
    assert done.returncode == 1
    assert "cannot import rclpy" in done.stderr
    assert "/opt/ros/jazzy/setup.bash" in done.stderr
