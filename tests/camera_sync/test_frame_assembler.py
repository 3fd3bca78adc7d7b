"""CameraSync end to end: a landmark in the world is found where the projection says, whatever gives the poses."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.drop_reasons import DropReason
from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.camera_sync.images import CompressedImage
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS

MS = 10**6
S = 10**9
START = 1000 * S
PERIOD = 83 * MS
SPEED, TURN = 9.0, 0.3
K = (633.0, 0.0, 400.0, 0.0, 633.0, 240.0, 0.0, 0.0, 1.0)
HEIGHT, WIDTH = 450, 800
OFFSET = dict(zip(CAMERAS, (8, 15, 0, 32, 43, 23), strict=True))
PLAIN = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()


@pytest.mark.parametrize("source", ["tf", "odometry"])
@pytest.mark.parametrize("compressed", [True, False])
def test_landmarks_are_where_the_projection_says(drive, rig, source, compressed):
    """At 9 m/s the cameras of one set are up to 0.4 m apart; ignoring that would be off by several pixels."""
    built = rig(fixed_frames=("map",) if source == "tf" else ())
    getattr(built, source)(START - S, START + S)
    for camera in CAMERAS:
        stamp = START + OFFSET[camera] * MS
        image = drive.photograph(camera, stamp)
        payload = CompressedImage(cv2.imencode(".jpg", image)[1].tobytes()) if compressed else image
        built.sync.add_image(camera, stamp, payload)
    frames = built.sync.finish()
    assert frames is not None
    assert frames.valid.all()
    assert frames.names == CAMERAS
    assert frames.stamp == START + OFFSET["CAM_FRONT"] * MS
    assert frames.images.shape == (6, 128, 352, 3)
    still = 0.0
    for row, camera in enumerate(CAMERAS):
        assert frames.stamps[row] == START + OFFSET[camera] * MS
        in_ego = geometry.apply(geometry.inverse(drive.ego(frames.stamp)), drive.landmark(camera))
        pixel, _ = geometry.project(frames.ego2img[row], in_ego)
        seen = drive.centroid(frames.images[row])
        assert np.abs(pixel - seen).max() < 0.15
        plain = geometry.apply(geometry.inverse(drive.ego(int(frames.stamps[row]))), drive.landmark(camera))
        still = max(still, float(np.abs(geometry.project(frames.ego2img[row], plain)[0] - seen).max()))
    assert still > 2.0, "the test can tell whether own poses are used"
    assert np.allclose(frames.ego.pose, drive.ego(frames.stamp), atol=2e-3)
    assert frames.ego.twist == pytest.approx([SPEED, 0, 0, 0, 0, TURN], abs=0.05)
    assert frames.ego.fixed_frame == ("map" if source == "tf" else "odom")


def test_image_and_projection_have_one_calibration(drive, rig, monkeypatch):
    """Another one that comes while the images are decoded counts from the next set on."""
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + S)
    enter, sync = built.sync._enter, built.sync

    def meanwhile(placed):
        state = enter(placed)
        for model in list(sync.cameras.values()):
            sync.set_camera(replace(model, width=2 * model.width, height=2 * model.height))
        return state

    monkeypatch.setattr(sync, "_enter", meanwhile)
    for camera in CAMERAS:
        sync.add_image(camera, START, CompressedImage(PLAIN))
    frames = sync.finish()
    assert frames is not None
    assert frames.valid.all()


def test_odometry_twist_is_preferred_and_zero_twist_is_none(drive, rig):
    built = rig(fixed_frames=())
    built.odometry(START - S, START + S, twist=[8.5, 0, 0, 0, 0, 0.25])
    assert built.play(drive.images(START, 2))[0].ego.speed == 8.5
    other = rig(fixed_frames=())
    other.odometry(START - S, START + S, twist=[0.0] * 6)
    assert other.play(drive.images(START, 2))[0].ego.speed == pytest.approx(SPEED, abs=0.05)


def test_twist_is_causal(drive, rig):
    """Poses after the stamp, though tf already holds them, do not enter: here the car stops right at the stamp."""
    stop = START + 8 * MS

    def braking(stamp):
        return drive.ego(min(stamp, stop))

    built = rig(fixed_frames=("map",))
    built.tf(stop - 10 * 50 * MS, stop + S, place=braking)
    assert built.play(drive.images(START, 1))[0].ego.speed == pytest.approx(SPEED, abs=0.05)


def test_tf_at_two_hertz_stamped_ahead(drive, rig):
    """WATonomous bags: once per keyframe, this keyframe and the next."""
    built = rig(fixed_frames=("map",))
    made = []
    for key in range(-2, 4):
        at = START + key * 500 * MS
        for stamp in (at, at + 500 * MS):
            pose = drive.ego(stamp)
            built.sync.add_transform("map", "base_link", stamp, pose[:3, 3], geometry.quaternion(pose))
        if key >= 0:
            made += built.play(drive.images(at, 6))
    assert len(made) >= 23
    for frames in made:
        assert np.abs(frames.ego.pose[:2, 3] - drive.ego(frames.stamp)[:2, 3]).max() < 0.1
        assert frames.ego.speed == pytest.approx(SPEED, abs=0.2)
    assert {frames.epoch for frames in made} == {0}


def test_odometry_serves_where_tf_never_comes(drive, rig):
    """A profile that hopes for tf: the first sets wait for it, then odometry is kept to."""
    built = rig(fixed_frames=("map",))
    built.odometry(START - S, START + 3 * S)
    made = built.play(drive.images(START, 24))
    assert len(made) >= 18
    assert {frames.ego.fixed_frame for frames in made} == {"odom"}
    assert {frames.epoch for frames in made} == {0}
    waits = [made[0].stamp - START, *np.diff([frames.stamp for frames in made])]
    assert max(waits[2:]) <= PERIOD + MS, "only the first has to wait"


def test_a_change_of_the_fixed_frame_starts_an_epoch(drive, rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + S)
    built.odometry(START - S, START + 4 * S)
    made = built.play(drive.images(START, 40))
    frames = [f.ego.fixed_frame for f in made]
    assert frames[0] == "map"
    assert frames[-1] == "odom"
    assert {(f.ego.fixed_frame, f.epoch) for f in made} == {("map", 0), ("odom", 1)}


def test_mounts_from_tf_at_keyframes_only(drive, rig):
    """Given once on /tf, not on /tf_static: a mount is rigid and holds."""
    built = rig(mounted=False, fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    for camera in CAMERAS:
        pose = drive.mount(camera)
        built.sync.add_transform("base_link", f"{camera}_optical", START, pose[:3, 3], geometry.quaternion(pose))
    made = built.play(drive.images(START, 12))
    assert len(made) >= 11
    with_models = rig(fixed_frames=("map",))
    with_models.tf(START - S, START + 3 * S)
    for ours, theirs in zip(made, with_models.play(drive.images(START, 12)), strict=True):
        assert np.allclose(ours.ego2img, theirs.ego2img, atol=1e-6)


def test_hold_keeps_stamp_image_and_projection(drive, rig):
    built = rig(fixed_frames=("map",), policy="hold", max_hold=0.6)
    built.tf(START - S, START + 3 * S)
    gone = START + 500 * MS
    what = [image for image in drive.images(START, 24) if not (image[1] == "CAM_BACK" and image[0] >= gone)]
    made = built.play(what)
    row = CAMERAS.index("CAM_BACK")
    held = [f for f in made if not f.valid[row] and f.images[row].any()]
    black = [f for f in made if not f.valid[row] and not f.images[row].any()]
    assert len(held) >= 4
    assert len(black) >= 6
    assert all(f.stamps[row] < gone for f in held)
    assert all(f.stamp - f.stamps[row] <= 600 * MS for f in held)
    assert all(f.stamps[row] == f.stamp for f in black)
    point = drive.landmark("CAM_BACK")
    for frames in held:
        in_ego = geometry.apply(geometry.inverse(drive.ego(frames.stamp)), point)
        then = geometry.apply(geometry.inverse(drive.ego(int(frames.stamps[row]))), point)
        ida = built.sync.preparer.geometry(HEIGHT, WIDTH, True).ida
        want, _ = geometry.project(
            geometry.camera_matrix(ida @ np.reshape(K, (3, 3)), geometry.inverse(drive.mount("CAM_BACK"))), then
        )
        assert np.abs(geometry.project(frames.ego2img[row], in_ego)[0] - want).max() < 0.1


@pytest.mark.parametrize("speed", [1.0, 15.0, 33.0])
@pytest.mark.parametrize("period", [PERIOD, 500 * MS])
def test_fast_driving_is_no_relocation(rig, speed, period):
    def place(stamp):
        return geometry.planar(speed * (stamp - START) / S, 0, 0)

    built = rig(fixed_frames=("map",))
    built.tf(START - 100 * MS, START + 9800 * MS, place=place)
    what = sorted(
        (START + k * period + OFFSET[c] * MS, c, CompressedImage(PLAIN)) for k in range(20) for c in CAMERAS[:1]
    )
    single = CameraSync(SyncConfig(cameras=CAMERAS[:1], fixed_frames=("map",)), transforms=built.sync.transforms)
    single.set_camera(built.sync.cameras["CAM_FRONT"])
    frames = []
    for stamp, camera, payload in what:
        single.add_image(camera, stamp, payload)
        frames.append(single.take())
    single.close()
    assert all(f is not None and f.epoch == 0 for f in frames)
    assert frames[-1].ego.speed == pytest.approx(speed, abs=0.01)


def test_images_are_decoded_only_when_a_set_is_complete(rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + S)
    decoded = []

    def payload(camera):
        def decode():
            decoded.append(camera)
            return np.zeros((HEIGHT, WIDTH, 3), np.uint8)

        return decode

    for camera in CAMERAS[:5]:
        built.sync.add_image(camera, START + OFFSET[camera] * MS, payload(camera))
    assert built.sync.take() is None
    assert not decoded
    built.sync.add_image(CAMERAS[5], START + OFFSET[CAMERAS[5]] * MS, payload(CAMERAS[5]))
    assert built.sync.finish() is not None
    assert sorted(decoded) == sorted(CAMERAS)


def test_overload_takes_the_newest_and_counts_the_rest(drive, rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 2 * S)
    for stamp, camera, payload in drive.images(START, 6):
        built.sync.add_image(camera, stamp, payload)
    frames = built.sync.take()
    formed = built.sync.synchroniser.statistics.sets
    assert frames.stamp == START + (formed - 1) * PERIOD + 8 * MS
    assert built.drops[DropReason.OVERLOAD] == formed - 1
    assert built.sync.take() is None


def test_a_standing_car_with_static_pose(drive, rig):
    built = rig(fixed_frames=("map",))
    built.sync.add_transform("map", "base_link", 0, (3, 2, 0), (0, 0, 0, 1), static=True)
    made = built.play(drive.images(START, 3))
    assert made[0].ego.speed == 0.0
    assert made[0].ego.pose[0, 3] == 3.0


def test_statistics_are_flat(drive, rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 2 * S)
    made = built.play(drive.images(START, 12))
    flat = built.sync.statistics()
    assert flat["frames"] == len(made)
    assert flat["ego_source"] == "tf: map"
    assert {f"dropped.{reason.value}" for reason in DropReason} <= set(flat)
    assert all(isinstance(value, (int, float, str)) for value in flat.values())
