"""./run rig: what is planted in a recording is named, a sound one is not complained about, and a draft fits its bag."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.data.bags.rig_on_bag import check_bag, draft_profile, is_rectified
from sparseoccvla_ros.data.bags.writer import BagWriter
from sparseoccvla_ros.view.rig_picture import blind_directions, coverage, rig_picture
from tests import rig_bags
from tests.rig_bags import Recording

IMAGE = ImageConfig(64, 176)
SOUND = Recording(seconds=1.5, rate=4.0)


def moved(model, **changes):
    """A camera whose pose differs: place [3] m, or turned (its axes named as a body's)."""
    pose = model.camera2ego.copy()
    pose[:3, 3] = changes.get("place", pose[:3, 3])
    if "axes" in changes:
        pose[:3, :3] = changes["axes"]
    return model.mounted(pose)


UP = np.array([[0.0, -0.6, -0.8], [1.0, 0.0, 0.0], [0.0, -0.8, 0.6]])
"""Of a camera that looks back and 37 degrees up: where its x (right), y (down) and z (ahead) point."""


def wrong_topic(content):
    content["cameras"]["stern"]["image_topic"] = "/rig/cam1/img"


def wrong_transport(content):
    content["cameras"]["stern"]["transport"] = "compressed"


def wrong_info(content):
    content["cameras"]["stern"]["info_topic"] = "/rig/cam1/camera_info"


MISTAKES = {
    "topic name": (r"no topic /rig/cam1/img; images that no camera takes: /rig/cam1/image", {"edit": wrong_topic}),
    "transport": (r"carries sensor_msgs/msg/Image, but transport: compressed", {"edit": wrong_transport}),
    "no calibration": (r"has no calibration: nothing came on /rig/cam1/camera_info", {"edit": wrong_info}),
    "unknown lens": (r"distortion model 'omni' is not supported", {"info": {"distortion_model": "omni"}}),
    "size": (r"256x192 pixels, the calibration is for 640x480", {"info": {"width": 640, "height": 480}}),
    "a body frame": (r"optical_1 is no upright optical frame", {"pose": {"axes": np.eye(3)}}),
    "millimetres": (r"m from base_link: other units than metres", {"pose": {"place": (500.0, 0.0, 1600.0)}}),
    "below the road": (r"sits -0.40 m above base_link", {"pose": {"place": (0.5, 0.0, -0.4)}}),
    "looking up": (r"30 m away is cropped off", {"pose": {"axes": UP}}),
    "a copied pose": (r"has exactly the pose of bow", {"twin": True}),
    "late stamps": (r"stamps lie \+112 ms off those of bow, tolerance 60 ms", {"how": {"late": {"stern": 0.11}}}),
    "a dead camera": (r"is silent for 0.\d s, 4.0 Hz otherwise", {"how": {"silent": ("stern",)}}),
    "a lens cap": (r"its image is black", {"dark": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named_and_nothing_else(tmp_path, name):
    reason, plant = MISTAKES[name]
    cameras = rig_bags.rig(3)
    if "pose" in plant:
        cameras["stern"] = moved(cameras["stern"], **plant["pose"])
    if "twin" in plant:
        cameras["stern"] = cameras["stern"].mounted(cameras["bow"].camera2ego)
    infos = {"stern": replace(cameras["stern"], **plant["info"])} if "info" in plant else None
    images = {"stern": np.zeros((192, 256, 3), np.uint8)} if "dark" in plant else None
    how = SOUND.but(**plant.get("how", {}))
    bag, path = rig_bags.write(tmp_path, cameras, how, infos, images)
    if "edit" in plant:
        content = yaml.safe_load(path.read_text())
        plant["edit"](content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    report = check_bag(bag, profile(path), IMAGE)
    told = {camera.name: camera.problems for camera in report.cameras}
    assert len(told["stern"]) == 1, told
    assert re.search(reason, told["stern"][0]), told
    assert not told["bow"]
    assert not told["eye.left"]


def test_without_ego_motion_it_says_so(tmp_path):
    bag, path = rig_bags.write(tmp_path, rig_bags.rig(2), SOUND.but(tf=False, odometry=False))
    report = check_bag(bag, profile(path), IMAGE)
    assert report.sets == 0
    assert any("/vehicle/odom" in line for line in report.problems)
    assert not any(camera.problems for camera in report.cameras)


def test_without_mounts_every_camera_names_its_frame(tmp_path):
    bag, path = rig_bags.write(tmp_path, rig_bags.rig(2), SOUND.but(mounts=False))
    report = check_bag(bag, profile(path), IMAGE)
    for i, camera in enumerate(report.cameras):
        assert any("place on the vehicle is unknown" in p and f"optical_{i}" in p for p in camera.problems)


@pytest.mark.parametrize("count", [1, 8])
def test_a_sound_recording_gives_every_frame_set(tmp_path, count):
    bag, path = rig_bags.write(tmp_path, rig_bags.rig(count), SOUND)
    report = check_bag(bag, profile(path), IMAGE)
    assert report.lines() == []
    assert report.sets == report.complete == 6
    for camera in report.cameras:
        assert camera.rate == pytest.approx(4.0, rel=0.01)
        assert 0 < camera.used_deg <= camera.lens_deg + 1e-9
    page = rig_picture(report)
    assert page.dtype == np.uint8
    assert page.std() > 5
    ahead_behind = coverage(report.cameras)[:, 70:90].max(1)
    assert ahead_behind[-20:].all()
    assert ahead_behind[:20].all() == (count == 8)
    blind = sum((last - first) % 360 + 1 for first, last in blind_directions(report.cameras))
    assert blind < 60 if count == 8 else blind > 250


def test_a_fisheye_has_its_own_angle(tmp_path):
    cameras = rig_bags.rig(3)
    bag, path = rig_bags.write(tmp_path, cameras, SOUND)
    fisheye = check_bag(bag, profile(path), IMAGE).cameras[2]
    # r = f theta, nearly: 120 px at f = 77 px are 1.56 rad to each side, less what the polynomial adds.
    assert fisheye.lens == "equidistant"
    assert 165 < fisheye.lens_deg < 185
    assert 105 < fisheye.used_deg < 120


def test_views_show_the_full_angle_of_a_fisheye(tmp_path):
    bag, path = rig_bags.write(tmp_path, rig_bags.rig(3), SOUND)
    whole = check_bag(bag, profile(path), IMAGE)
    names = rig_bags.cut(path, "eye.left", {"left.a": 45, "left.b": -45})
    assert names == ("bow", "stern", "left.a", "left.b")
    report = check_bag(bag, profile(path), IMAGE)
    assert report.lines() == []
    assert report.sets == report.complete == 6
    assert tuple(c.name for c in report.cameras) == names
    for camera, heading in zip(report.cameras[2:], (-120 + 45, -120 - 45), strict=True):
        assert camera.heading_deg == pytest.approx(heading)
        assert camera.used_deg == pytest.approx(90, abs=1)
        assert camera.lens_deg == whole.cameras[2].lens_deg
    blind = [sum((b - a) % 360 + 1 for a, b in blind_directions(r.cameras)) for r in (whole, report)]
    assert 50 < blind[0] - blind[1] < 80, "180 degrees instead of 115"


@pytest.mark.parametrize(
    ("topic", "wanted"),
    [
        ("/front/image_rect", True), ("/front/image_rect_color/compressed", True), ("/rectified/front", True),
        ("/CAM_FRONT/image_rect_compressed", True), ("/direct/image_raw", False), ("/front_direct/image", False),
    ],
)  # fmt: skip
def test_rectified_topics_are_told_by_the_word(topic, wanted):
    assert is_rectified(topic) is wanted


def test_a_draft_fits_its_bag(tmp_path):
    bag, _ = rig_bags.write(tmp_path, rig_bags.rig(5), SOUND)
    made = draft_profile(bag)
    path = tmp_path / "draft.yaml"
    path.write_text(made.text)
    chosen = profile(path)
    assert tuple(chosen.cameras) == tuple(f"cam{i}" for i in range(5))
    assert (chosen.reference, chosen.base_frame, chosen.fixed_frames) == ("cam0", "base_link", ("map",))
    assert chosen.odometry_topic == "/vehicle/odom"
    assert [note.split(":")[0] for note in made.notes] == ["cam2"], "the fisheye"
    report = check_bag(bag, chosen, IMAGE)
    assert report.lines() == []
    assert report.complete == 6


def test_the_bundled_bag_is_sound_and_drafted_as_nuscenes(tmp_path):
    made = draft_profile(bundled_bag())
    path = tmp_path / "draft.yaml"
    path.write_text(made.text)
    drafted, known = profile(path), profile()
    assert {n: vars(c) for n, c in drafted.cameras.items()} == {n: vars(c) for n, c in known.cameras.items()}
    assert (drafted.reference, drafted.fixed_frames, drafted.odometry_topic) == ("CAM_FRONT", ("map",), "/odom")
    assert check_bag(bundled_bag(), known, IMAGE, seconds=1.5).lines() == []


def test_a_bag_without_images_cannot_be_drafted(tmp_path):
    with BagWriter(tmp_path / "none") as bag:
        bag.string("/said", 10**9, "hello")
    with pytest.raises(InvalidInput, match="holds no sensor_msgs images"):
        draft_profile(tmp_path / "none")
