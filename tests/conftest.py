"""What several rooms of tests share."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from torch import Tensor

    from sparseoccvla_ros.data.nuscenes.index import NuscenesIndex
    from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
    from sparseoccvla_ros.world.scene import Scene

# How long data take to draw says something about the machine and its load, not about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

STACKS = "tests/end_to_end/"
"""Tests whose stack of processes wants the cores for itself: never two of them at once."""
WORLD_ROOT_SEEDS = (4, 8)
"""Drives of the fixture world_root."""
WORLD_ROOT = ("tests/eval/nuscenes/test_evaluation.py", "tests/data/nuscenes/test_dataset.py")
"""Files that share world_root, which takes long to make."""
LONGEST = (STACKS, "tests/runtime/", "tests/eval/", "tests/train/", "tests/world/", "tests/nodes/", "tests/parity/")
"""Started first where several processes test, so that none is left with a long file at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        if worker != "gw0":  # which begins with the stacks: they go before what the others do
            os.nice(5)
        places = {item: [item.nodeid.startswith(room) for room in (*LONGEST, "")].index(True) for item in items}
        items.sort(key=places.__getitem__)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays with one process, since its fixtures are shared; so do all the stacks, and who reads world_root."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            together = (room for room in (STACKS, WORLD_ROOT) if file.startswith(room))
            return str(next(together, file))

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the shared memory of killed nodes, 40 MB each with cameras: Fast DDS leaves it to whoever cleans up."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    for lock in Path("/dev/shm").glob("fastdds_????????????????_el"):
        # A living participant holds its lock (Fast DDS, RobustExclusiveLock).
        with contextlib.suppress(OSError), lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def next_domain() -> Callable[[], int]:
    """The next DDS domain of this test process; no other process that tests takes it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 80 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    domains = itertools.cycle(range(20 + share * worker, 20 + share * (worker + 1)))
    return lambda: next(domains)


@pytest.fixture
def domain(next_domain: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> int:
    """A DDS domain for nodes and processes of the test."""
    number = next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return number


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, the machine's own or Playwright's; draws in software where there is no GPU."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as engine:
        try:
            started = engine.chromium.launch(
                executable_path=found, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
            )
        except playwright.Error:
            if found is not None:
                raise
            pytest.skip("no browser: sudo apt install chromium, or ./run env playwright install chromium")
        yield started
        started.close()


@pytest.fixture(scope="session")
def read_cloud() -> Callable[[Any], np.ndarray]:
    """Reads a PointCloud2 of float32 and integer fields as a structured array [N]."""
    kinds = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 8: "<f8"}

    def read(message: Any) -> np.ndarray:
        names, types, offsets = zip(*((f.name, kinds[f.datatype], f.offset) for f in message.fields), strict=True)
        kind = {"names": names, "formats": types, "offsets": offsets, "itemsize": message.point_step}
        return np.frombuffer(message.data, np.dtype(kind))

    return read


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny preset with few queries and a small random language model: the same code, seconds faster."""
    folder = tmp_path_factory.mktemp("presets") / "small"
    folder.mkdir()
    tiny = Path(__file__).resolve().parents[1] / "models" / "tiny"
    (folder / "anchors.npz").write_bytes((tiny / "anchors.npz").read_bytes())
    (folder / "config.yaml").write_text(
        "format_version: 1\nname: small\nseed: 1\n"
        "occupancy: {strides: [16, 32], embed_dims: 32, groups: 2, heads: 2, queries: 24, points_per_group: 2,"
        " points_per_layer: [2, 8], ffn_dims: 32, mixing_points: 4}\n"
        "reasoning: {language_model: random-tiny, dtype: float32, query_dims: 32, occupancy_tokens: 16}\n"
        "planning: {reasoning_dims: 64, query_dims: 32}\n"
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
        return write_world_root(tmp_path_factory.mktemp("world") / "root", WORLD_ROOT_SEEDS, 3.2, 72, 128)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def worlds_made_once() -> Iterator[Callable[..., Scene]]:
    """Scene.generate with a cache for this module, in whose tests nobody changes a scene; each takes seconds."""
    from sparseoccvla_ros.world.scene import Scene

    made = cache(Scene.generate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scene, "generate", staticmethod(made))
        yield made


@pytest.fixture(scope="session")
def world_index(world_root: Path) -> NuscenesIndex:
    """Its index."""
    from sparseoccvla_ros.data.nuscenes.prepare import prepare
    from sparseoccvla_ros.data.nuscenes.writer import VERSION

    return prepare(world_root, VERSION)


@pytest.fixture(scope="session")
def public_state() -> Callable[[OccupancyEncoder], dict[str, Tensor]]:
    """An encoder's weights under the names and with the buffers of the public OPUS code."""
    import torch

    def of(encoder: OccupancyEncoder) -> dict[str, Tensor]:
        rules = (
            ("self_attn.in_proj.", "self_attn.attention.attn.in_proj_"),
            ("self_attn.out_proj.", "self_attn.attention.attn.out_proj."),
            ("ffn.0.", "ffn.layers.0.0."),
            ("ffn.3.", "ffn.layers.1."),
            ("decoder.layers.", "pts_bbox_head.transformer.decoder.decoder_layers."),
            ("decoder.init", "pts_bbox_head.init"),
            ("densifiers.", "pts_bbox_head.densifiers."),
            ("neck.lateral.", "img_neck.lateral_convs."),
            ("neck.output.", "img_neck.fpn_convs."),
        )
        out = {}
        for name, value in encoder.state_dict().items():
            for ours, theirs in rules:
                name = name.replace(ours, theirs)
            head, _, tail = name.rpartition(".")
            if name.startswith("img_neck."):
                name = f"{head}.conv.{tail}"
            out["img_" + name if name.startswith("backbone.") else name] = value.clone()
        lower, upper = torch.tensor(encoder.grid.lower), torch.tensor(encoder.grid.upper)
        for index in range(len(encoder.densifiers or ())):
            out[f"pts_bbox_head.densifiers.{index}.pc_range"] = torch.cat((lower, upper))
            out[f"pts_bbox_head.densifiers.{index}.voxel_num"] = torch.tensor(encoder.grid.shape)
        out["pts_bbox_head.pc_range"] = torch.cat((lower, upper))
        out["pts_bbox_head.scene_size"] = upper - lower
        out["pts_bbox_head.voxel_size"] = torch.full((3,), encoder.grid.size)
        out["pts_bbox_head.voxel_num"] = torch.tensor(encoder.grid.shape)
        return out

    return of
