"""Noise tables for the colours of irregular surfaces, identical on every machine."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from ..kernels.noise import PLANE, SIZE
from ..kernels.shading import Textures


def _levelled(field: np.ndarray) -> np.ndarray:
    """Replace the field's values by their ranks, spread evenly over 0..1."""
    rank = np.empty(field.size, np.float32)
    rank[np.argsort(field, axis=None, kind="stable")] = np.linspace(0.0, 1.0, field.size, dtype=np.float32)
    return rank


@cache
def tables() -> Textures:
    """Create the blocky and the smooth noise table."""
    rng = np.random.default_rng(20250101)
    solid = rng.standard_normal((SIZE,) * 3)
    solid = 0.5 * solid + 6.0 * gaussian_filter(solid, 1.6, mode="wrap")
    plane = rng.standard_normal((PLANE, PLANE))
    octaves = (gaussian_filter(plane, s, mode="wrap") for s in (1.0, 3.0, 9.0))
    plane = sum(o / o.std() * w for o, w in zip(octaves, (0.5, 0.8, 1.2), strict=True))
    return Textures(_levelled(solid), _levelled(plane))


@cache
def sensor_noise() -> np.ndarray:
    """Create standard normal numbers float32 [997, 997, 3], a pattern to be tiled."""
    return np.random.default_rng(20250102).standard_normal((997, 997, 3), np.float32)
