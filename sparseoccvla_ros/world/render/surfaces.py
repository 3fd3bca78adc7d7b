"""Colours of surfaces: the ground's paint and grain, walls with windows, car paint, leaves, stripes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.classes import LABEL
from ..roads.streets import CURB, SIDEWALK, Streets, Surface
from ..shapes.solids import Material, Primitives, linear
from .textures import clouds, grain


@dataclass(frozen=True, eq=False)
class Look:
    """What shading needs of N surface points.

    albedo float32 [N, 3], linear; mirror float32 [N], share of light reflected like a mirror at normal view; glow
    float32 [N, 3], light of its own.
    """

    albedo: torch.Tensor
    mirror: torch.Tensor
    glow: torch.Tensor


def _rgb(*values: float, like: torch.Tensor) -> torch.Tensor:
    return linear(torch.tensor(values, dtype=torch.float32, device=like.device))


def ground(streets: Streets, surface: Surface, x: torch.Tensor, y: torch.Tensor, blur: torch.Tensor) -> torch.Tensor:
    """Albedo float32 [N, 3] of the ground at x, y [N] seen with pixels `blur` [N] metres wide.

    surface: what `streets` has there.
    """
    x, y = x + streets.shift[0], y + streets.shift[1]
    label, edge = surface.label, surface.edge
    fine = clouds(x * 34.0, y * 34.0) - 0.5
    middle = clouds(x * 4.1 + 91.0, y * 4.1) - 0.5
    broad = clouds(x * 0.55 + 13.0, y * 0.55 + 57.0) - 0.5
    # Grain finer than a pixel averages out.
    fine = fine * (0.06 / blur).clamp(max=1.0)
    middle = middle * (0.5 / blur).clamp(max=1.0)
    flat = {name: label == LABEL[name] for name in ("driveable_surface", "other_flat", "sidewalk", "terrain")}

    # Tyres polish two tracks per lane; lanes are told by the distance to their lines.
    asphalt = torch.where(surface.main[:, None], _rgb(0.355, 0.355, 0.365, like=x), _rgb(0.41, 0.405, 0.40, like=x))
    track = torch.exp(-(((surface.lane.abs() - 0.78) / 0.3) ** 2))
    tone = 1.0 + 0.30 * fine + 0.22 * middle + 0.32 * broad - 0.13 * track
    patch = (clouds(x * 0.21 + 300.0, y * 0.21 + 40.0) > 0.80).float()
    albedo = asphalt * (tone * (1.0 - 0.17 * patch))[:, None] * streets.asphalt
    gutter = ((0.45 + edge) / 0.45).clamp(0, 1) * (edge < 0)
    albedo = albedo * (1 - 0.25 * gutter)[:, None]
    rub = (1.0 - streets.worn * (0.4 + 2.2 * (middle + 0.5 * fine).clamp(min=0))).clamp(0, 1)
    albedo = albedo + (_rgb(0.90, 0.90, 0.87, like=x) - albedo) * (surface.white * rub)[:, None]
    albedo = albedo + (_rgb(0.88, 0.68, 0.20, like=x) - albedo) * (surface.yellow * rub)[:, None]

    slab = _rgb(0.62, 0.605, 0.575, like=x) * (1 + 0.2 * fine + 0.15 * middle + 0.22 * broad)[:, None]
    seam_a = (surface.along - 1.5 * torch.round(surface.along / 1.5)).abs()
    seam_b = (edge - CURB - 1.06 * torch.round((edge - CURB) / 1.06)).abs()
    seam = ((0.02 - torch.minimum(seam_a, seam_b)) / blur + 0.5).clamp(0, 1) * (0.04 / blur).clamp(max=1.0)
    slab = slab * (1 - 0.4 * seam)[:, None]
    kerb = ((CURB - edge) / blur + 0.5).clamp(0, 1)
    slab = slab + (_rgb(0.74, 0.73, 0.70, like=x) * (1 + 0.2 * middle)[:, None] - slab) * kerb[:, None]

    grass = _rgb(0.33, 0.42, 0.19, like=x) * (1 + 0.9 * fine + 0.5 * middle)[:, None]
    dry = _rgb(0.53, 0.47, 0.31, like=x) * (1 + 0.5 * fine + 0.3 * middle)[:, None]
    bare = ((broad + 0.45 * middle - 0.10) * 3.0).clamp(0, 1) + ((SIDEWALK + 0.35 - edge) / 0.35).clamp(0, 1) * 0.5
    grass = grass + (dry - grass) * bare.clamp(0, 1)[:, None]

    albedo = torch.where(flat["sidewalk"][:, None], slab, albedo)
    island = _rgb(0.60, 0.59, 0.56, like=x) * (1 + 0.2 * fine + 0.25 * middle)[:, None]
    albedo = torch.where(flat["other_flat"][:, None], island, albedo)
    return torch.where(flat["terrain"][:, None], grass, albedo).clamp(0.0, 1.0)


def _stripe(
    value: torch.Tensor, period: torch.Tensor | float, share: torch.Tensor | float, blur: torch.Tensor
) -> torch.Tensor:
    """Coverage 0..1 of a stripe that fills the middle `share` of every period, smoothed over `blur` metres."""
    phase = value / period
    phase = (phase - torch.floor(phase) - 0.5).abs()
    return ((0.5 * share - phase) * period / blur + 0.5).clamp(0.0, 1.0)


def _wall(
    look: Look, rows: torch.Tensor, p: Primitives, local: torch.Tensor, normal: torch.Tensor, blur: torch.Tensor
) -> Look:
    """House fronts: rows of windows, a shop floor, weathered plaster or brick."""
    pattern, half = p.pattern[rows], p.half[rows]
    sideways = normal[:, 0].abs() > 0.5
    u = torch.where(sideways, local[:, 1], local[:, 0]) + torch.where(sideways, half[:, 1], half[:, 0])
    height = local[:, 2] + half[:, 2]
    upright = normal[:, 2].abs() < 0.5
    pitch = 1.9 + 1.5 * ((pattern * 7.13) % 1.0)
    share = 0.38 + 0.30 * ((pattern * 3.71) % 1.0)
    upper = height > 3.9
    floor = torch.where(upper, height - 3.9, torch.zeros_like(height))
    tall = 0.42 + 0.18 * ((pattern * 11.3) % 1.0)
    window = _stripe(u, pitch, share, blur) * _stripe(floor - 0.1, 3.1, tall, blur) * upper
    frame = _stripe(u, pitch, share + 0.09, blur) * _stripe(floor - 0.1, 3.1, tall + 0.07, blur) * upper
    shop = _stripe(u, 3.9, 0.80, blur) * ((height > 0.55) & (height < 3.0)).float()
    glass = torch.maximum(window, shop) * upright
    frame = torch.maximum(frame, shop) * upright
    cell = grain(torch.stack([torch.floor(u / pitch), torch.floor(floor / 3.1) + 17 * sideways, pattern * 60.0], -1))
    brick = ((pattern * 5.3) % 1.0) < 0.45
    coarse = grain(torch.stack([u, height, pattern * 64.0 + 3.0 * sideways], -1) * 2.1) - 0.5
    course = (
        _stripe(height, 0.21, 0.78, blur) * (0.12 / blur).clamp(max=1.0) + (1 - (0.12 / blur).clamp(max=1.0)) * 0.78
    )
    tone = 1.0 + 0.10 * coarse + torch.where(brick, 0.5 * (course - 0.78), torch.zeros_like(course))
    tone = tone * (1.0 - 0.25 * (1.0 - height / 1.6).clamp(0, 1))
    albedo = look.albedo * tone[:, None]
    albedo = albedo + (_rgb(0.80, 0.79, 0.76, like=u) - albedo) * (0.7 * frame)[:, None]
    curtain = (cell > 0.72).float()[:, None] * _rgb(0.62, 0.58, 0.50, like=u)
    pane = _rgb(0.13, 0.16, 0.20, like=u) * (0.5 + cell)[:, None] + 0.35 * curtain
    albedo = albedo + (pane - albedo) * glass[:, None]
    return Look(albedo, 0.14 * glass, look.glow)


def primitives(
    p: Primitives, rows: torch.Tensor, local: torch.Tensor, normal: torch.Tensor, blur: torch.Tensor
) -> Look:
    """Looks of points on primitives `rows` [N]: local [N, 3] and normal [N, 3] in the primitives' own frames."""
    material = p.material[rows]
    colour = p.colour[rows]
    mirror = torch.zeros_like(blur)
    for kind, share in ((Material.PAINT, 0.055), (Material.GLASS, 0.11), (Material.METAL, 0.06), (Material.LAMP, 0.05)):
        mirror = torch.where(material == int(kind), torch.full_like(mirror, share), mirror)
    glow = torch.where((material == int(Material.LAMP))[:, None], 0.45 * colour * colour, torch.zeros_like(colour))
    albedo = colour.clone()

    def among(kind: Material) -> torch.Tensor:
        return torch.nonzero(material == int(kind))[:, 0]

    at = among(Material.WALL)
    if len(at):
        part = Look(albedo[at], mirror[at], glow[at])
        part = _wall(part, rows[at], p, local[at], normal[at], blur[at])
        albedo[at], mirror[at] = part.albedo, part.mirror
    at = among(Material.FOLIAGE)
    if len(at):
        seed = p.pattern[rows[at]][:, None] * 61.0
        leaves = grain(local[at] / 0.16 + seed) * 0.55 + grain(local[at] / 0.06 + seed) * 0.45
        albedo[at] = albedo[at] * (0.36 + 0.95 * leaves)[:, None]
    at = among(Material.STRIPES)
    if len(at):
        z = local[at, 2] + local[at, 0] * (p.half[rows[at], 0] > 0.5)
        white = _stripe(z, 0.30, 0.45, blur[at])[:, None]
        albedo[at] = albedo[at] * (1 - white) + 0.75 * white
    at = among(Material.PANELS)
    if len(at):
        seam = _stripe(local[at, 0], 1.1, 0.04, blur[at]) * (0.05 / blur[at]).clamp(max=1.0)
        albedo[at] = albedo[at] * (1 - 0.5 * seam)[:, None]
    return Look(albedo.clamp(0.0, 1.0), mirror, glow)
