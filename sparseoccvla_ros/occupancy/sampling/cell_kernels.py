"""Compiled CPU loops of `cell_views` and the voxel head over points: a fraction of the time of tensor gathers."""

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
            m = matrix[n]
            # Most cameras look elsewhere, which their depth tells without a division.
            if not usable[n] or m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] <= 0.3:
                continue
            u, v, _ = _pixel(m, x, y, z)
            if 0 < u < width and 0 < v < height:
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
    for k in range(len(blocks)):
        n = camera[k]
        if n < 0:
            out[k] = 0
            continue
        for o in range(len(offsets)):
            x, y, z = blocks[k, 0] + offsets[o, 0], blocks[k, 1] + offsets[o, 1], blocks[k, 2] + offsets[o, 2]
            u, v, depth = _pixel(matrix[n], x, y, z)
            u, v = u / image[1], v / image[0]
            if not (depth > 0.3 and 0 < u < 1 and 0 < v < 1):
                out[k, o] = 0
                continue
            across, down = min(max(u * w - 0.5, 0.0), w - 1.0), min(max(v * h - 0.5, 0.0), h - 1.0)
            along = min(max(math.log(depth / depth_scale[0]) * depth_scale[1], 0.0), bins - 1.0)
            x0, y0, d0 = min(int(across), w - 2), min(int(down), h - 2), min(int(along), bins - 2)
            across, down, along = across - x0, down - y0, along - d0
            # Four taps in one pass over the channels, which is then a loop of vectors.
            p, q = (n * h + y0) * w + x0, (n * h + y0 + 1) * w + x0
            a, b = np.float32((1 - across) * (1 - down)), np.float32(across * (1 - down))
            c, d = np.float32((1 - across) * down), np.float32(across * down)
            for i in range(count):
                out[k, o, i] = a * classes[p, i] + b * classes[p + 1, i] + c * classes[q, i] + d * classes[q + 1, i]
            near, far = np.float32(1 - along), np.float32(along)
            p, q = p * bins + d0, q * bins + d0
            p1, q1 = p + 1, q + 1
            for i in range(depths.shape[1]):
                first = a * depths[p, i] + b * depths[p + bins, i] + c * depths[q, i] + d * depths[q + bins, i]
                last = a * depths[p1, i] + b * depths[p1 + bins, i] + c * depths[q1, i] + d * depths[q1 + bins, i]
                out[k, o, count + i] = near * first + far * last
            out[k, o, -1] = 1


@kernel
def rasterise(
    points: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    shape: tuple[int, int, int],
    label: np.ndarray,
    around: np.ndarray,
) -> None:
    """Compute VoxelHead._points: normalised points float32 [P, 3], scores float32 [P], classes int64 [P]; label uint8
    [X * Y * Z], around float32 [blocks, 18]."""
    nx, ny, nz = shape
    bx, by, bz, last = nx // 2, ny // 2, nz // 2, around.shape[1] - 1
    best = np.full(len(label), -1, np.int32)
    label[:] = last
    around[:] = 0
    for p in range(len(points)):
        x, y, z = points[p, 0] * np.float32(nx), points[p, 1] * np.float32(ny), points[p, 2] * np.float32(nz)
        if not (0 <= x < nx and 0 <= y < ny and 0 <= z < nz):
            continue
        i, j, k, c = int(x), int(y), int(z), classes[p]
        voxel = (i * ny + j) * nz + k
        # Packing score and class in one number makes ties deterministic.
        rank = np.int32(scores[p] * np.float32(1e6)) * 32 + c
        if rank > best[voxel]:
            best[voxel], label[voxel] = rank, c
        i, j, k = i // 2, j // 2, k // 2
        for a in range(max(i - 1, 0), min(i + 2, bx)):
            for b in range(max(j - 1, 0), min(j + 2, by)):
                for d in range(max(k - 1, 0), min(k + 2, bz)):
                    around[(a * by + b) * bz + d, c] += scores[p]
    for row in range(len(around)):
        total = np.float32(0)
        for c in range(last):
            total += around[row, c]
        if total > 0:
            for c in range(last):
                around[row, c] /= max(total, np.float32(1e-3))
            around[row, last] = min(total / 8, np.float32(1))
