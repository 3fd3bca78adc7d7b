"""Poses as plain tuples, for the transform buffer.

numpy's call overhead exceeds the arithmetic of one transform; with plain floats a chain of edges costs microseconds.
Quaternions are x, y, z, w and of unit length.
"""

from __future__ import annotations

import math

import numpy as np

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Pose = tuple[Vector, Quaternion]
"""Translation in metres and rotation, mapping points from child to parent."""

IDENTITY: Pose = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
ROTATION_TOLERANCE = 1e-2
"""Largest deviation of a rotation matrix from orthonormal, or of a quaternion's norm from 1."""


def slerp(a: Quaternion, b: Quaternion, fraction: float) -> Quaternion:
    """Interpolate along the shorter arc (slerp); lerp if the arc is too small to divide by its sine."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    dot = ax * bx + ay * by + az * bz + aw * bw
    sign = 1.0
    if dot < 0.0:
        dot, sign = -dot, -1.0
    if dot > 1.0 - 1e-10:
        wa, wb = 1.0 - fraction, sign * fraction
    else:
        angle = math.acos(dot)
        sine = math.sin(angle)
        wa, wb = math.sin((1.0 - fraction) * angle) / sine, sign * math.sin(fraction * angle) / sine
    x, y, z, w = wa * ax + wb * bx, wa * ay + wb * by, wa * az + wb * bz, wa * aw + wb * bw
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return x / norm, y / norm, z / norm, w / norm


def rotate(q: Quaternion, v: Vector) -> Vector:
    """Rotate a vector by a unit quaternion."""
    x, y, z, w = q
    vx, vy, vz = v
    tx, ty, tz = 2.0 * (y * vz - z * vy), 2.0 * (z * vx - x * vz), 2.0 * (x * vy - y * vx)
    return vx + w * tx + y * tz - z * ty, vy + w * ty + z * tx - x * tz, vz + w * tz + x * ty - y * tx


def multiply(a: Pose, b: Pose) -> Pose:
    """Compose two poses: b is applied first, then a."""
    (ta, qa), (tb, qb) = a, b
    rx, ry, rz = rotate(qa, tb)
    x1, y1, z1, w1 = qa
    x2, y2, z2, w2 = qb
    rotation = (
        w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
        w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
        w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
    )
    return (ta[0] + rx, ta[1] + ry, ta[2] + rz), rotation


def invert(pose: Pose) -> Pose:
    """Invert a pose."""
    (tx, ty, tz), (x, y, z, w) = pose
    conjugate = (-x, -y, -z, w)
    ix, iy, iz = rotate(conjugate, (-tx, -ty, -tz))
    return (ix, iy, iz), conjugate


def matrix_of(pose: Pose) -> np.ndarray:
    """Convert a pose to a matrix float64 [4, 4]."""
    (tx, ty, tz), (x, y, z, w) = pose
    xx, yy, zz, xy, xz, yz, wx, wy, wz = x * x, y * y, z * z, x * y, x * z, y * z, w * x, w * y, w * z
    rows = (
        (1 - 2 * (yy + zz), 2 * (xy - wz), 2 * (xz + wy), tx),
        (2 * (xy + wz), 1 - 2 * (xx + zz), 2 * (yz - wx), ty),
        (2 * (xz - wy), 2 * (yz + wx), 1 - 2 * (xx + yy), tz),
        (0.0, 0.0, 0.0, 1.0),
    )
    return np.array(rows)


def is_rigid(m: list[list[float]]) -> bool:
    """Whether a 4x4 matrix is a rigid transform: rotation orthonormal with determinant +1, last row 0 0 0 1."""
    (a, b, c), (d, e, f), (g, h, i) = m[0][:3], m[1][:3], m[2][:3]
    tolerance = ROTATION_TOLERANCE
    products = (
        a * a + b * b + c * c - 1,
        d * d + e * e + f * f - 1,
        g * g + h * h + i * i - 1,
        a * d + b * e + c * f,
        a * g + b * h + c * i,
        d * g + e * h + f * i,
    )
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return max(map(abs, products)) < tolerance and determinant > 0 and m[3] == [0, 0, 0, 1]


def quaternion_of(m: list[list[float]]) -> Quaternion:
    """Convert a rotation matrix to x, y, z, w, on the branch with the largest divisor (Shepperd, 1978)."""
    (a, b, c), (d, e, f), (g, h, i) = m[0][:3], m[1][:3], m[2][:3]
    trace = a + e + i
    best = max(trace, a, e, i)
    if best == trace:
        q = (h - f, c - g, d - b, 1 + trace)
    elif best == a:
        q = (1 + a - e - i, b + d, c + g, h - f)
    elif best == e:
        q = (b + d, 1 - a + e - i, f + h, c - g)
    else:
        q = (c + g, f + h, 1 - a - e + i, d - b)
    norm = math.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2 + q[3] ** 2)
    return q[0] / norm, q[1] / norm, q[2] / norm, q[3] / norm
