"""Compiled CPU loops of `cell_views` over points; they take a fraction of the time of tensor gathers."""

from __future__ import annotations

import math

import numpy as np

from ...core.kernels import kernel


@kernel
def _pixel(m: np.ndarray, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Project a point: pixels u, v from the image's corner, and depth clamped to 0.1 m. m: float32 [3, 4]."""
    depth = max(m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3], 0.1)
    u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / depth + 0.5
    v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / depth + 0.5
    return u, v, depth


@kernel
def choose(
    points: np.ndarray, matrix: np.ndarray, usable: np.ndarray, height: int, width: int, out: np.ndarray
) -> None:
    """Compute CellViews.choose: points float32 [P, 3], matrix float32 [N, 3, 4], usable bool [N], out int64 [P]."""
    for p in range(len(points)):
        x, y, z = points[p]
        best, camera = 0.0, -1
        for n in range(len(matrix)):
            u, v, depth = _pixel(matrix[n], x, y, z)
            if usable[n] and depth > 0.3 and 0 < u < width and 0 < v < height:
                score = 1.0 - abs(u / width - 0.5)
                if score > best:
                    best, camera = score, n
        out[p] = camera


@kernel
def nearest(
    points: np.ndarray,
    camera: np.ndarray,
    matrix: np.ndarray,
    image: tuple[int, int],
    size: tuple[int, int],
    depth_scale: tuple[float, float],
    classes: np.ndarray,
    depths: np.ndarray,
    out: np.ndarray,
) -> None:
    """Compute CellViews.nearest. depth_scale: first bin's depth [m] and bins per unit of ln; out float32 [P, 24]."""
    (h, w), bins, count = size, len(depths) // len(classes), classes.shape[1]
    out[:] = 0
    for p in range(len(points)):
        n = camera[p]
        if n < 0:
            continue
        x, y, z = points[p]
        u, v, depth = _pixel(matrix[n], x, y, z)
        u, v = u / image[1], v / image[0]
        row = (n * h + min(max(int(v * h), 0), h - 1)) * w + min(max(int(u * w), 0), w - 1)
        step = min(max(math.log(depth / depth_scale[0]) * depth_scale[1], 0.0), bins - 1.0)
        at = row * bins + int(np.rint(step))
        for c in range(count):
            out[p, c] = classes[row, c]
        for c in range(depths.shape[1]):
            out[p, count + c] = depths[at, c]
        out[p, -1] = 1


@kernel
def read(
    blocks: np.ndarray,
    offsets: np.ndarray,
    camera: np.ndarray,
    matrix: np.ndarray,
    image: tuple[int, int],
    size: tuple[int, int],
    depth_scale: tuple[float, float],
    classes: np.ndarray,
    depths: np.ndarray,
    out: np.ndarray,
) -> None:
    """Compute CellViews.read; depth_scale as in `nearest`, out float32 [K, 8, 24]."""
    (h, w), bins, count = size, len(depths) // len(classes), classes.shape[1]
    out[:] = 0
    for k in range(len(blocks)):
        n = camera[k]
        if n < 0:
            continue
        for o in range(len(offsets)):
            x, y, z = blocks[k, 0] + offsets[o, 0], blocks[k, 1] + offsets[o, 1], blocks[k, 2] + offsets[o, 2]
            u, v, depth = _pixel(matrix[n], x, y, z)
            u, v = u / image[1], v / image[0]
            if not (depth > 0.3 and 0 < u < 1 and 0 < v < 1):
                continue
            across, down = min(max(u * w - 0.5, 0.0), w - 1.0), min(max(v * h - 0.5, 0.0), h - 1.0)
            along = min(max(math.log(depth / depth_scale[0]) * depth_scale[1], 0.0), bins - 1.0)
            x0, y0, d0 = min(int(across), w - 2), min(int(down), h - 2), min(int(along), bins - 2)
            across, down, along = across - x0, down - y0, along - d0
            for tap in range(4):
                right, below = tap % 2, tap // 2
                share = np.float32((across if right else 1 - across) * (down if below else 1 - down))
                row = (n * h + y0 + below) * w + x0 + right
                for c in range(count):
                    out[k, o, c] += share * classes[row, c]
                near, far, at = np.float32(share * (1 - along)), np.float32(share * along), row * bins + d0
                for c in range(depths.shape[1]):
                    out[k, o, count + c] += near * depths[at, c] + far * depths[at + 1, c]
            out[k, o, -1] = 1
