"""Camera model of a vehicle: lens, sensor and image processing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..kernels.develop import Film, develop
from .textures import sensor_noise

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Optics:
    """Optics of one vehicle's cameras, from neutral to cheap or badly adjusted.

    balance: factors on red, green and blue light; exposure: factor on all; saturation: 1 unchanged, 0 grey; contrast,
    lift: gain and offset of display values about mid-grey; vignetting: share of light lost at 45 degrees from the
    optical axis; blur: standard deviation of the lens's point spread, rad; noise: on white as a share of white, added
    in quadrature to the weather's; quality: of the JPEG files, 1..100.
    """

    balance: Rgb = (1.0, 1.0, 1.0)
    exposure: float = 1.0
    saturation: float = 1.0
    contrast: float = 1.0
    lift: float = 0.0
    vignetting: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    quality: int = 90

    @classmethod
    def generate(cls, seed: int) -> Optics:
        """Draw the optics of a seed, in about the range of dashboard and research cameras."""
        rng = np.random.default_rng([seed, 43])
        warm, green = rng.normal(0.0, 0.07), rng.normal(0.0, 0.03)
        return cls(
            balance=(float(np.exp(warm)), float(np.exp(green)), float(np.exp(-warm))),
            exposure=float(np.exp(rng.normal(0.0, 0.28))),
            saturation=float(rng.uniform(0.45, 1.15)),
            contrast=float(rng.uniform(0.75, 1.2)),
            lift=float(rng.uniform(-0.03, 0.06)),
            vignetting=float(rng.uniform(0.0, 0.3)),
            blur=float(rng.uniform(0.0, 0.0028)) if rng.random() < 0.7 else 0.0,
            noise=float(rng.uniform(0.0, 0.02)),
            quality=int(rng.integers(65, 97)),
        )

    def picture(self, shown: np.ndarray, intrinsics: np.ndarray, noise: float, start: np.ndarray) -> np.ndarray:
        """Convert sRGB 0..1 float32 [H, W, 3] to a camera image uint8 [H, W, 3].

        intrinsics [3, 3] of the image; noise: the weather's; start [2]: start of the noise pattern at the principal
        point, which gives a crop the same noise as the full image.
        """
        k = intrinsics.astype(np.float32)
        spot = self.blur * float(k[0, 0])
        if spot > 0.15:
            shown = cv2.GaussianBlur(shown, (0, 0), spot, borderType=cv2.BORDER_REPLICATE)
        row, column = (int(s - np.floor(c)) for s, c in zip(start, (intrinsics[1, 2], intrinsics[0, 2]), strict=True))
        level = float(np.hypot(noise, self.noise))
        saturation, contrast, lift, vignetting, noisy = (
            np.float32(n) for n in (self.saturation, self.contrast, self.lift, self.vignetting, level)
        )
        pinhole = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
        film = Film(saturation, contrast, lift, vignetting, noisy, row, column, *pinhole)
        out = np.empty(shown.shape, np.uint8)
        develop(shown, film, sensor_noise(), out)
        return out
