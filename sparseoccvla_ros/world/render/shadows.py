"""Sun shadows and ambient occlusion under objects, as depth maps used by the shading kernels."""

from __future__ import annotations

import math

import numpy as np

from ..kernels.shading import HeightMap
from ..kernels.solids import NO_HIT
from ..shapes.solids import Material, Primitives
from .raster import ParallelRays, cast_down
from .weather import Weather

SUN_CELL = 0.14
SHADE_CELL = 0.25
_REACH = 60.0
"""Distance in m from the camera within which moving objects cast shadows."""


def _grid(axes: np.ndarray, corners: np.ndarray, cell: float, height_above: float) -> ParallelRays:
    flat = corners @ axes[:2].T
    low, high = flat.min(0), flat.max(0)
    width, height = (math.ceil(float(v) / cell) for v in high - low)
    return ParallelRays(axes, (float(low[0]), float(low[1])), cell, max(width, 1), max(height, 1), height_above)


class _Map:
    """Depth map of parallel rays; fixed objects are cast once, moving ones for each state."""

    def __init__(self, rays: ParallelRays, fixed: Primitives) -> None:
        self.rays = rays
        self._fixed = np.full((rays.height, rays.width), NO_HIT, np.float32)
        cast_down(fixed, rays, self._fixed)
        self._now = self._fixed.copy()
        self._changed = np.zeros((0, 4), np.int64)

    def update(self, moving: Primitives) -> None:
        """Cast the moving objects anew, after restoring only the cells that the previous ones covered."""
        for u0, v0, u1, v1 in self._changed:
            self._now[v0:v1, u0:u1] = self._fixed[v0:v1, u0:u1]
        self._changed = cast_down(moving, self.rays, self._now)

    @property
    def table(self) -> HeightMap:
        """The map for kernels, which follows every update."""
        rays = self.rays
        lower = np.array(rays.lower, np.float32)
        return HeightMap(self._now, rays.axes, lower, np.float32(rays.resolution), np.float32(rays.height_above))


class Shadows:
    """Shadow maps of one scene; call `update` before shading a view, then read `sun` and `shade`."""

    def __init__(self, weather: Weather, fixed: Primitives, lower: np.ndarray, upper: np.ndarray) -> None:
        """lower, upper: [2], corners of the map area with shadows; outside it everything is lit."""
        z = np.array(weather.sun, np.float32)
        u = np.cross(np.array([0.0, 0.0, 1.0], np.float32), z)
        u /= np.linalg.norm(u)
        (x0, y0), (x1, y1) = np.asarray(lower, np.float32), np.asarray(upper, np.float32)
        ground = np.array([(x, y, 0.0) for x in (x0, x1) for y in (y0, y1)], np.float32)
        self._sun = _Map(
            _grid(np.stack([u, np.cross(z.astype(np.float64), u).astype(np.float32), z]), ground, SUN_CELL, 400.0),
            fixed,
        )
        # Rays run upwards from just below the ground: depth is the height of the first object above it.
        down = np.diag(np.array([1.0, 1.0, -1.0], np.float32))
        solid = fixed[fixed.material != int(Material.FOLIAGE)]
        self._below = _Map(_grid(down, ground, SHADE_CELL, 0.05), solid)
        self.sun = self._sun.table
        """Depth map along the sun's rays."""
        self.shade = self._below.table
        """Height of the first object above the ground."""

    def update(self, moving: Primitives, centre: np.ndarray) -> None:
        """Update the maps for moving objects (and the ego's body); centre [3]: camera position."""
        near = moving[np.abs(moving.centre - centre)[:, :2].max(1) < _REACH]
        self._sun.update(near)
        self._below.update(near)
