"""Surface materials: ground paint and grain, walls with windows, car paint, leaves, stripes."""

from __future__ import annotations

import numpy as np

from ...core.classes import LABEL
from ...core.kernels import kernel
from . import F
from .noise import clouds, grain

PLAIN, PAINT, GLASS, RUBBER, LAMP, WALL, FOLIAGE, METAL, STRIPES, PANELS = range(10)
"""As in shapes.solids.Material."""
CURB = 0.22
LEAF = 0.16
"""Size of a clump of leaves in metres."""
_ISLAND, _PAVEMENT, _LAND = LABEL["other_flat"], LABEL["sidewalk"], LABEL["terrain"]
_KERB_EDGE, _PAVED = F(CURB), F(3.4 + 0.35)


def _rgb(*srgb: float) -> tuple[np.float32, ...]:
    """Convert an sRGB colour to linear light."""
    return tuple(F(v) for v in np.array(srgb, F) ** F(2.2))


_MAIN_ROAD, _SIDE_ROAD = _rgb(0.355, 0.355, 0.365), _rgb(0.41, 0.405, 0.40)
_WHITE, _YELLOW = _rgb(0.90, 0.90, 0.87), _rgb(0.88, 0.68, 0.20)
_SLAB, _KERB, _CONCRETE = _rgb(0.62, 0.605, 0.575), _rgb(0.74, 0.73, 0.70), _rgb(0.60, 0.59, 0.56)
_GRASS, _DRY = _rgb(0.33, 0.42, 0.19), _rgb(0.53, 0.47, 0.31)
_FRAME, _CURTAIN, _PANE = _rgb(0.80, 0.79, 0.76), _rgb(0.62, 0.58, 0.50), _rgb(0.13, 0.16, 0.20)
_BLUE_PANE = _rgb(0.20, 0.28, 0.36)


@kernel
def clip(value):
    """Clip a value to 0..1."""
    return min(max(value, F(0)), F(1))


