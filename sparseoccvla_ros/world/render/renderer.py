"""Pictures of a scene from any pinhole camera: colour, Occ3D class and depth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from ..kernels.shading import Surfaces, shade
from ..kernels.solids import NO_HIT
from ..scene import Scene, State
from ..shapes.solids import Primitives
from .raster import PinholeRays, cast
from .shadows import Shadows
from .textures import sensor_noise, tables
from .weather import Weather

SHADOW_MARGIN = 75.0
"""Metres around the driven path within which things cast shadows."""
GROUND_REACH = 900.0


@dataclass(frozen=True, eq=False)
class Picture:
    """One camera's view.

    rgb uint8 [H, W, 3]; label uint8 [H, W], Occ3D class, 17 for the sky; depth float32 [H, W], metres along the optical
    axis, inf for the sky. Label and depth are those of one ray near the pixel's centre, colour the mean of all.
    """

    rgb: np.ndarray
    label: np.ndarray
    depth: np.ndarray


class Renderer:
    """Renders one scene; shadow maps of everything that stands still are made once, on construction.

    weather: by the scene's seed where None.
    """

    def __init__(self, scene: Scene, weather: Weather | None = None) -> None:
        self.scene = scene
        self.weather = weather or Weather.generate(scene.seed)
        path = np.stack([scene.ego.at(t)[0][:2, 3] for t in np.linspace(-1.0, scene.duration, 40)])
        self._shadows = Shadows(self.weather, scene.fixed, path.min(0) - SHADOW_MARGIN, path.max(0) + SHADOW_MARGIN)
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
        """The view at `time` seconds of the drive.

        intrinsics [3, 3] in pixels of a height x width image (integer coordinates are pixel centres); camera2map
        [4, 4]: optical frame to map; samples: rays along each side of a pixel. Raises InvalidInput for an empty image.
        """
        rays = PinholeRays(intrinsics, camera2map, height, width, samples)
        table = self._primitives_at(time, rays.position)
        depth, row = cast(table, rays, _floor(rays))
        rgb, label = np.empty((len(row), 3), np.float32), np.empty(len(row), np.uint8)
        pixel = np.float32(1.0 / (rays.intrinsics[0, 0] * samples))
        shade(
            _triple(rays.position), rays.directions, pixel, depth, row, _surfaces(table), self._streets,
            self.weather.table, self._shadows.sun, self._shadows.shade, tables(), rgb, label,
        )  # fmt: skip
        grid, middle = (height, samples, width, samples), samples // 2
        shown = rgb.reshape(*grid, 3).mean((1, 3)) if samples > 1 else rgb.reshape(height, width, 3)
        if self.weather.noise:
            shown = shown + self._noise(shown, intrinsics, camera2map, time)
        depth = np.where(depth < NO_HIT, depth, np.float32(np.inf)).reshape(grid)[:, middle, :, middle]
        label = label.reshape(grid)[:, middle, :, middle]
        return Picture((shown.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), label.copy(), depth.copy())

    def _noise(self, shown: np.ndarray, intrinsics: np.ndarray, camera2map: np.ndarray, time: float) -> np.ndarray:
        """What the sensor adds to a picture [H, W, 3] in 0..1: always the same for one camera pose and time.

        It is counted from the principal point, so that a picture cut out of a larger one has the larger one's noise.
        Most of it is that of counted photons, which grows with the square root of the light; the rest is there in the
        dark too.
        """
        place = np.round(camera2map[:3] * 1e3).astype(np.int64)
        key = zlib.crc32(place.tobytes() + round(time * 1e6).to_bytes(8, "little", signed=True))
        start = np.random.default_rng([self.scene.seed, key]).integers(0, 1 << 20, 2)
        row, column = (int(s - np.floor(c)) for s, c in zip(start, (intrinsics[1, 2], intrinsics[0, 2]), strict=True))
        level = np.float32(self.weather.noise) * (np.float32(0.3) + np.float32(0.7) * np.sqrt(shown))
        return level * sensor_noise(row, column, shown.shape[0], shown.shape[1])

    def _primitives_at(self, time: float, position: np.ndarray) -> Primitives:
        if self._state is None or self._table is None or self._state.time != time:
            state = self.scene.at(time)
            self._shadows.update(Primitives.concatenate([state.moving, state.ego]), position)
            self._table = Primitives.concatenate([state.fixed, state.moving])
            self._state = state
        return self._table


def _triple(values: np.ndarray) -> tuple[np.float32, ...]:
    return tuple(np.float32(v) for v in values)


def _floor(rays: PinholeRays) -> np.ndarray:
    """Depth float32 [N] at which each ray meets the ground, NO_HIT where it does not or too far away."""
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
