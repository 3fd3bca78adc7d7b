"""Training samples, the dataset protocol and augmentation.

Any object with the methods of `DrivingSamples` is a training dataset; the synthetic world and nuScenes implement it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from ..core.classes import CAMERAS
from ..core.types import Command

FUTURE_SECONDS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
COMMANDS = tuple(Command)
_SWAPPED = [CAMERAS.index(c.replace("LEFT", "?").replace("RIGHT", "LEFT").replace("?", "RIGHT")) for c in CAMERAS]


@dataclass(frozen=True, eq=False)
class Sample:
    """One instant with history and ground truth: T frames, the present one first, N cameras in the order of CAMERAS.

    name: origin, for logs and plots; images: uint8 [T, N, H, W, 3] RGB as prepared by camera_sync; ego2img: float32
    [T, N, 4, 4], present base_link to pixels of each frame's images; semantics: uint8 [X, Y, Z] in base_link, 17 free,
    255 unknown; visible: bool [X, Y, Z], visible to a camera of the present frame; twist: float32 [6] m/s and rad/s in
    base_link; command: index into COMMANDS; future: float32 [6, 4, 4], base_link at now + FUTURE_SECONDS to present
    base_link. A camera that the vehicle does not have is black and has a zero ego2img.
    """

    name: str
    images: np.ndarray
    ego2img: np.ndarray
    semantics: np.ndarray
    visible: np.ndarray
    twist: np.ndarray
    command: int
    future: np.ndarray


class DrivingSamples(Protocol):
    """Dataset: samples in a fixed order, readable from any thread."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """The sample at an index."""
        ...

    def state(self) -> list[int]:
        """What determines the order (world: seeds), so that a resumed run finds each sample at the same index."""
        ...

    def refresh(self, state: list[int] | None = None) -> None:
        """Add newly available samples, or restore exactly those of `state`. Raises InvalidInput if they are gone."""
        ...


def flipped(sample: Sample, x: bool, y: bool) -> Sample:
    """Flip the scene along x (front-rear) and y (left-right) and leave the images unchanged.

    Labels, twist and future are in the flipped base_link, which ego2img projects to the same pixels. Flipping x makes
    the vehicle drive backwards; flipping y swaps the left and right commands.
    """
    sx, sy = (-1 if along else 1 for along in (x, y))
    turn = np.diag([sx, sy, 1, 1]).astype(np.float32)
    return replace(
        sample,
        ego2img=sample.ego2img @ turn,
        semantics=sample.semantics[::sx, ::sy],
        visible=sample.visible[::sx, ::sy],
        # Angular velocity is an axial vector: a flip keeps the component along its axis and negates the other two.
        twist=sample.twist * np.array([sx, sy, 1, sy, sx, sx * sy], np.float32),
        command=len(COMMANDS) - 1 - sample.command if y else sample.command,
        future=turn @ sample.future @ turn,
    )


def mirrored(sample: Sample) -> Sample:
    """The sample mirrored left to right: images, labels, motion and command."""
    width = sample.images.shape[3]
    flip = np.eye(4, dtype=np.float32)
    flip[0, 0], flip[0, 2] = -1.0, width - 1.0
    other = flipped(sample, x=False, y=True)
    return replace(other, images=sample.images[:, _SWAPPED, :, ::-1], ego2img=flip @ other.ego2img[:, _SWAPPED])


def without_history(sample: Sample) -> Sample:
    """The sample with its history replaced by the present frame, as at the start of a drive."""
    index = [0] * len(sample.images)
    return replace(sample, images=sample.images[index], ego2img=sample.ego2img[index])


def photometric_distortion(sample: Sample, rng: np.random.Generator) -> Sample:
    """Vary exposure, contrast, white balance, focus and JPEG quality; one draw for all images, as on one vehicle."""
    ramp = np.arange(256, dtype=np.float64) / 255.0
    gamma, gain = rng.uniform(0.75, 1.35), rng.uniform(0.75, 1.25)
    contrast, tint = rng.uniform(0.75, 1.25), rng.uniform(0.92, 1.08, 3)
    tables = np.clip(((ramp**gamma)[:, None] * gain * tint - 0.5) * contrast + 0.5, 0.0, 1.0)
    table = np.ascontiguousarray((tables * 255.0 + 0.5).astype(np.uint8)[None])
    saturation = rng.uniform(0.6, 1.3)
    mix = saturation * np.eye(3) + (1.0 - saturation) * np.array([0.299, 0.587, 0.114])
    blur = rng.uniform(0.3, 0.9) if rng.random() < 0.4 else 0.0
    quality = int(rng.integers(60, 95)) if rng.random() < 0.4 else 0
    t, n, h, w, _ = sample.images.shape
    # Images stacked vertically: one OpenCV call each instead of T x N.
    tall = cv2.LUT(np.ascontiguousarray(sample.images).reshape(t * n * h, w, 3), table)
    tall = cv2.transform(tall, mix)
    if blur:
        tall = cv2.GaussianBlur(tall, (5, 5), blur)
    if quality:
        tall = cv2.imdecode(cv2.imencode(".jpg", tall, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    return replace(sample, images=tall.reshape(t, n, h, w, 3))


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of a training sample; the fields are probabilities."""

    mirror: float = 0.5
    photograph: float = 0.8
    no_history: float = 0.1

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        draws = rng.random(3)
        if draws[0] < self.no_history:
            sample = without_history(sample)
        if draws[1] < self.photograph:
            sample = photometric_distortion(sample, rng)
        return mirrored(sample) if draws[2] < self.mirror else sample
