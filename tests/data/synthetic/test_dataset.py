"""Samples of the world equal what camera_sync makes of the same drive; the cache keeps and repairs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sparseoccvla_ros.camera_sync.calibration import CameraModel
from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS, FREE
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import CameraFrames
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.dataset import Augmentation, Sample, mirrored, without_history
from sparseoccvla_ros.data.synthetic import scenes
from sparseoccvla_ros.data.synthetic.dataset import RESERVED, SPLITS, WorldSamples, world_sample, world_settings
from sparseoccvla_ros.data.synthetic.scenes import (
    WorldScene,
    WorldSettings,
    exposures,
    load_scene,
    places,
    prepare_scenes,
    read_scene,
    render_scene,
    rig_of,
    scene_file,
)  # fmt: skip
from sparseoccvla_ros.world.render.optics import Optics
from sparseoccvla_ros.world.render.renderer import Renderer
from sparseoccvla_ros.world.scene import Scene

SEED = 90_001
SETTINGS = WorldSettings(height=64, width=176, clips=1, sets=2, seconds=6.0, other_rigs=0.0)
NS = 1_000_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene(worlds_made_once) -> WorldScene:
    """One clip of two sets, rendered once."""
    return render_scene(SEED, SETTINGS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: WorldScene) -> Path:
    """An empty cache, and a renderer that is counted instead of run."""
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    monkeypatch.setattr(scenes, "render_scene", lambda seed, settings: replace(scene, seed=seed))
    return tmp_path


def through_camera_sync() -> list[CameraFrames]:
    """The same drive as camera_sync gets it: whole images, one after another, with their calibration and odometry."""
    world = Scene.generate(SEED, SETTINGS.seconds)
    renderer = Renderer(world)
    rig = rig_of(SEED, SETTINGS)
    sync = CameraSync(image=ImageConfig(SETTINGS.height, SETTINGS.width))
    height, width = 99, 176
    out = []
    for camera in rig:
        k = camera.scaled(height, width)
        sync.set_camera(CameraModel(camera.name, "", width, height, k, camera.camera2ego))
    try:
        for moments in exposures(SEED, SETTINGS, rig):
            for k in np.argsort(moments):
                camera, moment = rig[k], float(moments[k])
                pose, twist = world.ego.at(moment)
                stamp = 1000 * NS + round(moment * NS)
                sync.add_odometry(stamp, pose, twist, "map")
                view = renderer.render(camera.scaled(height, width), pose @ camera.camera2ego, height, width, moment, 1)
                sync.add_image(camera.name, stamp, view.rgb)
            frames = sync.finish()
            assert frames is not None, sync.messages()
            out.append(frames)
    finally:
        sync.close()
    return out


def test_samples_are_what_camera_sync_delivers(scene: WorldScene) -> None:
    past, now = through_camera_sync()
    assert now.names == CAMERAS
    sample = world_sample(scene, 1, 2)
    moved = past.ego2img @ geometry.inverse(past.ego.pose) @ now.ego.pose
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (400, 3))
    for image, ego2img, frames, want in zip(
        sample.images, sample.ego2img, (now, past), (now.ego2img, moved), strict=True
    ):
        quality = Optics.generate(SEED).quality
        for ours, theirs in zip(image, frames.images, strict=True):
            options = [cv2.IMWRITE_JPEG_QUALITY, quality]
            stored = cv2.imdecode(cv2.imencode(".jpg", theirs[..., ::-1], options)[1], cv2.IMREAD_COLOR)[..., ::-1]
            assert np.abs(ours.astype(int) - stored).mean() < 0.5
        for ours, theirs in zip(ego2img, want, strict=True):
            pixels, depth = geometry.project(theirs, points)
            near = (depth > 2.0) & (np.abs(pixels) < 400).all(-1)
            assert near.any()
            got, _ = geometry.project(ours.astype(np.float64), points)
            assert np.abs(got - pixels)[near].max() < 1e-3  # float32 matrices
    # Before rounding to float32 they agree to a millionth of a pixel.
    pixels, depth = geometry.project(now.ego2img[0], points)
    got, _ = geometry.project(scene.ego2img[1, 0], points)
    assert np.abs(got - pixels)[depth > 2.0].max() < 1e-6
    np.testing.assert_allclose(sample.twist, now.ego.twist, atol=1e-6)
    np.testing.assert_allclose(scene.pose[1], now.ego.pose, atol=1e-9)


def test_truth_fits_the_images(scene: WorldScene) -> None:
    sample = world_sample(scene, 1, 2)
    assert sample.semantics.shape == sample.visible.shape == OCC3D_GRID.shape
    assert 0.02 < sample.visible.mean() < 0.6
    assert (sample.semantics[sample.visible] != FREE).sum() > 2000
    ahead = sample.future[:, 0, 3]
    assert (np.diff(ahead) > -1e-3).all()
    assert abs(ahead[0] - 0.5 * sample.twist[0]) < 0.5


def test_a_mirror_image_is_consistent(scene: WorldScene) -> None:
    sample = world_sample(scene, 1, 2)
    flipped = mirrored(sample)
    # A voxel and its mirror image lie on the same pixels of the mirrored picture, in the camera on the other side.
    left, right = CAMERAS.index("CAM_FRONT_LEFT"), CAMERAS.index("CAM_FRONT_RIGHT")
    points = np.array([[8.0, 6.0, 1.0], [12.0, 9.0, 0.4]])
    mirror = points * (1, -1, 1)
    a, depth = geometry.project(sample.ego2img[1, left].astype(np.float64), points)
    b, _ = geometry.project(flipped.ego2img[1, right].astype(np.float64), mirror)
    assert (depth > 0).all()
    np.testing.assert_allclose(b, [SETTINGS.width - 1, 0] + a * [-1, 1], atol=1e-3)
    np.testing.assert_array_equal(flipped.images[0, right], sample.images[0, left][:, ::-1])
    index, _ = OCC3D_GRID.index_of(points)
    other, _ = OCC3D_GRID.index_of(mirror - (0, 1e-3, 0))
    np.testing.assert_array_equal(sample.semantics[tuple(index.T)], flipped.semantics[tuple(other.T)])
    assert_same(mirrored(flipped), sample)


def test_augmentation_keeps_shapes_and_truth(scene: WorldScene) -> None:
    sample = world_sample(scene, 1, 2)
    for draw in range(6):
        changed = Augmentation(mirror=0.0, photograph=1.0, no_history=0.0)(sample, np.random.default_rng(draw))
        assert changed.images.shape == sample.images.shape
        assert changed.images.dtype == np.uint8
        assert 0 < np.abs(changed.images.astype(int) - sample.images).mean() < 90
        np.testing.assert_array_equal(changed.ego2img, sample.ego2img)
    alone = without_history(sample)
    np.testing.assert_array_equal(alone.images[1], sample.images[0])
    np.testing.assert_array_equal(alone.ego2img[1], sample.ego2img[0])


def test_the_cache_gives_back_what_was_rendered(cache: Path, scene: WorldScene) -> None:
    load_scene(SEED, SETTINGS)
    path = scene_file(SEED, SETTINGS)
    assert path.is_relative_to(cache)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    again = read_scene(path, SETTINGS)
    assert_same(world_sample(again, 1, 2), world_sample(scene, 1, 2))


@pytest.mark.parametrize("damage", ["truncated", "empty", "other settings"])
def test_a_damaged_file_is_made_again(cache: Path, damage: str) -> None:
    load_scene(SEED, SETTINGS)
    path = scene_file(SEED, SETTINGS)
    whole = path.read_bytes()
    if damage == "other settings":
        path.write_bytes(whole.replace(b"64", b"72", 1))
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
    with pytest.raises(InvalidInput, match=path.name):
        read_scene(path, SETTINGS)
    load_scene(SEED, SETTINGS)
    assert len(path.read_bytes()) == len(whole)
    read_scene(path, SETTINGS)


def test_settings_name_their_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(SETTINGS, interval=0.6)
    assert SETTINGS.folder() != other.folder()
    before = SETTINGS.folder()
    monkeypatch.setattr(scenes, "WORLD_VERSION", scenes.WORLD_VERSION + 1)
    assert SETTINGS.folder() != before
    for wrong in ({"clips": 0}, {"sets": 20}, {"interval_jitter": 0.9}, {"mount_metres": -1.0}):
        with pytest.raises(InvalidInput, match="world"):
            replace(SETTINGS, **wrong)


def test_a_data_set_takes_in_what_is_added(cache: Path) -> None:
    data = WorldSamples(range(4), SETTINGS, 2, cached_only=True)
    assert len(data) == 0
    for seed in (2, 0):
        load_scene(seed, SETTINGS)
    data.refresh()
    assert data.state() == [0, 2]
    assert len(data) == 2
    assert data[1].name.startswith("world 2 at")
    data.refresh([2])
    assert len(data) == 1
    assert len(WorldSamples(range(4), SETTINGS, 2)) == 4
    with pytest.raises(InvalidInput, match="frames"):
        WorldSamples([0], SETTINGS, 3)


def test_prepared_seeds_are_not_rendered_again(cache: Path) -> None:
    load_scene(0, SETTINGS)
    assert list(prepare_scenes([0], SETTINGS, workers=1)) == [0]


def test_splits_share_no_seed() -> None:
    seeds = [s for split in SPLITS.values() for s in (split.start, split.stop - 1)]
    assert seeds == sorted(set(seeds))
    assert world_settings("train").mount_degrees > 0 == world_settings("test").mount_degrees
    assert world_settings("train", 256, 704, 4).sets == 5
    with pytest.raises(InvalidInput, match="split"):
        world_settings("all")
    assert max(s.stop for s in SPLITS.values()) <= RESERVED


def test_rigs_of_any_size_leave_places_empty() -> None:
    """Over seeds: cars with and without all cameras and other rigs; one with few cameras gives black places."""
    settings = replace(SETTINGS, sets=1, other_rigs=1.0, cameras=8)
    rigs = {seed: rig_of(seed, settings) for seed in range(60)}
    counts = {len(rig) for rig in rigs.values()}
    assert counts >= {1, 2, 3, 4, 5, 6}
    assert max(counts) <= 8
    for rig in rigs.values():
        where = places(rig, settings.cameras)
        assert where == sorted(set(where))
        for camera in rig:
            assert np.allclose(camera.camera2ego[:3, :3] @ camera.camera2ego[:3, :3].T, np.eye(3))
            assert 1.0 < camera.camera2ego[2, 3] < 2.6
            assert abs(camera.camera2ego[2, 2]) < 0.3, "no camera looks at its feet"
    seed = next(s for s, rig in rigs.items() if len(rig) == 2)
    found = render_scene(seed, settings)
    assert found.usable.sum() == 2
    images = found.images(0)
    assert images.shape == (8, 64, 176, 3)
    np.testing.assert_array_equal(images.any((1, 2, 3)), found.usable)
    np.testing.assert_array_equal(found.ego2img[0].any((1, 2)), found.usable)


def assert_same(a: Sample, b: Sample) -> None:
    for name, value in vars(a).items():
        if isinstance(value, np.ndarray):
            # Four roundings of float32, whose last bit is 1e-7 of a value.
            np.testing.assert_allclose(value, getattr(b, name), rtol=1e-6, atol=1e-5, err_msg=name)
        else:
            assert value == getattr(b, name)
