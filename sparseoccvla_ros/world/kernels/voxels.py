"""Kernels over voxels: labels from primitives, and visibility from a camera."""

from __future__ import annotations

import numpy as np

from ...core.kernels import kernel
from . import F
from .solids import ELLIPSOID, WEDGE, WHEEL


@kernel
def _inside(kind, x, y, z, half, taper, grow, size):
    """Return whether a point lies in a primitive; extents thinner than a voxel count as one voxel."""
    half_z = max(half[2], F(0.5) * size)
    if abs(z) > half_z:
        return False
    rise, ax, ay = z + half[2], abs(x), abs(y)
    if kind <= WEDGE:
        lean = taper[0] if x >= 0 else taper[1]
        return ax <= max(half[0] - lean * rise, grow) and ay <= max(half[1] - taper[2] * rise, grow)
    if kind == ELLIPSOID:
        qx, qy, qz = ax / max(half[0], grow), ay / max(half[1], grow), z / half_z
        return qx * qx + qy * qy + qz * qz <= F(1)
    if kind == WHEEL:
        radius = max(half[0], F(0.5) * size)
        return ay <= max(half[1], grow) and x * x + z * z <= radius * radius
    radius = max(half[0] * (F(1) - taper[0] * rise / (F(2) * half[2])), grow)
    return x * x + y * y <= radius * radius


@kernel
def fill(kind, centre, half, taper, yaw, label, rank, first, last, lower, size, hollow, shell, free, keys):
    """Raise keys int32 [X, Y, Z] = rank << 8 | label to the maximum over the primitives [P] that contain the voxel's
    centre; first, last [P, 3]: range of voxels to test; hollow bool [P]: free deeper than `shell` metres inside."""
    for p in range(len(kind)):
        c, s = np.cos(yaw[p]), np.sin(yaw[p])
        grow = F(0.5) * size * (abs(c) + abs(s))
        for i in range(first[p, 0], last[p, 0]):
            gx = (F(i) + F(0.5)) * size + lower[0] - centre[p, 0]
            for j in range(first[p, 1], last[p, 1]):
                gy = (F(j) + F(0.5)) * size + lower[1] - centre[p, 1]
                x, y = c * gx + s * gy, c * gy - s * gx
                for k in range(first[p, 2], last[p, 2]):
                    z = (F(k) + F(0.5)) * size + lower[2] - centre[p, 2]
                    if not _inside(kind[p], x, y, z, half[p], taper[p], grow, size):
                        continue
                    value = label[p]
                    if hollow[p] and min(half[p, 0] - abs(x), half[p, 1] - abs(y)) > shell:
                        value = free
                    keys[i, j, k] = max(keys[i, j, k], (rank[value] << 8) | value)


@kernel
def _reached(u, v, depth, reach):
    """Return whether a point in homogeneous pixel coordinates is in the image and no further than `reach` there."""
    if not depth > F(0.1):
        return False
    over = F(1) / depth
    u, v = u * over, v * over
    height, width = reach.shape
    if not (u > F(-0.5) and v > F(-0.5) and u < F(width + 1) - F(0.5) and v < F(height + 1) - F(0.5)):
        return False
    column, row = min(max(int(u), 0), width - 1), min(max(int(v), 0), height - 1)
    return depth <= reach[row, column]


@kernel
def observe(projection, eye, reach, x, y, z, half, seen):
    """Mark in seen bool [X, Y, Z] the voxels that one camera observes.

    projection [3, 4]: base_link to homogeneous pixels; eye [3]: camera position; reach [H - 1, W - 1]: furthest depth
    of the four surrounding pixels, margin included; x, y, z: voxel centres; half: half a voxel's edge.
    """
    m = projection
    height, width = reach.shape
    for i in range(len(x)):
        side_x = half * np.sign(eye[0] - x[i])
        for j in range(len(y)):
            u0 = m[0, 0] * x[i] + m[0, 1] * y[j] + m[0, 3]
            v0 = m[1, 0] * x[i] + m[1, 1] * y[j] + m[1, 3]
            d0 = m[2, 0] * x[i] + m[2, 1] * y[j] + m[2, 3]
            # Skip a column that lies entirely outside the view, judged by its ends.
            if not _column_in_view(m, u0, v0, d0, z[0] - half, z[-1] + half, half, F(width + 1), F(height + 1)):
                continue
            side_y = half * np.sign(eye[1] - y[j])
            for k in range(len(z)):
                if seen[i, j, k]:
                    continue
                u, v, d = u0 + m[0, 2] * z[k], v0 + m[1, 2] * z[k], d0 + m[2, 2] * z[k]
                side_z = half * np.sign(eye[2] - z[k])
                seen[i, j, k] = (
                    _reached(u, v, d, reach)
                    or _reached(u + side_x * m[0, 0], v + side_x * m[1, 0], d + side_x * m[2, 0], reach)
                    or _reached(u + side_y * m[0, 1], v + side_y * m[1, 1], d + side_y * m[2, 1], reach)
                    or _reached(u + side_z * m[0, 2], v + side_z * m[1, 2], d + side_z * m[2, 2], reach)
                )


@kernel
def _plane(a, b, c, m, u0, v0, d0, low, high, half):
    """Return whether part of a column lies on the inner side of the view plane a u + b v + c d = 0."""
    slope_z = a * m[0, 2] + b * m[1, 2] + c * m[2, 2]
    spread = abs(a * m[0, 0] + b * m[1, 0] + c * m[2, 0]) + abs(a * m[0, 1] + b * m[1, 1] + c * m[2, 1])
    return a * u0 + b * v0 + c * d0 + max(low * slope_z, high * slope_z) + half * spread > 0


@kernel
def _column_in_view(m, u0, v0, d0, low, high, half, width, height):
    one, zero = F(1), F(0)
    return (
        _plane(zero, zero, one, m, u0, v0, d0, low, high, half)
        and _plane(one, zero, F(0.5), m, u0, v0, d0, low, high, half)
        and _plane(-one, zero, width - F(0.5), m, u0, v0, d0, low, high, half)
        and _plane(zero, one, F(0.5), m, u0, v0, d0, low, high, half)
        and _plane(zero, -one, height - F(0.5), m, u0, v0, d0, low, high, half)
    )
