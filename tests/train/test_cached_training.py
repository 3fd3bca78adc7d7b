"""Training from cached early features sees what training from images sees, and both phases of stage 1 learn from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.dataset import mirrored
from sparseoccvla_ros.data.shared_work import share
from sparseoccvla_ros.data.synthetic.dataset import world_sample
from sparseoccvla_ros.data.synthetic.scenes import WorldSettings, scene_file, write_scene
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.occupancy.losses import OccupancyTargets
from sparseoccvla_ros.train.features.backbone_cache import BackboneCache, Variants, pack, unpack
from sparseoccvla_ros.train.features.cached_frames import CachedFrames, FrameSlice, read_frames
from sparseoccvla_ros.train.settings import TrainSettings
from sparseoccvla_ros.train.stages.cells import CellStage
from sparseoccvla_ros.train.stages.clips import ClipStage
from sparseoccvla_ros.train.stages.occupancy import OccupancyStage, OccupancyStageSettings
from sparseoccvla_ros.train.trainer import Trainer
from tests.train.conftest import MICRO
from tests.train.fake_scenes import scene_of

FROZEN = 5
CONFIG = MICRO.replace(strides=(8, 16), image_queries=8, depth_bins=64)
SETTINGS = WorldSettings(height=32, width=64, clips=2, sets=3)
WHOLE = OccupancyStageSettings(frozen=FROZEN, initial_points="random")


@pytest.fixture
def encoder() -> OccupancyEncoder:
    torch.manual_seed(4)
    return OccupancyEncoder(CONFIG)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with two scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEOCCVLA_CACHE", str(folder))
        for seed in (0, 1):
            write_scene(scene_of(seed, SETTINGS), scene_file(seed, SETTINGS))
    return folder


@pytest.fixture(autouse=True)
def _scenes(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    shutil.copytree(scenes, tmp_path, dirs_exist_ok=True)


def cache_of(encoder: OccupancyEncoder, variants: int) -> BackboneCache:
    cache = BackboneCache(encoder, SETTINGS, FROZEN, Variants(variants, photograph=0.5))
    assert list(share(cache, [0, 1])) == [0, 1]
    return cache


@pytest.mark.parametrize("blocks", [1, 5, 16])
def test_early_and_late_blocks_make_the_whole(encoder: OccupancyEncoder, blocks: int) -> None:
    images = torch.randint(0, 255, (2, 32, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        whole = encoder.image_features(images)
        parts = encoder.late_features(encoder.early_features(images, blocks), blocks)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_eight_bits_are_half_a_step_off() -> None:
    part = torch.randn(3, 5, 4, 6) * torch.logspace(-3, 3, 5)[:, None, None]
    bits, low, step = pack(part)
    off = (unpack(bits, low, step) - part).abs()
    assert (off <= 0.501 * step[..., None, None] + 1e-6 * part.abs()).all()


def test_a_clip_from_the_cache_is_the_sample_from_images(encoder: OccupancyEncoder) -> None:
    cache = cache_of(encoder, 0)
    clip = CachedFrames(cache, [0, 1], clips=True)[1]
    stage, other = ClipStage(encoder, WHOLE).eval(), OccupancyStage(encoder, WHOLE).eval()
    found = stage.collate([clip])
    wanted = other.collate([world_sample(scene_of(0, SETTINGS), present, 2) for present in (4, 5)])
    torch.testing.assert_close(found.ego2img, wanted.ego2img, rtol=1e-5, atol=1e-4)
    assert found.image_size == wanted.image_size
    for a, b in zip(found.targets, wanted.targets, strict=True):
        assert torch.equal(a.centres, b.centres)
        assert torch.equal(a.labels, b.labels)
    assert torch.equal(found.cells[0], wanted.cells[0])
    torch.testing.assert_close(found.cells[1], wanted.cells[1], rtol=1e-3, atol=0)
    with torch.no_grad():
        for a, b in zip(stage.levels(found), other.levels(wanted), strict=True):
            assert (a - b).norm() < 0.02 * b.norm()
        terms, others = stage(found), other(wanted)
    assert terms.keys() == others.keys()
    # What a camera does not see is no target of the cache, where images keep it with another weight: none here.
    for name in terms:
        torch.testing.assert_close(terms[name], others[name], rtol=0.05, atol=1e-3, msg=name)


@pytest.mark.slow
def test_a_mirrored_variant_is_the_mirrored_sample(encoder: OccupancyEncoder) -> None:
    cache = cache_of(encoder, 2)
    file = cache.file(0)
    batch = ClipStage(encoder, WHOLE).collate([FrameSlice(file, 0, 3, 2, variant=1)])
    for row, present in enumerate((1, 2)):
        sample = mirrored(world_sample(scene_of(0, SETTINGS), present, 2))
        np.testing.assert_allclose(batch.ego2img[row], sample.ego2img, rtol=1e-5, atol=1e-4)
        target = OccupancyTargets.from_dense(np.where(sample.visible, sample.semantics, 255).astype(np.uint8))
        pairs = [
            set(zip(map(tuple, t.centres.numpy().round(2).tolist()), t.labels.tolist(), strict=True))
            for t in (target, batch.targets[row])
        ]
        assert pairs[0] == pairs[1]


def test_a_drive_start_sees_the_present_twice(encoder: OccupancyEncoder) -> None:
    batch = ClipStage(encoder, WHOLE).collate([FrameSlice(cache_of(encoder, 1).file(1), 0, 3, 1, drive_start=True)])
    assert batch.index.tolist() == [[0, 0], [1, 0], [2, 1]]
    torch.testing.assert_close(batch.ego2img[0, 0], batch.ego2img[0, 1])


def test_the_folder_depends_on_the_frozen_weights_alone(encoder: OccupancyEncoder) -> None:
    key = BackboneCache(encoder, SETTINGS, FROZEN).key
    with torch.no_grad():
        encoder.backbone.blocks[FROZEN].project.weight.add_(1.0)
    assert BackboneCache(encoder, SETTINGS, FROZEN).key == key
    assert BackboneCache(encoder, SETTINGS, FROZEN, Variants(4)).key != key
    with torch.no_grad():
        encoder.backbone.blocks[FROZEN - 1].project.weight.add_(1.0)
    assert BackboneCache(encoder, SETTINGS, FROZEN).key != key


def test_a_damaged_file_is_named(encoder: OccupancyEncoder) -> None:
    file = cache_of(encoder, 1).file(0)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InvalidInput, match=rf"cache: .*{file.name}"):
        read_frames([FrameSlice(file, 0, 1, 1)])


def test_cells_learn_and_the_rest_stays(encoder: OccupancyEncoder, tmp_path: Path) -> None:
    data = CachedFrames(cache_of(encoder, 2), [0, 1], clips=False)
    checked = CachedFrames(cache_of(encoder, 0), [0, 1], clips=False)
    stage = CellStage(encoder, FROZEN, depthwise=True)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    settings = TrainSettings(
        steps=12,
        batch_size=2,
        learning_rate=1e-2,
        warmup_steps=2,
        validate_every=12,
        save_every=12,
        backbone_lr_scale=0.3,
        ema_decay=0.5,
    )
    losses: list[float] = []
    trainer = Trainer(
        stage, data, checked, settings, tmp_path / "out", augment=stage.augment, device="cpu",
        on_report=lambda report: losses.append(report.loss),
    )  # fmt: skip
    found = trainer.run()
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:2]), losses
    assert found is not None
    assert found.numbers["right"] > 50
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(k.startswith(("backbone.blocks.", "neck.", "decoder.proposals.")) for k in moved)
    assert not any(k.startswith(f"backbone.blocks.{i}.") for k in moved for i in range(FROZEN))
    assert "decoder.proposals.start.weight" not in moved


def test_a_step_from_clips_lowers_the_loss_and_moves_what_trains(encoder: OccupancyEncoder) -> None:
    data = CachedFrames(cache_of(encoder, 2), [0, 1], clips=True)
    # Points that start at centres of voxels are equally far from several; there the gradient depends on rounding.
    stage = ClipStage(encoder, WHOLE).eval()
    batch = stage.collate([stage.augment(data[1], np.random.default_rng(0))])
    loss = sum(stage(batch).values())
    loss.backward()
    trained = [p for p in stage.parameters() if p.grad is not None]
    length = torch.stack([p.grad.norm() for p in trained]).norm()
    with torch.no_grad():
        for parameter in trained:
            parameter -= 0.02 * parameter.grad / length
        assert sum(stage(batch).values()) < loss
    moved = {name.split(".")[1] for name, p in stage.named_parameters() if p.grad is not None}
    assert moved == {"backbone", "neck", "decoder"}
    assert encoder.backbone.blocks[FROZEN].expand.weight.grad.abs().sum() > 0
    assert encoder.backbone.blocks[FROZEN - 1].expand.weight.grad is None
