"""`run` in odd surroundings, on a scratch checkout with a small environment: it works, or says why in one line."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparseoccvla_ros.core.paths import share

ROOT = share()
BASE = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
COLCON = """#!/bin/sh
echo "$@" >"$(dirname "$0")/colcon-arguments"
while [ $# -gt 0 ]; do [ "$1" = --install-base ] && base=$2; shift; done
mkdir -p "$base"; echo built >>"$base/built"
[ -z "$FAIL" ]
"""
PIP = """
import os, sys
print("ERROR: No route to host" if "FAIL" in os.environ else "Collecting everything")
sys.exit("FAIL" in os.environ)
"""


def fingerprint(*files: Path) -> str:
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


class Checkout:
    """A checkout whose environment is set up, with a command line that tells what it was given."""

    def __init__(self, root: Path) -> None:
        self.root, self.venv = root, root / ".venv"

    def make(self) -> None:
        root = self.root
        root.mkdir()
        shutil.copy(ROOT / "run", root / "run")
        shutil.copytree(ROOT / "requirements", root / "requirements")
        for folder in ("ros2_ws/src/sparseoccvla_msgs", "compat"):
            shutil.copytree(ROOT / folder, root / folder)
        cli = root / "sparseoccvla_ros" / "cli"
        cli.mkdir(parents=True)
        (cli / "__main__.py").write_text("import sys\nprint('ran', sys.argv[1:], '\\u2713')\n")
        subprocess.run([BASE, "-m", "venv", "--without-pip", self.venv], check=True)
        (self.venv / "bin" / "colcon").write_text(COLCON)
        (self.venv / "bin" / "colcon").chmod(0o755)
        site = next((self.venv / "lib").glob("python3*")) / "site-packages"
        (site / "pip").mkdir()
        (site / "pip" / "__main__.py").write_text(PIP)
        for folder in ("overlay", "steps"):
            (self.venv / folder).mkdir(exist_ok=True)
        (self.venv / "lib" / "librmw_fastrtps_cpp.so").touch()
        names = ("base", "constraints", "dev", "eval", "models", "ros-kilted")
        wheels = fingerprint(*(root / "requirements" / f"{name}.txt" for name in names))
        version = ".".join(map(str, sys.version_info[:3]))
        marks = {"venv": f"wheels-{sys.base_prefix} {version}", "wheels": wheels, "cmake": wheels}
        for name, text in marks.items():
            (self.venv / "steps" / name).write_text(text + "\n")
        self.mark_messages()

    def mark_messages(self) -> None:
        sources = (p for f in ("ros2_ws/src/sparseoccvla_msgs", "compat") for p in (self.root / f).rglob("*"))
        ordered = sorted((p for p in sources if p.is_file()), key=lambda p: os.fsencode(p))
        text = fingerprint(*ordered, self.venv / "steps" / "wheels")
        (self.venv / "steps" / "messages").write_text(text + "\n")

    def run(self, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k in ("HOME", "PATH", "TMPDIR")}
        clean["PATH"] = os.pathsep.join([str(BASE.parent), "/usr/bin", "/bin"])
        done = subprocess.run(
            [str(self.root / "run"), *words],
            cwd=cwd,
            env=clean | environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every test copies, since an environment takes longer to make than to copy."""
    made = Checkout(tmp_path_factory.mktemp("original") / "Straße 東京")
    made.make()
    return made.root


@pytest.fixture
def checkout(original: Path, tmp_path: Path) -> Checkout:
    return Checkout(shutil.copytree(original, tmp_path / original.name, symlinks=True))


def assert_runs(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ran ['doctor']")


def test_what_the_first_drive_would_wait_for_is_prepared_once(checkout):
    package = checkout.root / "sparseoccvla_ros"
    loops = [package / f for f in ("core/kernels.py", "world/kernels/shading.py", "camera_sync/jpeg_scan.py")]
    for file in (*loops, package / "bringup" / "prepare.py"):
        file.parent.mkdir(parents=True)
    for file in loops:
        file.write_text("@kernel\n")
    done = checkout.run("drive")
    assert done.returncode == 0
    assert "goes on without" in done.stderr, "there is nothing that could prepare"
    assert done.stdout.startswith("ran ['drive']")
    count = checkout.root / "count"
    (package / "bringup" / "prepare.py").write_text(f"open({str(count)!r}, 'a').write('x')\n")
    # Once, again after an edit of what is compiled, and not after one of anything else.
    for edited, times in ((None, 1), (None, 1), *zip(loops, (2, 3, 4), strict=True), (package / "a.py", 4)):
        if edited is not None:
            edited.write_text("@kernel\nx = 1\n" if edited in loops else "x = 1\n")
        assert checkout.run("drive").returncode == 0
        assert count.read_text() == "x" * times
    assert checkout.run("drive", SPARSEOCCVLA_CACHE=str(checkout.root / "other")).returncode == 0
    assert len(count.read_text()) == 5
    assert_runs(checkout.run("doctor"))
    assert len(count.read_text()) == 5


def test_an_odd_path_and_edits_of_messages(checkout, tmp_path):
    (tmp_path / "temporary").mkdir()
    assert_runs(checkout.run("doctor"))
    message = next((checkout.root / "ros2_ws").rglob("*.msg"))
    message.write_text(message.read_text() + "# edited\n")
    done = checkout.run("doctor", TMPDIR=str(tmp_path / "temporary"))
    assert "building the ROS messages" in done.stderr
    assert (checkout.venv / "overlay" / "built").read_text() == "built\n"
    words = (checkout.venv / "bin" / "colcon-arguments").read_text().split(" --")
    sources = next(w for w in words if w.startswith("base-paths"))
    assert sources.isascii(), "rosidl cuts a path at the first letter that is not"
    assert not list((tmp_path / "temporary").iterdir())
    assert_runs(checkout.run("doctor"))


def test_called_from_another_folder_whose_files_are_not_imported(checkout, tmp_path):
    (tmp_path / "typing.py").write_text("raise SystemExit('shadowed')")
    assert_runs(checkout.run("doctor", cwd=tmp_path))
    link = tmp_path / "link"
    link.symlink_to(checkout.root / "run")
    done = subprocess.run([link, "doctor"], capture_output=True, text=True, timeout=60, check=False)
    assert_runs(done)


def test_an_interrupted_installation_goes_on_where_it_was(checkout):
    (checkout.venv / "steps" / "wheels").unlink()
    kept = checkout.venv / "kept"
    kept.touch()
    done = checkout.run("doctor", FAIL="1")
    assert done.returncode == 1
    assert "pip failed: ERROR: No route to host" in done.stderr
    assert "fix: check the network and the disk, then run the same command again" in done.stderr
    done = checkout.run("doctor")
    assert done.returncode == 0
    assert "creating .venv" not in done.stderr
    assert kept.exists()
    assert_runs(checkout.run("doctor"))


def test_without_network_a_verb_goes_on_without_what_is_optional(checkout):
    done = checkout.run("export", FAIL="1")
    assert done.returncode == 0
    assert done.stdout.startswith("ran ['export']")
    assert "goes on without requirements/runtimes.txt" in done.stderr
    assert not (checkout.venv / "steps" / "runtimes").exists(), "tried again next time"


def test_a_full_disk_is_said_before_anything_is_fetched(checkout, tmp_path):
    df = tmp_path / "bin" / "df"
    df.parent.mkdir()
    df.write_text("#!/bin/sh\necho Filesystem Blocks Used Available\necho disk 9 9 1000000 99% /\n")
    df.chmod(0o755)
    shutil.rmtree(checkout.venv)
    done = checkout.run("doctor", PATH=f"{df.parent}:{BASE.parent}:/usr/bin:/bin")
    assert done.returncode == 1
    assert "less than 4 GB of free disk" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert not checkout.venv.exists()


def test_an_active_conda_changes_nothing(checkout, tmp_path):
    conda = tmp_path / "conda"
    (conda / "bin").mkdir(parents=True)
    for name in ("python3", "python3.11", "python3.12"):
        (conda / "bin" / name).write_text("#!/bin/sh\necho the Python of conda; exit 1\n")
        (conda / "bin" / name).chmod(0o755)
    done = checkout.run(
        "doctor",
        PATH=f"{conda / 'bin'}:{BASE.parent}:/usr/bin:/bin",
        CONDA_PREFIX=str(conda),
        LD_LIBRARY_PATH=str(conda / "lib"),
        SPARSEOCCVLA_PYTHON=str(BASE),
    )
    assert_runs(done)


def test_an_activated_environment_is_not_deleted(checkout):
    kept = checkout.venv / "kept"
    kept.touch()
    path = f"{checkout.venv / 'bin'}:{BASE.parent}:/usr/bin:/bin"
    assert_runs(checkout.run("doctor", PATH=path, VIRTUAL_ENV=str(checkout.venv)))
    inside = checkout.run("env", str(checkout.root / "run"), "doctor")
    assert_runs(inside)
    assert kept.exists()


def test_another_python_on_the_path_keeps_what_works(checkout):
    (checkout.venv / "steps" / "venv").write_text("wheels-/another/python 3.12.1\n")
    kept = checkout.venv / "kept"
    kept.touch()
    assert_runs(checkout.run("doctor"))
    assert kept.exists()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "en_US.ISO-8859-1"])
