"""The tree is an ordinary colcon workspace: it builds, installs what it needs at run time, and its tests are found."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Both packages of ros2_ws, built and installed elsewhere; one has no tests but the build is the same."""
    bases = tmp_path_factory.mktemp("colcon")
    done = subprocess.run(
        [
            "colcon", "--log-base", str(bases / "log"), "build", "--build-base", str(bases / "build"),
            "--install-base", str(bases / "install"), "--cmake-args", "-DBUILD_TESTING=OFF",
            f"-DPython3_EXECUTABLE={sys.executable}",
        ],
        cwd=ROOT / "ros2_ws", capture_output=True, text=True, timeout=600, env={**os.environ, "MAKEFLAGS": "-j2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return bases


def environment(install: Path) -> dict[str, str]:
    """The environment after sourcing the install, without our source tree on the path.

    The overlay that ./run built stays: with the wheels, tf2_msgs comes from there.
    """
    names = "PATH|PYTHONPATH|AMENT_PREFIX_PATH|LD_LIBRARY_PATH|CMAKE_PREFIX_PATH"
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != ROOT]
    clean = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = f". {install}/local_setup.bash >/dev/null 2>&1; env | grep -E '^({names})='"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=clean, timeout=60, check=True)
    return {**clean, **dict(line.split("=", 1) for line in shown.stdout.splitlines())}


def test_installed_node_runs_from_the_install(workspace, tmp_path, domain):
    install = workspace / "install"
    lib = install / "sparseoccvla_ros" / "lib" / "sparseoccvla_ros"
    names = {p.name for p in lib.iterdir()}
    assert {"camera_sync", "occupancy", "reasoning", "planning", "bag_player", "viewer", "composed"} <= names
    share = install / "sparseoccvla_ros" / "share" / "sparseoccvla_ros"
    for file in (
        "config/params.yaml",
        "config/profiles/nuscenes.yaml",
        "models/tiny/config.yaml",
        "rviz/sparseoccvla.rviz",
    ):
        assert (share / file).is_file(), file
    variables = {**environment(install), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(domain)}
    with (tmp_path / "log").open("w") as log:
        node = subprocess.Popen([str(lib / "planning")], env=variables, cwd=tmp_path, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while "configured" not in (tmp_path / "log").read_text() and time.monotonic() < until:
            assert node.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        node.send_signal(signal.SIGINT)
        assert node.wait(10) == 0
    assert "configured" in (tmp_path / "log").read_text()
    where = subprocess.run(
        [sys.executable, "-c", "import sparseoccvla_ros, sys; sys.stdout.write(sparseoccvla_ros.__file__)"],
        env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(install))


def test_colcon_test_finds_the_tests(workspace):
    done = subprocess.run(
        [
            "colcon", "--log-base", str(workspace / "log"), "test", "--build-base", str(workspace / "build"),
            "--install-base", str(workspace / "install"), "--packages-select", "sparseoccvla_ros",
            "--event-handlers", "console_direct+", "--return-code-on-test-failure",
            "--pytest-args", "tests/core/test_voxelise.py",
        ],
        cwd=ROOT / "ros2_ws", capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
