"""./run launch as a process: starts the graph, ends it however it is ended itself."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor

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


def ctrl_c(words: list[str], log: Path, ready) -> None:
    """Start a verb, send what a terminal sends when `ready(seconds since the start)` holds, and look how it ends."""
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", *words]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT, start_new_session=True)
    try:
        began = time.monotonic()
        while not ready(time.monotonic() - began):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - began < 240, log.read_text()
            time.sleep(0.05)
        nodes = psutil.Process(process.pid).children(recursive=True)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(60)
        seconds = time.monotonic() - began
        text = log.read_text()
        assert code == 0, text
        assert "Traceback" not in text
        assert "did not end in time" not in text
        assert seconds < 5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), f"{seconds:.1f} s\n{text}"
        _, alive = psutil.wait_procs(nodes, timeout=5)
        assert not alive, [p.cmdline() for p in alive]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture
def launches(preset, tmp_path, free_port) -> dict[str, list[str]]:
    """Words of every verb that runs until it is told to end, by what they start."""
    out, port = tmp_path / "out", ["follow:=true", f"preset:={preset}", "cockpit:=true", f"cockpit_port:={free_port}"]
    return {
        "bag": ["launch", "bag:=", "loop:=true", "view:=true", f"out:={out}", *port],
        "composed": ["launch", "bag:=", "loop:=true", "composed:=true", *port],
        "drive": ["drive", "--cockpit", "--port", str(free_port), "--preset", preset, "--out", str(out)],
        "view": ["view", "--port", str(free_port)],
        "cockpit": ["cockpit", "--port", str(free_port), "--preset", preset],
        "play": ["bag", "play", "bags/world_demo", "--loop"],
    }


def scene_on_page(port: int) -> dict | None:
    """The newest scene that the cockpit at a port shows, None where there is no page or no scene yet."""
    try:
        page = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        page.request("GET", "/events")
        answer = page.getresponse()
        while line := answer.readline().decode():
            if line.startswith("event: scene"):
                return json.loads(answer.readline().decode().removeprefix("data: "))
    except OSError:
        return None
    return None


@pytest.mark.slow
def test_drive_opens_the_cockpit(launches, free_port, tmp_path, domain):
    """From one command to a page with a driving car, and its end by Ctrl-C."""
    scenes = []

    def drives(_: float) -> bool:
        if scene := scene_on_page(free_port):
            scenes.append(scene)
        return len({s["stamp"] for s in scenes}) > 1

    ctrl_c(launches["drive"], tmp_path / "log", drives)
    assert f"cockpit: http://127.0.0.1:{free_port}/" in (tmp_path / "log").read_text()
    assert len(scenes[-1]["cameras"]) == 6
    assert scenes[-1]["reach"] == [-40.0, 40.0, -40.0, 40.0]


@pytest.mark.parametrize("what", ["bag", pytest.param("composed", marks=pytest.mark.slow)])
def test_ctrl_c_ends_every_launch(launches, tmp_path, domain, what):
    """While frames, voxels and paths are in flight, pictures are drawn and files written."""
    with TopicMonitor(("planning/path",), domain_id=domain) as observer:
        ctrl_c(launches[what], tmp_path / "log", lambda _: observer.count("planning/path") > 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["bag", "composed", "drive", "view", "cockpit", "play"])
def test_ctrl_c_ten_times_at_other_moments(launches, tmp_path, domain, what):
    for turn in range(10):
        ctrl_c(launches[what], tmp_path / f"log{turn}", lambda seconds, turn=turn: seconds > 0.5 + 1.5 * turn)


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
