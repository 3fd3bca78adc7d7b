"""Camera post-processing of rendered images: vignetting, noise, colour, quantisation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...core.kernels import kernel
from . import F
from .materials import clip


class Film(NamedTuple):
    """Parameters of `develop`, see render.optics.Optics. level: of noise on white; row, column: start of the noise
    pattern; fx, fy, cx, cy: intrinsics of the image."""

    saturation: np.floating
    contrast: np.floating
    lift: np.floating
    vignetting: np.floating
    level: np.floating
    row: int
    column: int
    fx: np.floating
    fy: np.floating
    cx: np.floating
    cy: np.floating


@kernel
def develop(shown, film, noise, out):
    """Convert sRGB 0..1 float32 [H, W, 3] to uint8 [H, W, 3] `out`; noise [S, S, 3]: standard normal, tiled."""
    height, width, _ = shown.shape
    size = len(noise)
    for v in range(height):
        y = (F(v) - film.cy) / film.fy
        for u in range(width):
            x = (F(u) - film.cx) / film.fx
            dimmed = F(1) - film.vignetting * min(x * x + y * y, F(2))
            grain = noise[(film.row + v) % size, (film.column + u) % size]
            r, g, b = shown[v, u, 0] * dimmed, shown[v, u, 1] * dimmed, shown[v, u, 2] * dimmed
            if film.level > 0:
                # Mostly photon noise, which grows with the square root of the light, plus a constant floor.
                r += film.level * (F(0.3) + F(0.7) * np.sqrt(r)) * grain[0]
                g += film.level * (F(0.3) + F(0.7) * np.sqrt(g)) * grain[1]
                b += film.level * (F(0.3) + F(0.7) * np.sqrt(b)) * grain[2]
            grey = F(0.30) * r + F(0.59) * g + F(0.11) * b
            for k, value in enumerate((r, g, b)):
                value = grey + (value - grey) * film.saturation
                value = (value - F(0.5)) * film.contrast + F(0.5) + film.lift
                out[v, u, k] = int(clip(value) * F(255) + F(0.5))
