"""Frames and odometry that people had trouble with: brought to the vehicle frame, or refused by name."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.camera_sync.message_adapter import MessageAdapter
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.tf_buffer import DISPUTE, TransformBuffer

S = 10**9


def odometry(pose: np.ndarray, twist, child: str, stamp: int = S) -> SimpleNamespace:
    x, y, z = pose[:3, 3]
    names = ("x", "y", "z", "w")
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=stamp // S, nanosec=stamp % S), frame_id="odom"),
        child_frame_id=child,
        pose=SimpleNamespace(
            pose=SimpleNamespace(
                position=SimpleNamespace(x=x, y=y, z=z),
                orientation=SimpleNamespace(**dict(zip(names, geometry.quaternion(pose), strict=True))),
            )
        ),
        twist=SimpleNamespace(
            twist=SimpleNamespace(
                linear=SimpleNamespace(x=twist[0], y=twist[1], z=twist[2]),
                angular=SimpleNamespace(x=twist[3], y=twist[4], z=twist[5]),
            )
        ),
    )


def taken(child2base: np.ndarray | None, pose: np.ndarray, twist, child: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Pose and twist of the vehicle that camera sync makes of an odometry of `child`."""
    sync = CameraSync(threads=1)
    try:
        if child2base is not None:
            sync.transforms.set("base_link", child, 0, child2base, static=True)
        MessageAdapter(sync, profile("nuscenes")).add_odometry(odometry(pose, twist, child))
        return sync._ego.odometry.lookup("odom", "base_link", S), sync._ego.reported_twist(S)
    finally:
        sync.close()


def test_odometry_of_a_lidar_is_brought_to_the_vehicle():
    """A lidar 1.5 m ahead, turned by 90 degrees: what it measures as sideways is forwards."""
    mount = geometry.planar(1.5, 0.0, np.pi / 2)
    ego = geometry.planar(10.0, 2.0, 0.3)
    pose, twist = taken(mount, ego @ mount, (0.0, -5.0, 0, 0, 0, 0), "lidar")
    np.testing.assert_allclose(pose, ego, atol=1e-9)
    np.testing.assert_allclose(twist, (5, 0, 0, 0, 0, 0), atol=1e-9)


@given(x=st.floats(-3, 3), y=st.floats(-3, 3), yaw=st.floats(-3, 3), v=st.floats(1, 20), w=st.floats(-1, 1))
@settings(max_examples=40)
def test_twist_is_that_of_one_rigid_body(x, y, yaw, v, w):
    """What a sensor anywhere on a turning vehicle measures gives the vehicle's own speed and yaw rate back."""
    mount = geometry.planar(x, y, yaw)
    at_sensor = np.array([v, 0, 0]) + np.cross([0, 0, w], mount[:3, 3])
    twist = (*(mount[:3, :3].T @ at_sensor), *(mount[:3, :3].T @ [0, 0, w]))
    got = taken(mount, np.eye(4), twist, "sensor")[1]
    np.testing.assert_allclose(got, (v, 0, 0, 0, 0, w), atol=1e-9)


@pytest.mark.parametrize("child", ["", "base_link", "/base_link"])
def test_odometry_of_the_vehicle_needs_no_tf(child):
    pose, twist = taken(None, geometry.planar(3.0, 0, 0), (5.0, 0, 0, 0, 0, 0.1), child)
    np.testing.assert_allclose(pose[:2, 3], (3, 0))
    np.testing.assert_allclose(twist, (5, 0, 0, 0, 0, 0.1))


def test_odometry_of_an_unknown_frame_is_refused_by_name():
    with pytest.raises(InvalidInput, match="is of lidar, not of base_link"):
        taken(None, np.eye(4), (5.0, 0, 0, 0, 0, 0), "lidar")


def quarrel(buffer: TransformBuffer, times: int, lag: int = 0) -> None:
    for k in range(times):
        for parent, late in (("map", 0), ("odom", lag)):
            buffer.set(parent, "base_link", S + k * 10**7 - late, np.eye(4))


@pytest.mark.parametrize("lag", [0, 5 * 10**6], ids=["same stamps", "one always older"])
def test_two_parents_are_named(lag):
    buffer = TransformBuffer()
    quarrel(buffer, DISPUTE + 1, lag)
    assert buffer.parent_conflicts() == {"base_link": ("map", "odom")}
    sync = CameraSync(threads=1, transforms=buffer)
    assert "base_link has several parents in tf: map, odom" in str(sync.statistics()["tf_conflicts"])
    sync.close()
    buffer.clear()
    assert buffer.parent_conflicts() == {}


def test_a_handover_is_no_quarrel():
    buffer = TransformBuffer()
    for k in range(100):
        buffer.set("odom" if k > 50 else "map", "base_link", S + k * 10**7, np.eye(4))
    assert buffer.parent_conflicts() == {}
