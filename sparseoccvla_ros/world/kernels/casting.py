"""Ray casting: finds the first primitive per ray by testing each primitive on the rays that can hit it.

Primitives are processed front to back, so one depth comparison rejects most of the later ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...core.kernels import kernel
from . import F
from .materials import leafy
from .solids import NO_HIT, enter

NEAR = 0.1
"""Near plane of a camera, m; nothing closer is drawn."""
_NEAR = F(NEAR)


class Solids(NamedTuple):
    """P primitives for ray casting. order: those in view, front to back; base [P, 3]: ray origin in each one's frame;
    kind, half, taper, pattern as in shapes.solids.Primitives; cosine, sine of the yaw; leaves bool [P]; rectangle
    [P, 4]: x0, y0, x1, y1 (exclusive) of the rays that can hit it; nearest [P]: lower bound of its ray parameter."""

    order: np.ndarray
    base: np.ndarray
    kind: np.ndarray
    half: np.ndarray
    taper: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    pattern: np.ndarray
    leaves: np.ndarray
    rectangle: np.ndarray
    nearest: np.ndarray


@kernel
def cast_pinhole(solids, directions, width, blocky, depth, row):
    """Update depth [N] and row [N] where a primitive is closer; directions [N, 3], all rays start at one point."""
    for p in solids.order:
        half, taper = solids.half[p], solids.taper[p]
        c, s, kind, nearest = solids.cosine[p], solids.sine[p], solids.kind[p], solids.nearest[p]
        ox, oy, oz = solids.base[p, 0], solids.base[p, 1], solids.base[p, 2]
        x0, y0, x1, y1 = solids.rectangle[p]
        for y in range(y0, y1):
            for i in range(y * width + x0, y * width + x1):
                if depth[i] < nearest:
                    continue
                fx, fy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
                dx, dy = c * fx + s * fy, c * fy - s * fx
                t = enter(kind, ox, oy, oz, dx, dy, dz, half, taper)
                # The lower row wins ties, independent of the order.
                if t < depth[i] or (t == depth[i] and t < F(NO_HIT) and p < row[i]):
                    if solids.leaves[p]:
                        x, y_, z = ox + t * dx, oy + t * dy, oz + t * dz
                        if not leafy(x, y_, z, (dx, dy, dz), half, solids.pattern[p], blocky):
                            continue
                    depth[i] = t
                    row[i] = p


@kernel
def cast_parallel(solids, axes, resolution, blocky, depth):
    """Update depth [V, U] where a primitive is closer; rays start on a grid along axes[0], axes[1] and run along
    -axes[2]."""
    fx, fy, fz = -axes[2, 0], -axes[2, 1], -axes[2, 2]
    for p in solids.order:
        half, taper = solids.half[p], solids.taper[p]
        c, s, kind, nearest = solids.cosine[p], solids.sine[p], solids.kind[p], solids.nearest[p]
        dx, dy, dz = c * fx + s * fy, c * fy - s * fx, fz
        x0, y0, x1, y1 = solids.rectangle[p]
        for y in range(y0, y1):
            v = (F(y) + F(0.5)) * resolution
            for x in range(x0, x1):
                if depth[y, x] < nearest:
                    continue
                u = (F(x) + F(0.5)) * resolution
                qx, qy = axes[0, 0] * u + axes[1, 0] * v, axes[0, 1] * u + axes[1, 1] * v
                qz = axes[0, 2] * u + axes[1, 2] * v
                ox = solids.base[p, 0] + (c * qx + s * qy)
                oy = solids.base[p, 1] + (c * qy - s * qx)
                oz = solids.base[p, 2] + qz
                t = enter(kind, ox, oy, oz, dx, dy, dz, half, taper)
                if t < depth[y, x]:
                    if solids.leaves[p]:
                        point = ox + t * dx, oy + t * dy, oz + t * dz
                        if not leafy(point[0], point[1], point[2], (dx, dy, dz), half, solids.pattern[p], blocky):
                            continue
                    depth[y, x] = t


@kernel
def _corner(k, centre, half, c, s):
    """Return corner k (0..7) of a box; the bits of k are the signs along x, y and z."""
    x = half[0] if k & 4 else -half[0]
    y = half[1] if k & 2 else -half[1]
    z = half[2] if k & 1 else -half[2]
    return centre[0] + c * x - s * y, centre[1] + s * x + c * y, centre[2] + z


@kernel
def _grown(bounds, point, f, v0, skew):
    """Extend pixel bounds x0, y0, x1, y1 to include a camera-frame point x, y, depth; f: focal lengths."""
    over = F(1) / point[2]
    u, v = (point[0] * f[0] + point[1] * skew) * over + v0[0], point[1] * f[1] * over + v0[1]
    return min(bounds[0], u), min(bounds[1], v), max(bounds[2], u), max(bounds[3], v)


@kernel
def pinhole_footprints(centre, half, cosine, sine, position, rotation, k, samples, width, height, rectangle, nearest):
    """Fill rectangle [P, 4] and nearest [P] of Solids for a camera at `position` (3).

    rotation [3, 3]: optical axes in the map, by columns; k [3, 3]: intrinsics; samples: rays along a pixel's side.
    The rectangle of a primitive out of view is empty.
    """
    f, v0 = (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2])
    camera = np.empty((8, 3), F)
    for p in range(len(centre)):
        rectangle[p] = 0
        radius = np.sqrt(half[p, 0] * half[p, 0] + half[p, 1] * half[p, 1] + half[p, 2] * half[p, 2])
        ahead = F(0)
        for a in range(3):
            ahead += (centre[p, a] - position[a]) * rotation[a, 2]
        if ahead + radius < _NEAR:
            continue
        least = F(NO_HIT)
        for corner in range(8):
            x, y, z = _corner(corner, centre[p], half[p], cosine[p], sine[p])
            x, y, z = x - position[0], y - position[1], z - position[2]
            for a in range(3):
                camera[corner, a] = x * rotation[0, a] + y * rotation[1, a] + z * rotation[2, a]
            least = min(least, camera[corner, 2])
        bounds = F(1e6), F(1e6), F(-1e6), F(-1e6)
        for a in range(8):
            if camera[a, 2] >= _NEAR:
                bounds = _grown(bounds, (camera[a, 0], camera[a, 1], camera[a, 2]), f, v0, k[0, 1])
            for bit in (1, 2, 4):
                b = a ^ bit
                # An edge that crosses the near plane is clipped there, which gives boxes beside the camera their true
                # rectangle.
                if (camera[a, 2] < _NEAR) != (camera[b, 2] < _NEAR) and a < b:
                    t = (_NEAR - camera[a, 2]) / (camera[b, 2] - camera[a, 2])
                    x = camera[a, 0] + (camera[b, 0] - camera[a, 0]) * t
                    y = camera[a, 1] + (camera[b, 1] - camera[a, 1]) * t
                    bounds = _grown(bounds, (x, y, _NEAR), f, v0, k[0, 1])
        if bounds[2] < bounds[0]:
            continue
        _cover(rectangle[p], bounds, samples, width, height)
        nearest[p] = max(least, F(0)) - F(1e-3)


@kernel
def _cover(rectangle, bounds, samples, width, height):
    """Set `rectangle` to the rays of a width x height grid within pixel bounds; `samples` rays per pixel side."""
    x0, y0, x1, y1 = bounds
    edge = F(1e-3)
    rectangle[0] = max(int(np.ceil((max(x0, F(-9)) + F(0.5)) * samples - F(0.5) - edge)), 0)
    rectangle[1] = max(int(np.ceil((max(y0, F(-9)) + F(0.5)) * samples - F(0.5) - edge)), 0)
    rectangle[2] = min(int(np.floor((min(x1, F(1e5)) + F(0.5)) * samples - F(0.5) + edge)) + 1, width)
    rectangle[3] = min(int(np.floor((min(y1, F(1e5)) + F(0.5)) * samples - F(0.5) + edge)) + 1, height)


@kernel
def parallel_footprints(centre, half, cosine, sine, axes, lower, resolution, above, width, height, rectangle, nearest):
    """As pinhole_footprints, for parallel rays; lower, resolution, above (height_above) as in raster.ParallelRays."""
    for p in range(len(centre)):
        x0, y0, x1, y1, top = F(1e6), F(1e6), F(-1e6), F(-1e6), F(-1e6)
        for corner in range(8):
            x, y, z = _corner(corner, centre[p], half[p], cosine[p], sine[p])
            u = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z - lower[0]) / resolution - F(0.5)
            v = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z - lower[1]) / resolution - F(0.5)
            x0, y0, x1, y1 = min(x0, u), min(y0, v), max(x1, u), max(y1, v)
            top = max(top, axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z)
        _cover(rectangle[p], (x0, y0, x1, y1), F(1), width, height)
        nearest[p] = above - top - F(1e-2)
