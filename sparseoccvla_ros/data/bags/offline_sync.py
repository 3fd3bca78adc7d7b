"""Frame sets of a bag without ROS, as published by the camera_sync node: for benchmarks, parity and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from ...camera_sync.config import ImageConfig
from ...camera_sync.frame_assembler import CameraSync
from ...camera_sync.message_adapter import MessageAdapter
from ...camera_sync.profiles import profile
from ...core.errors import InvalidInput
from ...core.types import CameraFrames
from .reader import BagMessage, BagReader

log = logging.getLogger(__name__)


def bag_frames(
    bag: Path, image: ImageConfig, profile_name: str = "nuscenes", calibration_file: str = ""
) -> Iterator[CameraFrames]:
    """Yields the CameraFrames of a bag in order, with images prepared for the preset.

    Messages that the node would reject are skipped with a warning.

    Args:
        bag: rosbag2 folder or single file.
        image: size of the prepared images.
        profile_name: one of config/profiles, or the path of a profile file.
        calibration_file: same as the node parameter.

    Raises:
        InvalidInput: the bag cannot be read, or the profile needs a calibration file.
    """
    chosen = profile(profile_name)
    images = {c.image_topic: c for c in chosen.cameras.values()}
    infos = {c.info_topic: c for c in chosen.cameras.values() if c.info_topic}
    sync = CameraSync(chosen.sync_config(), image, threads=1)

    def feed(record: BagMessage, message: object) -> None:
        if record.topic in images:
            adapter.add_image(images[record.topic], message, record.stamp)
        elif record.topic in infos:
            adapter.add_camera_info(infos[record.topic], message)
        elif record.topic == chosen.odometry_topic:
            adapter.add_odometry(message)
        else:
            adapter.add_transforms(message, static=record.topic == "/tf_static")

    try:
        adapter = MessageAdapter(sync, chosen, calibration_file)
        with BagReader(bag) as reader:
            wanted = {"/tf", "/tf_static", chosen.odometry_topic, *images, *infos} & set(reader.topics)
            for record in reader.messages(wanted):
                try:
                    feed(record, reader.decode(record.raw, record.type))
                except InvalidInput as error:
                    log.warning("%s: %s", record.topic, error)
                frames = sync.take()
                if frames is not None:
                    yield frames
        last = sync.finish()
        if last is not None:
            yield last
    finally:
        sync.close()
