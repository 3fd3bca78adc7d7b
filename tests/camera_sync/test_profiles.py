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
    assert profile().reference_topic == "/CAM_FRONT/image_rect_compressed"
    with pytest.raises(InvalidInput, match=r"neither the path of a .yaml file nor one of nuscenes, autoware"):
        profile("kitti")


@pytest.fixture
def own(tmp_path):
    """Writes the content of a profile, the nuScenes one with changes, and returns its path."""

    def write(**changes):
        content = yaml.safe_load(share("config", "profiles", "nuscenes.yaml").read_text()) | changes
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def test_the_frames_of_a_profile_reach_the_sync(own):
    chosen = profile(own(ego={"base_frame": "rear_axle", "fixed_frames": ["map"]}))
    assert (chosen.sync_config().base_frame, chosen.sync_config().fixed_frames) == ("rear_axle", ("map",))
    changed = chosen.sync_config(base_frame="base_link", tolerance=0.02)
    assert (changed.base_frame, changed.tolerance) == ("base_link", 0.02)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_any_number_of_cameras_with_any_names(own, count):
    names = ["mast", "eye.left", "eye.right", "4th", "rear-view", "f", "g", "h"][:count]
    each = {name: {"image_topic": f"/cam{i}"} for i, name in enumerate(names)}
    chosen = profile(own(cameras=each, shared={"transport": "raw", "frame_id": "{NAME}"}))
    assert tuple(chosen.cameras) == tuple(names)
    assert chosen.sync_config().cameras == tuple(names)
    assert (chosen.reference, chosen.sync_config().reference) == ("mast", "mast")


def test_single_cameras_may_differ(own):
    names = dict.fromkeys(CAMERAS) | {"CAM_BACK": {"transport": "raw", "image_topic": "/rear", "frame_wins": True}}
    chosen = profile(own(cameras=names, reference="CAM_BACK"))
    cameras = chosen.cameras
    assert (cameras["CAM_BACK"].image_topic, cameras["CAM_BACK"].transport) == ("/rear", "raw")
    assert cameras["CAM_BACK"].info_topic == "/CAM_BACK/camera_info"
    assert cameras["CAM_FRONT"].transport == "compressed"
    assert (cameras["CAM_BACK"].frame_wins, cameras["CAM_FRONT"].frame_wins) == (True, False)
    assert chosen.sync_config().reference == "CAM_BACK"


_SHARED = {"image_topic": "/{NAME}", "transport": "raw", "frame_id": "{NAME}"}


def test_views_out_of_one_lens_are_cameras_of_a_frame_set(own):
    each = {"nose": {"views": {"nose.left": 50, "nose.right": -50.0}}, "tail": None}
    chosen = profile(own(cameras=each, reference="nose", shared=_SHARED))
    assert tuple(chosen.cameras) == ("nose", "tail")
    sync = chosen.sync_config()
    assert (sync.cameras, sync.reference) == (("nose.left", "nose.right", "tail"), "nose.left")
    assert chosen.cameras["nose"].views["nose.left"] == 50.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shared": _SHARED | {"transport": "h264"}}, "transport.*want one of raw"),
        ({"shared": _SHARED | {"image_topic": "/same"}}, "share an image topic"),
        ({"shared": _SHARED | {"image_topic": "/bad topic"}}, "no topic name"),
        ({"shared": _SHARED | {"frame_id": ""}}, "frame_id"),
        ({"shared": _SHARED | {"frame_wins": "yes"}}, "frame_wins.*true or false"),
        ({"shared": _SHARED | {"topic": "/x"}}, "unknown keys topic"),
        ({"shared": None}, "cameras.CAM_FRONT.*image_topic, transport is missing"),
        ({"mounts": "guess"}, "mounts"),
        ({"reference": "CAM_TOP"}, "reference"),
        ({"speed": 3}, "unknown keys speed"),
        ({"ego": {"fixed_frames": "map"}}, "list of frame names"),
        ({"ego": {"fixed_frames": [], "odometry_topic": ""}}, "neither"),
        ({"cameras": None}, "1 to 8 camera names"),
        ({"cameras": {f"c{i}": None for i in range(9)}}, "1 to 8 camera names"),
        ({"cameras": {"a b": None}}, "no name"),
        ({"cameras": {4: None}}, "no name"),
        ({"cameras": {"a": {"views": {"b": 10}}, "b": None}, "reference": "a", "shared": _SHARED}, "distinct names"),
        (
            {"cameras": {"a": {"views": {f"v{i}": i for i in range(9)}}}, "reference": "a", "shared": _SHARED},
            "at most 8",
        ),
        ({"cameras": {"a": {"views": {"b": 200}}}, "reference": "a"}, "views.b.*left positive"),
        ({"cameras": {"a": {"views": [45]}}, "reference": "a"}, "views.*mapping"),
        ({"cameras": {"a": {"views": {"b": 9}, "rectified": True}}, "reference": "a"}, "no wide lens left"),
    ],
)
def test_mistakes_are_named(own, changes, reason):
    with pytest.raises(InvalidInput, match=reason):
        profile(own(**changes))


def test_files_that_are_none(tmp_path):
    for text in ("", "[1]", "format: other", "format: profile-1", "a: [", "\x00"):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        with pytest.raises(InvalidInput, match=r"profile|own"):
            profile(path)
    with pytest.raises(InvalidInput, match="No such file"):
        profile(tmp_path / "absent.yaml")
