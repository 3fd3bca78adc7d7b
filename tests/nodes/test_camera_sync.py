"""camera_sync as a node: every input profile, and the defects of published recordings."""

import array
import itertools

import cv2
import numpy as np
import pytest
import yaml
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from sparseoccvla_ros.camera_sync.profiles import profile, profile_names
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.nodes.camera_sync import CameraSyncNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.world.render.camera_rig import load_rig

pytestmark = pytest.mark.ros
START = 1_700_000_000 * 10**9
HEIGHT, WIDTH = 198, 352
RIG = {camera.name: camera for camera in load_rig("n015")}
COLOURS = {name: (40 + 30 * i, 200 - 25 * i, 90) for i, name in enumerate(CAMERAS)}


class Drive:
    """A vehicle at 5 m/s that publishes as a profile does."""

    def __init__(self, probe, name: str) -> None:
        self.probe = probe
        self.profile = profile(name)

    def moved(self, stamp: int) -> np.ndarray:
        return geometry.planar(5.0 * (stamp - START) / 1e9, 1.0, 0.1)

    def image(self, camera: str, stamp: int, header_stamp: int | None = None, data: bytes | None = None) -> None:
        entry = self.profile.cameras[camera]
        picture = np.full((HEIGHT, WIDTH, 3), COLOURS[camera], np.uint8)
        header = messages.header(stamp if header_stamp is None else header_stamp, entry.frame_id)
        if entry.transport == "compressed":
            encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            message = CompressedImage(header=header, format="jpeg", data=array.array("B", data or encoded))
        else:
            message = Image(header=header, height=HEIGHT, width=WIDTH, encoding="8UC3", step=3 * WIDTH)
            message.data = messages.block(picture[..., ::-1])
        self.probe.send(entry.image_topic, message, "output")

    def info(self, camera: str, **fields) -> None:
        entry = self.profile.cameras[camera]
        if not entry.info_topic:
            return
        k = RIG[camera].scaled(HEIGHT, WIDTH)
        message = CameraInfo(header=messages.header(START, entry.frame_id), width=WIDTH, height=HEIGHT, k=k.ravel())
        for name, value in fields.items():
            setattr(message, name, value)
        self.probe.send(entry.info_topic, message, "output")

    def transforms(self, stamp: int, mounts: bool = True) -> None:
        items = []
        if self.profile.fixed_frames:
            items.append((self.profile.fixed_frames[0], self.profile.base_frame, self.moved(stamp)))
        if mounts and self.profile.mounts == "tf":
            items += [(self.profile.base_frame, c.frame_id, RIG[n].camera2ego) for n, c in self.profile.cameras.items()]
        made = []
        for parent, child, matrix in items:
            item = TransformStamped(header=messages.header(stamp, parent), child_frame_id=child)
            t, q = item.transform.translation, item.transform.rotation
            t.x, t.y, t.z = matrix[:3, 3].tolist()
            q.x, q.y, q.z, q.w = geometry.quaternion(matrix).tolist()
            made.append(item)
        if made:
            self.probe.send("/tf", TFMessage(transforms=made), "output")

    def odometry(self, stamp: int, twist: bool = True) -> None:
        message = Odometry(header=messages.header(stamp, "odom"), child_frame_id="base_link")
        message.pose.pose = messages.pose_to_msg(self.moved(stamp))
        if twist:
            message.twist.twist.linear.x = 5.0
        self.probe.send(self.profile.odometry_topic, message, "output")

    def step(self, stamp: int, skip: tuple[str, ...] = (), **kwargs) -> None:
        """One frame set with the spread of the real rig, and the poses around it."""
        for at in range(stamp - 200_000_000, stamp + 200_000_001, 100_000_000):
            if self.profile.fixed_frames:
                self.transforms(at)
            if self.profile.odometry_topic:
                self.odometry(at, **kwargs)
        for camera in CAMERAS:
            self.info(camera)
            if camera not in skip:
                self.image(camera, stamp + round(1e9 * (RIG[camera].sweep_offset - RIG["CAM_FRONT"].sweep_offset)))


def calibration(folder, mounts=True) -> str:
    cameras = {}
    for name, c in RIG.items():
        cameras[name] = {"width": WIDTH, "height": HEIGHT, "k": c.scaled(HEIGHT, WIDTH).ravel().tolist()}
        if mounts:
            cameras[name]["translation"] = c.camera2ego[:3, 3].tolist()
            cameras[name]["rotation_xyzw"] = geometry.quaternion(c.camera2ego).tolist()
    (folder / "rig.yaml").write_text(yaml.safe_dump({"format": "cameras-1", "cameras": cameras}))
    return str(folder / "rig.yaml")


