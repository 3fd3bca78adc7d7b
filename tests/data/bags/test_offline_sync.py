"""Frame sets of a bag are what the node would publish, defects of recordings included."""

from pathlib import Path

import cv2
import numpy as np

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.data.bags.offline_sync import bag_frames
from sparseoccvla_ros.data.bags.writer import BagWriter
from sparseoccvla_ros.world.render.camera_rig import load_rig

START = 1_700_000_000 * 10**9
PERIOD = 10**8
IMAGE = ImageConfig(32, 64)


def write(path: Path, stamped: bool, lost: str = "") -> Path:
    """Half a second of six cameras on a car at 5 m/s; the last set lacks one camera's image, its CameraInfo is zero."""
    rig = {camera.name: camera for camera in load_rig("n015")}
    picture = cv2.imencode(".jpg", np.full((90, 160, 3), 90, np.uint8))[1].tobytes()
    with BagWriter(path) as bag:
        bag.transforms(START, [("base_link", n, c.camera2ego) for n, c in rig.items()], static=True)
        for k in range(6):
            now = START + k * PERIOD
            bag.transforms(now, [("map", "base_link", geometry.planar(5.0 * k / 10, 0.0, 0.0))])
            for name in CAMERAS:
                intrinsics = rig[name].scaled(90, 160)
                if k == 5 and name == lost:
                    bag.camera_info(f"/{name}/camera_info", now, name, 160, 90, np.zeros((3, 3)))
                    continue
                bag.camera_info(f"/{name}/camera_info", now, name, 160, 90, intrinsics)
                bag.compressed_image(
                    f"/{name}/image_rect_compressed", now if stamped else 0, name, picture, record_time=now
                )
    return path


def test_stamp_zero_takes_the_time_of_the_record(tmp_path: Path) -> None:
    stamped = list(bag_frames(write(tmp_path / "stamped", True), IMAGE))
    zero = list(bag_frames(write(tmp_path / "zero", False), IMAGE))
    assert [f.stamp for f in zero] == [f.stamp for f in stamped]
    assert len(zero) >= 4
    for ours, theirs in zip(zero, stamped, strict=True):
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.ego.pose, theirs.ego.pose)


def test_a_silent_camera_is_held_as_the_node_holds_it(tmp_path: Path) -> None:
    frames = list(bag_frames(write(tmp_path / "bag", True, lost="CAM_BACK"), IMAGE))
    row = CAMERAS.index("CAM_BACK")
    assert frames[-1].stamp == START + 5 * PERIOD
    assert frames[-1].missing == ("CAM_BACK",)
    assert frames[-1].stamps[row] == START + 4 * PERIOD, "its last image, with its own stamp"
    assert frames[-1].images[row].any()
    assert all(not f.missing for f in frames[:-1])
