"""Sun shadows and the dimness under things, as height maps looked up by the shading."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..shapes.solids import NO_HIT, Material, Primitives
from .raster import ParallelRays, cast
from .weather import Weather

SUN_CELL = 0.14
SHADE_CELL = 0.25
_BIAS = 0.12
_WINDOW = 60.0
"""Metres around the camera within which moving things cast shadows."""


def _grid(axes: torch.Tensor, corners: torch.Tensor, cell: float, height_above: float) -> ParallelRays:
    flat = corners @ axes[:2].T
    low, high = flat.amin(0), flat.amax(0)
    width, height = (math.ceil(float(v) / cell) for v in high - low)
    return ParallelRays(axes, (float(low[0]), float(low[1])), cell, max(width, 1), max(height, 1), height_above)


class _HeightMap:
    """Metres from a plane of parallel rays to the first thing; fixed things are cast once, moving ones per state."""

    def __init__(self, rays: ParallelRays, fixed: Primitives) -> None:
        self.rays = rays
        self.fixed = cast(fixed, rays)[0].reshape(rays.height, rays.width)

    def with_moving(self, moving: Primitives, centre: torch.Tensor) -> torch.Tensor:
        """The map [height, width] with moving things near `centre` [3] (map frame) added."""
        rays = self.rays
        middle = rays.coordinates(centre)[0].round().long().tolist()
        reach = int(_WINDOW / rays.resolution)
        u0, v0 = (max(0, m - reach) for m in middle)
        u1, v1 = min(rays.width, middle[0] + reach), min(rays.height, middle[1] + reach)
        if u1 <= u0 or v1 <= v0 or not len(moving):
            return self.fixed
        corner = (rays.lower[0] + u0 * rays.resolution, rays.lower[1] + v0 * rays.resolution)
        window = replace(rays, lower=corner, width=u1 - u0, height=v1 - v0)
        added = cast(moving, window)[0].reshape(v1 - v0, u1 - u0)
        out = self.fixed.clone()
        out[v0:v1, u0:u1] = torch.minimum(out[v0:v1, u0:u1], added)
        return out


def _taps(grid: torch.Tensor, width: int, height: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The four cells around grid coordinates [N, 2] and their bilinear weights; cells are clamped to the map."""
    low = torch.floor(grid)
    share = grid - low
    low = low.long()
    for du in (0, 1):
        for dv in (0, 1):
            u, v = (low[:, 0] + du).clamp(0, width - 1), (low[:, 1] + dv).clamp(0, height - 1)
            weight = (share[:, 0] if du else 1 - share[:, 0]) * (share[:, 1] if dv else 1 - share[:, 1])
            yield v * width + u, weight


class Shadows:
    """Shadow maps of one scene; `update` before shading a view, then `sun` and `shade`."""

    def __init__(self, weather: Weather, fixed: Primitives, lower: torch.Tensor, upper: torch.Tensor) -> None:
        """lower, upper: float32 [2], the part of the map that gets shadows; beyond it everything is lit."""
        device = fixed.centre.device
        z = weather.vector("sun", device)
        u = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0], device=device), z), dim=0)
        v = torch.linalg.cross(z, u)
        (x0, y0), (x1, y1) = lower.tolist(), upper.tolist()
        ground = torch.tensor([(x, y, 0.0) for x in (x0, x1) for y in (y0, y1)], device=device)
        self._sun = _HeightMap(_grid(torch.stack([u, v, z]), ground, SUN_CELL, 400.0), fixed)
        # Looking up from just below the ground: how high the first thing above it is.
        down = torch.diag(torch.tensor([1.0, 1.0, -1.0], device=device))
        solid = fixed[fixed.material != int(Material.FOLIAGE)]
        self._below = _HeightMap(_grid(down, ground, SHADE_CELL, 0.05), solid)
        self._sun_map, self._below_map = self._sun.fixed, self._below.fixed

    def update(self, moving: Primitives, centre: torch.Tensor) -> None:
        """Put moving things (and the ego's body) where they are now; centre float32 [3]: the camera."""
        self._sun_map = self._sun.with_moving(moving, centre)
        self._below_map = self._below.with_moving(moving, centre)

    def sun(self, points: torch.Tensor) -> torch.Tensor:
        """Share 0..1 of sunlight [N] that reaches points [N, 3]."""
        rays = self._sun.rays
        grid, travelled = rays.coordinates(points)
        flat, lit = self._sun_map.reshape(-1), torch.zeros_like(travelled)
        for cell, weight in _taps(grid, rays.width, rays.height):
            lit += weight * (flat[cell] > travelled - _BIAS)
        inside = ((grid >= 0) & (grid < torch.tensor([rays.width, rays.height], device=grid.device))).all(-1)
        return torch.where(inside, lit, torch.ones_like(lit))

    def shade(self, points: torch.Tensor) -> torch.Tensor:
        """Factor 0..1 of ambient light [N] on ground points [N, 3]: low things above take most of it away."""
        rays = self._below.rays
        grid, _ = rays.coordinates(points)
        flat, out = self._below_map.reshape(-1), torch.zeros_like(points[:, 0])
        for cell, weight in _taps(grid, rays.width, rays.height):
            height = flat[cell].clamp(max=NO_HIT)
            out += weight * (1.0 - 0.72 * torch.exp(-((height / 0.9) ** 2)))
        inside = ((grid >= 0) & (grid < torch.tensor([rays.width, rays.height], device=grid.device))).all(-1)
        return torch.where(inside, out, torch.ones_like(out))
