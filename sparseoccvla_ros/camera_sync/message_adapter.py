"""Feeds ROS messages to a CameraSync, in the node and for bags without ROS.

Messages of rclpy and of rosbags have the same attributes, so both are accepted.
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
    """Convert a builtin_interfaces/Time to nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def image_source(camera: CameraInput, message: Any) -> CompressedImage | RawImage:
    """Returns the image of an Image or CompressedImage, by the camera's transport."""
    if camera.transport == "compressed":
        return CompressedImage(message.data, message.format)
    return RawImage(message.data, message.height, message.width, message.step, message.encoding, message.is_bigendian)


class MessageAdapter:
    """Feeds a CameraSync from sensor_msgs, nav_msgs and tf2_msgs messages.

    Args:
        sync: the CameraSync to feed.
        profile: topics and frames of the messages.
        calibration_file: intrinsics and mounts of the cameras; empty uses CameraInfo and tf.

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
        """Add an Image or CompressedImage, by the camera's transport; returns how many frame sets it completed.

        A stamp of 0, which some converters leave, is replaced by the time of receipt [ns].
        """
        source = image_source(camera, message)
        stamp = stamp_ns(message.header.stamp) or received_ns
        return sum(self._sync.add_image(name, stamp, source) for name in camera.names)

    def add_camera_info(self, camera: CameraInput, message: Any) -> None:
        """Add a CameraInfo; a mount from the calibration file is kept. Raises InvalidInput if it is unusable."""
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
        """Add a TFMessage; invalid transforms are skipped. Raises the InvalidInput of the last one at the end."""
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
        """Add an Odometry. Raises InvalidInput for numbers that are not finite, no rotation, or an unknown frame."""
        p, q = message.pose.pose.position, message.pose.pose.orientation
        pose = geometry.transform(np.array((p.x, p.y, p.z)), np.array((q.x, q.y, q.z, q.w)), "odometry.pose")
        a, b = message.twist.twist.linear, message.twist.twist.angular
        twist = np.array((a.x, a.y, a.z, b.x, b.y, b.z), np.float64)
        # An all-zero twist counts as missing: some recorders (nuScenes converters) leave it so. Poses are used instead.
        fixed = message.header.frame_id or "odom"
        moving = twist if twist.any() else None
        self._sync.add_odometry(stamp_ns(message.header.stamp), pose, moving, fixed, message.child_frame_id)
