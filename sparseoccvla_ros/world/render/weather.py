"""Weather and light: sun, sky, haze, wetness and street lamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels.shading import Air

Rgb = tuple[float, float, float]
FOG = 1 / 120
"""Haze in 1/m above which weather is foggy."""


@dataclass(frozen=True)
class Weather:
    """All colours are linear RGB.

    sun: unit vector towards it (at night the moon), map frame; sunlight: its colour and strength on a surface that
    faces it; zenith, horizon: sky colours; ambient: light from above; bounce: light from below; haze: 1/m, rate at
    which objects fade into the horizon's colour; cover: share of clouds 0..1; exposure: factor before tone mapping;
    noise: of the camera, standard deviation on white as a share of white; word: name of the weather; wet: amount of
    water on the ground 0..1; lamp: light of street lamps, black when off; glare: share of sunlight that a lens
    scatters over the image.
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
    word: str = "clear"
    wet: float = 0.0
    lamp: Rgb = (0.0, 0.0, 0.0)
    glare: float = 0.0

    @classmethod
    def generate(cls, seed: int, word: str = "") -> Weather:
        """Draw weather and time of day, all in wide ranges; word: one of WORDS, drawn if empty."""
        return _draw(np.random.default_rng([seed, 11]), word)

    @property
    def lit(self) -> bool:
        """Whether street lamps are on."""
        return self.lamp[0] > 0

    @property
    def foggy(self) -> bool:
        """Whether the haze hides everything far away, including the clouds."""
        return self.haze > FOG

    def table(self, exposure: Rgb = (1.0, 1.0, 1.0)) -> Air:
        """Return the weather for kernels; exposure: camera factors per channel, multiplied with the weather's."""
        names = ("sun", "sunlight", "zenith", "horizon", "ambient", "bounce")
        colours = [getattr(self, n) for n in names]
        colours += [tuple(self.exposure * e for e in exposure), self.lamp]
        numbers = (np.float32(v) for v in (self.haze, 0.92 - 0.75 * self.cover, self.glare, self.wet))
        return Air(*(tuple(np.float32(v) for v in c) for c in colours), *numbers, self.foggy)


WORDS = {"clear": 0.25, "hazy": 0.10, "overcast": 0.20, "dusk": 0.15, "foggy": 0.13, "night": 0.17}
"""Names of the weather and their probabilities."""
_WET = {"clear": 0.05, "hazy": 0.10, "overcast": 0.35, "dusk": 0.20, "foggy": 0.25, "night": 0.30}
"""Probability of a wet road by weather."""
_SIGHT = {"clear": (260, 620), "hazy": (125, 210), "overcast": (150, 320), "dusk": (140, 380), "foggy": (45, 90),
          "night": (140, 420)}  # fmt: skip
"""Range of the distance at which haze hides most of an object, m."""
_EXPOSURE = {"clear": 0.62, "hazy": 0.64, "overcast": 0.68, "dusk": 0.95, "foggy": 0.62, "night": 5.5}
_LAMPS = ((1.0, 0.60, 0.26), (1.0, 0.82, 0.58), (0.85, 0.93, 1.0))
"""Colours of street lamps: sodium vapour, warm and cold LEDs."""


def _colours(kind: str, elevation: float) -> tuple[Rgb, ...]:
    """Return sunlight, zenith, horizon, ambient and bounce of a kind of weather; elevation: of the sun, degrees."""
    low = (elevation - 4) / 9  # for dusk: 0 just before sunset
    table: dict[str, tuple[Rgb, ...]] = {
        "clear": ((2.75, 2.52, 2.15), (0.10, 0.24, 0.62), (0.60, 0.72, 0.88), (0.50, 0.62, 0.84), (0.17, 0.16, 0.14)),
        "hazy": ((2.1, 1.9, 1.55), (0.24, 0.36, 0.58), (0.78, 0.79, 0.80), (0.66, 0.70, 0.78), (0.18, 0.17, 0.15)),
        "overcast": ((0.4, 0.39, 0.37), (0.46, 0.50, 0.56), (0.74, 0.76, 0.78), (1.08, 1.12, 1.2), (0.25, 0.24, 0.22)),
        "dusk": (
            (1.5 + 0.8 * low, 0.72 + 0.7 * low, 0.28 + 0.5 * low), (0.08, 0.13, 0.30),
            (0.62, 0.42 + 0.08 * low, 0.30 + 0.14 * low), (0.26, 0.28, 0.38), (0.10, 0.085, 0.075),
        ),
        "foggy": ((0.3, 0.29, 0.27), (0.60, 0.63, 0.66), (0.70, 0.72, 0.74), (0.92, 0.95, 1.0), (0.24, 0.23, 0.22)),
        "night": (
            (0.010, 0.012, 0.017), (0.002, 0.003, 0.008), (0.022, 0.018, 0.016), (0.020, 0.021, 0.028),
            (0.010, 0.009, 0.008),
        ),
    }  # fmt: skip
    return table[kind]


def _draw(rng: np.random.Generator, word: str) -> Weather:
    drawn = str(rng.choice(list(WORDS), p=list(WORDS.values())))
    kind = word or drawn
    azimuth, bright = rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1.12)
    elevation = np.radians(rng.uniform(4, 13) if kind == "dusk" else rng.uniform(24, 66))
    cast = rng.uniform(0.95, 1.05, 3)
    # Shade under a clear sky is darker in a street than on a plain, and differs from street to street.
    shade = rng.uniform(0.55, 1.05) if kind in ("clear", "hazy") else 1.0
    haze = 1 / rng.uniform(*_SIGHT[kind])
    cover = 1.0 if kind in ("overcast", "foggy") else rng.uniform(0.15, 0.75)
    # Cameras expose for the scene, but not perfectly.
    exposure = _EXPOSURE[kind] * rng.uniform(0.8, 1.25)
    noise = {"dusk": (0.012, 0.04), "night": (0.02, 0.07)}.get(kind, (0.0, 0.02))
    wet = rng.uniform(0.4, 1.0) if rng.random() < _WET[kind] else 0.0
    on = kind == "night" or (kind == "dusk" and rng.random() < 0.6)
    lamp = np.array(_LAMPS[rng.integers(len(_LAMPS))]) * on * rng.uniform(0.12, 0.3)
    glare = rng.uniform(0.0, 0.06) if kind in ("clear", "hazy", "dusk") else 0.0
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    sunlight, zenith, horizon, ambient, bounce = (
        _rgb(np.array(c) * cast * bright) for c in _colours(kind, float(np.degrees(elevation)))
    )
    return Weather(
        _rgb(sun), sunlight, zenith, horizon, _rgb(np.array(ambient) * shade), bounce, float(haze), float(cover),
        float(exposure), float(rng.uniform(*noise)), kind, float(wet), _rgb(lamp), float(glare),
    )  # fmt: skip


def _rgb(values: np.ndarray) -> Rgb:
    x, y, z = (float(v) for v in values)
    return x, y, z
