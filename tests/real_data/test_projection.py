"""CameraSync against real recordings: lidar points and poses must fall where the devkit's chain puts them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sparseoccvla_ros.camera_sync.calibration import CameraModel
from sparseoccvla_ros.camera_sync.config import ImageConfig, SyncConfig
from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.camera_sync.images import CompressedImage, ImagePreparer, RawImage
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.tf_buffer import TransformBuffer

SIZES = [(128, 352), (256, 704)]


def matrix(entry):
    """A nuScenes table's rotation (w, x, y, z) and translation as [4, 4], without the code under test."""
    w, x, y, z = entry["rotation_wxyz"]
    out = np.eye(4)
    out[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    out[:3, 3] = entry["translation"]
    return out


def lidar_points(recording):
    lidar = recording.content["lidar"]
    raw = np.fromfile(recording.folder / lidar["file"], np.float32)
    return raw.reshape(-1, len(lidar["columns"]))[:, :3].astype(np.float64)


def build(recording, size, compressed=True):
    """The frames of one keyframe, through tf, calibration and the files as they are."""
    content = recording.content
    sync = CameraSync(SyncConfig(cameras=tuple(content["cameras"]), fixed_frames=("map",)), ImageConfig(*size))
    width, height = content["image_size"]
    for sensor in (*content["cameras"].values(), content["lidar"]):
        pose = matrix(sensor["ego2global"])
        sync.add_transform("map", "base_link", sensor["timestamp_us"] * 1000, pose[:3, 3], geometry.quaternion(pose))
    for name, camera in content["cameras"].items():
        mount = matrix(camera["sensor2ego"])
        sync.add_transform("base_link", name, 0, mount[:3, 3], geometry.quaternion(mount), static=True)
        sync.set_camera(CameraModel(name, name, width, height, np.array(camera["K"])))
    for name, camera in sorted(content["cameras"].items(), key=lambda item: item[1]["timestamp_us"]):
        data = (recording.folder / camera["file"]).read_bytes()
        payload = CompressedImage(data, "jpeg")
        if not compressed:
            bgr = np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
            payload = RawImage(bgr.tobytes(), height, width, width * 3, "bgr8")
        sync.add_image(name, camera["timestamp_us"] * 1000, payload)
    frames = sync.finish()
    sync.close()
    assert frames is not None, sync.messages()
    return frames


def resized(pixel, native, size):
    """Where cv2.resize and a crop to the bottom middle take a pixel centre; the documented formula, not ours."""
    (width, height), (want_h, want_w) = native, size
    scale = max(want_h / height, want_w / width)
    rows, columns = round(height * scale), round(width * scale)
    u = (pixel[..., 0] + 0.5) * (columns / width) - 0.5 - (columns - want_w) // 2
    v = (pixel[..., 1] + 0.5) * (rows / height) - 0.5 - (rows - want_h)
    return np.stack([u, v], -1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compressed", [True, False])
def test_lidar_points_agree_with_the_devkit_chain(keyframe_1, size, compressed):
    """lidar -> ego(t_lidar) -> global -> ego(t_cam) -> camera -> K, then resize and crop: below a pixel apart."""
    content = keyframe_1.content
    frames = build(keyframe_1, size, compressed)
    points = lidar_points(keyframe_1)
    lidar = content["lidar"]
    in_global = geometry.apply(matrix(lidar["ego2global"]) @ matrix(lidar["sensor2ego"]), points)
    reference = content["cameras"][frames.names[0]]["ego2global"]
    in_base = geometry.apply(np.linalg.inv(matrix(reference)), in_global)
    assert frames.stamp == content["cameras"]["CAM_FRONT"]["timestamp_us"] * 1000
    for row, name in enumerate(frames.names):
        camera = content["cameras"][name]
        assert frames.stamps[row] == camera["timestamp_us"] * 1000
        chain = np.linalg.inv(matrix(camera["ego2global"]) @ matrix(camera["sensor2ego"]))
        seen = geometry.apply(chain, in_global)
        ahead = seen[:, 2] > 1.0
        native = seen[ahead] @ np.array(camera["K"]).T
        want = resized(native[:, :2] / native[:, 2:], content["image_size"], size)
        got, depth = geometry.project(frames.ego2img[row], in_base[ahead])
        inside = ((want >= 0) & (want < (size[1], size[0]))).all(-1)
        assert inside.sum() > 500
        assert np.abs(depth - seen[ahead, 2]).max() < 1e-3
        assert np.abs(got[inside] - want[inside]).max() < 0.5, "the test's bar is 1 px"
    assert frames.valid.all()


def test_own_poses_matter(keyframe_1):
    """With one pose for all cameras near points would be off by more than a pixel: the test above can tell."""
    frames = build(keyframe_1, SIZES[0])
    content = keyframe_1.content
    lidar = content["lidar"]
    in_global = geometry.apply(matrix(lidar["ego2global"]) @ matrix(lidar["sensor2ego"]), lidar_points(keyframe_1))
    travelled = max(
        float(np.linalg.norm(matrix(c["ego2global"])[:3, 3] - frames.ego.pose[:3, 3]))
        for c in content["cameras"].values()
    )
    if travelled < 0.2:
        pytest.skip("the car stands still in this keyframe")
    in_base = geometry.apply(geometry.inverse(frames.ego.pose), in_global)
    worst = 0.0
    for row, name in enumerate(frames.names):
        camera = content["cameras"][name]
        ida = ImagePreparer(ImageConfig(), threads=1).geometry(*content["image_size"][::-1], True).ida
        naive = geometry.camera_matrix(ida @ np.array(camera["K"]), np.linalg.inv(matrix(camera["sensor2ego"])))
        a, depth = geometry.project(frames.ego2img[row], in_base)
        b, _ = geometry.project(naive, in_base)
        near = (depth > 2) & (depth < 15) & ((a >= 0) & (a < (352, 128))).all(-1)
        if near.any():
            worst = max(worst, float(np.nanmax(np.abs(a - b)[near])))
    assert worst > 2.0


def test_ego_state_of_the_keyframe(keyframe_1):
    content = keyframe_1.content
    frames = build(keyframe_1, SIZES[0])
    assert np.allclose(frames.ego.pose, matrix(content["cameras"]["CAM_FRONT"]["ego2global"]), atol=1e-6)
    cameras = sorted(content["cameras"].values(), key=lambda c: c["timestamp_us"])
    first, last = cameras[0], cameras[-1]
    seconds = (last["timestamp_us"] - first["timestamp_us"]) / 1e6
    moved = np.array(last["ego2global"]["translation"]) - np.array(first["ego2global"]["translation"])
    assert abs(np.linalg.norm(frames.ego.twist[:3]) - np.linalg.norm(moved) / seconds) < 0.5


@pytest.mark.parametrize("size", SIZES)
def test_prepared_images_are_the_right_crop(keyframe_1, size):
    """Against a plain full decode, area resize and crop: same picture, and not one pixel beside it."""
    frames = build(keyframe_1, size)
    for row, name in enumerate(frames.names):
        full = cv2.imdecode(
            np.frombuffer((keyframe_1.folder / keyframe_1.content["cameras"][name]["file"]).read_bytes(), np.uint8),
            cv2.IMREAD_COLOR_RGB,
        )
        scale = max(size[0] / full.shape[0], size[1] / full.shape[1])
        small = cv2.resize(
            full, (round(full.shape[1] * scale), round(full.shape[0] * scale)), interpolation=cv2.INTER_AREA
        )
        left = (small.shape[1] - size[1]) // 2
        want = small[-size[0] :, left : left + size[1]].astype(float)
        got = frames.images[row].astype(float)
        aligned = np.abs(got - want).mean()
        assert aligned < 4
        for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            assert np.abs(np.roll(got, shift, (0, 1)) - want).mean() > aligned


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("jpeg", [True, False])
def test_a_dot_in_a_real_image_moves_to_where_the_matrix_says(images_1, size, jpeg):
    """Dots drawn into a camera's picture before it is prepared, found again after: within half a pixel."""
    preparer = ImagePreparer(ImageConfig(*size), threads=1)
    camera = next(iter(images_1.content["cameras"].values()))
    plain = cv2.imdecode(np.frombuffer((images_1.folder / camera["file"]).read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    height, width = plain.shape[:2]
    y, x = np.mgrid[:height, :width]
    for place in ((200.0, 500.0), (801.5, 640.25), (1400.0, 820.0)):
        spot = 235 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 9.0**2))
        images = []
        for picture in (plain // 4, np.clip(plain // 4 + spot[..., None], 0, 255).astype(np.uint8)):
            source = picture
            if jpeg:
                options = [cv2.IMWRITE_JPEG_QUALITY, 98]
                source = CompressedImage(cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes())
            out = np.zeros((*size, 3), np.uint8)
            ida = preparer.prepare(source, out)
            images.append(out.astype(float).mean(-1))
        weight = np.where(images[1] - images[0] > 10, images[1] - images[0], 0)
        v, u = np.mgrid[: size[0], : size[1]]
        found = np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
        want = (ida @ (*place, 1.0))[:2]
        assert np.abs(found - want).max() < 0.1, "the test's bar is 0.5 px"
    preparer.close()


def pose_table(recording):
    frames = recording.content["keyframes"]
    stamps = [k["timestamps_us"]["CAM_FRONT"] * 1000 for k in frames]
    return stamps, [matrix(k["ego2global_at_cam_front"]) for k in frames]


def test_poses_interpolate_between_keyframes(poses_1):
    """Every other keyframe left out and looked up again: a car turns and brakes little within a second."""
    stamps, poses = pose_table(poses_1)
    buffer = TransformBuffer(cache_seconds=3600)
    for stamp, pose in list(zip(stamps, poses, strict=True))[::2]:
        buffer.set("map", "base_link", stamp, pose)
    for index in range(1, len(stamps) - 1, 2):
        got = buffer.lookup("map", "base_link", stamps[index])
        span = (stamps[index + 1] - stamps[index - 1]) / 1e9
        chord = np.linalg.norm(poses[index + 1][:3, 3] - poses[index - 1][:3, 3])
        # The sag of a chord under 4 m/s^2 of acceleration in any direction, and of its rotation likewise.
        assert np.linalg.norm(got[:3, 3] - poses[index][:3, 3]) < 4.0 * span**2 / 8 + 0.01 * chord
        relative = Rotation.from_matrix(got[:3, :3].T @ poses[index][:3, :3]).magnitude()
        assert relative < 0.5 * span**2 / 8 + 0.02
    for stamp, pose in list(zip(stamps, poses, strict=True))[::2]:
        assert np.allclose(buffer.lookup("map", "base_link", stamp), pose, atol=1e-6)


def test_real_stamps_give_a_set_for_every_keyframe(poses_1):
    """The stamps of a whole scene, tf at 2 Hz: every keyframe after the first becomes a set, with plausible motion."""
    stamps, poses = pose_table(poses_1)
    sensors = {name: s for name, s in poses_1.content["sensors"].items() if "K" in s}
    sync = CameraSync(SyncConfig(cameras=tuple(sensors), fixed_frames=("map",)), ImageConfig(16, 32), threads=1)
    for name, sensor in sensors.items():
        model = CameraModel(name, name, 0, 0, np.array(sensor["K"]), camera2ego=matrix(sensor))
        sync.set_camera(model)
    pixels = np.zeros((90, 160, 3), np.uint8)
    made = []
    for index, keyframe in enumerate(poses_1.content["keyframes"][:-1]):
        for at in (index, index + 1):
            pose = poses[at]
            sync.add_transform("map", "base_link", stamps[at], pose[:3, 3], geometry.quaternion(pose))
        for name, stamp in sorted(keyframe["timestamps_us"].items(), key=lambda item: item[1]):
            if name in sensors:
                sync.add_image(name, stamp * 1000, pixels)
                frames = sync.take()
                made += [frames] if frames is not None else []
    last = sync.finish()
    made += [last] if last is not None else []
    spreads = sync.synchroniser.statistics
    sync.close()
    assert spreads.sets >= len(poses_1.content["keyframes"]) - 2
    assert spreads.flat()["spread_max_ms"] < 60
    assert len(made) >= len(poses_1.content["keyframes"]) - 4, sync.statistics()
    assert {frames.epoch for frames in made} == {0}
    for frames in made:
        index = stamps.index(frames.stamp)
        assert np.allclose(frames.ego.pose, poses[index], atol=1e-6)
        before = np.linalg.norm(poses[index][:3, 3] - poses[index - 1][:3, 3]) / (
            (stamps[index] - stamps[index - 1]) / 1e9
        )
        assert abs(np.linalg.norm(frames.ego.twist[:3]) - before) < 0.1 + 0.02 * before
