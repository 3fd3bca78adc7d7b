"""Animated picture of a recorded drive with the stack's output: cameras, path, occupancy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...camera_sync.profiles import profile as camera_profile
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS, CameraFrames, Command, CommandSource
from ...data.bags.drive import read_clock, read_commands
from ...data.bags.offline_sync import bag_frames
from ...data.bags.reader import BagReader
from ...pipeline import SparseOccVLA, StepResult
from ...view.above import view_from_above
from ...view.behind import view_from_behind
from ...view.camera_panel import camera_mosaic
from ...view.ground_path import ground_height

log = logging.getLogger(__name__)

SIZE = 900
"""Width of the picture in pixels; it is drawn at twice the size."""
LOWER = 2 * 300
EVERY = 0.4
"""Minimum time between two frames, s."""


def save_film(
    bag: Path, out: Path, preset: str, profile: str, seconds: float, quality: int, on_progress: Callable[[int], None]
) -> int:
    """Writes an animated WebP at real-time speed; returns its number of frames.

    Args:
        bag: rosbag2 folder or single file.
        out: File to write; its folder is created.
        preset: Preset to run.
        profile: Cameras and topics of the bag.
        seconds: Duration to use from the start of the bag; 0 for all.
        quality: WebP quality, 1 to 100.
        on_progress: Called with the number of frame sets so far.

    Raises:
        InvalidInput: The bag cannot be read or has no frame set that the networks accept, or the preset cannot be
            loaded.
    """
    model = SparseOccVLA.from_preset(preset)
    if model.encoder is None:
        raise InvalidInput("preset", model.absent["occupancy"])
    with BagReader(bag) as reader:
        commands = read_commands(reader, read_clock(reader, camera_profile(profile)))
    pictures: list[Image.Image] = []
    stamps: list[int] = []
    refused = ""
    for number, frames in enumerate(bag_frames(bag, model.preset.image, profile)):
        stamps = stamps or [frames.stamp]
        if seconds and frames.stamp - stamps[0] > seconds * NANOSECONDS:
            break
        asked = commands.at(frames.stamp)
        given = (Command.STRAIGHT, CommandSource.DEFAULT) if asked is None else (asked, CommandSource.TOPIC)
        try:
            result = model.step(frames, *given)
        except InvalidInput as error:
            refused = str(error)
            log.warning("frame set %d: %s", number + 1, refused)
            continue
        if not pictures or frames.stamp - stamps[-1] >= EVERY * NANOSECONDS:
            pictures.append(_picture(frames, result))
            stamps.append(frames.stamp)
        on_progress(number + 1)
    if not pictures:
        why = f": {refused}" if refused else ""
        raise InvalidInput("bag", f"{bag} gives no frame set under profile {profile}{why}")
    out.parent.mkdir(parents=True, exist_ok=True)
    durations = [*(np.diff(stamps[1:]) // 1_000_000).tolist(), round(1000 * EVERY)]
    first, *rest = pictures
    first.save(out, save_all=True, append_images=rest, duration=durations, loop=0, quality=quality, method=6)
    return len(pictures)


def _picture(frames: CameraFrames, result: StepResult) -> Image.Image:
    """Draws the cameras with the path on top; below, occupancy from above and from behind."""
    width = 2 * SIZE
    cameras = camera_mosaic(frames, result.plan, width)
    above = view_from_above(result.voxels, result.plan, LOWER)
    ground = ground_height(result.voxels)
    behind = view_from_behind(result.voxels, result.plan, width - LOWER, LOWER, ground)
    page = np.vstack([cameras, np.hstack([above, behind])])
    return Image.fromarray(cv2.resize(page, (SIZE, page.shape[0] // 2), interpolation=cv2.INTER_AREA))
