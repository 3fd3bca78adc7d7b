"""The on-line path of the occupancy encoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import CameraFrames
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from tests.tolerance import decoder_operations, rounding

THREE = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT")


def batch_result(encoder: OccupancyEncoder, history: list[CameraFrames]) -> dict[str, np.ndarray]:
    """The batch path on the frames given by age, matrices multiplied out here."""
    present = history[0].ego.pose
    images = torch.from_numpy(np.stack([f.images for f in history])[None])
    ego2img = np.stack([f.ego2img @ np.linalg.inv(f.ego.pose) @ present for f in history])[None]
    with torch.no_grad():
        last = encoder(images, torch.from_numpy(ego2img.astype(np.float32)))[-1]
    points = encoder.decoder.to_metres(last.points[0])
    return {
        "features": last.features[0].numpy(),
        "points": points.numpy(),
        "scores": last.logits[0].max(-1).values.sigmoid().numpy(),
    }


def assert_same(queries, expected: dict[str, np.ndarray], config: OccupancyConfig) -> None:
    for name, want in expected.items():
        atol = rounding(want, terms=decoder_operations(config))
        np.testing.assert_allclose(getattr(queries, name), want, atol=atol, rtol=0, err_msg=name)


@pytest.mark.numeric
@pytest.mark.parametrize(
    "names", [CAMERAS, pytest.param(THREE, marks=pytest.mark.slow), ("CAM_BACK",)], ids=["six", "three", "one"]
)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"frames": 1}, marks=pytest.mark.slow),
        {"frames": 2},
        pytest.param({"frames": 3}, marks=pytest.mark.slow),
        {"frames": 3, "scale_weight_order": "compatible", "unseen_points": "compatible"},
        {"frames": 2, "neck": "fpn", "strides": (16, 32)},
    ],
    ids=["one frame", "two frames", "three frames", "compatible", "two levels"],
)
def test_streaming_equals_batch(make_frames, make_encoder, small, names, changes):
    config = small.replace(**changes)
    encoder = make_encoder(config)
    seen: list[CameraFrames] = []
    for step in range(5):
        seen.insert(0, make_frames(step, names))
        queries = encoder.encode(seen[0])
        by_age = (seen + [seen[-1]] * config.frames)[: config.frames]
        assert_same(queries, batch_result(encoder, by_age), config)


def test_past_frames_matter(make_frames, make_encoder, small):
    encoder = make_encoder(small)
    encoder.encode(make_frames(0))
    with_past = encoder.encode(make_frames(1))
    encoder.reset()
    alone = encoder.encode(make_frames(1))
    assert np.abs(with_past.features - alone.features).max() > 1e-3


def test_repeats_exactly(make_frames, make_encoder, small):
    results = []
    for _ in range(2):
        encoder = make_encoder(small)
        results.append([encoder.encode(make_frames(step)) for step in range(3)])
    for one, two in zip(*results, strict=True):
        for name in ("features", "centres", "points", "labels", "scores", "view_features"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_result_shapes_and_stamp(make_frames):
    torch.manual_seed(0)
    encoder = OccupancyEncoder(OccupancyConfig())
    frames = make_frames(2, epoch=7, size=(128, 352))
    queries = encoder.encode(frames)
    assert queries.features.shape == (150, 128)
    assert queries.points.shape == (150, 64, 3)
    assert queries.labels.max() < 17
    assert queries.view_features.shape == (12, 128)
    assert (queries.stamp, queries.epoch) == (frames.stamp, 7)
    assert not queries.trained
    atol = rounding(queries.points, terms=queries.points.shape[1])
    np.testing.assert_allclose(queries.centres, queries.points.mean(1), atol=atol)
    # Untrained weights still show the wiring: some voxels, not a full grid.
    assert 300 < len(encoder.voxels(queries)) < 12000


def test_trained_flag_travels(make_frames, make_encoder, small):
    encoder = make_encoder(small)
    encoder.trained = True
    assert encoder.encode(make_frames(0)).trained


def without(frames: CameraFrames, name: str, image: int | None = None) -> CameraFrames:
    """The frame set with a camera marked invalid, its image replaced by a constant where one is given."""
    index = frames.names.index(name)
    images, valid = frames.images.copy(), frames.valid.copy()
    valid[index] = False
    if image is not None:
        images[index] = image
    return replace(frames, images=images, valid=valid)


@pytest.mark.parametrize("unseen", ["zero", "compatible"])
def test_invalid_camera_contributes_nothing(make_frames, make_encoder, small, unseen):
    encoder = make_encoder(small.replace(unseen_points=unseen))
    sets = [make_frames(step) for step in range(2)]
    results = {}
    for image in (None, 0, 200):
        encoder.reset()
        results[image] = [encoder.encode(without(f, "CAM_FRONT", image)) for f in sets][-1]
    for image in (0, 200):
        np.testing.assert_array_equal(results[image].features, results[None].features)
        np.testing.assert_array_equal(results[image].view_features, results[None].view_features)
    assert results[0].missing == ("CAM_FRONT",)
    assert not results[0].view_features[:2].any()
    assert results[0].view_features[2:].any()
    encoder.reset()
    full = [encoder.encode(f) for f in sets][-1]
    assert np.abs(full.features - results[0].features).max() > 1e-3


def test_invalid_camera_equals_absent_camera(make_frames, make_encoder, small):
    encoder = make_encoder(small)
    masked = encoder.encode(without(make_frames(0), "CAM_BACK"))
    rest = tuple(n for n in CAMERAS if n != "CAM_BACK")
    encoder.reset()
    absent = encoder.encode(make_frames(0, rest))
    atol = rounding(absent.features, terms=decoder_operations(small))
    np.testing.assert_allclose(masked.features, absent.features, atol=atol)


def test_black_camera_counts_as_missing(make_frames, make_encoder, small):
    encoder = make_encoder(small)
    frames = make_frames(0)
    frames.images[4] = 0
    queries = encoder.encode(frames)
    assert queries.missing == ("CAM_BACK_LEFT",)
    encoder.reset()
    np.testing.assert_array_equal(queries.features, encoder.encode(without(frames, "CAM_BACK_LEFT")).features)


def test_all_black_is_refused(make_frames, make_encoder, small):
    frames = make_frames(0)
    frames.images[:] = 0
    with pytest.raises(InvalidInput, match="images"):
        make_encoder(small).encode(frames)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.0, 0.0)], ids=["no width", "no height"])
def test_degenerate_calibration_is_refused_by_name(make_frames, make_encoder, small, scale):
    encoder = make_encoder(small)
    frames = make_frames(0)
    matrices = frames.ego2img.copy()
    matrices[3, :2] *= np.array(scale)[:, None]
    with pytest.raises(InvalidInput, match="CAM_BACK is singular") as caught:
        encoder.encode(replace(frames, ego2img=matrices))
    assert caught.value.field == "ego2img"
    # A camera that is not read may have any calibration.
    encoder.encode(replace(without(frames, "CAM_BACK"), ego2img=matrices))


@pytest.mark.parametrize("field", ["images", "ego2img"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_batch_path_refuses_what_is_not_finite(make_frames, make_encoder, small, field, value):
    encoder = make_encoder(small.replace(frames=1))
    frames = make_frames(0)
    inputs = {
        "images": torch.from_numpy(frames.images).float()[None, None],
        "ego2img": torch.from_numpy(frames.ego2img).float()[None, None],
    }
    inputs[field].view(-1)[100 if field == "images" else 5] = value
    with pytest.raises(InvalidInput) as caught:
        encoder(**inputs)
    assert caught.value.field == field


def test_sender_order_does_not_matter(make_frames, make_encoder, small):
    encoder = make_encoder(small)
    expected = encoder.encode(make_frames(0))
    encoder.reset()
    turned = encoder.encode(make_frames(0, CAMERAS[::-1]))
    np.testing.assert_array_equal(expected.features, turned.features)
    np.testing.assert_array_equal(expected.view_features, turned.view_features)


def jump(frames: CameraFrames, kind: str) -> CameraFrames:
    """The frame set with one thing changed that must drop the memory."""
    if kind == "epoch":
        return replace(frames, epoch=frames.epoch + 1)
    if kind in ("gap", "time"):
        shift = 10**10 if kind == "gap" else -(10**10)
        return replace(frames, stamp=frames.stamp + shift, stamps=frames.stamps + shift)
    if kind == "pose":
        return replace(frames, ego=replace(frames.ego, pose=geometry.planar(900.0, 80.0, 0.0)))
    if kind == "frame of reference":
        return replace(frames, ego=replace(frames.ego, fixed_frame="odom"))
    matrices = frames.ego2img.copy()
    if kind == "mount":
        matrices[2] = matrices[2] @ geometry.planar(0.0, 1.5, 0.0)
    elif kind == "aim":
        matrices[2] = matrices[2] @ geometry.planar(0.0, 0.0, 0.2)
    else:
        matrices[2, 0] *= 1.05
    return replace(frames, ego2img=matrices)


@pytest.mark.parametrize("kind", ["epoch", "gap", "time", "pose", "frame of reference", "mount", "aim", "focal length"])
def test_memory_is_dropped(make_frames, make_encoder, small, kind):
    encoder = make_encoder(small)
    encoder.encode(make_frames(0, THREE))
    changed = jump(make_frames(1, THREE), kind)
    after = encoder.encode(changed)
    assert set(encoder.memory.history) == {changed.stamp}
    encoder.reset()
    np.testing.assert_array_equal(after.features, encoder.encode(changed).features)


@pytest.mark.parametrize("other", [{"names": THREE}, {"size": (96, 128)}], ids=["cameras", "image size"])
def test_memory_is_dropped_on_other_cameras(make_frames, make_encoder, small, other):
    encoder = make_encoder(small)
    encoder.encode(make_frames(0))
    after = encoder.encode(make_frames(1, **other))
    encoder.reset()
    np.testing.assert_array_equal(after.features, encoder.encode(make_frames(1, **other)).features)


def test_camera_delay_of_a_moving_car_is_no_new_calibration(make_frames, make_encoder, small):
    encoder = make_encoder(small)
    encoder.encode(make_frames(0))
    frames = make_frames(1)
    stamps, matrices = frames.stamps.copy(), frames.ego2img.copy()
    stamps[1] -= 80_000_000
    matrices[1] = matrices[1] @ geometry.planar(0.08 * 6.0, 0.0, 0.008)
    encoder.encode(replace(frames, stamps=stamps, ego2img=matrices))
    assert len(set(encoder.memory.history)) == 2


def test_fast_stream_keeps_frames_apart(make_frames, make_encoder, small):
    encoder = make_encoder(small.replace(frames=3))
    base = make_frames(0)
    for tick in range(12):
        shift = tick * 100_000_000
        encoder.encode(replace(base, stamp=base.stamp + shift, stamps=base.stamps + shift))
    ages = [(encoder.memory.history[0] - s) / 1e9 for s in encoder.memory.history]
    assert ages[0] == 0.0
    assert all(0.3 <= gap <= 1.2 for gap in np.diff(ages))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused_and_forgotten(make_frames, make_encoder, small, value):
    encoder = make_encoder(small)
    expected = encoder.encode(make_frames(3))
    encoder.reset()
    bias = encoder.decoder.layers[-1].cls_branch[-1].bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias[5] = value
    with pytest.raises(InvalidInput, match="occupancy"):
        encoder.encode(make_frames(2))
    with torch.no_grad():
        bias.copy_(kept)
    np.testing.assert_array_equal(encoder.encode(make_frames(3)).features, expected.features)


def test_batch_path_trains_every_parameter(make_frames, make_encoder, small):
    encoder = make_encoder(small.replace(frames=1)).train()
    frames = make_frames(0)
    outputs = encoder(torch.from_numpy(frames.images)[None, None], torch.from_numpy(frames.ego2img)[None, None].float())
    sum(o.logits.square().mean() + o.points.square().mean() for o in outputs).backward()
    # Layer 0 sees one point per query, so its offsets cannot matter; initial points are trained by their own loss,
    # directly, and only reach the rest detached; so is what says where image queries start (test_image_queries.py).
    detached = ("decoder.layers.0.sampling.sampling_offset", "decoder.proposals.out")
    idle = {"decoder.init_points.weight"} | {f"{part}.{w}" for part in detached for w in ("weight", "bias")}
    silent = {n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == idle


def test_encode_ignores_dropout_while_training(make_frames, make_encoder, small):
    encoder = make_encoder(small)
    expected = encoder.encode(make_frames(0))
    encoder.reset()
    encoder.train()
    np.testing.assert_array_equal(encoder.encode(make_frames(0)).features, expected.features)
    assert encoder.training


def test_half_precision_backbone_stays_close(make_frames, make_encoder, small):
    full = make_encoder(small).encode(make_frames(0))
    half = make_encoder(small.replace(backbone_dtype="bfloat16")).encode(make_frames(0))
    spread = full.features.std()
    assert 0 < np.abs(half.features - full.features).mean() < 0.1 * spread


@pytest.mark.parametrize(
    ("field", "value"),
    [("backbone", "vgg"), ("groups", 3), ("strides", (32, 8)), ("class_prior", 1.0), ("frames", 0)],
)
def test_config_names_the_wrong_field(field, value):
    with pytest.raises(InvalidInput) as caught:
        OccupancyConfig(**{field: value})
    assert caught.value.field == field
