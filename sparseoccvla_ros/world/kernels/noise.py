"""Look-ups in the noise tables of render.textures."""

from __future__ import annotations

import numpy as np

from ...core.kernels import kernel
from . import F

SIZE = 64
"""Cells along each side of the blocky table."""
PLANE = 512
"""Cells along each side of the smooth table."""


@kernel
def grain(x, y, z, blocky):
    """Return blocky noise 0..1 at a point, one cell per unit, blobs about three cells wide; blocky: [SIZE ** 3]."""
    i = int(np.floor(x)) & (SIZE - 1)
    j = int(np.floor(y)) & (SIZE - 1)
    k = int(np.floor(z)) & (SIZE - 1)
    return blocky[(i * SIZE + j) * SIZE + k]


@kernel
def clouds(x, y, smooth):
    """Return smooth noise 0..1 with features of about 3 to 30 units, period PLANE; smooth: [PLANE ** 2]."""
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    i, j = int(x0) & (PLANE - 1), int(y0) & (PLANE - 1)
    i1, j1 = (i + 1) & (PLANE - 1), (j + 1) & (PLANE - 1)
    low = smooth[i * PLANE + j] * (F(1) - fy) + smooth[i * PLANE + j1] * fy
    high = smooth[i1 * PLANE + j] * (F(1) - fy) + smooth[i1 * PLANE + j1] * fy
    return low * (F(1) - fx) + high * fx