@pytest.fixture
def drive(graph, preset, tmp_path):
    def go(name="nuscenes", **parameters):
        if profile(name).needs_calibration_file:
            parameters["calibration_file"] = calibration(tmp_path)
        node = graph.add(CameraSyncNode, preset=preset, profile=name, **parameters)
        return Drive(graph.probe, name), node, graph.probe.listen("frames")

    return go


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_gives_frames(drive, until, name):
    car, node, got = drive(name)
    for k in range(6):  # one after the other, as a car sends them: the first picture of a process takes long to decode
        car.step(START + k * 500_000_000)
        until(lambda wanted=k - 1: len(got) >= wanted, 2)
    assert until(lambda: len(got) >= 3, 20), node.monitor.state(9)
    # On a busy machine one camera's image may come behind the others' next ones, and miss its set.
    whole = [frames for frames in map(messages.frames_from_msg, got) if frames.valid.all()]
    assert len(whole) >= 2
    frames = whole[-1]
    assert frames.names == CAMERAS
    assert frames.images.shape == (6, 128, 352, 3)
    for i, camera in enumerate(CAMERAS):  # RGB, also where a bridge says 8UC3 and means BGR
        np.testing.assert_allclose(frames.images[i].mean((0, 1)), COLOURS[camera], atol=6)
    assert frames.ego.twist[0] == pytest.approx(5.0, abs=0.05)
    np.testing.assert_allclose(frames.ego.pose, car.moved(frames.stamp), atol=1e-6)
    front = CAMERAS.index("CAM_FRONT")
    # The front camera leads, so nothing but its own extrinsics and the crop stands between base_link and its pixels.
    k = RIG["CAM_FRONT"].scaled(HEIGHT, WIDTH)
    k[1, 2] -= HEIGHT - 128
    want = geometry.camera_matrix(k, geometry.inverse(RIG["CAM_FRONT"].camera2ego))
    points = np.array([[10.0, 0, 0], [20, 3, 1], [30, -5, 2]])
    np.testing.assert_allclose(
        geometry.project(frames.ego2img[front], points)[0], geometry.project(want, points)[0], atol=0.6
    )


def test_each_camera_gets_the_pose_of_its_own_stamp(drive, until):
    car, _, got = drive()
    for k in range(4):
        car.step(START + k * 500_000_000)
    assert until(lambda: got, 20)
    frames = messages.frames_from_msg(got[-1])
    row = CAMERAS.index("CAM_BACK_LEFT")
    late = int(frames.stamps[row])
    assert late - frames.stamp == pytest.approx(34_900_000, abs=200_000)
    k = RIG["CAM_BACK_LEFT"].scaled(HEIGHT, WIDTH)
    k[1, 2] -= HEIGHT - 128
    ego2camera = geometry.inverse(car.moved(late) @ RIG["CAM_BACK_LEFT"].camera2ego) @ car.moved(frames.stamp)
    points = np.array([[-3.0, 8, 0.5], [-1, 12, 1]])
    want = geometry.project(geometry.camera_matrix(k, ego2camera), points)[0]
    np.testing.assert_allclose(geometry.project(frames.ego2img[row], points)[0], want, atol=0.6)


def test_stamp_zero_takes_the_time_of_receipt(drive, until):
    car, node, got = drive("nuscenes2bag")
    now = node.get_clock().now().nanoseconds
    car.transforms(now)
    for _ in range(100):
        car.odometry(node.get_clock().now().nanoseconds)
        for camera in CAMERAS:
            car.image(camera, 0, header_stamp=0)
        if until(lambda: got, 0.1):
            break
    assert got, (node.monitor.state(9), node.monitor.status(9).values)
    assert messages.frames_from_msg(got[0]).stamp >= now


