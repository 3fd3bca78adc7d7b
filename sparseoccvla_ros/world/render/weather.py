"""Light and air: where the sun stands, what the sky looks like, how far one sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels.shading import Air
from ..scenario import VARIED

Rgb = tuple[float, float, float]
FOG = 1 / 120
"""1/m of haze from which on it is fog."""


@dataclass(frozen=True)
class Weather:
    """All colours are linear RGB.

    sun: unit vector towards it, map frame; sunlight: its colour and strength on a surface that faces it; zenith,
    horizon: sky colours; ambient: light from above; bounce: light from below; haze: 1/m, how fast things fade into the
    horizon's colour; cover: share of clouds 0..1; exposure: factor before tone mapping; noise: of the camera, standard
    deviation on white as a share of white; word: what it is called, empty where haze and cover say it.
    """

    sun: Rgb
    sunlight: Rgb
    zenith: Rgb
    horizon: Rgb
    ambient: Rgb
    bounce: Rgb
    haze: float
    cover: float
    exposure: float
    noise: float = 0.0
    word: str = ""

    @classmethod
    def generate(cls, seed: int) -> Weather:
        """Clear, hazy or overcast, at some time of day; from VARIED on also dusk and fog, all in wide ranges."""
        if seed >= VARIED:
            return _varied(np.random.default_rng([seed, 11]))
        rng = np.random.default_rng([seed, 11])
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(32, 56))
        sun = (
            float(np.cos(elevation) * np.cos(azimuth)),
            float(np.cos(elevation) * np.sin(azimuth)),
            float(np.sin(elevation)),
        )
        kind = rng.choice(3, p=[0.6, 0.25, 0.15])
        if kind == 0:
            return cls(sun, (2.75, 2.52, 2.15), (0.10, 0.24, 0.62), (0.60, 0.72, 0.88), (0.50, 0.62, 0.84),
                       (0.17, 0.16, 0.14), 1 / 420, 0.40, 0.62)  # fmt: skip
        if kind == 1:
            return cls(sun, (2.1, 1.9, 1.55), (0.24, 0.36, 0.58), (0.78, 0.79, 0.80), (0.66, 0.70, 0.78),
                       (0.18, 0.17, 0.15), 1 / 190, 0.55, 0.64)  # fmt: skip
        return cls(sun, (0.45, 0.44, 0.42), (0.46, 0.50, 0.56), (0.78, 0.80, 0.82), (1.15, 1.20, 1.28),
                   (0.25, 0.24, 0.22), 1 / 260, 1.0, 0.68)  # fmt: skip

    @property
    def foggy(self) -> bool:
        """So dense that nothing far away is seen, not even the clouds."""
        return self.haze > FOG

    @property
    def table(self) -> Air:
        """As kernels take it."""
        names = ("sun", "sunlight", "zenith", "horizon", "ambient", "bounce")
        colours = (tuple(np.float32(v) for v in getattr(self, n)) for n in names)
        numbers = (np.float32(v) for v in (self.haze, 0.92 - 0.75 * self.cover, self.exposure))
        return Air(*colours, *numbers, self.foggy)


def _varied(rng: np.random.Generator) -> Weather:
    kind = str(rng.choice(["clear", "hazy", "overcast", "dusk", "foggy"], p=[0.28, 0.12, 0.18, 0.22, 0.20]))
    azimuth, bright = rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1.12)
    elevation = np.radians(rng.uniform(4, 13) if kind == "dusk" else rng.uniform(24, 66))
    cast = rng.uniform(0.95, 1.05, 3)
    sight = {"clear": (260, 620), "hazy": (125, 210), "overcast": (150, 320), "dusk": (140, 380), "foggy": (45, 90)}
    haze = 1 / rng.uniform(*sight[kind])
    cover = 1.0 if kind in ("overcast", "foggy") else rng.uniform(0.15, 0.75)
    # Cameras expose for the scene, but not perfectly.
    exposure = {"clear": 0.62, "hazy": 0.64, "overcast": 0.68, "dusk": 0.95, "foggy": 0.62}[kind]
    exposure *= rng.uniform(0.8, 1.25)
    noise = rng.uniform(0.012, 0.04) if kind == "dusk" else rng.uniform(0.0, 0.02)
    low = (np.degrees(elevation) - 4) / 9  # of dusk: 0 when the sun is about to set
    colours: dict[str, tuple[Rgb, ...]] = {
        "clear": ((2.75, 2.52, 2.15), (0.10, 0.24, 0.62), (0.60, 0.72, 0.88), (0.50, 0.62, 0.84), (0.17, 0.16, 0.14)),
        "hazy": ((2.1, 1.9, 1.55), (0.24, 0.36, 0.58), (0.78, 0.79, 0.80), (0.66, 0.70, 0.78), (0.18, 0.17, 0.15)),
        "overcast": ((0.4, 0.39, 0.37), (0.46, 0.50, 0.56), (0.74, 0.76, 0.78), (1.08, 1.12, 1.2), (0.25, 0.24, 0.22)),
        "dusk": (
            (1.5 + 0.8 * low, 0.72 + 0.7 * low, 0.28 + 0.5 * low), (0.08, 0.13, 0.30),
            (0.62, 0.42 + 0.08 * low, 0.30 + 0.14 * low), (0.26, 0.28, 0.38), (0.10, 0.085, 0.075),
        ),
        "foggy": ((0.3, 0.29, 0.27), (0.60, 0.63, 0.66), (0.70, 0.72, 0.74), (0.92, 0.95, 1.0), (0.24, 0.23, 0.22)),
    }  # fmt: skip
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    sunlight, zenith, horizon, ambient, bounce = (_rgb(np.array(c) * cast * bright) for c in colours[kind])
    return Weather(
        _rgb(sun), sunlight, zenith, horizon, ambient, bounce, float(haze), float(cover), float(exposure),
        float(noise), kind,
    )  # fmt: skip


def _rgb(values: np.ndarray) -> Rgb:
    x, y, z = (float(v) for v in values)
    return x, y, z
