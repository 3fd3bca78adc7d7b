"""What several rooms of tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny preset with a small random language model: the same code, seconds faster."""
    folder = tmp_path_factory.mktemp("presets") / "small"
    folder.mkdir()
    tiny = Path(__file__).resolve().parents[1] / "models" / "tiny"
    (folder / "anchors.npz").write_bytes((tiny / "anchors.npz").read_bytes())
    (folder / "config.yaml").write_text(
        "format_version: 1\nname: small\nseed: 1\nreasoning: {language_model: random-tiny, dtype: float32}\n"
        "planning: {reasoning_dims: 64}\n"
    )
    return str(folder)
