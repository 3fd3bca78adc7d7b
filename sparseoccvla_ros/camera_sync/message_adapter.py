"""From ROS messages to a CameraSync: the one reading of their fields, for the node and for bags without ROS.

Messages of rclpy and of rosbags have the same attributes, so nothing here knows which of the two it was given.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import geometry
from ..core.errors import InvalidInput
from . import calibration
from .frame_assembler import CameraSync
from .images import CompressedImage, RawImage
from .profiles import CameraInput, Profile


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class MessageAdapter:
    """Feeds a CameraSync from sensor_msgs, nav_msgs and tf2_msgs messages.

    Args:
        sync: what is fed.
        profile: where the messages come from.
        calibration_file: intrinsics and mounts of the cameras; empty takes CameraInfo and tf.

    Raises:
        InvalidInput: the profile needs a calibration file, or the one given cannot be read.
    """

    def __init__(self, sync: CameraSync, profile: Profile, calibration_file: str = "") -> None:
        self._sync = sync
        self._mounts: dict[str, np.ndarray] = {}
        if calibration_file:
            for name, model in calibration.load_calibration(calibration_file).items():
                self._calibrate(profile.cameras.get(name), model)
                if model.camera2ego is not None:
                    self._mounts[name] = model.camera2ego
        elif profile.needs_calibration_file:
            raise InvalidInput("calibration_file", f"profile {profile.name} needs one: {profile.description}")

    def add_image(self, camera: CameraInput, message: Any, received_ns: int) -> int:
        """Take an Image or CompressedImage, by the camera's transport; returns how many frame sets it completed.

        Some converters leave the stamp 0; the time of receipt [ns] is then the best there is.
        """
        source: CompressedImage | RawImage
        if camera.transport == "compressed":
            source = CompressedImage(message.data, message.format)
        else:
            source = RawImage(
                message.data, message.height, message.width, message.step, message.encoding, message.is_bigendian
            )
        stamp = stamp_ns(message.header.stamp) or received_ns
        return sum(self._sync.add_image(name, stamp, source) for name in camera.names)

    def add_camera_info(self, camera: CameraInput, message: Any) -> None:
        """Take a CameraInfo; a mount of the calibration file stays. Raises InvalidInput for an unusable calibration."""
        sent = message.header.frame_id.lstrip("/")
        region = message.roi
        model = calibration.from_fields(
            camera.name,
            camera.frame_id if camera.frame_wins or not sent else sent,
            width=int(message.width),
            height=int(message.height),
            model=message.distortion_model,
            d=np.array(message.d, np.float64),
            k=np.array(message.k, np.float64),
            r=np.array(message.r, np.float64),
            p=np.array(message.p, np.float64),
            rectified=camera.rectified,
            binning=(int(message.binning_x), int(message.binning_y)),
            roi=(int(region.x_offset), int(region.y_offset), int(region.width), int(region.height)),
        )
        mount = self._mounts.get(camera.name)
        self._calibrate(camera, model if mount is None else model.mounted(mount))

    def _calibrate(self, camera: CameraInput | None, model: calibration.CameraModel) -> None:
        views = camera.views.items() if camera is not None else ()
        for cut in [model.view(name, yaw) for name, yaw in views] or [model]:
            self._sync.set_camera(cut)

    def add_transforms(self, message: Any, static: bool) -> None:
        """Take a TFMessage; a bad transform does not keep the others out. Raises the last one's InvalidInput."""
        problem: InvalidInput | None = None
        for item in message.transforms:
            t, q = item.transform.translation, item.transform.rotation
            parent, child = item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/")
            at, rotation = stamp_ns(item.header.stamp), (q.x, q.y, q.z, q.w)
            try:
                self._sync.add_transform(parent, child, at, (t.x, t.y, t.z), rotation, static)
            except InvalidInput as error:
                problem = error
        if problem is not None:
            raise problem

    def add_odometry(self, message: Any) -> None:
        """Take an Odometry. Raises InvalidInput for numbers that are not finite, no rotation, or an unknown frame."""
        p, q = message.pose.pose.position, message.pose.pose.orientation
        pose = geometry.transform(np.array((p.x, p.y, p.z)), np.array((q.x, q.y, q.z, q.w)), "odometry.pose")
        a, b = message.twist.twist.linear, message.twist.twist.angular
        twist = np.array((a.x, a.y, a.z, b.x, b.y, b.z), np.float64)
        # All zeros while moving means a recorder that fills no twist (nuScenes converters); poses tell the truth.
        fixed = message.header.frame_id or "odom"
        moving = twist if twist.any() else None
        self._sync.add_odometry(stamp_ns(message.header.stamp), pose, moving, fixed, message.child_frame_id)
