"""A real keyframe through the real nodes: its lidar points must land where the devkit's chain puts them."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from scipy.spatial.transform import Rotation

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.data.nuscenes.to_bag import convert_scene
from sparseoccvla_ros.nodes.bag_player import BagPlayerNode
from sparseoccvla_ros.nodes.camera_sync import CameraSyncNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.lifecycle_base import message_class
from sparseoccvla_ros.ros.process import spin
from sparseoccvla_ros.ros.qos import PROFILES
from sparseoccvla_ros.ros.topics import BY_NAME, NAMESPACE

pytestmark = pytest.mark.ros


def rigid(entry: dict) -> np.ndarray:
    """[4, 4] of a table's rotation (w, x, y, z) and translation."""
    out = np.eye(4)
    w, x, y, z = entry["rotation_wxyz"]
    out[:3, :3] = Rotation.from_quat((x, y, z, w)).as_matrix()
    out[:3, 3] = entry["translation"]
    return out


def devkit_pixels(folder: Path, content: dict, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Native pixels [M, 2] and depths of the lidar points, by the devkit's own chain of frames."""
    lidar, entry = content["lidar"], content["cameras"][camera]
    points = np.fromfile(folder / lidar["file"], np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
    at_global = geometry.apply(rigid(lidar["ego2global"]) @ rigid(lidar["sensor2ego"]), points)
    global2camera = np.linalg.inv(rigid(entry["ego2global"]) @ rigid(entry["sensor2ego"]))
    seen = geometry.apply(global2camera, at_global)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = seen @ np.array(entry["K"]).T
        return pixels[:, :2] / pixels[:, 2:], seen[:, 2]


def play(bag: Path, domain: int) -> dict[str, list]:
    """Play a bag through camera_sync, occupancy and planning; messages by topic once a path came."""
    context, ended = Context(), threading.Event()
    rclpy.init(context=context, domain_id=domain)
    probe = Node("probe", context=context, namespace=NAMESPACE)
    got: dict[str, list] = {}
    for name in ("frames", "planning/path", "planning/plan"):
        entry = BY_NAME[name]
        probe.create_subscription(message_class(entry.type), name, got.setdefault(name, []).append, PROFILES[entry.qos])
    nodes = [
        CameraSyncNode(context=context),
        OccupancyNode(context=context),
        PlanningNode(context=context, parameters={"max_age": 60.0}),
        BagPlayerNode(context=context, parameters={"bag": str(bag)}),
    ]
    for node in nodes:
        node.autostart()
    threads = [threading.Thread(target=spin, args=([n], context, ended), daemon=True) for n in (probe, *nodes)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 40
    while not got["planning/path"] and time.monotonic() < until:
        time.sleep(0.05)
    ended.set()
    for thread in threads:
        thread.join(10)
    for node in nodes:
        node.close()
    probe.destroy_node()
    context.try_shutdown()
    return got


def test_keyframe_plays_through_the_stack_and_lidar_lands_on_its_pixels(keyframe_1, tmp_path, domain):
    folder, content = keyframe_1.folder, keyframe_1.content
    bag = tmp_path / "bag"
    convert_scene(folder, content["scene"], bag)
    got = play(bag, domain)
    assert len(got["frames"]) == 1
    frames = messages.frames_from_msg(got["frames"][0])
    assert frames.stamp == content["cameras"]["CAM_FRONT"]["timestamp_us"] * 1000
    assert frames.valid.all()
    path = next(p for p in got["planning/path"] if p.poses)
    assert messages.nanoseconds(path.header.stamp) == frames.stamp
    lidar = content["lidar"]
    points = np.fromfile(folder / lidar["file"], np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
    fixed2ego = geometry.inverse(frames.ego.pose)
    at_stamp = geometry.apply(fixed2ego @ rigid(lidar["ego2global"]) @ rigid(lidar["sensor2ego"]), points)
    _, height, width, _ = frames.images.shape
    native_width, native_height = content["image_size"]
    scale = max(height / native_height, width / native_width)
    top = round(native_height * scale) - height
    left = (round(native_width * scale) - width) // 2
    compared = 0
    for row, camera in enumerate(frames.names):
        native, depth = devkit_pixels(folder, content, camera)
        # A pixel's centre at native size lies at the centre of the scaled one: (u + 0.5) * s - 0.5 (cv2.resize, PIL).
        want = (native + 0.5) * scale - 0.5 - (left, top)
        ours, our_depth = geometry.project(frames.ego2img[row], at_stamp)
        seen = (depth > 1) & ((want > 0) & (want < (width - 1, height - 1))).all(1)
        error = np.linalg.norm(ours[seen] - want[seen], axis=1)
        assert seen.sum() > 500
        assert error.max() < 1.0, f"{camera}: {error.max():.2f} px"
        np.testing.assert_allclose(our_depth[seen], depth[seen], atol=0.02)
        compared += int(seen.sum())
    assert compared > 5000
