"""Shading of rays: surface colour lit by sun, sky and lamps, seen through haze."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...core.classes import FREE
from ...core.kernels import kernel
from . import F
from .ground import surface
from .materials import clip, ground, mixed, scaled, thing
from .noise import clouds
from .solids import NO_HIT, normal, unit

_TREES = (F(0.35 * 0.05), F(0.35 * 0.09), F(0.35 * 0.06))
_BIAS = F(0.12)
"""Shadow bias, m: an occluder must be closer to the sun than the shaded point by more than this."""
_STEPS = 4096
_GAMMA = (np.linspace(0.0, 1.0, _STEPS + 1) ** (2 / 2.2)).astype(F)
"""Encoded values (power 1 / 2.2) of linear light, tabulated at evenly spaced square roots of the light."""


class Air(NamedTuple):
    """Light and air for kernels, as in render.weather.Weather; colours are tuples of three.

    veil: noise threshold above which clouds appear; exposure: factor per channel, white balance included; glare: share
    of sunlight that the lens scatters over the image; lamp: light of lamps and lit windows, black when off.
    """

    sun: tuple
    sunlight: tuple
    zenith: tuple
    horizon: tuple
    ambient: tuple
    bounce: tuple
    exposure: tuple
    lamp: tuple
    haze: np.floating
    veil: np.floating
    glare: np.floating
    wet: np.floating
    foggy: bool


class HeightMap(NamedTuple):
    """Depth map of parallel rays. depth [V, U]: metres from their plane to the first hit; axes [3, 3], lower [2],
    resolution and height_above as in raster.ParallelRays."""

    depth: np.ndarray
    axes: np.ndarray
    lower: np.ndarray
    resolution: np.floating
    height_above: np.floating


class Lamps(NamedTuple):
    """Lamp light on the ground. street [V, U]: light of street lamps on a grid with cells of `cell` metres and its
    corner at `lower` [2] in the map; x, y, cosine, sine: position and direction of the ego's headlights."""

    street: np.ndarray
    lower: np.ndarray
    cell: np.floating
    x: np.floating
    y: np.floating
    cosine: np.floating
    sine: np.floating


class Textures(NamedTuple):
    """Noise tables, see kernels.noise."""

    blocky: np.ndarray
    smooth: np.ndarray


class Surfaces(NamedTuple):
    """Attributes of P primitives used in shading, as in shapes.solids.Primitives."""

    kind: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    taper: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    colour: np.ndarray
    material: np.ndarray
    label: np.ndarray
    pattern: np.ndarray


