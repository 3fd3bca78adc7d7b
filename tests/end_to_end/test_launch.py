"""./run launch as a process: starts the graph, ends it however it is ended itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def launched(tmp_path, preset, domain):
    """`./run launch` with the small preset, once all of its node processes run."""
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", "launch", f"preset:={preset}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    nodes: list[psutil.Process] = []
    until = time.monotonic() + 30
    while len(nodes) < 4 and time.monotonic() < until:
        nodes = [p for p in psutil.Process(process.pid).children() if "nodes." in " ".join(p.cmdline())]
        time.sleep(0.1)
    assert len(nodes) == 4, (tmp_path / "log").read_text()
    yield process, nodes
    assert "Traceback" not in (tmp_path / "log").read_text()
    for child in (*nodes, psutil.Process(process.pid) if process.poll() is None else None):
        if child is not None and child.is_running():
            child.kill()
    process.wait(5)


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_nodes_end_with_the_launcher(launched, kind, code):
    process, nodes = launched
    began = time.monotonic()
    os.kill(process.pid, kind)
    assert process.wait(20) == code
    assert time.monotonic() - began < 8, "5 s on two free cores"
    _, alive = psutil.wait_procs(nodes, timeout=15)
    assert not alive, [p.cmdline() for p in alive]


def test_ctrl_c_during_imports_is_silent(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "sparseoccvla_ros.cli", "launch"]
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT)
    until = time.monotonic() + 60
    while "rclpy" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["speed:=3"], "speed"),
        (["profile:=tesla"], "tesla"),
        (["rubbish"], "NAME:=VALUE"),
        (["bag:=no/such/bag"], "no/such/bag"),
        (["params_file:=no/such.yaml"], "no/such.yaml"),
        (["rviz:=true"], "ros2 launch"),
    ],
)
def test_wrong_arguments_are_one_line(words, expected):
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", "launch", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
