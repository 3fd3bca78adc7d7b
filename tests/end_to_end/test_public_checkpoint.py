"""From a public OPUS-V2 checkpoint file to a path: the real loader, `./run models convert`, every node, `./run demo`.

The file has the public layout at a reduced size and random numbers inside; the language model is an untrained one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rclpy.serialization import deserialize_message

from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.lifecycle_base import message_class
from sparseoccvla_ros.runtime.presets import load_preset

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.usefixtures("domain")]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def reduced(tmp_path: Path) -> Path:
    """Preset folder with the options of opus_v2_t at a size that a busy CPU computes in tens of milliseconds."""
    content = yaml.safe_load(share("models", "opus_v2_t", "config.yaml").read_text())
    content["image"] = {"height": 64, "width": 176}
    content["anchors"] = str(share("models", "tiny", "anchors.npz"))
    content["occupancy"] |= {
        "backbone_width": 8, "embed_dims": 64, "frames": 2, "queries": 40, "points_per_layer": [2, 4], "ffn_dims": 64,
        "densifier_dims": 16,
    }  # fmt: skip
    content["reasoning"] |= {"language_model": "random-tiny", "query_dims": 64, "occupancy_tokens": 16}
    content["planning"] |= {"query_dims": 64, "reasoning_dims": 64}
    folder = tmp_path / "reduced"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)


def test_a_checkpoint_file_drives_the_whole_graph(reduced: Path, public_state, tmp_path: Path, read_cloud) -> None:
    torch.manual_seed(5)
    encoder = OccupancyEncoder(load_preset(str(reduced)).occupancy)
    with torch.no_grad():  # from the first-step prior no voxel would be occupied
        encoder.densifiers[-1].cls_branch[2].bias.normal_(-1.0, 1.0)
    torch.save({"meta": {}, "state_dict": public_state(encoder)}, tmp_path / "opusv2-t.pth")
    file, out = str(tmp_path / "opusv2-t.pth"), str(tmp_path / "v2")
    done = run("models", "convert", file, "--preset", str(reduced), "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_preset(out).untrained == ("reasoning", "planning")

    words = ["--preset", out, "--out", str(tmp_path / "demo"), "--duration", "8", "--rate", "0.5", "--min-paths", "1"]
    done = run("demo", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no weights yet for reasoning, planning" in " ".join(done.stdout.split())
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["untrained"] == ["reasoning", "planning"]
    assert summary["stamps_matched"] == summary["paths"]
    queries, clouds = [], []
    with BagReader(tmp_path / "demo" / "outputs") as reader:
        for message in reader.messages():
            for topic, found in (("/occupancy/queries", queries), ("/occupancy/points", clouds)):
                if message.topic.endswith(topic):
                    found.append(deserialize_message(bytes(message.raw), message_class(message.type)))
    assert queries
    assert clouds
    assert all(messages.queries_from_msg(q).trained for q in queries)
    # What is shown are the densifier's voxels, which the points alone could not give.
    scene = messages.queries_from_msg(queries[-1])
    assert scene.voxels is not None
    shown = {messages.nanoseconds(c.header.stamp): len(read_cloud(c)) for c in clouds}
    assert shown.get(scene.stamp, len(scene.voxels)) == len(scene.voxels) > scene.labels.size
