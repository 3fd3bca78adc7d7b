"""Noise tables: every irregular surface looks its colour up here, the same on every machine and device."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

_SIZE = 64
_PLANE = 512
_SENSOR = 997


def _levelled(field: np.ndarray) -> np.ndarray:
    """The field's values replaced by their rank, so that they are spread evenly over 0..1."""
    rank = np.empty(field.size, np.float32)
    rank[np.argsort(field, axis=None, kind="stable")] = np.linspace(0.0, 1.0, field.size, dtype=np.float32)
    return rank.reshape(field.shape)


@lru_cache(maxsize=4)
def _tables(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(20250101)
    solid = rng.standard_normal((_SIZE,) * 3)
    solid = 0.5 * solid + 6.0 * gaussian_filter(solid, 1.6, mode="wrap")
    plane = rng.standard_normal((_PLANE, _PLANE))
    octaves = (gaussian_filter(plane, s, mode="wrap") for s in (1.0, 3.0, 9.0))
    plane = sum(o / o.std() * w for o, w in zip(octaves, (0.5, 0.8, 1.2), strict=True))
    return (
        torch.from_numpy(_levelled(solid)).to(device).reshape(-1),
        torch.from_numpy(_levelled(plane)).to(device).reshape(-1),
    )


def grain(points: torch.Tensor) -> torch.Tensor:
    """Blocky noise 0..1 at points [N, 3], one cell per unit, blobs about three cells wide."""
    cell = torch.floor(points).to(torch.int32) & (_SIZE - 1)
    index = (cell[:, 0] * _SIZE + cell[:, 1]) * _SIZE + cell[:, 2]
    return _tables(str(points.device))[0][index.long()]


@lru_cache(maxsize=2)
def _sensor(device: str) -> torch.Tensor:
    drawn = np.random.default_rng(20250102).standard_normal((_SENSOR, _SENSOR, 3), np.float32)
    return torch.from_numpy(drawn).to(device)


def sensor_noise(row: int, column: int, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Standard normal numbers float32 [height, width, 3] from one endless pattern, beginning at `row`, `column`."""
    rows = (row + torch.arange(height, device=device)) % _SENSOR
    columns = (column + torch.arange(width, device=device)) % _SENSOR
    return _sensor(str(device))[rows[:, None], columns]


def clouds(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Smooth noise 0..1 at x, y [N]; features span about 3 to 30 units and repeat every 512."""
    table = _tables(str(x.device))[1]
    x0, y0 = torch.floor(x), torch.floor(y)
    fx, fy = x - x0, y - y0
    i, j = x0.to(torch.int64) & (_PLANE - 1), y0.to(torch.int64) & (_PLANE - 1)
    i1, j1 = (i + 1) & (_PLANE - 1), (j + 1) & (_PLANE - 1)
    low = table[i * _PLANE + j] * (1 - fy) + table[i * _PLANE + j1] * fy
    high = table[i1 * _PLANE + j] * (1 - fy) + table[i1 * _PLANE + j1] * fy
    return low * (1 - fx) + high * fx
