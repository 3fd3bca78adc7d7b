"""Image augmentation of OPUS, SparseWorld and SparseBEV; projection matrices are adjusted to match.

One draw of scale, crop and flip for all views and frames of a sample, as on one vehicle; photometric distortion
per image (Wang et al., OPUS, NeurIPS 2024; the distortion is that of SSD, Liu et al. 2016). OPUS-V2 also flips the
scene but not the images ("BDA").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..core.errors import InvalidInput
from .dataset import Sample, flipped

SMALLEST, LARGEST = 0.38 / 0.44, 0.55 / 0.44
"""Relative to the test scale; the reference trains at 0.38 .. 0.55 of the native image and tests at 0.44."""


def cropped(
    sample: Sample, height: int, width: int, scale: float = 1.0, across: float = 0.5, flip: bool = False
) -> Sample:
    """Scale the images, crop them to the bottom `height` rows and `width` columns, and flip them; adjusts ego2img.

    scale: relative to the test scale; across: 0..1, horizontal position of the crop; flip: left-right.
    sample.images hold whole native images, larger than the result (nuscenes.dataset.whole_images). Pixels outside the
    scaled image are black. `flip` changes only images and ego2img, not the scene (unlike dataset.mirrored). Raises
    InvalidInput("augment.scale") for a scale that is not above 0.
    """
    if not scale > 0:
        raise InvalidInput("augment.scale", f"want a number above 0, got {scale}")
    t, n, rows, columns, _ = sample.images.shape
    scale *= max(height / rows, width / columns)
    size = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = size[0] - height, round(across * max(0, size[1] - width))
    out = np.zeros((t, n, height, width, 3), np.uint8)
    kept = min(height, size[0]), min(width, size[1] - left)
    for source, target in zip(
        sample.images.reshape(-1, rows, columns, 3), out.reshape(-1, height, width, 3), strict=True
    ):
        # Bilinear is enough for shrinking by at most 1.5; INTER_AREA would take six times as long.
        whole = cv2.resize(source, size[::-1], interpolation=cv2.INTER_LINEAR)
        target[height - kept[0] :, : kept[1]] = whole[size[0] - kept[0] :, left : left + kept[1]]
    sy, sx = size[0] / rows, size[1] / columns
    ida = np.diag([sx, sy, 1.0, 1.0])
    # (0, 0) is the centre of the first pixel, hence the offsets of 0.5.
    ida[:2, 2] = 0.5 * sx - 0.5 - left, 0.5 * sy - 0.5 - top
    if flip:
        out = np.ascontiguousarray(out[:, :, :, ::-1])
        turn = np.eye(4)
        turn[0, 0], turn[0, 2] = -1.0, width - 1.0
        ida = turn @ ida
    return replace(sample, images=out, ego2img=(ida @ sample.ego2img).astype(np.float32))


def distorted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness +-32, contrast and saturation 0.5..1.5, hue +-18 degrees, channel shuffle; each with probability 0.5.

    image: uint8 [H, W, 3] RGB; contrast is applied before or after saturation and hue, at random.
    """
    chosen = rng.random(5) < 0.5
    shift, contrast, saturation = rng.uniform(-32, 32), rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    hue, early, order = rng.uniform(-18, 18), rng.random() < 0.5, rng.permutation(3)
    levels = np.arange(256, dtype=np.float64) + (shift if chosen[0] else 0.0)
    levels = levels * (contrast if chosen[1] and early else 1.0)
    image = cv2.LUT(image, np.clip(levels, 0, 255).round().astype(np.uint8))
    if chosen[2] or chosen[3]:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        # OpenCV counts hue in steps of two degrees, 0..179.
        ramp = np.arange(256)
        turned = ((ramp + (round(hue / 2) if chosen[3] else 0)) % 180).astype(np.uint8)
        richer = np.clip(ramp * (saturation if chosen[2] else 1.0), 0, 255).round().astype(np.uint8)
        tables = np.ascontiguousarray(np.stack([turned, richer, ramp.astype(np.uint8)], -1)[None])
        image = cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2RGB)
    if chosen[1] and not early:
        image = cv2.LUT(image, np.clip(np.arange(256) * contrast, 0, 255).round().astype(np.uint8))
    return np.ascontiguousarray(image[..., order]) if chosen[4] else image


@dataclass(frozen=True)
class ImageAugmentation:
    """The reference's augmentation, for samples with whole native images.

    height, width: image size of the preset; smallest, largest: range of the scale, relative to the test scale; flip:
    probability of flipping a sample's images; photograph: probability of distorting an image. flip_scene: probability
    of flipping the scene but not the images along x, and independently along y; OPUS-V2 uses 0.5.
    """

    photograph: float = 1.0
    height: int = 256
    width: int = 704
    smallest: float = SMALLEST
    largest: float = LARGEST
    flip: float = 0.5
    flip_scene: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        draws = rng.random(3)  # three as in dataset.Augmentation, although one is used: it keeps the seeds' draws
        scale, across = rng.uniform(self.smallest, self.largest), rng.random()
        sample = cropped(sample, self.height, self.width, scale, across, draws[1] < self.flip)
        for image in sample.images.reshape(-1, self.height, self.width, 3):
            if rng.random() < self.photograph:
                image[...] = distorted(image, rng)
        return flipped(sample, *(rng.random(2) < self.flip_scene)) if self.flip_scene else sample
