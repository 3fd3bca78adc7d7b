"""./run launch as a process: starts the graph, ends it however it is ended itself."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor
from sparseoccvla_ros.cli import launch
from sparseoccvla_ros.core.errors import InvalidInput

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
SCENES = 12
"""On the page before it is asked and photographed."""


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


def ctrl_c(words: list[str], log: Path, ready, patience: float = 240.0) -> None:
    """Start a verb, send what a terminal sends when `ready(seconds since the start)` holds, and look how it ends."""
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", *words]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT, start_new_session=True)
    try:
        began = time.monotonic()
        while not ready(time.monotonic() - began):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - began < patience, log.read_text()
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
        "demo": ["demo", "--preset", preset, "--out", str(out)],
        "serve": ["serve", "egodriver", "--port", str(free_port)],
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drive_opens_the_cockpit(browser, free_port, tmp_path, domain):
    """One command to a driving car on a page that answers; a node killed there comes back. Takes docs/cockpit.jpg."""
    from playwright.sync_api import Error

    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    address = f"http://127.0.0.1:{free_port}/"

    def shown(_: float) -> bool:
        if page.url != address:
            with contextlib.suppress(Error):  # there is no page yet
                page.goto(address)
            return False
        if int(page.get_attribute("body", "data-scenes") or 0) < SCENES:
            return False
        page.fill("#question", "What should the car do next, and why?")
        page.press("#question", "Enter")
        page.wait_for_selector("#talk .answer:not(:text-is('…'))", timeout=120_000)
        page.wait_for_timeout(3000)  # the rest of the answer streams in
        assert page.locator("#cameras figure:not(.missing)").count() == 6
        assert page.text_content("#speed") != "0 km/h"
        assert page.locator("#states tr[data-name=planning]").get_attribute("data-level") == "ok"
        (ROOT / "out").mkdir(exist_ok=True)
        page.screenshot(path=ROOT / "out" / "cockpit.jpg", type="jpeg", quality=85)
        planning = page.locator("#states tr[data-name=planning]")
        planning.locator("button:has-text('kill')").click()
        page.wait_for_selector("#states tr[data-name=planning]:not([data-level=ok])", timeout=60_000)
        page.wait_for_selector("#states tr[data-name=planning][data-level=ok]", timeout=300_000)
        return True

    words = ["drive", "--cockpit", "--port", str(free_port), "--out", str(tmp_path / "out")]
    words += ["--scenario", "cyclist_ahead"]
    ctrl_c(words, tmp_path / "log", shown, patience=600)
    assert f"cockpit: {address}" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("what", [pytest.param(name, marks=pytest.mark.slow) for name in ("bag", "composed")])
def test_ctrl_c_ends_every_launch(launches, tmp_path, domain, what):
    """While frames, voxels and paths are in flight, pictures are drawn and files written."""
    with TopicMonitor(("planning/path",), domain_id=domain) as observer:
        ctrl_c(launches[what], tmp_path / "log", lambda _: observer.count("planning/path") > 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["bag", "composed", "drive", "demo", "view", "cockpit", "play", "serve"])
def test_ctrl_c_ten_times_at_other_moments(launches, tmp_path, domain, what):
    if what == "serve":
        pytest.importorskip("grpc", reason="requirements/serve.txt is not installed")
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
    ("word", "expected"),
    [
        ("speed:=3", "speed"),
        ("profile:=tesla", "tesla"),
        ("rubbish", "NAME:=VALUE"),
        ("params_file:=no/such.yaml", "no/such.yaml"),
        ("rviz:=true", "ros2 launch"),
    ],
)
def test_wrong_arguments_start_nothing(monkeypatch, word, expected):
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    monkeypatch.setattr(launch, "Supervisor", lambda *_, **__: pytest.fail("nodes would be started"))
    with pytest.raises(InvalidInput, match=re.escape(expected)):
        launch.run_launch([word], show_args=False, print_params=False)


def test_a_wrong_argument_is_one_line():
    """Whatever is wrong: every refusal takes this way out of the process."""
    expected = "no/such/bag"
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", "launch", f"bag:={expected}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
