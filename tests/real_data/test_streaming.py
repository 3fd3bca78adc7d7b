"""The encoder's memory on a real drive: one frame set after the other gives what the whole window gives at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.types import CameraFrames, EgoState
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder, in_view_order
from tests.tolerance import decoder_operations, rounding

pytestmark = pytest.mark.numeric

STEPS = 4
HEIGHT, WIDTH = 128, 352


def matrix(entry: dict) -> np.ndarray:
    w, x, y, z = entry["rotation_wxyz"]
    out = np.eye(4)
    out[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    out[:3, 3] = entry["translation"]
    return out


def drive(recording, names: tuple[str, ...]) -> list[CameraFrames]:
    """The first keyframes with the real poses, stamps and calibration, and smooth pictures that differ every time."""
    sensors, keyframes = recording.content["sensors"], recording.content["keyframes"][: STEPS + 1]
    scale = WIDTH / 1600
    poses = [matrix(k["ego2global_at_cam_front"]) for k in keyframes]
    stamps = [k["timestamps_us"]["CAM_FRONT"] * 1000 for k in keyframes]
    frames = []
    for index, keyframe in enumerate(keyframes[:STEPS]):
        matrices = []
        for name in names:
            k = np.array(sensors[name]["K"])
            k[:2] *= scale
            k[1, 2] -= 900 * scale - HEIGHT
            # Each camera's own pose at its own stamp, between this keyframe and the next.
            share = (keyframe["timestamps_us"][name] * 1000 - stamps[index]) / (stamps[index + 1] - stamps[index])
            moved = geometry.inverse(poses[index]) @ poses[index + 1]
            turn = Rotation.from_matrix(moved[:3, :3]).as_rotvec() * share
            step = np.eye(4)
            step[:3, :3], step[:3, 3] = Rotation.from_rotvec(turn).as_matrix(), moved[:3, 3] * share
            camera2ego = step @ matrix(sensors[name])
            matrices.append(geometry.camera_matrix(k, geometry.inverse(camera2ego)))
        coarse = np.random.default_rng(index).uniform(0, 255, (len(names), 3, 8, 22))
        images = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(HEIGHT, WIDTH), mode="bilinear")
        seconds = (stamps[index + 1] - stamps[index]) / 1e9
        speed = np.linalg.norm(poses[index + 1][:3, 3] - poses[index][:3, 3]) / seconds
        frames.append(
            CameraFrames(
                stamp=stamps[index],
                epoch=0,
                names=names,
                stamps=np.array([keyframe["timestamps_us"][n] * 1000 for n in names], np.int64),
                valid=np.ones(len(names), bool),
                images=np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy().astype(np.uint8)),
                ego2img=np.stack(matrices),
                ego=EgoState(poses[index], np.array([speed, 0, 0, 0, 0, 0]), "map"),
            )
        )
    return frames


@pytest.mark.parametrize("cameras", [pytest.param(6, marks=pytest.mark.slow), 1])
def test_streaming_equals_batch_on_a_real_drive(poses_1, cameras):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = OccupancyConfig(frames=3, queries=60, points_per_layer=(4, 8, 16))
    encoder = OccupancyEncoder(config)
    with torch.no_grad():
        for layer in encoder.decoder.layers:
            for weight in (layer.sampling.sampling_offset.weight, layer.mixing.parameter_generator.weight):
                weight.normal_(0.0, 0.02)
    names = tuple(n for n, s in poses_1.content["sensors"].items() if "K" in s)[:cameras]
    seen: list[CameraFrames] = []
    for frames in drive(poses_1, names):
        seen.insert(0, in_view_order(frames))
        queries = encoder.encode(frames)
        window = (seen + [seen[-1]] * config.frames)[: config.frames]
        present = seen[0].ego.pose
        ego2img = np.stack([f.ego2img @ geometry.inverse(f.ego.pose) @ present for f in window])[None]
        images = torch.from_numpy(np.stack([f.images for f in window])[None])
        with torch.no_grad():
            last = encoder(images, torch.from_numpy(ego2img.astype(np.float32)))[-1]
        points, features = encoder.decoder.to_metres(last.points[0]).numpy(), last.features[0].numpy()
        for got, want in ((queries.points, points), (queries.features, features)):
            np.testing.assert_allclose(got, want, rtol=0, atol=rounding(want, terms=decoder_operations(config)))
    with torch.no_grad():
        alone = [a[:, :1].expand(-1, config.frames, *a.shape[2:]) for a in (images, torch.from_numpy(ego2img).float())]
        past = float((last.features - encoder(*alone)[-1].features).abs().max())
    assert past > 1e-3, "the past must matter, or this test shows nothing"
    assert len(set(encoder.memory.history)) == config.frames, "the memory was dropped on the way"
