"""What several rooms of tests share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sparseoccvla_ros.data.nuscenes.index import NuscenesIndex


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


@pytest.fixture(scope="session")
def world_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nuScenes-layout root of two short drives of the world: seven keyframes each, tiny images; never written to."""
    import torch

    from sparseoccvla_ros.data.nuscenes.writer import write_world_root

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return write_world_root(tmp_path_factory.mktemp("world") / "root", [5, 8], 3.2, 72, 128)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def world_index(world_root: Path) -> NuscenesIndex:
    """Its index."""
    from sparseoccvla_ros.data.nuscenes.prepare import prepare
    from sparseoccvla_ros.data.nuscenes.writer import VERSION

    return prepare(world_root, VERSION)