@kernel
def scaled(colour, factor):
    """Multiply a colour by a factor."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@kernel
def mixed(one, other, share):
    """Return the colour `share` of the way from one to another."""
    return (
        one[0] + (other[0] - one[0]) * share,
        one[1] + (other[1] - one[1]) * share,
        one[2] + (other[2] - one[2]) * share,
    )


@kernel
def _clipped(colour):
    return clip(colour[0]), clip(colour[1]), clip(colour[2])


@kernel
def _road(seen, noises, streets, x, y, blur, smooth):
    _, edge, white, yellow, _, main, lane = seen
    fine, middle, broad = noises
    # Tyres polish two tracks per lane, 0.78 m on either side of its centre.
    beside = (abs(lane) - F(0.78)) / F(0.3)
    track = np.exp(-(beside * beside))
    tone = F(1) + F(0.30) * fine + F(0.22) * middle + F(0.32) * broad - F(0.13) * track
    if clouds(x * F(0.21) + F(300), y * F(0.21) + F(40), smooth) > F(0.80):
        tone = tone * F(1.0 - 0.17)
    albedo = scaled(scaled(_MAIN_ROAD if main else _SIDE_ROAD, tone), streets.asphalt)
    if edge < 0:
        albedo = scaled(albedo, F(1) - F(0.25) * clip((F(0.45) + edge) / F(0.45)))
    if white > 0 or yellow > 0:
        rub = clip(F(1) - streets.worn * (F(0.4) + F(2.2) * max(middle + F(0.5) * fine, F(0))))
        albedo = mixed(albedo, _WHITE, white * rub)
        albedo = mixed(albedo, _YELLOW, yellow * rub)
    return albedo


@kernel
def _stripe(value, period, share, blur):
    """Return the coverage 0..1 of a stripe in the middle `share` of every period, smoothed over `blur` metres."""
    phase = value / period
    phase = abs(phase - np.floor(phase) - F(0.5))
    return clip((F(0.5) * share - phase) * period / blur + F(0.5))


@kernel
def _fraction(value):
    return value - np.floor(value)


@kernel
def _pavement(edge, along, noises, striped, blur):
    fine, middle, broad = noises
    slab = scaled(_SLAB, F(1) + F(0.2) * fine + F(0.15) * middle + F(0.22) * broad)
    across = edge - _KERB_EDGE
    seam_a = abs(along - F(1.5) * np.rint(along / F(1.5)))
    seam_b = abs(across - F(1.06) * np.rint(across / F(1.06)))
    seam = clip((F(0.02) - min(seam_a, seam_b)) / blur + F(0.5)) * min(F(0.04) / blur, F(1))
    slab = scaled(slab, F(1) - F(0.4) * seam)
    kerb = clip((_KERB_EDGE - edge) / blur + F(0.5))
    stone = scaled(_KERB, F(1) + F(0.2) * middle)
    if striped > 0:
        stone = scaled(stone, F(1) - F(0.93) * _stripe(along, F(2.0), F(0.5), blur))
    return mixed(slab, stone, kerb)


@kernel
def ground(seen, x, y, blur, streets, smooth):
    """Return the ground's albedo at x, y for a pixel `blur` metres wide; seen: result of ground.surface."""
    label, edge, along = seen[0], seen[1], seen[4]
    x, y = x + streets.shift_x, y + streets.shift_y
    # Grain finer than a pixel averages out.
    fine = (clouds(x * F(34), y * F(34), smooth) - F(0.5)) * min(F(0.06) / blur, F(1))
    middle = (clouds(x * F(4.1) + F(91), y * F(4.1), smooth) - F(0.5)) * min(F(0.5) / blur, F(1))
    broad = clouds(x * F(0.55) + F(13), y * F(0.55) + F(57), smooth) - F(0.5)
    noises = fine, middle, broad
    if label == _PAVEMENT:
        albedo = _pavement(edge, along, noises, streets.striped, blur)
    elif label == _ISLAND:
        albedo = scaled(_CONCRETE, F(1) + F(0.2) * fine + F(0.25) * middle)
    elif label == _LAND:
        grass = scaled(_GRASS, F(1) + F(0.9) * fine + F(0.5) * middle)
        dry = scaled(_DRY, F(1) + F(0.5) * fine + F(0.3) * middle)
        bare = clip((broad + F(0.45) * middle - F(0.10)) * F(3) + streets.dryness)
        bare = clip(bare + clip((_PAVED - edge) / F(0.35)) * F(0.5))
        albedo = mixed(grass, dry, bare)
    else:
        albedo = _road(seen, noises, streets, x, y, blur, smooth)
    return _clipped(albedo)


@kernel
def _facade(style, pattern, u, height, blur):
    """Return coverage 0..1 of panes and of their frames in a facade, and the pitch of its windows in metres.

    style 0..1: single windows, bands of windows from 0.55, floor-to-ceiling glass from 0.72, few windows from 0.88.
    """
    pitch = F(1.9) + F(1.5) * _fraction(pattern * F(7.13))
    share = F(0.38) + F(0.30) * _fraction(pattern * F(3.71))
    tall = F(0.42) + F(0.18) * _fraction(pattern * F(11.3))
    rim = F(0.09)
    if style > F(0.88):
        pitch *= F(2.7)
        share *= F(0.5)
    elif style > F(0.72):
        share, tall, rim = F(0.94), F(0.86), F(0.04)
    elif style > F(0.55):
        share, rim = F(0.97), F(0.02)
    if height > F(3.9):
        floor = height - F(4.0)
        pane = _stripe(u, pitch, share, blur) * _stripe(floor, F(3.1), tall, blur)
        frame = _stripe(u, pitch, share + rim, blur) * _stripe(floor, F(3.1), tall + F(0.07), blur)
        return pane, frame, pitch
    if height > F(0.55) and height < F(3.0) and style < F(0.88):
        shop = _stripe(u, F(3.9), F(0.80), blur)
        return shop, shop, pitch
    return F(0), F(0), pitch