@kernel
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel
def _plus(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@kernel
def sky(direction, air, detail, smooth):
    """Return the sky's light along a unit direction; detail adds clouds and a distant line of trees."""
    up = max(direction[2], F(0))
    fade = (F(1) - up) * (F(1) - up) * (F(1) - up)
    colour = mixed(air.zenith, air.horizon, fade)
    towards = max(_dot(direction, air.sun), F(0))
    glow = F(0.12) * towards ** F(12) + F(0.5) * towards ** F(180)
    colour = _plus(colour, scaled(air.sunlight, glow))
    if not detail or air.foggy:
        return colour
    distance = F(1) / (up + F(0.06))
    x, y = direction[0] * distance, direction[1] * distance
    field = F(0.65) * clouds(x * F(9), y * F(9), smooth) + F(0.35) * clouds(x * F(31) + F(77), y * F(31), smooth)
    veil = clip((field - air.veil) * F(2.6)) * clip(up * F(7))
    lit = _plus(scaled(air.ambient, F(0.55)), scaled(air.sunlight, F(0.22)))
    colour = mixed(colour, scaled(lit, F(0.75) + F(0.35) * field), F(0.85) * veil)
    if direction[2] < F(0.05):
        azimuth = F(math.atan2(direction[1], direction[0]))
        crest = F(0.012) + F(0.030) * clouds(azimuth * F(24) + F(200), F(9.5), smooth)
        trees = clip((crest - direction[2]) / F(0.004))
        colour = mixed(colour, _plus(_TREES, scaled(air.horizon, F(0.55))), trees)
    return colour


@kernel
def _on_map(heights, point):
    """Return a point's map coordinates in cells (integers are cell centres) and its distance from the plane, m."""
    axes = heights.axes
    u = axes[0, 0] * point[0] + axes[0, 1] * point[1] + axes[0, 2] * point[2]
    v = axes[1, 0] * point[0] + axes[1, 1] * point[1] + axes[1, 2] * point[2]
    w = axes[2, 0] * point[0] + axes[2, 1] * point[1] + axes[2, 2] * point[2]
    u = (u - heights.lower[0]) / heights.resolution - F(0.5)
    v = (v - heights.lower[1]) / heights.resolution - F(0.5)
    return u, v, heights.height_above - w


@kernel
def sunlit(heights, point):
    """Return the share 0..1 of sunlight that reaches a point; 1 outside the map."""
    rows, columns = heights.depth.shape
    u, v, travelled = _on_map(heights, point)
    if not (u >= 0 and v >= 0 and u < columns and v < rows):
        return F(1)
    travelled -= _BIAS
    i, j = int(u), int(v)
    fu, fv = u - F(i), v - F(j)
    i1, j1 = min(i + 1, columns - 1), min(j + 1, rows - 1)
    lit = F(0)
    if heights.depth[j, i] > travelled:
        lit += (F(1) - fu) * (F(1) - fv)
    if heights.depth[j1, i] > travelled:
        lit += (F(1) - fu) * fv
    if heights.depth[j, i1] > travelled:
        lit += fu * (F(1) - fv)
    if heights.depth[j1, i1] > travelled:
        lit += fu * fv
    return lit


@kernel
def _open(height):
    """Return the share of skylight left below an object `height` metres above."""
    if height > F(9):  # nothing above, or so high that the exponential is 0
        return F(1)
    share = height / F(0.9)
    return F(1) - F(0.72) * np.exp(-(share * share))


@kernel
def skylit(heights, point):
    """Return the factor 0..1 of ambient light on a ground point; low objects above it block most of the light."""
    rows, columns = heights.depth.shape
    u, v, _ = _on_map(heights, point)
    if not (u >= 0 and v >= 0 and u < columns and v < rows):
        return F(1)
    i, j = int(u), int(v)
    fu, fv = u - F(i), v - F(j)
    i1, j1 = min(i + 1, columns - 1), min(j + 1, rows - 1)
    near, far = heights.depth[j], heights.depth[j1]
    out = _open(near[i]) * ((F(1) - fu) * (F(1) - fv))
    out += _open(far[i]) * ((F(1) - fu) * fv)
    out += _open(near[i1]) * (fu * (F(1) - fv))
    return out + _open(far[i1]) * (fu * fv)


@kernel
def _lamplight(lamps, point):
    """Return the strength of street lamps and headlights at a point."""
    rows, columns = lamps.street.shape
    u, v = (point[0] - lamps.lower[0]) / lamps.cell, (point[1] - lamps.lower[1]) / lamps.cell
    light = F(0)
    if u >= 0 and v >= 0 and u < columns and v < rows:
        light = lamps.street[int(v), int(u)]
    x, y = point[0] - lamps.x, point[1] - lamps.y
    ahead, aside = lamps.cosine * x + lamps.sine * y, lamps.cosine * y - lamps.sine * x
    if ahead > F(0.2):
        spread = aside / (F(0.9) + F(0.30) * ahead)
        high = max(point[2] - F(0.75), F(0)) / (F(0.4) + F(0.06) * ahead)
        light += F(1.6) * np.exp(-(spread * spread) - high) * min(F(70) / (ahead * ahead + F(20)), F(1))
    return light


@kernel
def _lit(albedo, mirror, glow, point, facing, view, air, sun_map, lamps, smooth):
    """Return the light reflected and emitted by a surface; facing: its unit normal, view: unit ray direction."""
    towards = max(_dot(facing, air.sun), F(0))
    visible = F(0)
    if towards > 0:
        visible = sunlit(sun_map, _plus(point, scaled(facing, F(0.06))))
    up = F(0.5) + F(0.5) * facing[2]
    # Near the ground, shaded ground takes up half of a surface's surroundings.
    open_air = F(0.72) + F(0.28) * clip(point[2] / F(1.2))
    ambient = scaled(_plus(scaled(air.ambient, up), scaled(air.bounce, F(1) - up)), open_air)
    light = _plus(scaled(air.sunlight, visible * towards), ambient)
    if air.lamp[0] > 0:
        light = _plus(light, scaled(air.lamp, F(0.8) * _lamplight(lamps, point)))
    colour = _plus((albedo[0] * light[0], albedo[1] * light[1], albedo[2] * light[2]), glow)
    if mirror > 0:
        cosine = _dot(view, facing)
        bounced = _plus(view, scaled(facing, F(-2) * cosine))
        fresnel = mirror + (F(1) - mirror) * clip(F(1) - abs(cosine)) ** F(5) * F(0.6)
        above = clip((bounced[2] + F(0.04)) / F(0.10))
        seen = scaled(sky(bounced, air, False, smooth), above)
        seen = _plus(seen, scaled(air.bounce, F(0.35) * (F(1) - above)))
        glint = visible * max(_dot(bounced, air.sun), F(0)) ** F(90) * F(3)
        colour = mixed(colour, _plus(seen, scaled(air.sunlight, glint)), fresnel)
    return colour


@kernel
def _thing(p, solids, point, view, blur, air, sun_map, lamps, textures):
    """Return the colour of a point on primitive p."""
    c, s = solids.cosine[p], solids.sine[p]
    dx, dy, z = point[0] - solids.centre[p, 0], point[1] - solids.centre[p, 1], point[2] - solids.centre[p, 2]
    x, y = c * dx + s * dy, c * dy - s * dx
    half = solids.half[p]
    n = normal(solids.kind[p], x, y, z, half, solids.taper[p])
    colour = solids.colour[p, 0], solids.colour[p, 1], solids.colour[p, 2]
    albedo, mirror, glow = thing(
        solids.material[p], colour, solids.pattern[p], half, x, y, z, n, blur, air.lamp, textures.blocky
    )
    facing = c * n[0] - s * n[1], s * n[0] + c * n[1], n[2]
    return _lit(albedo, mirror, glow, point, facing, view, air, sun_map, lamps, textures.smooth)


@kernel
def _ground(streets, point, view, blur, air, sun_map, shade_map, lamps, textures):
    """Return class and colour of a point on the ground."""
    seen = surface(streets, point[0], point[1], blur)
    albedo = ground(seen, point[0], point[1], blur, streets, textures.smooth)
    sunlight = sunlit(sun_map, point) * max(air.sun[2], F(0))
    light = _plus(scaled(air.sunlight, sunlight), scaled(air.ambient, skylit(shade_map, point)))
    if air.lamp[0] > 0:
        light = _plus(light, scaled(air.lamp, _lamplight(lamps, point)))
    colour = albedo[0] * light[0], albedo[1] * light[1], albedo[2] * light[2]
    if air.wet > 0 and seen[1] < F(3.4):
        # Water darkens the surface and mirrors the sky at low angles, most in puddles.
        puddle = clouds(point[0] * F(0.9), point[1] * F(0.9), textures.smooth)
        film = air.wet * clip(F(0.35) + F(1.3) * (puddle - F(0.35)))
        grazing = F(1) - max(-view[2], F(0))
        fresnel = F(0.02) + F(0.75) * grazing * grazing * grazing * grazing * grazing
        bounced = view[0], view[1], -view[2]
        colour = mixed(
            scaled(colour, F(1) - F(0.45) * air.wet), sky(bounced, air, False, textures.smooth), film * fresnel
        )
    return seen[0], colour


@kernel
def _encoded(value, exposure):
    """Encode linear light as sRGB 0..1: filmic tone curve (Narkowicz' fit of ACES), then the 2.2 power law."""
    c = value * exposure
    mapped = (c * (F(2.51) * c + F(0.03))) / (c * (F(2.43) * c + F(0.59)) + F(0.14))
    # Even spacing in the square root is accurate enough for linear interpolation.
    place = np.sqrt(clip(mapped)) * F(_STEPS)
    i = min(int(place), _STEPS - 1)
    return _GAMMA[i] + (_GAMMA[i + 1] - _GAMMA[i]) * (place - F(i))


@kernel
def shade(
    position, directions, pixel, depth, row, solids, streets, air, sun_map, shade_map, lamps, textures, rgb, label
):
    """Compute colour rgb float32 [N, 3] (sRGB 0..1) and Occ3D class label [N] of each ray.

    directions [N, 3] from position (3); depth, row: first hit of each ray, row -1: the ground if depth is below
    NO_HIT, else the sky; pixel: width of a ray's pixel in metres at 1 m.
    """
    for i in range(len(row)):
        direction = directions[i, 0], directions[i, 1], directions[i, 2]
        view = unit(direction[0], direction[1], direction[2])
        if depth[i] < F(NO_HIT):
            d = depth[i]
            point = _plus(position, scaled(direction, d))
            if row[i] >= 0:
                label[i] = solids.label[row[i]]
                colour = _thing(row[i], solids, point, view, d * pixel, air, sun_map, lamps, textures)
            else:
                # A pixel's footprint on the ground is long and narrow; its geometric mean width suits the isotropic
                # filters.
                blur = d * pixel / np.sqrt(max(-view[2], F(0.02)))
                label[i], colour = _ground(streets, point, view, blur, air, sun_map, shade_map, lamps, textures)
            veiled = F(1) - np.exp(-min((d * air.haze) ** F(1.2), F(60)))
            colour = mixed(colour, air.horizon, veiled)
        else:
            label[i] = FREE
            colour = sky(view, air, True, textures.smooth)
        if air.glare > 0:
            towards = max(_dot(view, air.sun), F(0))
            colour = _plus(colour, scaled(air.sunlight, air.glare * towards * towards * towards * towards))
        for k in range(3):
            rgb[i, k] = _encoded(colour[k], air.exposure[k])
