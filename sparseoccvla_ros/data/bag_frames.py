"""Frame sets of a bag without ROS, as camera_sync would publish them: for benches, parity checks and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..camera_sync import calibration
from ..camera_sync.assemble import CameraSync
from ..camera_sync.config import ImageConfig
from ..camera_sync.images import CompressedImage, RawImage
from ..camera_sync.profiles import CameraInput, profile
from ..core import geometry
from ..core.types import CameraFrames
from .bag_reader import BagReader


def bag_frames(bag: Path, image: ImageConfig, profile_name: str = "nuscenes") -> Iterator[CameraFrames]:
    """CameraFrames of a bag in their order, as the preset's images.

    profile_name: of config/profiles.yaml; one whose mounts come from tf and intrinsics from CameraInfo. Raises
    InvalidInput for a bag that cannot be read.
    """
    chosen = profile(profile_name)
    pictures = {c.image_topic: c for c in chosen.cameras.values()}
    infos = {c.info_topic: c for c in chosen.cameras.values()}
    sync = CameraSync(image=image, threads=1)
    try:
        with BagReader(bag) as reader:
            wanted = {"/tf", "/tf_static", chosen.odometry_topic, *pictures, *infos} & set(reader.topics)
            for record in reader.messages(wanted):
                message = reader.decode(record.raw, record.type)
                if record.topic in pictures:
                    _add_image(sync, pictures[record.topic], message)
                elif record.topic in infos:
                    _add_info(sync, infos[record.topic], message)
                elif record.topic == chosen.odometry_topic:
                    _add_odometry(sync, message)
                else:
                    _add_transforms(sync, message, record.topic == "/tf_static")
                frames = sync.take()
                if frames is not None:
                    yield frames
        last = sync.finish()
        if last is not None:
            yield last
    finally:
        sync.close()


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _add_image(sync: CameraSync, camera: CameraInput, message: Any) -> None:
    source: CompressedImage | RawImage
    if camera.transport == "compressed":
        source = CompressedImage(message.data, message.format)
    else:
        source = RawImage(
            message.data, message.height, message.width, message.step, message.encoding, message.is_bigendian
        )
    sync.add_image(camera.name, _nanoseconds(message.header.stamp), source)


def _add_info(sync: CameraSync, camera: CameraInput, message: Any) -> None:
    model = calibration.from_fields(
        camera.name,
        message.header.frame_id.lstrip("/") or camera.frame_id,
        width=int(message.width),
        height=int(message.height),
        model=message.distortion_model,
        d=np.asarray(message.d, np.float64),
        k=np.asarray(message.k, np.float64),
        r=np.asarray(message.r, np.float64),
        p=np.asarray(message.p, np.float64),
    )
    sync.set_camera(model)


def _add_transforms(sync: CameraSync, message: Any, static: bool) -> None:
    for item in message.transforms:
        t, q = item.transform.translation, item.transform.rotation
        parent, child = item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/")
        stamp = _nanoseconds(item.header.stamp)
        sync.add_transform(parent, child, stamp, (t.x, t.y, t.z), (q.x, q.y, q.z, q.w), static)


def _add_odometry(sync: CameraSync, message: Any) -> None:
    p, q = message.pose.pose.position, message.pose.pose.orientation
    pose = geometry.transform(np.array((p.x, p.y, p.z)), np.array((q.x, q.y, q.z, q.w)), "odometry")
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    twist = np.array((linear.x, linear.y, linear.z, angular.x, angular.y, angular.z))
    # All zeros while moving means a recorder that fills no twist; poses tell the truth.
    sync.add_odometry(
        _nanoseconds(message.header.stamp), pose, twist if twist.any() else None, message.header.frame_id or "odom"
    )