def test_odometry_without_twist_is_differentiated(drive, until):
    car, _, got = drive("nuscenes_prefixed")
    for k in range(4):
        car.step(START + k * 500_000_000, twist=False)
    assert until(lambda: got, 20)
    assert messages.frames_from_msg(got[-1]).ego.twist[0] == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"k": np.zeros(9)}, "CAM_FRONT"),
        ({"k": np.full(9, np.nan)}, "CAM_FRONT"),
        ({"d": [0.1] * 5, "distortion_model": "fancy"}, "rectified"),  # its topic says so: then P counts
    ],
)
def test_bad_camera_info_is_refused_by_name(drive, until, fields, reason):
    car, node, got = drive()
    car.info("CAM_FRONT", **fields)
    assert until(lambda: reason in node.monitor.state(1e9)[1], 5)
    assert node.active
    for k in range(3):
        car.step(START + k * 500_000_000)
    assert until(lambda: got, 20), "a good camera_info mends it"


@pytest.mark.parametrize("fields", [{"r": np.zeros(9)}, {"d": []}, {"distortion_model": ""}, {"d": [0.0] * 5}])
def test_incomplete_camera_info_is_taken_as_rectified(drive, until, fields):
    car, _, got = drive()
    original = car.info
    car.info = lambda camera, **_: original(camera, **fields)
    for k in range(3):
        car.step(START + k * 500_000_000)
    assert until(lambda: got, 20)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0 cut", b"not a picture at all", b"\0" * 100])
def test_broken_picture_is_counted_and_survived(drive, until, data):
    car, node, got = drive(policy="black")
    for k in range(2):
        car.step(START + k * 500_000_000)
    assert until(lambda: got, 20)
    stamp = START + 1_000_000_000
    for at in range(stamp - 400_000_000, stamp + 900_000_000, 100_000_000):
        car.transforms(at)
    for camera in CAMERAS:
        car.image(camera, stamp, data=(data or b"x") if camera == "CAM_BACK" else None)
    assert until(lambda: node.monitor._counts.get("dropped.decode"), 10)
    assert until(lambda: messages.frames_from_msg(got[-1]).missing == ("CAM_BACK",), 10)
    assert node.active


def test_without_poses_nothing_comes_and_both_frames_are_named(drive, until):
    car, node, got = drive()
    for k in range(4):
        for camera in CAMERAS:
            car.info(camera)
            car.image(camera, START + k * 500_000_000)
    assert until(lambda: node.monitor.state(9)[0].value == "REJECTING", 10)
    assert "base_link" in node.monitor.state(9)[1]
    assert not got


def test_jump_back_starts_a_new_epoch(drive, until):
    car, _, got = drive()
    for k in range(4):
        car.step(START + k * 500_000_000)
    assert until(lambda: len(got) >= 2, 20)
    before = messages.frames_from_msg(got[-1])
    for k in range(3):
        car.step(START + k * 500_000_000)
    assert until(lambda: messages.frames_from_msg(got[-1]).epoch > before.epoch, 20)
    after = [messages.frames_from_msg(m) for m in got]
    for earlier, later in itertools.pairwise(after):
        assert later.epoch > earlier.epoch or later.stamp > earlier.stamp


def test_05_jump_ahead_starts_a_new_epoch(drive, until):
    """The clock is set a minute ahead: what waits is flushed, the state is bad or says why, and OK again afterwards."""
    car, node, got = drive()
    for k in range(4):
        car.step(START + k * 500_000_000)
    assert until(lambda: len(got) >= 2, 20)
    before = messages.frames_from_msg(got[-1])
    ahead = START + 60 * 10**9
    for k in range(4):
        car.step(ahead + k * 500_000_000)
    assert until(lambda: messages.frames_from_msg(got[-1]).stamp >= ahead, 20)
    first = next(f for f in map(messages.frames_from_msg, got) if f.stamp >= ahead)
    assert first.epoch > before.epoch
    assert (first.stamps[first.valid] >= ahead - 10**9).all(), "no image of before the jump"
    assert until(lambda: node.monitor.state(1e9)[0].value == "OK")


def test_mosaic_shows_front_row_above(drive, until, graph):
    mosaic = graph.probe.listen("camera_sync/mosaic")
    car, _, got = drive(mosaic_rate=30.0)
    for k in range(4):
        car.step(START + k * 500_000_000)
    assert until(lambda: got and mosaic, 20)
    page = np.frombuffer(mosaic[-1].data, np.uint8).reshape(256, 3 * 352, 3)
    np.testing.assert_allclose(page[60, 352 + 176], COLOURS["CAM_FRONT"], atol=8)
    np.testing.assert_allclose(page[200, 176], COLOURS["CAM_BACK_LEFT"], atol=8)
    assert mosaic[-1].encoding == "rgb8"