def test_the_locale_changes_nothing(checkout, locale):
    done = checkout.run("doctor", LC_ALL=locale)
    assert done.returncode == 0
    assert "building" not in done.stderr
    assert done.stdout.startswith("ran ['doctor']"), "whatever the terminal can show"


def test_a_build_that_did_not_end_is_not_taken_for_done(checkout):
    (checkout.venv / "overlay" / "built").write_text("old\n")
    message = next((checkout.root / "ros2_ws").rglob("*.msg"))
    message.write_text(message.read_text() + "# edited\n")
    assert checkout.run("doctor", FAIL="1").returncode != 0
    assert (checkout.venv / "overlay" / "built").read_text() == "old\n", "what runs keeps its files"
    done = checkout.run("doctor")
    assert "building the ROS messages" in done.stderr
    assert (checkout.venv / "overlay" / "built").read_text() == "built\n"


@pytest.mark.parametrize(
    ("name", "value"), [("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"), ("ROS_DOMAIN_ID", "abc"), ("ROS_DOMAIN_ID", "-1")]
)
def test_a_wrong_setting_is_one_line_and_the_doctor_works(checkout, name, value):
    done = checkout.run("launch", **{name: value})
    assert done.returncode == 1
    assert value in done.stderr
    assert len(done.stderr.splitlines()) == 2
    done = checkout.run("doctor", **{name: value})
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    assert name in done.stderr


def test_other_peoples_python_path_is_left_out(checkout, tmp_path):
    (tmp_path / "typing.py").write_text("raise SystemExit('shadowed')")
    assert_runs(checkout.run("doctor", PYTHONPATH=str(tmp_path), PYTHONHOME="/nowhere"))


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_without_a_home_ros_logs_into_the_cache(checkout, home):
    done = checkout.run("env", "sh", "-c", "echo $ROS_LOG_DIR", HOME=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().startswith(str(checkout.root / ".cache"))


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root to mount read-only")
def test_a_read_only_checkout_runs(checkout):
    assert_runs(checkout.run("doctor"))
    script = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && ! touch "$1/x" 2>/dev/null && exec "$1/run" doctor'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(checkout.root)],
        env={"PATH": f"{BASE.parent}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "permission denied" in done.stderr.lower() or "operation not permitted" in done.stderr.lower():
        pytest.skip("may not mount here")
    assert_runs(done)
