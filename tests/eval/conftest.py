"""A preset with which a whole evaluation takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CONFIG = {
    "format_version": 1,
    "name": "micro",
    "seed": 3,
    "image": {"height": 64, "width": 176},
    "occupancy": {
        "pretrained": False, "strides": [16, 32], "embed_dims": 32, "groups": 2, "heads": 2, "frames": 2, "queries": 24,
        "points_per_group": 2, "points_per_layer": [2, 8], "ffn_dims": 32, "mixing_points": 4, "score_threshold": 0.01,
    },
    "reasoning": {"language_model": "random-tiny", "dtype": "float32", "query_dims": 32, "occupancy_tokens": 16},
    "planning": {"reasoning_dims": 64, "query_dims": 32},
}  # fmt: skip


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a preset with few queries and a random language model."""
    folder = tmp_path_factory.mktemp("presets") / "micro"
    folder.mkdir()
    tiny = Path(__file__).resolve().parents[2] / "models" / "tiny"
    (folder / "anchors.npz").write_bytes((tiny / "anchors.npz").read_bytes())
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return str(folder)
