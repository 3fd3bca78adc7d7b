"""Caches of later stages: what they hold is what the on-line path gives, and other weights are another cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import WAYPOINT_TIMES, Command, TrafficLight
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.data.synthetic import qa_cache
from sparseoccvla_ros.data.synthetic.drives import load_drive, prepare_drives, trajectories
from sparseoccvla_ros.data.synthetic.qa_cache import QuestionCache, question_rows
from sparseoccvla_ros.data.synthetic.scenes import WorldSettings, load_scene
from sparseoccvla_ros.occupancy import checkpoints
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.planning.anchors import STANDSTILL
from sparseoccvla_ros.planning.config import PlanningConfig
from sparseoccvla_ros.planning.model.diffusion import DeltaNormaliser
from sparseoccvla_ros.train import build
from sparseoccvla_ros.train.anchors import describe, fit
from sparseoccvla_ros.train.features.dataset import FeatureSamples
from sparseoccvla_ros.train.features.future_labels import FutureLabels, unpack
from sparseoccvla_ros.train.features.synthetic import (
    FeatureCache,
    _movable,
    _row_of,
    encode_scene,
    frame_set,
    movable_voxels,
    prepare_features,
    read_arrays,
    traffic_lights,
    write_arrays,
)
from sparseoccvla_ros.world.render.camera_rig import load_rig
from sparseoccvla_ros.world.scene import Scene
from tests.train.conftest import MICRO

SETTINGS = WorldSettings(height=32, width=64, clips=1, sets=2, other_rigs=0.0)
SEED = 80_001


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, worlds_made_once):
    """A cache folder of this module's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEOCCVLA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def encoded(place: Path) -> tuple[OccupancyEncoder, Path, FeatureCache]:
    """A micro encoder, its file, and its features of one scene."""
    torch.manual_seed(2)
    encoder = OccupancyEncoder(MICRO)
    checkpoints.save(encoder, place / "a.safetensors")
    cache = FeatureCache.of(encoder, place / "a.safetensors", SETTINGS)
    assert list(prepare_features(encoder, cache, [SEED])) == [SEED]
    return encoder, place / "a.safetensors", cache


def test_features_are_those_of_the_on_line_path(encoded) -> None:
    encoder, _, cache = encoded
    scene = load_scene(SEED, SETTINGS)
    queries = encode_scene(encoder, scene)
    samples = FeatureSamples(cache, [SEED, 5], ("features", "centres", "points", "labels", "scores"))
    assert len(samples) == 2
    for sample, want in zip((samples[0], samples[1]), queries, strict=True):
        np.testing.assert_allclose(sample.arrays["features"], want.features, atol=2e-2)
        # Sums of another order, over up to 40 m.
        np.testing.assert_allclose(sample.arrays["centres"], want.centres, atol=2e-5)
        np.testing.assert_array_equal(sample.arrays["labels"], want.labels)
        assert sample.arrays["scores"].dtype == np.float32
    # The second set remembers the first: alone it would look otherwise.
    encoder.reset()
    assert not np.allclose(encoder.encode(frame_set(scene, 1)).features, queries[1].features, atol=1e-4)
    drive = load_drive(SEED, SETTINGS.seconds)
    np.testing.assert_allclose(samples[1].waypoints, drive.waypoints(float(scene.time[1])), atol=5e-3)


def test_other_weights_or_settings_are_another_cache(encoded, place: Path) -> None:
    encoder, file, cache = encoded
    changed = place / "b.safetensors"
    torch.manual_seed(3)
    checkpoints.save(OccupancyEncoder(MICRO), changed)
    assert FeatureCache.of(encoder, file, SETTINGS).key == cache.key
    assert FeatureCache.of(encoder, changed, SETTINGS).key != cache.key
    assert replace(cache, world=replace(SETTINGS, width=96)).key != cache.key
    assert replace(cache, config=cache.config.replace("0.35", "0.3")).key != cache.key
    with pytest.raises(InvalidInput, match="weights"):
        FeatureCache.of(encoder, place / "missing.safetensors", SETTINGS)


