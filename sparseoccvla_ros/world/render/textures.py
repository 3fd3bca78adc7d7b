"""Noise tables: every irregular surface looks its colour up here, the same on every machine."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from ..kernels.noise import PLANE, SIZE
from ..kernels.shading import Textures


def _levelled(field: np.ndarray) -> np.ndarray:
    """The field's values replaced by their rank, so that they are spread evenly over 0..1."""
    rank = np.empty(field.size, np.float32)
    rank[np.argsort(field, axis=None, kind="stable")] = np.linspace(0.0, 1.0, field.size, dtype=np.float32)
    return rank


@cache
def tables() -> Textures:
    """The blocky and the smooth noise table."""
    rng = np.random.default_rng(20250101)
    solid = rng.standard_normal((SIZE,) * 3)
    solid = 0.5 * solid + 6.0 * gaussian_filter(solid, 1.6, mode="wrap")
    plane = rng.standard_normal((PLANE, PLANE))
    octaves = (gaussian_filter(plane, s, mode="wrap") for s in (1.0, 3.0, 9.0))
    plane = sum(o / o.std() * w for o, w in zip(octaves, (0.5, 0.8, 1.2), strict=True))
    return Textures(_levelled(solid), _levelled(plane))


@cache
def sensor_noise() -> np.ndarray:
    """Standard normal numbers float32 [997, 997, 3], a pattern to be repeated."""
    return np.random.default_rng(20250102).standard_normal((997, 997, 3), np.float32)
