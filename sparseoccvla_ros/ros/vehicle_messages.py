"""Messages of a vehicle with cameras: transforms, odometry, calibration, images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import PoseStamped, Transform, TransformStamped
from nav_msgs.msg import Odometry, Path
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from sparseoccvla_ros.camera_sync.profiles import Profile
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.types import BASE_FRAME, WAYPOINT_TIMES
from sparseoccvla_ros.planning.trajectory_follower import TimedPath

from .messages import pose_to_msg, twist_to_msg
from .msg_utils import block, header, time_msg


def transforms_to_msg(stamp: int, transforms: Sequence[tuple[str, str, np.ndarray]]) -> TFMessage:
    """TFMessage of (parent, child, child2parent float64 [4, 4]) at a stamp in ns."""
    out = TFMessage()
    for parent, child, matrix in transforms:
        pose, transform = pose_to_msg(matrix), Transform()
        transform.translation.x, transform.translation.y = pose.position.x, pose.position.y
        transform.translation.z, transform.rotation = pose.position.z, pose.orientation
        out.transforms.append(TransformStamped(header=header(stamp, parent), child_frame_id=child, transform=transform))
    return out


def odometry_to_msg(stamp: int, frame: str, pose: np.ndarray, twist: np.ndarray) -> Odometry:
    """Odometry of base_link: pose float64 [4, 4] in a fixed frame, twist float64 [6] in base_link (REP-105)."""
    out = Odometry(header=header(stamp, frame), child_frame_id=BASE_FRAME)
    out.pose.pose, out.twist.twist = pose_to_msg(pose), twist_to_msg(twist)
    return out


def camera_info_to_msg(stamp: int, frame: str, height: int, width: int, intrinsics: np.ndarray) -> CameraInfo:
    """CameraInfo of a rectified pinhole camera; intrinsics float64 [3, 3]."""
    return CameraInfo(
        header=header(stamp, frame),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=intrinsics.reshape(-1).tolist(),
        r=np.eye(3).reshape(-1).tolist(),
        p=np.column_stack([intrinsics, np.zeros(3)]).reshape(-1).tolist(),
    )


def compressed_image_to_msg(stamp: int, frame: str, rgb: np.ndarray, jpeg_quality: int) -> CompressedImage:
    """CompressedImage of uint8 [H, W, 3] RGB: JPEG, or lossless PNG at quality 0."""
    kind = "jpeg" if jpeg_quality else "png"
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if jpeg_quality else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(f".{kind}", rgb[..., ::-1], options)
    assert done
    return CompressedImage(header=header(stamp, frame), format=f"rgb8; {kind} compressed bgr8", data=block(data))


def route_to_msg(stamp: int, frame: str, poses: np.ndarray) -> Path:
    """Path of poses x, y, yaw float64 [N, 3]."""
    out = Path(header=header(stamp, frame))
    for x, y, yaw in poses.tolist():
        pose = pose_to_msg(geometry.planar(x, y, yaw))
        out.poses.append(PoseStamped(header=header(stamp, frame), pose=pose))
    return out


def planned_path(message: Path, time: float, pose: np.ndarray) -> TimedPath | None:
    """Convert planning/path, planned at a time in s and a pose x, y, yaw, to a TimedPath; None without 6 waypoints."""
    if len(message.poses) != len(WAYPOINT_TIMES):
        return None
    points = np.array([(p.pose.position.x, p.pose.position.y) for p in message.poses], np.float64)
    return TimedPath.of_waypoints(time, pose, WAYPOINT_TIMES, points)


class VehicleOutputs:
    """Publishers of the topics of a vehicle, named by a profile.

    Args:
        publisher: Creates a publisher from message class, topic and profile of ros/qos.py.
        profile: Topics and frames; images must be compressed.
        fixed_frame: Frame of poses and odometry.
    """

    def __init__(self, publisher: Callable[[type, str, str], Any], profile: Profile, fixed_frame: str) -> None:
        self._fixed_frame = fixed_frame
        self._clock = publisher(Clock, "/clock", "output")
        # Reliable, unlike the subscriptions of this package: tf2's own listeners request it.
        self._tf = publisher(TFMessage, "/tf", "output")
        self._tf_static = publisher(TFMessage, "/tf_static", "latched")
        self._odometry = publisher(Odometry, profile.odometry_topic, "output")
        cameras = profile.cameras
        self._images = {n: publisher(CompressedImage, c.image_topic, "output") for n, c in cameras.items()}
        self._infos = {n: publisher(CameraInfo, c.info_topic, "output") for n, c in cameras.items()}

    def publish_clock(self, stamp: int) -> None:
        """Publish the time, ns."""
        self._clock.publish(Clock(clock=time_msg(stamp)))

    def publish_mounts(self, stamp: int, mounts: Sequence[tuple[str, str, np.ndarray]]) -> None:
        """Publish the time and the mounts of the cameras."""
        self.publish_clock(stamp)
        self._tf_static.publish(transforms_to_msg(stamp, mounts))

    def publish_state(self, stamp: int, pose: np.ndarray, twist: np.ndarray) -> None:
        """Publish the time and the vehicle's pose float64 [4, 4] and twist float64 [6]."""
        self.publish_clock(stamp)
        self._tf.publish(transforms_to_msg(stamp, [(self._fixed_frame, BASE_FRAME, pose)]))
        self.publish_odometry(stamp, pose, twist)

    def publish_odometry(self, stamp: int, pose: np.ndarray, twist: np.ndarray) -> None:
        """Publish odometry only."""
        self._odometry.publish(odometry_to_msg(stamp, self._fixed_frame, pose, twist))

    def publish_images(
        self, stamp: int, names: Sequence[str], intrinsics: Sequence[np.ndarray], images: np.ndarray, jpeg_quality: int
    ) -> None:
        """Publish CameraInfo and image of each camera; images uint8 [C, H, W, 3] RGB."""
        for name, k, image in zip(names, intrinsics, images, strict=True):
            height, width = image.shape[:2]
            self._infos[name].publish(camera_info_to_msg(stamp, name, height, width, k))
            self._images[name].publish(compressed_image_to_msg(stamp, name, image, jpeg_quality))
