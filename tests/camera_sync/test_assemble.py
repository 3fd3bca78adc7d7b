"""CameraSync end to end: a landmark in the world is found where the projection says, and faults are named.

A car drives a circle; each camera photographs the landmarks from where it is at its own stamp.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sparseoccvla_ros.camera_sync.assemble import CameraSync
from sparseoccvla_ros.camera_sync.calibration import from_fields
from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.images import CompressedImage
from sparseoccvla_ros.camera_sync.statistics import DropReason
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.occ3d import CAMERAS

MS = 10**6
S = 10**9
START = 1000 * S
PERIOD = 83 * MS
SPEED, TURN = 9.0, 0.3
K = (633.0, 0.0, 400.0, 0.0, 633.0, 240.0, 0.0, 0.0, 1.0)
HEIGHT, WIDTH = 450, 800
HEADING = dict(zip(CAMERAS, (0.0, -0.98, 0.96, np.pi, 1.9, -1.93), strict=True))
OFFSET = dict(zip(CAMERAS, (8, 15, 0, 32, 43, 23), strict=True))
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def ego(stamp):
    """Exact pose on a circle at 9 m/s and 0.3 rad/s."""
    t = (stamp - START) / S
    return geometry.planar(SPEED / TURN * np.sin(TURN * t), SPEED / TURN * (1 - np.cos(TURN * t)), TURN * t)


def mount(camera):
    out = geometry.planar(np.cos(HEADING[camera]), 0.5 * np.sin(HEADING[camera]), HEADING[camera])
    out[2, 3] = 1.5
    out[:3, :3] = out[:3, :3] @ OPTICAL
    return out


def landmark(camera):
    """A point 12 m before the camera at the start, in the world."""
    return geometry.apply(ego(START) @ mount(camera), np.array([0.8, 0.6, 12.0]))


def photograph(camera, stamp):
    """A white spot at the exact pixel of the landmark, as the camera sees it at its own stamp."""
    ego2img = geometry.camera_matrix(np.reshape(K, (3, 3)), geometry.inverse(mount(camera)))
    in_ego = geometry.apply(geometry.inverse(ego(stamp)), landmark(camera))
    (u, v), depth = geometry.project(ego2img, in_ego)
    assert depth > 0
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    spot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 6.0**2))
    return np.repeat(np.round(spot).astype(np.uint8)[..., None], 3, -1)


def centroid(image):
    weight = np.where(image[..., 0] > 8, image[..., 0], 0).astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


PLAIN = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()


def images(start, count, cameras=CAMERAS, payload=PLAIN):
    found = [(start + k * PERIOD + OFFSET[c] * MS, c, CompressedImage(payload)) for k in range(count) for c in cameras]
    return sorted(found, key=lambda image: image[0])


class Rig:
    """A CameraSync with everything calibrated, and a clock that follows the stamps."""

    def __init__(self, mounted=True, **config):
        self.sync = CameraSync(SyncConfig(**config), threads=1)
        self.frames = []
        for camera in CAMERAS:
            model = from_fields(camera, f"{camera}_optical", WIDTH, HEIGHT, K)
            self.sync.set_camera(model.mounted(mount(camera)) if mounted else model)

    def tf(self, start, end, period=50 * MS, place=ego):
        for stamp in range(start, end + 1, period):
            pose = place(stamp)
            self.sync.add_transform("map", "base_link", stamp, pose[:3, 3], geometry.quaternion(pose))

    def odometry(self, start, end, twist=None, period=20 * MS, place=ego):
        for stamp in range(start, end + 1, period):
            self.sync.add_odometry(stamp, place(stamp), twist, "odom")

    def play(self, what):
        made = []
        for stamp, camera, payload in what:
            self.sync.add_image(camera, stamp, payload)
            frames = self.sync.take()
            made += [frames] if frames is not None else []
        self.frames += made
        return made

    @property
    def drops(self):
        return self.sync.synchroniser.statistics.drops


@pytest.fixture
def rig():
    rigs = []

    def build(**options):
        rigs.append(Rig(**options))
        return rigs[-1]

    yield build
    for made in rigs:
        made.sync.close()


@pytest.mark.parametrize("source", ["tf", "odometry"])
@pytest.mark.parametrize("compressed", [True, False])
def test_landmarks_are_where_the_projection_says(rig, source, compressed):
    """At 9 m/s the cameras of one set are up to 0.4 m apart; ignoring that would be off by several pixels."""
    built = rig(fixed_frames=("map",) if source == "tf" else ())
    getattr(built, source)(START - S, START + S)
    for camera in CAMERAS:
        stamp = START + OFFSET[camera] * MS
        image = photograph(camera, stamp)
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
        in_ego = geometry.apply(geometry.inverse(ego(frames.stamp)), landmark(camera))
        pixel, _ = geometry.project(frames.ego2img[row], in_ego)
        seen = centroid(frames.images[row])
        assert np.abs(pixel - seen).max() < 0.15
        plain = geometry.apply(geometry.inverse(ego(int(frames.stamps[row]))), landmark(camera))
        still = max(still, float(np.abs(geometry.project(frames.ego2img[row], plain)[0] - seen).max()))
    assert still > 2.0, "the test can tell whether own poses are used"
    assert np.allclose(frames.ego.pose, ego(frames.stamp), atol=2e-3)
    assert frames.ego.twist == pytest.approx([SPEED, 0, 0, 0, 0, TURN], abs=0.05)
    assert frames.ego.fixed_frame == ("map" if source == "tf" else "odom")


def test_odometry_twist_is_preferred_and_zero_twist_is_none(rig):
    built = rig(fixed_frames=())
    built.odometry(START - S, START + S, twist=[8.5, 0, 0, 0, 0, 0.25])
    assert built.play(images(START, 2))[0].ego.speed == 8.5
    other = rig(fixed_frames=())
    other.odometry(START - S, START + S, twist=[0.0] * 6)
    assert other.play(images(START, 2))[0].ego.speed == pytest.approx(SPEED, abs=0.05)


def test_twist_is_causal(rig):
    """Poses after the stamp, though tf already holds them, do not enter: here the car stops right at the stamp."""
    stop = START + 8 * MS

    def braking(stamp):
        return ego(min(stamp, stop))

    built = rig(fixed_frames=("map",))
    built.tf(stop - 10 * 50 * MS, stop + S, place=braking)
    assert built.play(images(START, 1))[0].ego.speed == pytest.approx(SPEED, abs=0.05)


def test_tf_at_two_hertz_stamped_ahead(rig):
    """WATonomous bags: once per keyframe, this keyframe and the next."""
    built = rig(fixed_frames=("map",))
    made = []
    for key in range(-2, 4):
        at = START + key * 500 * MS
        for stamp in (at, at + 500 * MS):
            pose = ego(stamp)
            built.sync.add_transform("map", "base_link", stamp, pose[:3, 3], geometry.quaternion(pose))
        if key >= 0:
            made += built.play(images(at, 6))
    assert len(made) >= 23
    for frames in made:
        assert np.abs(frames.ego.pose[:2, 3] - ego(frames.stamp)[:2, 3]).max() < 0.1
        assert frames.ego.speed == pytest.approx(SPEED, abs=0.2)
    assert {frames.epoch for frames in made} == {0}


def test_late_tf_is_waited_for_and_missing_tf_is_named(rig):
    built = rig(fixed_frames=("map",), tf_timeout=0.3)
    built.tf(START - S, START)
    assert not built.play(images(START, 2))
    built.tf(START, START + 200 * MS)
    frames = built.sync.take()
    assert frames is not None
    assert frames.stamp == START + PERIOD + 8 * MS, "the newest ready set wins"
    assert built.drops[DropReason.OVERLOAD] == 1
    assert not built.play(images(START + 10 * PERIOD, 10))
    assert built.drops[DropReason.POSE_TIMEOUT] >= 4
    text = dict(built.sync.messages())[DropReason.POSE_TIMEOUT]
    assert "map" in text
    assert "base_link" in text


def test_no_pose_at_all_names_the_frames(rig):
    built = rig(fixed_frames=("map", "odom"))
    assert not built.play(images(START, 20))
    assert built.drops[DropReason.POSE_TIMEOUT] > 5
    reason, text = built.sync.messages()[0]
    assert reason is DropReason.POSE_TIMEOUT
    assert "map <- base_link" in text


def test_odometry_serves_where_tf_never_comes(rig):
    """A profile that hopes for tf: the first sets wait for it, then odometry is kept to."""
    built = rig(fixed_frames=("map",))
    built.odometry(START - S, START + 3 * S)
    made = built.play(images(START, 24))
    assert len(made) >= 18
    assert {frames.ego.fixed_frame for frames in made} == {"odom"}
    assert {frames.epoch for frames in made} == {0}
    waits = [made[0].stamp - START, *np.diff([frames.stamp for frames in made])]
    assert max(waits[2:]) <= PERIOD + MS, "only the first has to wait"


def test_a_change_of_the_fixed_frame_starts_an_epoch(rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + S)
    built.odometry(START - S, START + 4 * S)
    made = built.play(images(START, 40))
    frames = [f.ego.fixed_frame for f in made]
    assert frames[0] == "map"
    assert frames[-1] == "odom"
    assert {(f.ego.fixed_frame, f.epoch) for f in made} == {("map", 0), ("odom", 1)}


def test_mounts_from_tf_at_keyframes_only(rig):
    """Given once on /tf, not on /tf_static: a mount is rigid and holds."""
    built = rig(mounted=False, fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    for camera in CAMERAS:
        pose = mount(camera)
        built.sync.add_transform("base_link", f"{camera}_optical", START, pose[:3, 3], geometry.quaternion(pose))
    made = built.play(images(START, 12))
    assert len(made) >= 11
    with_models = rig(fixed_frames=("map",))
    with_models.tf(START - S, START + 3 * S)
    for ours, theirs in zip(made, with_models.play(images(START, 12)), strict=True):
        assert np.allclose(ours.ego2img, theirs.ego2img, atol=1e-6)


def test_unknown_mount_is_named(rig):
    built = rig(mounted=False, fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    assert not built.play(images(START, 12))
    text = dict(built.sync.messages())[DropReason.MOUNT_UNKNOWN]
    assert "base_link" in text
    assert "CAM_FRONT_optical" in text


def test_a_body_frame_given_as_optical_frame_is_refused(rig):
    built = rig(mounted=False, fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    for camera in CAMERAS:
        pose = geometry.planar(1.0, 0.0, HEADING[camera])
        built.sync.add_transform(
            "base_link", f"{camera}_optical", 0, pose[:3, 3], geometry.quaternion(pose), static=True
        )
    assert not built.play(images(START, 4))
    text = dict(built.sync.messages())[DropReason.MOUNT_IMPLAUSIBLE]
    assert "base_link <- CAM_FRONT_optical" in text
    assert "no optical frame" in text


def test_no_calibration_is_named_and_its_arrival_helps(rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 3 * S)
    model = built.sync.cameras.pop("CAM_BACK")
    assert not built.play(images(START, 12))
    assert "CAM_BACK" in dict(built.sync.messages())[DropReason.NO_CALIBRATION]
    assert built.sync.statistics()["uncalibrated"] == "CAM_BACK"
    built.sync.set_camera(model)
    assert built.play(images(START + 12 * PERIOD, 4))


@pytest.mark.parametrize("bad", [PLAIN[:300], b"", cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8))[1].tobytes()])
@pytest.mark.parametrize("policy", ["strict", "hold", "black"])
def test_a_bad_image(rig, bad, policy):
    built = rig(fixed_frames=("map",), policy=policy)
    built.tf(START - S, START + 3 * S)
    what = [(s, c, CompressedImage(bad) if c == "CAM_BACK" and s < START + S else p) for s, c, p in images(START, 20)]
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


def test_hold_keeps_stamp_image_and_projection(rig):
    built = rig(fixed_frames=("map",), policy="hold", max_hold=0.6)
    built.tf(START - S, START + 3 * S)
    gone = START + 500 * MS
    what = [image for image in images(START, 24) if not (image[1] == "CAM_BACK" and image[0] >= gone)]
    made = built.play(what)
    row = CAMERAS.index("CAM_BACK")
    held = [f for f in made if not f.valid[row] and f.images[row].any()]
    black = [f for f in made if not f.valid[row] and not f.images[row].any()]
    assert len(held) >= 4
    assert len(black) >= 6
    assert all(f.stamps[row] < gone for f in held)
    assert all(f.stamp - f.stamps[row] <= 600 * MS for f in held)
    assert all(f.stamps[row] == f.stamp for f in black)
    point = landmark("CAM_BACK")
    for frames in held:
        in_ego = geometry.apply(geometry.inverse(ego(frames.stamp)), point)
        then = geometry.apply(geometry.inverse(ego(int(frames.stamps[row]))), point)
        ida = built.sync.preparer.geometry(HEIGHT, WIDTH, True).ida
        want, _ = geometry.project(
            geometry.camera_matrix(ida @ np.reshape(K, (3, 3)), geometry.inverse(mount("CAM_BACK"))), then
        )
        assert np.abs(geometry.project(frames.ego2img[row], in_ego)[0] - want).max() < 0.1


def test_a_camera_nothing_is_known_of_sees_nothing(rig):
    built = rig(fixed_frames=("map",), policy="black")
    del built.sync.cameras["CAM_BACK"]
    built.tf(START - S, START + 3 * S)
    made = built.play(images(START, 12, [c for c in CAMERAS if c != "CAM_BACK"]))
    assert made
    _, depth = geometry.project(made[-1].ego2img[3], np.random.default_rng(0).normal(size=(100, 3)) * 50)
    assert (depth < 0).all()


def test_bag_loop_three_times(rig):
    """tf, odometry and images all turn back; memory must be reset and no old pose or image may be used."""
    built = rig(fixed_frames=("map",))
    epochs = []
    for loop in range(3):
        at, made = START, []
        for k in range(72):
            built.tf(at + (k - 1) * PERIOD, at + k * PERIOD + 100 * MS)
            made += built.play(images(at + k * PERIOD, 1))
        assert len(made) >= 68
        assert made[0].stamp - START <= S
        for frames in made:
            assert np.allclose(frames.ego.pose, ego(frames.stamp), atol=0.01)
            assert frames.ego.speed == pytest.approx(SPEED, abs=0.1)
        epochs.append({frames.epoch for frames in made})
        assert epochs[-1] == {loop}


def test_relocation_starts_an_epoch(rig):
    """The car is put 40 m aside (a simulator's respawn) while time runs on."""
    aside = geometry.planar(0, 40, 0)
    seam = START + 12 * PERIOD

    def place(stamp):
        return aside @ ego(stamp) if stamp >= seam else ego(stamp)

    for options in ({"fixed_frames": ("map",)}, {"fixed_frames": ()}):
        built = rig(**options)
        (built.tf if options["fixed_frames"] else built.odometry)(START - S, START + 4 * S, place=place)
        made = built.play(images(START, 36))
        before = {f.epoch for f in made if f.stamp < seam - 60 * MS}
        after = [f for f in made if f.stamp > seam + 3 * PERIOD]
        assert before == {0}
        assert len({f.epoch for f in after}) == 1
        assert after[0].epoch >= 1
        assert all(f.ego.speed == pytest.approx(SPEED, abs=0.2) for f in after)
        assert len(made) >= 31


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


def test_poses_faster_than_any_vehicle_are_refused(rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 2 * S, place=lambda stamp: geometry.planar(200 * (stamp - START) / S, 0, 0))
    assert not built.play(images(START, 6))
    assert built.drops[DropReason.IMPLAUSIBLE_MOTION] >= 1


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


def test_overload_takes_the_newest_and_counts_the_rest(rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 2 * S)
    for stamp, camera, payload in images(START, 6):
        built.sync.add_image(camera, stamp, payload)
    frames = built.sync.take()
    formed = built.sync.synchroniser.statistics.sets
    assert frames.stamp == START + (formed - 1) * PERIOD + 8 * MS
    assert built.drops[DropReason.OVERLOAD] == formed - 1
    assert built.sync.take() is None


def test_a_standing_car_with_static_pose(rig):
    built = rig(fixed_frames=("map",))
    built.sync.add_transform("map", "base_link", 0, (3, 2, 0), (0, 0, 0, 1), static=True)
    made = built.play(images(START, 3))
    assert made[0].ego.speed == 0.0
    assert made[0].ego.pose[0, 3] == 3.0


def test_reset_drops_what_waits(rig):
    built = rig(fixed_frames=("map",))
    built.play(images(START, 2))
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


def test_statistics_are_flat(rig):
    built = rig(fixed_frames=("map",))
    built.tf(START - S, START + 2 * S)
    made = built.play(images(START, 12))
    flat = built.sync.statistics()
    assert flat["frames"] == len(made)
    assert flat["ego_source"] == "tf: map"
    assert {f"dropped.{reason.value}" for reason in DropReason} <= set(flat)
    assert all(isinstance(value, (int, float, str)) for value in flat.values())
