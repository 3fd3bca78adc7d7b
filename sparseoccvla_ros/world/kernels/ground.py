"""Closed-form ground model in x and y: nearest street, distance to the road's edge, class and markings."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...core.classes import LABEL
from ...core.kernels import kernel
from . import F

FAR = 1e4
"""Lateral offset in m of a point that is beside no piece of a street."""
SIDEWALK = 3.4
CROSSWALK = (1.0, 4.0)
STOP_LINE = (5.0, 5.4)
MEDIAN_START = 7.5
_ROAD, _ISLAND = LABEL["driveable_surface"], LABEL["other_flat"]
_PAVEMENT, _LAND = LABEL["sidewalk"], LABEL["terrain"]
_FAR = F(FAR)
_CROSSING, _CROSSING_HALF = F(0.5 * sum(CROSSWALK)), F(CROSSWALK[1] - 0.5 * sum(CROSSWALK))
_STOP, _STOP_HALF = F(0.5 * sum(STOP_LINE)), F(STOP_LINE[1] - 0.5 * sum(STOP_LINE))


class StreetTable(NamedTuple):
    """A street for kernels. pieces: [P, 8] = s0, s1, x, y, cosine and sine of the heading, radius (0: straight), sign
    of the curvature; the rest as in streets.Street, all of one float type."""

    pieces: np.ndarray
    half_width: np.floating
    lanes: np.ndarray
    median: np.floating
    dashed: np.ndarray
    solid: np.ndarray
    parking: np.floating


class GroundTable(NamedTuple):
    """Both streets for kernels. arm: the cross street's only side, 0 for both; the rest as in streets.Streets."""

    main: StreetTable
    cross: StreetTable
    arm: np.floating
    corner: np.floating
    worn: np.floating
    asphalt: np.floating
    striped: np.floating
    dryness: np.floating
    shift_x: np.floating
    shift_y: np.floating


@kernel
def locate(pieces, x, y):
    """Return arc length and lateral offset (left positive) of a point along a street; offset FAR beside no piece."""
    best_s, best = pieces[0, 0] * 0, pieces[0, 0] * 0 + _FAR
    for p in range(len(pieces)):
        s0, s1, px, py, tx, ty, radius, sign = pieces[p]
        dx, dy = x - px, y - py
        along, across = dx * tx + dy * ty, dy * tx - dx * ty
        if radius == 0:
            s, lateral = along, across
        else:
            inward = radius - across * sign
            s = radius * math.atan2(along, inward)
            lateral = sign * (radius - np.hypot(along, inward))
        s += s0
        if s < s0 or s > s1:
            lateral = lateral * 0 + _FAR
        if p == 0 or abs(lateral) < abs(best):
            best_s, best = s, lateral
    return best_s, best


@kernel
def edge_of(ground, main, s_cross, cross):
    """Return signed metres to the edge of the paved road (two strips with rounded corners), negative on it."""
    a, b = abs(main) - ground.main.half_width, abs(cross) - ground.cross.half_width
    if s_cross * ground.arm < 0:  # opposite a single arm the main street's kerb is continuous
        b = b * 0 + _FAR
    if a < 0 or b < 0:
        return min(a, b)
    u, v = max(ground.corner - a, a * 0), max(ground.corner - b, a * 0)
    return max(ground.corner, min(a, b)) - np.hypot(u, v)


@kernel
def island_of(ground, main, cross):
    """Return signed metres to the raised median (with a round nose), negative on it; FAR without a median."""
    median = ground.main.median
    if median == 0:
        return main * 0 + _FAR
    beyond = ground.cross.half_width + F(MEDIAN_START) + median - abs(cross)
    return np.hypot(main, max(beyond, beyond * 0)) - median


@kernel
def label_of(edge, island):
    """Return the Occ3D class of the ground."""
    if edge < 0:
        return _ISLAND if island < 0 else _ROAD
    return _PAVEMENT if edge < F(SIDEWALK) else _LAND


@kernel
def band(distance, half, blur):
    """Return the coverage 0..1 of a stripe |distance| < half in a pixel `blur` metres wide (box filter)."""
    upper = min(abs(distance) + F(0.5) * blur, half)
    lower = max(abs(distance) - F(0.5) * blur, -half)
    return min(max((upper - lower) / blur, F(0)), F(1))


