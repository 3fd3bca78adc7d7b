"""What is missing, wrong or from another run of the clock is named and never used."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sparseoccvla_ros.camera_sync.calibration import from_fields
from sparseoccvla_ros.camera_sync.drop_reasons import DropReason
from sparseoccvla_ros.camera_sync.images import CompressedImage
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.errors import InvalidInput

MS = 10**6
S = 10**9
START = 1000 * S
PERIOD = 83 * MS
SPEED, TURN = 9.0, 0.3
K = (633.0, 0.0, 400.0, 0.0, 633.0, 240.0, 0.0, 0.0, 1.0)
HEIGHT, WIDTH = 450, 800
HEADING = dict(zip(CAMERAS, (0.0, -0.98, 0.96, np.pi, 1.9, -1.93), strict=True))
PLAIN = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()


def test_late_tf_is_waited_for_and_missing_tf_is_named(drive, rig):
    built = rig(fixed_frames=("map",), tf_timeout=0.3)
    built.tf(START - S, START)
    assert not built.play(drive.images(START, 2))
    built.tf(START, START + 200 * MS)
    frames = built.sync.take()
    assert frames is not None
    assert frames.stamp == START + PERIOD + 8 * MS, "the newest ready set wins"
    assert built.drops[DropReason.OVERLOAD] == 1
    assert not built.play(drive.images(START + 10 * PERIOD, 10))
    assert built.drops[DropReason.POSE_TIMEOUT] >= 4
    text = dict(built.sync.messages())[DropReason.POSE_TIMEOUT]
    assert "map" in text
    assert "base_link" in text


def test_no_pose_at_all_names_the_frames(drive, rig):
    built = rig(fixed_frames=("map", "odom"))
    assert not built.play(drive.images(START, 20))
    assert built.drops[DropReason.POSE_TIMEOUT] > 5
    reason, text = built.sync.messages()[0]
    assert reason is DropReason.POSE_TIMEOUT
    assert "map <- base_link" in text


def test_unknown_mount_is_named(drive, rig):
    built = rig(mounted=False, fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    assert not built.play(drive.images(START, 12))
    text = dict(built.sync.messages())[DropReason.MOUNT_UNKNOWN]
    assert "base_link" in text
    assert "CAM_FRONT_optical" in text


def test_a_body_frame_given_as_optical_frame_is_refused(drive, rig):
    built = rig(mounted=False, fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    for camera in CAMERAS:
        pose = geometry.planar(1.0, 0.0, HEADING[camera])
        built.sync.add_transform(
            "base_link", f"{camera}_optical", 0, pose[:3, 3], geometry.quaternion(pose), static=True
        )
    assert not built.play(drive.images(START, 4))
    text = dict(built.sync.messages())[DropReason.MOUNT_IMPLAUSIBLE]
    assert "base_link <- CAM_FRONT_optical" in text
    assert "no optical frame" in text


def test_no_calibration_is_named_and_its_arrival_helps(drive, rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    model = built.sync.cameras.pop("CAM_BACK")
    assert not built.play(drive.images(START, 12))
    assert "CAM_BACK" in dict(built.sync.messages())[DropReason.NO_CALIBRATION]
    assert built.sync.statistics()["uncalibrated"] == "CAM_BACK"
    built.sync.set_camera(model)
    assert built.play(drive.images(START + 12 * PERIOD, 4))


CUT, OTHER_SIZE = PLAIN[:300], cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("policy", "bad"),
    [("strict", CUT), ("hold", CUT), ("black", CUT), ("black", b""), ("strict", OTHER_SIZE), ("hold", OTHER_SIZE)],
    ids=["strict, cut", "hold, cut", "black, cut", "black, empty", "strict, other size", "hold, other size"],
)
def test_a_bad_image(drive, rig, bad, policy):
    built = rig(fixed_frames=("map",), policy=policy)
    built.tf(START - S, START + 3 * S)
    what = [
        (s, c, CompressedImage(bad) if c == "CAM_BACK" and s < START + S else p) for s, c, p in drive.images(START, 20)
    ]
    made = built.play(what)
    reason = DropReason.CALIBRATION_MISMATCH if len(bad) > 300 else DropReason.DECODE
    assert built.drops[reason] >= 12
    assert any("CAM_BACK" in text for _, text in built.sync.messages())
    during = [frames for frames in made if frames.stamp < START + S - 100 * MS]
    if policy == "strict":
        assert not during
        assert built.drops[DropReason.NO_IMAGE] >= 12
    else:
        assert len(during) >= 10
        for frames in during:
            assert frames.missing == ("CAM_BACK",)
            assert not frames.images[3].any()
    assert made[-1].valid.all()


def test_a_camera_nothing_is_known_of_sees_nothing(drive, rig):
    built = rig(fixed_frames=("map",), policy="black")
    del built.sync.cameras["CAM_BACK"]
    built.tf(START - S, START + 3 * S)
    made = built.play(drive.images(START, 12, [c for c in CAMERAS if c != "CAM_BACK"]))
    assert made
    _, depth = geometry.project(made[-1].ego2img[3], np.random.default_rng(0).normal(size=(100, 3)) * 50)
    assert (depth < 0).all()


@pytest.mark.slow
def test_bag_loop_three_times(drive, rig):
    """tf, odometry and images all turn back; memory must be reset and no old pose or image may be used."""
    built = rig(fixed_frames=("map",))
    epochs = []
    for loop in range(3):
        at, made = START, []
        for k in range(72):
            built.tf(at + (k - 1) * PERIOD, at + k * PERIOD + 100 * MS)
            made += built.play(drive.images(at + k * PERIOD, 1))
        assert len(made) >= 68
        assert made[0].stamp - START <= S
        for frames in made:
            assert np.allclose(frames.ego.pose, drive.ego(frames.stamp), atol=0.01)
            assert frames.ego.speed == pytest.approx(SPEED, abs=0.1)
        epochs.append({frames.epoch for frames in made})
        assert epochs[-1] == {loop}


def test_relocation_starts_an_epoch(drive, rig):
    """The car is put 40 m aside (a simulator's respawn) while time runs on."""
    aside = geometry.planar(0, 40, 0)
    seam = START + 12 * PERIOD

    def place(stamp):
        return aside @ drive.ego(stamp) if stamp >= seam else drive.ego(stamp)

    for options in ({"fixed_frames": ("map",)}, {"fixed_frames": ()}):
        built = rig(**options)
        (built.tf if options["fixed_frames"] else built.odometry)(START - S, START + 4 * S, place=place)
        made = built.play(drive.images(START, 36))
        before = {f.epoch for f in made if f.stamp < seam - 60 * MS}
        after = [f for f in made if f.stamp > seam + 3 * PERIOD]
        assert before == {0}
        assert len({f.epoch for f in after}) == 1
        assert after[0].epoch >= 1
        assert all(f.ego.speed == pytest.approx(SPEED, abs=0.2) for f in after)
        assert len(made) >= 31


def test_poses_faster_than_any_vehicle_are_refused(drive, rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 2 * S, place=lambda stamp: geometry.planar(200 * (stamp - START) / S, 0, 0))
    assert not built.play(drive.images(START, 6))
    assert built.drops[DropReason.IMPLAUSIBLE_MOTION] >= 1


def test_reset_drops_what_waits(drive, rig):
    built = rig(fixed_frames=("map",))
    built.play(drive.images(START, 2))
    built.sync.reset()
    assert built.sync.epoch == 1
    assert built.drops[DropReason.RESET] >= 1
    assert built.sync.take() is None


def test_refusals(rig):
    built = rig()
    with pytest.raises(InvalidInput, match="camera"):
        built.sync.add_image("CAM_ROOF", START, PLAIN)
    with pytest.raises(InvalidInput, match="neither"):
        built.sync.set_camera(from_fields("CAM_FRONT", "", WIDTH, HEIGHT, K))
    with pytest.raises(InvalidInput, match="CAM_ROOF"):
        built.sync.set_camera(from_fields("CAM_ROOF", "x", WIDTH, HEIGHT, K))
    with pytest.raises(InvalidInput, match="norm"):
        built.sync.add_transform("map", "base_link", START, (0, 0, 0), (0, 0, 0, 2))
    with pytest.raises(InvalidInput, match="finite"):
        built.sync.add_odometry(START, np.full((4, 4), np.nan))
    with pytest.raises(InvalidInput, match="twist"):
        built.sync.add_odometry(START, np.eye(4), [0.0] * 5)
    with pytest.raises(InvalidInput, match="fixed frame"):
        built.sync.add_odometry(START, np.eye(4), None, "base_link")


def test_a_missing_camera_and_a_jump_of_the_clock_reach_the_log(drive, rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    built.play(drive.images(START, 12, [c for c in CAMERAS if c != "CAM_BACK"]))
    found = dict(built.sync.messages())
    assert "CAM_BACK" in found[DropReason.MISSING_CAMERA]
    assert not built.sync.messages(), "told once"
    built.play(drive.images(START - 20 * S, 3))
    assert "epoch 1" in dict(built.sync.messages())[DropReason.CLOCK_BACKWARD]


def test_sets_that_wait_for_poses_are_visible(drive, rig):
    built = rig(fixed_frames=("map",))
    built.play(drive.images(START, 2))
    assert built.sync.waiting == built.sync.statistics()["pending"] == 2
    built.tf(START - S, START + S)
    assert built.sync.take() is not None
    assert built.sync.waiting == 0
