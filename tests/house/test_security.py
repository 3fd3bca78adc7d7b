"""Nothing of others is run, nothing is offered beyond this machine by itself, and what is promised is up to date."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.security_policy import policy
from sparseoccvla_ros.ros.parameters import TABLES
from sparseoccvla_ros.view.cockpit_server import CockpitServer
from sparseoccvla_ros.view.recording import SceneRecording

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "S301": "import pickle\npickle.loads(b'')",
    "S302": "import marshal\nmarshal.loads(b'')",
    "S307": "eval('1')",
    "S102": "exec('1')",
    "S506": "import yaml\nyaml.load('', Loader=yaml.Loader)",
    "S602": "import subprocess\nsubprocess.run('ls', shell=True)",
    "S605": "import os\nos.system('ls')",
}
"""ruff's rule and what it has to find; `ruff check .` runs before every commit and in CI."""


def test_the_linter_forbids() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", "--output-format=concise"]
    told = subprocess.run(
        [*command, "--stdin-filename", str(ROOT / "sparseoccvla_ros" / "x.py"), "-"],
        input="\n".join(FORBIDDEN.values()) + "\n", capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    missed = [rule for rule in FORBIDDEN if f" {rule} " not in told.stdout]
    assert not missed, told.stdout + told.stderr


def unsafe_calls(text: str) -> list[str]:
    """What the linter does not know: torch.load of whole pickles, code from a model hub."""
    found: list[str] = []
    if not re.search(r"\bload\b|trust_remote_code", text):  # most files: there is nothing to parse
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            named = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if named.get("weights_only") != "True":
                found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if isinstance(node, (ast.Dict, ast.Call)):
            names = [(k.arg, k.value) for k in node.keywords] if isinstance(node, ast.Call) else []
            keys = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
            names += [(k.value, v) for k, v in keys if isinstance(k, ast.Constant)]
            if any(k == "trust_remote_code" and ast.unparse(v) != "False" for k, v in names):
                found.append(f"line {node.lineno}: trust_remote_code")
    return found


def test_no_pickle_and_no_remote_code_is_loaded() -> None:
    assert len(unsafe_calls("torch.load(f)\nf(trust_remote_code=True)\nd = {'trust_remote_code': x}")) == 3
    assert unsafe_calls("torch.load(f, weights_only=True)\nf(trust_remote_code=False)") == []
    for path in sorted((ROOT / "sparseoccvla_ros").rglob("*.py")):
        assert unsafe_calls(path.read_text()) == [], path


def test_servers_stay_on_this_machine_unless_told_otherwise() -> None:
    assert {p.name: p.default for p in TABLES["cockpit"]}["host"] == "127.0.0.1"
    assert launch_config.resolve({}, with_bag=False)["cockpit_host"] == "127.0.0.1"
    assert inspect.signature(CockpitServer).parameters["host"].default == "127.0.0.1"
    assert inspect.signature(SceneRecording).parameters["address"].default == "127.0.0.1"
    assert "host" not in {p.name for p in TABLES["viewer"]}, "the viewer shows its data on this machine only"


def test_the_sros2_policy_is_that_of_the_topic_table() -> None:
    """Written by python -m sparseoccvla_ros.bringup.security_policy > config/sros2_policy.xml."""
    assert (ROOT / "config" / "sros2_policy.xml").read_text() == policy()
    other = policy("nuscenes_prefixed")
    assert "<topic>/nuscenes/odom</topic>" in other, "what moves comes from the topic of the profile"
    assert other.count("<topic>/odom</topic>") == 1, "the follower's"


def test_pins_are_complete() -> None:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line[:1].isalpha()]
    assert len(pinned) > 50
    assert all("==" in line for line in pinned), [line for line in pinned if "==" not in line]
