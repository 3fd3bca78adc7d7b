"""Bags of the synthetic world: a tiny one made here, and the one that comes with the repository."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability

from sparseoccvla_ros.core.classes import CAMERAS, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import interpolate, transform, yaw_of
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.synthetic.to_bag import BUNDLED, JITTER, START, make_world_bag, schedule
from sparseoccvla_ros.world.labels.occupancy import sparse_labels
from sparseoccvla_ros.world.render.camera_rig import load_rig
from sparseoccvla_ros.world.scene import Scene

SMALL = {"seed": 2, "seconds": 1.0, "rate": 2.0, "height": 36, "width": 64, "jpeg_quality": 80}
BUNDLE = Path(__file__).resolve().parents[3] / "bags" / "world_demo"
TYPES = {
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/odom": "nav_msgs/msg/Odometry",
    "/sparseoccvla/planning/command": "std_msgs/msg/String",
    "/world/occupancy": "sensor_msgs/msg/PointCloud2",
    **{f"/{c}/image_rect_compressed": "sensor_msgs/msg/CompressedImage" for c in CAMERAS},
    **{f"/{c}/camera_info": "sensor_msgs/msg/CameraInfo" for c in CAMERAS},
}


def read(path, topics=None):
    """(topic, record time, message) of a bag, in the order of record times."""
    with AnyReader([path]) as reader:
        chosen = [c for c in reader.connections if topics is None or c.topic in topics]
        return [(c.topic, t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages(connections=chosen)]


def stamp(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def matrix(edge):
    t, r = edge.transform.translation, edge.transform.rotation
    return transform(np.array([t.x, t.y, t.z]), np.array([r.x, r.y, r.z, r.w]))


@pytest.fixture(scope="module")
def small(tmp_path_factory, worlds_made_once):
    path = tmp_path_factory.mktemp("bags") / "small"
    shares = []
    make_world_bag(path, on_progress=shares.append, **SMALL)
    return path, shares


def test_topics_types_and_counts(small):
    path, shares = small
    with AnyReader([path]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == TYPES
        count = {c.topic: c.msgcount for c in reader.connections}
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert count["/tf_static"] == 1
    assert count["/tf"] == count["/odom"] == 101
    assert count["/sparseoccvla/planning/command"] == 3
    assert count["/world/occupancy"] == 2
    assert all(count[f"/{c}/{kind}"] == 2 for c in CAMERAS for kind in ("image_rect_compressed", "camera_info"))
    assert {t for t, q in offered.items() if q.durability == QosDurability.TRANSIENT_LOCAL} == {"/tf_static"}
    assert {q.reliability for q in offered.values()} == {QosReliability.RELIABLE}
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_first_message_is_the_mounts(small):
    messages = read(small[0])
    assert messages[0][0] == "/tf_static"
    mounts = {e.child_frame_id: e for e in messages[0][2].transforms}
    for camera in load_rig("n015"):
        assert mounts[camera.name].header.frame_id == "base_link"
        np.testing.assert_allclose(matrix(mounts[camera.name]), camera.camera2ego, atol=1e-9)


def test_images_and_calibration_belong_together(small):
    messages = read(small[0])
    for camera in load_rig("n015"):
        images = [m for t, _, m in messages if t == f"/{camera.name}/image_rect_compressed"]
        infos = [m for t, _, m in messages if t == f"/{camera.name}/camera_info"]
        for image, info in zip(images, infos, strict=True):
            assert stamp(image) == stamp(info)
            assert image.header.frame_id == info.header.frame_id == camera.name
            assert image.format == "jpeg"
            picture = cv2.imdecode(image.data, cv2.IMREAD_COLOR)
            assert picture.shape == (36, 64, 3)
            assert (info.height, info.width) == (36, 64)
            assert picture.std() > 10
            np.testing.assert_allclose(info.k.reshape(3, 3), camera.scaled(36, 64))


@pytest.mark.slow
def test_motion_surrounds_and_matches_the_images(small):
    messages = read(small[0])
    scene = Scene.generate(SMALL["seed"], SMALL["seconds"])
    edges = [(stamp(m.transforms[0]), matrix(m.transforms[0])) for t, _, m in messages if t == "/tf"]
    times = np.array([t for t, _ in edges])
    assert (np.diff(times) == 20_000_000).all()
    for topic, _, message in messages:
        if not topic.endswith("compressed"):
            continue
        i = int(np.searchsorted(times, stamp(message), side="right")) - 1
        assert 0 <= i < len(times) - 1
        share = (stamp(message) - times[i]) / (times[i + 1] - times[i])
        between = interpolate(edges[i][1], edges[i + 1][1], share)
        exact, _ = scene.ego.at((stamp(message) - START) / 1e9)
        np.testing.assert_allclose(between, exact, atol=2e-3)
    odometry = [m for t, _, m in messages if t == "/odom"]
    assert {m.header.frame_id for m in odometry} == {"map"}
    assert {m.child_frame_id for m in odometry} == {"base_link"}
    position = np.array([(m.pose.pose.position.x, m.pose.pose.position.y) for m in odometry])
    speed = np.array([m.twist.twist.linear.x for m in odometry])
    measured = np.linalg.norm(np.diff(position, axis=0), axis=1) / 0.02
    np.testing.assert_allclose(measured, 0.5 * (speed[1:] + speed[:-1]), atol=0.05)


def test_occupancy_is_a_cloud_that_shares_a_stamp_with_the_front_camera(small, read_cloud):
    messages, scene = read(small[0]), Scene.generate(SMALL["seed"], SMALL["seconds"])
    front = {stamp(m) for t, _, m in messages if t == "/CAM_FRONT/image_rect_compressed"}
    for topic, _, message in messages:
        if topic == "/world/occupancy":
            assert stamp(message) in front
            assert message.header.frame_id == "base_link"
            points = read_cloud(message)
            assert (points["label"] == LABEL["driveable_surface"]).sum() > 1000
            index, inside = OCC3D_GRID.index_of(np.column_stack([points[axis] for axis in "xyz"]))
            assert inside.all()
            truth = sparse_labels(scene, (stamp(message) - START) / 1e9)
            np.testing.assert_array_equal(index, truth.indices)
            np.testing.assert_array_equal(points["label"], truth.labels)
            assert len(np.unique(points["rgb"])) > 3, "RViz colours it by class"


def test_cameras_fire_in_turn_during_the_sweep():
    views = schedule(load_rig("n015"), 2.0, 12.0, seed=5)
    assert len(views) == 24 * 6
    order = [v.camera for v in views[:6]]
    assert order == ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT"]
    stamps = np.array([v.stamp for v in views])
    assert (np.diff(stamps) > 0).all()
    spread = stamps.reshape(-1, 6)[:, -1] - stamps.reshape(-1, 6)[:, 0]
    np.testing.assert_allclose(spread / 1e9, 0.0426, atol=2 * JITTER)
    assert len(np.unique(spread)) > 10, "stamps jitter"
    for camera in CAMERAS:
        own = np.array([v.stamp for v in views if v.camera == camera])
        np.testing.assert_allclose(np.diff(own) / 1e9, 1 / 12, atol=2 * JITTER)


@pytest.mark.slow
def test_the_same_arguments_give_the_same_bag(small, worlds_made_once, tmp_path):
    worlds_made_once.cache_clear()
    again = make_world_bag(tmp_path / "small", **SMALL)
    first = small[0] / "small.mcap"
    assert (again / "small.mcap").read_bytes() == first.read_bytes()
    other = make_world_bag(tmp_path / "other", **{**SMALL, "seed": 3})
    assert (other / "other.mcap").read_bytes() != first.read_bytes()


@pytest.mark.slow
def test_two_processes_write_the_same_bag(small, tmp_path):
    again = make_world_bag(tmp_path / "small", workers=2, **SMALL)
    assert (again / "small.mcap").read_bytes() == (small[0] / "small.mcap").read_bytes()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rate": 0.0}, "rate"),
        ({"rate": 1000.0}, "rate"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"workers": 0}, "workers"),
        ({"rig": "n000"}, "rig"),
        ({"seconds": 0.0}, "seconds"),
        ({"height": 0}, "image size"),
    ],
)
def test_bad_requests_are_named_and_leave_nothing(tmp_path, change, field):
    with pytest.raises(InvalidInput) as caught:
        make_world_bag(tmp_path / "bag", **{**SMALL, **change})
    assert caught.value.field == field
    assert list(tmp_path.iterdir()) == []


# -- the bag in the repository -----------------------------------------------------------------------------------


def test_bundle_is_small_and_its_metadata_is_true():
    assert sum(f.stat().st_size for f in BUNDLE.iterdir()) < 14_000_000
    info = yaml.safe_load((BUNDLE / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert info["version"] == 9
    assert info["storage_identifier"] == "mcap"
    assert info["relative_file_paths"] == ["world_demo.mcap"]
    topics = {t["topic_metadata"]["name"]: t for t in info["topics_with_message_count"]}
    assert {n: t["topic_metadata"]["type"] for n, t in topics.items()} == TYPES
    assert all(t["topic_metadata"]["type_description_hash"].startswith("RIHS01_") for t in topics.values())
    images = round(BUNDLED["seconds"] * BUNDLED["rate"])
    assert {topics[f"/{c}/image_rect_compressed"]["message_count"] for c in CAMERAS} == {images}
    assert topics["/world/occupancy"]["message_count"] == 40
    assert topics["/tf"]["message_count"] == topics["/odom"]["message_count"] == 1051
    assert info["message_count"] == sum(t["message_count"] for t in topics.values())
    assert info["starting_time"]["nanoseconds_since_epoch"] == START - 500_000_000
    assert info["duration"]["nanoseconds"] == 21_000_000_000


def test_bundle_was_made_from_this_world():
    """The poses, commands and truth in the bag are those of its seed: bag and code have not drifted apart."""
    scene = Scene.generate(BUNDLED["seed"], BUNDLED["seconds"])
    messages = read(BUNDLE, {"/odom", "/sparseoccvla/planning/command", "/CAM_FRONT/camera_info"})
    odometry = [m for t, _, m in messages if t == "/odom"]
    for message in odometry[::50]:
        pose, twist = scene.ego.at((stamp(message) - START) / 1e9)
        position = message.pose.pose.position
        np.testing.assert_allclose((position.x, position.y), pose[:2, 3], atol=1e-6)
        turn = 2 * np.arctan2(message.pose.pose.orientation.z, message.pose.pose.orientation.w) - yaw_of(pose)
        assert np.sin(turn / 2) == pytest.approx(0.0, abs=1e-6)
        assert message.twist.twist.linear.x == pytest.approx(twist[0], abs=1e-6)
    commands = [m.data for t, _, m in messages if t.endswith("command")]
    assert set(commands) >= {"straight", scene.maneuver}
    info = next(m for t, _, m in messages if t.endswith("camera_info"))
    assert (info.height, info.width) == (BUNDLED["height"], BUNDLED["width"])
    np.testing.assert_allclose(info.k.reshape(3, 3), load_rig("n015")[0].scaled(198, 352))


def test_bundle_shows_what_the_renderer_draws():
    """One picture of the bag, rendered again coarsely, is the same view."""
    from sparseoccvla_ros.world.render.renderer import Renderer

    renderer = Renderer(Scene.generate(BUNDLED["seed"], BUNDLED["seconds"]))
    topic = "/CAM_FRONT/image_rect_compressed"
    message = [m for _, _, m in read(BUNDLE, {topic})][60]
    shown = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1]
    camera = load_rig("n015")[0]
    time = (stamp(message) - START) / 1e9
    pose = renderer.scene.ego.at(time)[0] @ camera.camera2ego
    drawn = renderer.render(camera.scaled(198, 352), pose, 198, 352, time, samples=1).rgb
    blur = [cv2.GaussianBlur(np.ascontiguousarray(p), (0, 0), 3).astype(float) for p in (shown, drawn)]
    assert np.abs(blur[0] - blur[1]).mean() < 3.0