def test_a_damaged_file_is_named(encoded) -> None:
    cache = encoded[2]
    broken = replace(cache, weights="0" * 64)
    broken.file(SEED).parent.mkdir(parents=True, exist_ok=True)
    broken.file(SEED).write_bytes(cache.file(SEED).read_bytes()[:500])
    with pytest.raises(InvalidInput, match=r"cache: .*00080001.* cannot be read"):
        read_arrays(broken.file(SEED))
    with pytest.raises(InvalidInput, match="gone"):
        FeatureSamples(cache, [SEED]).refresh([SEED, 77])


def test_scenes_without_what_belongs_to_them_are_left_out(encoded) -> None:
    cache = encoded[2]
    assert len(FeatureSamples(cache, [SEED], extra=lambda seed: None)) == 0
    found = FeatureSamples(cache, [SEED], rows=[1], extra=lambda seed: {"more": np.full(1, 7.0)})
    assert len(found) == 1
    assert found[0].arrays["more"] == 7.0


def test_futures_and_questions_of_a_scene(encoded) -> None:
    world = encoded[2].world
    futures = FutureLabels(world, present=True)
    assert futures.read(SEED) is None
    futures.prepare(SEED)
    found = futures.read(SEED)
    assert found is not None
    assert unpack(found["future_labels"][0]).shape == (3, 200, 200, 16)
    assert found["movers"].shape[1:2] == (4,)
    asked = QuestionCache(world, futures.rows)
    asked.prepare(SEED)
    questions = asked.read(SEED)
    assert questions is not None
    assert len(questions["questions"][0]) > 3
    assert all(q.question and q.answer for q in questions["questions"][0])


def test_what_can_move_is_kept_set_by_set(tmp_path: Path) -> None:
    def queries(places: list[int], labels: list[int]) -> SimpleNamespace:
        where = np.array([[x, 1, 2] for x in places], np.int16).reshape(-1, 3)
        return SimpleNamespace(voxels=SparseVoxels(where, np.array(labels, np.uint8), np.ones(len(places), np.float32)))

    car, road = LABEL["car"], LABEL["driveable_surface"]
    found = _movable([queries([1, 2], [car, road]), queries([], []), queries([3, 4], [car, car])])
    write_arrays(tmp_path / "scene.safetensors", found, {})
    kept = movable_voxels(tmp_path / "scene.safetensors", (0, 1, 2))["voxels"]
    assert [v.tolist() for v in kept] == [[[1, 1, 2, car]], [], [[3, 1, 2, car], [4, 1, 2, car]]]
    assert _movable([SimpleNamespace(voxels=None)]) == {}
    write_arrays(tmp_path / "none.safetensors", {"time": np.zeros(1)}, {})
    assert movable_voxels(tmp_path / "none.safetensors", (0,)) == {}


def test_traffic_lights_are_kept_and_the_planner_learns_the_line_of_a_red_one(tmp_path: Path) -> None:
    seen = [TrafficLight("red", 0.75, 14.5), None, TrafficLight("green", 0.5, -2.0), TrafficLight("green", 0.5, 5.0)]
    arrays = {
        "time": 0.5 * np.arange(4.0),
        "pose": np.tile(np.eye(4), (4, 1, 1)),
        "twist": np.zeros((4, 6), np.float32),
    }
    arrays |= {"voxels": np.zeros((0, 4), np.int16), "voxel_ends": np.zeros(4, np.int64)}
    arrays["traffic_light"] = np.stack([_row_of(light) for light in seen])
    file = tmp_path / "00000007.safetensors"
    write_arrays(file, arrays, {})
    kept = [light and (light.colour, light.probability, light.distance) for light in traffic_lights(file)]
    assert kept == [("red", 0.75, 14.5), None, ("green", 0.5, -2.0), ("green", 0.5, 5.0)]
    source = SimpleNamespace(cache=SimpleNamespace(file=lambda seed: file), planned=None)
    lines = build._obstacles(source, None, 7)["obstacles"][:, -1]
    # As in driving: remembered when hidden, and a change from red to green is believed when it was seen twice.
    assert [layer.any() for layer in lines] == [True, True, True, False]