@kernel
def _repeat(value, period):
    """Return the signed distance to the nearest multiple of `period`."""
    return value - period * np.rint(value / period)


@kernel
def _paint(street, along, across, gap, edge, blur):
    """Return white and yellow paint 0..1 of a street's own markings; gap: metres from the other street's edge."""
    beside = abs(across)
    white, yellow = F(0), F(0)
    if gap > F(STOP_LINE[1]):
        for offset in street.solid:
            white = max(white, band(beside - offset, F(0.06), blur))
        dash = band(_repeat(along, F(7.5)), F(1.5), blur)
        for offset in street.dashed:
            white = max(white, dash * band(beside - offset, F(0.07), blur))
        if street.parking > 0 and beside > street.solid[-1] and gap > F(12.0) and edge < 0:
            white = max(white, band(_repeat(along, F(6.0)), F(0.05), blur))
        centre = street.median + F(0.25) if street.median > 0 else F(0.13)
        yellow = band(beside - centre, F(0.06), blur)
    if beside < street.half_width - F(0.4):
        zebra = band(_repeat(across - F(0.5), F(1.1)), F(0.28), blur)
        white = max(white, zebra * band(gap - _CROSSING, _CROSSING_HALF, blur))
    # Traffic keeps right: it approaches the junction on the side where along and across have the same sign.
    incoming = along * across > 0 and beside > street.median and beside < street.half_width - F(0.3)
    if incoming and (street.parking == 0 or beside < street.solid[0]):
        white = max(white, band(gap - _STOP, _STOP_HALF, blur))
    return white, yellow


@kernel
def _to_lane(across, lanes):
    """Return the distance in m, up to sign, to the centre of the nearest lane; one or two lanes per side."""
    if len(lanes) == 1:
        return abs(across) - lanes[0]
    middle, half = F(0.5) * (lanes[0] + lanes[-1]), F(0.5) * (lanes[-1] - lanes[0])
    return abs(abs(across) - middle) - half


@kernel
def surface(ground, x, y, blur):
    """Return the ground at a point: class, metres to the road's edge (negative on it), white and yellow paint 0..1,
    arc length along the nearer street, whether that is the main one, metres to the centre of its nearest lane."""
    blur = max(blur, F(1e-3))
    s_main, main = locate(ground.main.pieces, x, y)
    s_cross, cross = locate(ground.cross.pieces, x, y)
    edge, island = edge_of(ground, main, s_cross, cross), island_of(ground, main, cross)
    label = label_of(edge, island)
    white, yellow = F(0), F(0)
    if edge < 0 and island > 0:
        white, yellow = _paint(ground.main, s_main, main, abs(cross) - ground.cross.half_width, edge, blur)
        gap = abs(main) - ground.main.half_width
        other_white, other_yellow = _paint(ground.cross, s_cross, cross, gap, edge, blur)
        white, yellow = max(white, other_white), max(yellow, other_yellow)
    if edge < 0:
        edge = max(edge, -island)
    if abs(main) < abs(cross):
        across = min(max(main, -_FAR), _FAR)
        return label, edge, white, yellow, s_main, True, _to_lane(across, ground.main.lanes)
    across = min(max(cross, -_FAR), _FAR)
    return label, edge, white, yellow, s_cross, False, _to_lane(across, ground.cross.lanes)


@kernel
def edges(ground, points, out):
    """Compute edge_of for points [N, 2]; out [N]."""
    for i in range(len(points)):
        _, main = locate(ground.main.pieces, points[i, 0], points[i, 1])
        s_cross, cross = locate(ground.cross.pieces, points[i, 0], points[i, 1])
        out[i] = edge_of(ground, main, s_cross, cross)


@kernel
def labels(ground, points, out):
    """Compute label_of for points [N, 2]; out [N]."""
    for i in range(len(points)):
        _, main = locate(ground.main.pieces, points[i, 0], points[i, 1])
        s_cross, cross = locate(ground.cross.pieces, points[i, 0], points[i, 1])
        out[i] = label_of(edge_of(ground, main, s_cross, cross), island_of(ground, main, cross))


@kernel
def offsets(pieces, points, out):
    """Compute `locate` for points [N, 2]; out [N, 2]."""
    for i in range(len(points)):
        out[i, 0], out[i, 1] = locate(pieces, points[i, 0], points[i, 1])
