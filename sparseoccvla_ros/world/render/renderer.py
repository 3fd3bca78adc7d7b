"""Rendering of a scene from any pinhole camera: colour, Occ3D class and depth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from ..agents.actors import EGO
from ..kernels.shading import Lamps, Surfaces, shade
from ..kernels.solids import NO_HIT
from ..scene import Scene, State
from ..shapes.solids import Primitives
from .optics import Optics
from .raster import PinholeRays, cast
from .shadows import Shadows
from .textures import tables
from .weather import Weather

SHADOW_MARGIN = 75.0
"""Distance in m from the driven path within which objects cast shadows."""
GROUND_REACH = 900.0
LAMP_HEIGHT, LAMP_REACH, LAMP_CELL = 7.0, 22.0, 0.5
"""Street lamps: height above the ground, lit radius, and cell size of their light map, m."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Rendered view of one camera.

    rgb uint8 [H, W, 3]; label uint8 [H, W], Occ3D class, 17 for the sky; depth float32 [H, W], metres along the optical
    axis, inf for the sky. Label and depth are those of one ray near the pixel's centre, colour the mean of all.
    """

    rgb: np.ndarray
    label: np.ndarray
    depth: np.ndarray


class Renderer:
    """Renderer of one scene; shadow maps of fixed objects are computed once, on construction.

    weather, optics: drawn from the scene's seed if None.
    """

    def __init__(self, scene: Scene, weather: Weather | None = None, optics: Optics | None = None) -> None:
        self.scene = scene
        self.weather = weather or Weather.generate(scene.seed)
        self.optics = optics or Optics.generate(scene.seed)
        path = np.stack([scene.ego.at(t)[0][:2, 3] for t in np.linspace(-1.0, scene.duration, 40)])
        lower, upper = path.min(0) - SHADOW_MARGIN, path.max(0) + SHADOW_MARGIN
        self._shadows = Shadows(self.weather, scene.fixed, lower, upper)
        red, green, blue = (self.optics.exposure * b for b in self.optics.balance)
        self._air = self.weather.table((red, green, blue))
        self._lower = lower.astype(np.float32)
        self._street_light = _street_light(scene, lower, upper) if self.weather.lit else np.zeros((1, 1), np.float32)
        self._streets = scene.streets.table(np.float32)
        self._state: State | None = None
        self._table: Primitives | None = None

    def render(
        self,
        intrinsics: np.ndarray,
        camera2map: np.ndarray,
        height: int,
        width: int,
        time: float,
        samples: int = 2,
    ) -> Picture:
        """Render the view at `time` s of the drive.

        intrinsics [3, 3] in pixels of a height x width image (integer coordinates are pixel centres); camera2map
        [4, 4]: optical frame to map; samples: rays along each side of a pixel. Raises InvalidInput for an empty image.
        """
        rays = PinholeRays(intrinsics, camera2map, height, width, samples)
        table = self._primitives_at(time, rays.position)
        depth, row = cast(table, rays, _floor(rays))
        rgb, label = np.empty((len(row), 3), np.float32), np.empty(len(row), np.uint8)
        pixel = np.float32(1.0 / (rays.intrinsics[0, 0] * samples))
        position = tuple(np.float32(v) for v in rays.position)
        shade(
            position, rays.directions, pixel, depth, row, _surfaces(table), self._streets,
            self._air, self._shadows.sun, self._shadows.shade, self._lamps(time), tables(), rgb, label,
        )  # fmt: skip
        grid, middle = (height, samples, width, samples), samples // 2
        shown = rgb.reshape(*grid, 3).mean((1, 3)) if samples > 1 else rgb.reshape(height, width, 3)
        rgb = self.optics.picture(shown, intrinsics, self.weather.noise, self._noise_start(camera2map, time))
        depth = np.where(depth < NO_HIT, depth, np.float32(np.inf)).reshape(grid)[:, middle, :, middle]
        label = label.reshape(grid)[:, middle, :, middle]
        return Picture(rgb, label.copy(), depth.copy())

    def _noise_start(self, camera2map: np.ndarray, time: float) -> np.ndarray:
        """Return the start of the noise pattern, a function of seed, camera pose and time."""
        place = np.round(camera2map[:3] * 1e3).astype(np.int64)
        key = zlib.crc32(place.tobytes() + round(time * 1e6).to_bytes(8, "little", signed=True))
        return np.random.default_rng([self.scene.seed, key]).integers(0, 1 << 20, 2)

    def _lamps(self, time: float) -> Lamps:
        pose = self.scene.ego.at(time)[0]
        cosine, sine = pose[0, 0], pose[1, 0]
        front = EGO.centre_m + 0.5 * EGO.length_m
        numbers = (LAMP_CELL, pose[0, 3] + front * cosine, pose[1, 3] + front * sine, cosine, sine)
        return Lamps(self._street_light, self._lower, *(np.float32(n) for n in numbers))

    def _primitives_at(self, time: float, position: np.ndarray) -> Primitives:
        if self._state is None or self._table is None or self._state.time != time:
            state = self.scene.at(time)
            self._shadows.update(Primitives.concatenate([state.moving, state.ego]), position)
            self._table = Primitives.concatenate([state.fixed, state.moving])
            self._state = state
        return self._table


def _street_light(scene: Scene, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the street lamps' light on the ground float32 [V, U], 1 below a lamp, in cells of LAMP_CELL metres."""
    columns, rows = (int(n) for n in np.ceil((upper - lower) / LAMP_CELL))
    out = np.zeros((rows, columns), np.float32)
    reach = round(LAMP_REACH / LAMP_CELL)
    offsets = np.arange(-reach, reach + 1) * LAMP_CELL
    squared = offsets[:, None] ** 2 + offsets**2
    pool = (LAMP_HEIGHT**2 / (squared + LAMP_HEIGHT**2)) ** 2.5
    pool[squared > LAMP_REACH**2] = 0.0
    for placed in scene.standing:
        if placed.shape.name != "lamp_post":
            continue
        x, y, yaw = placed.pose
        u, v = (
            int((c - lo) / LAMP_CELL)
            for c, lo in zip((x + 1.8 * np.cos(yaw), y + 1.8 * np.sin(yaw)), lower, strict=True)
        )
        u0, v0, u1, v1 = max(u - reach, 0), max(v - reach, 0), min(u + reach + 1, columns), min(v + reach + 1, rows)
        if u0 < u1 and v0 < v1:
            out[v0:v1, u0:u1] += pool[v0 - v + reach : v1 - v + reach, u0 - u + reach : u1 - u + reach]
    return out


def _floor(rays: PinholeRays) -> np.ndarray:
    """Return the depth float32 [N] at which each ray hits the ground, NO_HIT if not within GROUND_REACH."""
    down = rays.directions[:, 2]
    depth = np.full(len(down), NO_HIT, np.float32)
    below = down < -rays.position[2] / GROUND_REACH
    depth[below] = -rays.position[2] / down[below]
    return depth


def _surfaces(table: Primitives) -> Surfaces:
    return Surfaces(
        table.kind, table.centre, table.half, table.taper, np.cos(table.yaw), np.sin(table.yaw), table.colour,
        table.material, table.label, table.pattern,
    )  # fmt: skip