@kernel
def _wall(colour, pattern, half, x, y, z, normal, blur, lamp, blocky):
    """Facade with rows of windows, shop floor, plaster or brick: return albedo, mirrored share, emitted light."""
    sideways = abs(normal[0]) > F(0.5)
    u = y + half[1] if sideways else x + half[0]
    height = z + half[2]
    turned = F(1) if sideways else F(0)
    glass, frame, pitch = F(0), F(0), F(1)
    style = _fraction(pattern * F(17.7))
    if abs(normal[2]) < F(0.5):
        glass, frame, pitch = _facade(style, pattern, u, height, blur)
    coarse = grain(u * F(2.1), height * F(2.1), (pattern * F(64) + F(3) * turned) * F(2.1), blocky) - F(0.5)
    tone = F(1) + F(0.10) * coarse
    if _fraction(pattern * F(5.3)) < F(0.45):
        sharp = min(F(0.12) / blur, F(1))
        course = _stripe(height, F(0.21), F(0.78), blur) * sharp + (F(1) - sharp) * F(0.78)
        tone += F(0.5) * (course - F(0.78))
    tone *= F(1) - F(0.25) * clip(F(1) - height / F(1.6))
    albedo = mixed(scaled(colour, tone), _FRAME, F(0.7) * frame)
    glow, mirror = F(0), F(0)
    if glass > 0:
        floor = np.floor(max(height - F(3.9), F(0)) / F(3.1))
        cell = grain(np.floor(u / pitch), floor + F(17) * turned, pattern * F(60), blocky)
        pane = scaled(_BLUE_PANE if _fraction(pattern * F(29.3)) > F(0.5) else _PANE, F(0.5) + cell)
        if cell > F(0.72):
            pane = mixed(pane, _CURTAIN, F(0.35))
        albedo = mixed(albedo, pane, glass)
        mirror = glass * (F(0.3) if style > F(0.72) and style < F(0.88) else F(0.14))
        if lamp[0] > 0 and cell > F(0.68):
            glow = F(0.35) * glass
    return albedo, mirror, scaled(lamp, glow)


@kernel
def thing(material, colour, pattern, half, x, y, z, normal, blur, lamp, blocky):
    """Return albedo, mirrored share at normal incidence and emitted light of a point x, y, z in a primitive's frame."""
    mirror, glow = F(0), (F(0), F(0), F(0))
    if material == WALL:
        colour, mirror, glow = _wall(colour, pattern, half, x, y, z, normal, blur, lamp, blocky)
    elif material == FOLIAGE:
        seed, leaf, twig = pattern * F(61), F(LEAF), F(0.06)
        leaves = grain(x / leaf + seed, y / leaf + seed, z / leaf + seed, blocky) * F(0.55)
        leaves += grain(x / twig + seed, y / twig + seed, z / twig + seed, blocky) * F(0.45)
        colour = scaled(colour, F(0.36) + F(0.95) * leaves)
    elif material == STRIPES:
        along = z + x if half[0] > F(0.5) else z
        white = _stripe(along, F(0.30), F(0.45), blur)
        colour = mixed(colour, (F(0.75), F(0.75), F(0.75)), white)
    elif material == PANELS:
        seam = _stripe(x, F(1.1), F(0.04), blur) * min(F(0.05) / blur, F(1))
        colour = scaled(colour, F(1) - F(0.5) * seam)
    elif material == PAINT:
        mirror = F(0.055)
    elif material == GLASS:
        mirror = F(0.11)
    elif material == METAL:
        mirror = F(0.06)
    elif material == LAMP:
        mirror = F(0.05)
        glow = F(0.45) * colour[0] * colour[0], F(0.45) * colour[1] * colour[1], F(0.45) * colour[2] * colour[2]
    return _clipped(colour), mirror, glow


@kernel
def leafy(x, y, z, direction, half, pattern, blocky):
    """Return whether a tree crown has leaves where a ray enters it: always in the middle, clumps near the outline."""
    nx, ny, nz = x / (half[0] * half[0]), y / (half[1] * half[1]), z / (half[2] * half[2])
    dx, dy, dz = direction
    n = max(np.sqrt(nx * nx + ny * ny + nz * nz), F(1e-12))
    d = max(np.sqrt(dx * dx + dy * dy + dz * dz), F(1e-12))
    facing = -((nx / n) * (dx / d) + (ny / n) * (dy / d) + (nz / n) * (dz / d))
    seed, leaf = pattern * F(61), F(LEAF)
    return grain(x / leaf + seed, y / leaf + seed, z / leaf + seed, blocky) < F(0.28) + F(1.3) * facing
