"""Ray intersection with primitive solids, and their surface normals.

All coordinates are in the solid's own frame (centre at the origin); kinds are those of shapes.solids.Kind.
"""

from __future__ import annotations

import numpy as np

from ...core.kernels import kernel
from . import F

BOX, WEDGE, CONE, ELLIPSOID, WHEEL = range(5)
NO_HIT = 1e9
"""Ray parameter of a ray that hits nothing."""
_MISS = F(NO_HIT)
_TINY = F(1e-9)


@kernel
def _nonzero(value):
    return _TINY if abs(value) < _TINY else value


@kernel
def _box(ox, oy, oz, dx, dy, dz, half):
    ix, iy, iz = F(1) / _nonzero(dx), F(1) / _nonzero(dy), F(1) / _nonzero(dz)
    mx, my, mz = -ox * ix, -oy * iy, -oz * iz
    rx, ry, rz = half[0] * abs(ix), half[1] * abs(iy), half[2] * abs(iz)
    near = max(mx - rx, my - ry, mz - rz)
    far = min(mx + rx, my + ry, mz + rz)
    return near if near < far and near > 0 else _MISS


@kernel
def _wedge(ox, oy, oz, dx, dy, dz, half, taper):
    height = oz + half[2]
    near, far = -_MISS, _MISS
    for face in range(6):
        if face == 0:
            slack, speed = half[0] - ox - taper[0] * height, dx + taper[0] * dz
        elif face == 1:
            slack, speed = half[0] + ox - taper[1] * height, -dx + taper[1] * dz
        elif face == 2:
            slack, speed = half[1] - oy - taper[2] * height, dy + taper[2] * dz
        elif face == 3:
            slack, speed = half[1] + oy - taper[2] * height, -dy + taper[2] * dz
        elif face == 4:
            slack, speed = half[2] - oz, dz
        else:
            slack, speed = half[2] + oz, -dz
        t = slack / _nonzero(speed)
        if speed < 0:
            near = max(near, t)
        else:
            far = min(far, t)
    return near if near < far and near > 0 else _MISS


@kernel
def _cone(ox, oy, oz, dx, dy, dz, radius, height, lost):
    """Intersect an upright cone or cylinder; lost: share of the radius lost at the top."""
    slope = radius * lost / (F(2) * height)
    here = radius - slope * (oz + height)  # radius of the cone at the height of the ray's origin
    a = dx * dx + dy * dy - (slope * dz) * (slope * dz)
    b = ox * dx + oy * dy + slope * dz * here
    c = ox * ox + oy * oy - here * here
    disc = b * b - a * c
    out = _MISS
    if disc > 0 and a > 0:
        t = (-b - np.sqrt(disc)) / max(a, F(1e-12))
        if t > 0 and abs(oz + t * dz) <= height:
            out = t
    # Entry through an end cap: the upper one for a descending ray, the lower one for a rising ray.
    level = -height if dz > 0 else (height if dz < 0 else F(0))
    t = (level - oz) / _nonzero(dz)
    reach = radius * (F(1) - lost) if level > 0 else radius
    x, y = ox + t * dx, oy + t * dy
    if x * x + y * y <= reach * reach and t > 0 and t < out:
        out = t
    return out


@kernel
def _ellipsoid(ox, oy, oz, dx, dy, dz, half):
    ox, oy, oz = ox / half[0], oy / half[1], oz / half[2]
    dx, dy, dz = dx / half[0], dy / half[1], dz / half[2]
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - F(1)
    disc = b * b - a * c
    if disc > 0:
        t = (-b - np.sqrt(disc)) / a
        if t > 0:
            return t
    return _MISS


@kernel
def enter(kind, ox, oy, oz, dx, dy, dz, half, taper):
    """Return t > 0 at which a ray from o along d enters a solid, NO_HIT if it misses. half, taper: [3]."""
    if kind == BOX:
        return _box(ox, oy, oz, dx, dy, dz, half)
    if kind == WEDGE:
        return _wedge(ox, oy, oz, dx, dy, dz, half, taper)
    if kind == CONE:
        return _cone(ox, oy, oz, dx, dy, dz, half[0], half[2], taper[0])
    if kind == ELLIPSOID:
        return _ellipsoid(ox, oy, oz, dx, dy, dz, half)
    return _cone(ox, oz, oy, dx, dz, dy, half[0], half[1], F(0))


@kernel
def _sign(value):
    return F(1) if value > 0 else (F(-1) if value < 0 else F(0))


@kernel
def unit(x, y, z):
    """Scale a vector to length 1."""
    length = max(np.sqrt(x * x + y * y + z * z), F(1e-12))
    return x / length, y / length, z / length


@kernel
def normal(kind, x, y, z, half, taper):
    """Return the outward unit normal at a surface point."""
    if kind <= WEDGE:
        lean_x, lean_y = F(0), F(0)
        if kind == WEDGE:
            lean_x, lean_y = (taper[0] if x >= 0 else taper[1]), taper[2]
        height = z + half[2]
        slack_x = half[0] - abs(x) - lean_x * height
        slack_y = half[1] - abs(y) - lean_y * height
        slack_z = half[2] - abs(z)
        if slack_x <= slack_y and slack_x <= slack_z:
            return unit(_sign(x), F(0), lean_x)
        if slack_y <= slack_z:
            return unit(F(0), _sign(y), lean_y)
        return F(0), F(0), _sign(z)
    if kind == ELLIPSOID:
        return unit(x / (half[0] * half[0]), y / (half[1] * half[1]), z / (half[2] * half[2]))
    if kind == CONE:
        if abs(z) > half[2] * F(0.9999):
            return F(0), F(0), _sign(z)
        return unit(x, y, half[0] * half[0] * taper[0] / (F(2) * half[2]))
    if abs(y) > half[1] * F(0.999):
        return F(0), _sign(y), F(0)
    return unit(x, F(0), z)