def test_in_training_two_sets_of_a_clip_are_asked_about(place: Path) -> None:
    world = WorldSettings(clips=2, sets=3)
    assert question_rows(world, "train") == (1, 2, 4, 5)
    assert question_rows(world, "validation") == FutureLabels(world, present=True).rows == (2, 5)


def test_a_scene_is_asked_about_as_its_own_cameras_show_it(
    place: Path, encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(qa_cache, "rig_of", lambda seed, world: load_rig()[:3])
    monkeypatch.setattr(qa_cache, "questions", lambda view: seen.append(len(view.rig)) or [])
    QuestionCache(encoded[2].world, (0,)).prepare(SEED)
    assert seen == [3]


def test_the_planner_hears_the_set_before_and_nothing_of_scenes_that_language_learnt(encoded) -> None:
    class Readings:
        def read(self, seed: int, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
            return {name: np.arange(2, dtype=np.float32)[:, None].repeat(3, 1) for name in fields}

    source = build.Source(encoded[2], [SEED], None, (), lambda seed: None, (), lambda seed: None)
    found = build._heard(source, Readings(), (), SEED)
    assert found["token"][:, 0].tolist() == [0.0, 1.0]
    assert found["token_before"][:, 0].tolist() == [0.0, 0.0]
    silent = build._heard(source, Readings(), range(SEED, SEED + 1), SEED)
    assert np.isnan(silent["token"]).all()
    assert np.isnan(silent["token_before"]).all()
    assert not silent["anchor_scores"].any()


def test_a_recorded_drive_is_the_scenes(place: Path) -> None:
    scene = Scene.generate(3, 8.0)
    drive = load_drive(3, 8.0, scene)
    again = load_drive(3, 8.0)
    np.testing.assert_array_equal(drive.pose, again.pose)
    for time in (0.013, 2.222, 7.9):
        pose, twist = scene.ego.at(time)
        np.testing.assert_allclose(drive.at(time)[0], pose, atol=5e-3)
        np.testing.assert_allclose(drive.at(time)[1], twist, atol=2e-2)
        assert list(Command)[drive.commanded(time - time % 0.05)] is scene.ego.command(time - time % 0.05)
    with pytest.raises(InvalidInput, match="time"):
        drive.at(99.0)


@pytest.mark.slow
def test_anchors_follow_the_drives_and_every_command_can_stand(place: Path) -> None:
    drives = list(prepare_drives(range(5), 16.0))
    # A mirrored world, so that five seeds turn both ways.
    flip = np.array([1.0, -1.0, -1.0])
    drives += [
        replace(d, pose=d.pose * flip, motion=d.motion * (1, -1), command=(2 - d.command).astype(np.uint8))
        for d in drives
    ]
    config = PlanningConfig()
    paths, commands = trajectories(drives, 0.25)
    anchors = fit(paths, commands, config)
    assert (np.abs(anchors.array[:, 0, -1, 0]) < STANDSTILL).all()
    error = np.linalg.norm(paths[:, None] - anchors.array[commands], axis=-1).mean(-1).min(1)
    assert error.mean() < 2.0
    normaliser = DeltaNormaliser(config.forward_range, config.lateral_range)
    assert not normaliser.clipped(torch.from_numpy(anchors.deltas)).any()
    assert anchors.sha256 in describe(anchors)
    assert fit(paths, commands, config).sha256 == anchors.sha256
    assert paths.shape[1] == len(WAYPOINT_TIMES)
