"""The six profiles say what the converters' own files say."""

from __future__ import annotations

import pytest
import yaml

from sparseoccvla_ros.camera_sync.profiles import profile, profile_names
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import share

EXPECTED = {
    "nuscenes": ("/CAM_BACK_LEFT/image_rect_compressed", "compressed", "/CAM_BACK_LEFT/camera_info", "CAM_BACK_LEFT"),
    "nuscenes_lower": (
        "/cam_back_left/image_rect_compressed",
        "compressed",
        "/cam_back_left/camera_info",
        "cam_back_left",
    ),
    "nuscenes2bag": ("/cam_back_left/raw", "raw", "", "cam_back_left"),
    "nuscenes_prefixed": (
        "/nuscenes/cam_back_left/image_raw",
        "raw",
        "/nuscenes/cam_back_left/camera_info",
        "cam_back_left_link",
    ),
    "dataset_bridge": (
        "/nuscenes/CAM_BACK_LEFT/image",
        "raw",
        "/nuscenes/CAM_BACK_LEFT/camera_info",
        "CAM_BACK_LEFT",
    ),
    "autoware": (
        "/sensing/camera/CAM_BACK_LEFT/image_raw",
        "raw",
        "/sensing/camera/CAM_BACK_LEFT/camera_info",
        "CAM_BACK_LEFT/camera_optical_link",
    ),
}


def test_the_six_profiles():
    profiles = {name: profile(name) for name in profile_names()}
    assert set(profiles) == set(EXPECTED)
    for name, (image, transport, info, frame) in EXPECTED.items():
        camera = profiles[name].cameras["CAM_BACK_LEFT"]
        assert (camera.image_topic, camera.transport, camera.info_topic, camera.frame_id) == (
            image,
            transport,
            info,
            frame,
        )
        assert tuple(profiles[name].cameras) == CAMERAS
        assert profiles[name].description


def test_where_the_ego_comes_from():
    profiles = {name: profile(name) for name in profile_names()}
    ego = {name: (p.fixed_frames, p.odometry_topic, p.mounts) for name, p in profiles.items()}
    assert ego["nuscenes"] == (("map",), "/odom", "tf")
    assert ego["nuscenes_prefixed"] == ((), "/nuscenes/odom", "file")
    assert ego["dataset_bridge"] == (("world",), "", "tf")
    assert ego["autoware"] == (("map",), "/localization/kinematic_state", "tf")
    assert {n for n, p in profiles.items() if p.needs_calibration_file} == {"nuscenes2bag", "nuscenes_prefixed"}


def test_default_and_unknown_names():
    assert profile().name == "nuscenes"
    assert profile("autoware").name == "autoware"
    with pytest.raises(InvalidInput, match="none of nuscenes, nuscenes_lower"):
        profile("kitti")


def test_the_frames_of_a_profile_reach_the_sync(tmp_path):
    content = yaml.safe_load(share("config", "profiles.yaml").read_text())
    content["profiles"]["nuscenes"]["ego"]["base_frame"] = "rear_axle"
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    chosen = profile("nuscenes", path)
    assert (chosen.sync_config().base_frame, chosen.sync_config().fixed_frames) == ("rear_axle", ("map",))
    own = chosen.sync_config(base_frame="base_link", tolerance=0.02)
    assert (own.base_frame, own.tolerance) == ("base_link", 0.02)


def test_single_cameras_may_differ(tmp_path):
    content = yaml.safe_load(share("config", "profiles.yaml").read_text())
    content["profiles"]["nuscenes"]["each"] = {"CAM_BACK": {"transport": "raw", "image_topic": "/rear"}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    cameras = profile("nuscenes", path).cameras
    assert (cameras["CAM_BACK"].image_topic, cameras["CAM_BACK"].transport) == ("/rear", "raw")
    assert cameras["CAM_BACK"].info_topic == "/CAM_BACK/camera_info"
    assert cameras["CAM_FRONT"].transport == "compressed"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("cameras", "transport"), "h264", "transport.*want one of raw"),
        (("cameras", "image_topic"), "/same", "share an image topic"),
        (("cameras", "image_topic"), "/bad topic", "no topic name"),
        (("cameras", "frame_id"), "", "frame_id"),
        (("cameras", "topic"), "/x", "unknown keys topic"),
        (("mounts",), "guess", "mounts"),
        (("ego", "fixed_frames"), "map", "list of frame names"),
        (("ego",), {"fixed_frames": [], "odometry_topic": ""}, "neither"),
        (("cameras",), None, "want a mapping"),
    ],
)
def test_mistakes_are_named(tmp_path, place, value, reason):
    content = yaml.safe_load(share("config", "profiles.yaml").read_text())
    entry = content["profiles"]["nuscenes"]
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InvalidInput, match=reason):
        profile("nuscenes", path)


def test_files_that_are_none(tmp_path):
    for text in ("", "[1]", "format: other", "format: profiles-1", "a: [", "\x00"):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        with pytest.raises(InvalidInput, match="profiles"):
            profile("nuscenes", path)
    with pytest.raises(InvalidInput, match="No such file"):
        profile("nuscenes", tmp_path / "absent.yaml")
