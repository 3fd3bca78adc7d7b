"""Pictures of a scene from any pinhole camera: colour, Occ3D class and depth, in torch on CPU or GPU alike."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from ...core.classes import FREE
from ..scene import Scene, State
from ..shapes.solids import NO_HIT, Primitives, normals
from . import surfaces
from .raster import PinholeRays, cast, to_local
from .shadows import Shadows
from .textures import sensor_noise
from .weather import Weather, encode

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

    def __init__(self, scene: Scene, device: torch.device | str = "cpu", weather: Weather | None = None) -> None:
        self.scene = scene
        self.device = torch.device(device)
        self.weather = weather or Weather.generate(scene.seed)
        path = np.stack([scene.ego.at(t)[0][:2, 3] for t in np.linspace(-1.0, scene.duration, 40)])
        lower = torch.tensor(path.min(0) - SHADOW_MARGIN, dtype=torch.float32)
        upper = torch.tensor(path.max(0) + SHADOW_MARGIN, dtype=torch.float32)
        self._shadows = Shadows(self.weather, scene.fixed.to(self.device), lower, upper)
        self._state: State | None = None
        self._table: Primitives | None = None

    @torch.inference_mode()
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
        rays = PinholeRays(intrinsics, camera2map, height, width, samples, self.device)
        table = self._primitives_at(time, rays.position)
        depth, row = cast(table, rays)
        direction = rays.directions()
        colour, label, depth = self._shade(table, rays, direction, depth, row)
        shown = encode(colour, self.weather.exposure).reshape(height, samples, width, samples, 3).mean((1, 3))
        if self.weather.noise:
            shown = shown + self._noise(shown, intrinsics, camera2map, time)
        middle = samples // 2
        grid = (height, samples, width, samples)
        depth = torch.where(depth < NO_HIT, depth, torch.full_like(depth, torch.inf)).reshape(grid)[
            :, middle, :, middle
        ]
        label = label.reshape(grid)[:, middle, :, middle]
        rgb = (shown.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)
        return Picture(rgb.cpu().numpy(), label.cpu().numpy(), depth.cpu().numpy())

    def _noise(self, shown: torch.Tensor, intrinsics: np.ndarray, camera2map: np.ndarray, time: float) -> torch.Tensor:
        """What the sensor adds to a picture [H, W, 3] in 0..1: the same for one camera pose and time on every device.

        It is counted from the principal point, so that a picture cut out of a larger one has the larger one's noise.
        Most of it is that of counted photons, which grows with the square root of the light; the rest is there in the
        dark too.
        """
        place = np.round(camera2map[:3] * 1e3).astype(np.int64)
        key = zlib.crc32(place.tobytes() + round(time * 1e6).to_bytes(8, "little", signed=True))
        start = np.random.default_rng([self.scene.seed, key]).integers(0, 1 << 20, 2)
        row, column = (int(s - np.floor(c)) for s, c in zip(start, (intrinsics[1, 2], intrinsics[0, 2]), strict=True))
        level = self.weather.noise * (0.3 + 0.7 * shown.clamp(min=0).sqrt())
        return level * sensor_noise(row, column, shown.shape[0], shown.shape[1], shown.device)

    def _primitives_at(self, time: float, position: torch.Tensor) -> Primitives:
        if self._state is None or self._table is None or self._state.time != time:
            state = self.scene.at(time)
            moving = state.moving.to(self.device)
            self._shadows.update(Primitives.concatenate([moving, state.ego.to(self.device)]), position)
            self._table = Primitives.concatenate([state.fixed.to(self.device), moving])
            self._state = state
        return self._table

    def _shade(
        self, table: Primitives, rays: PinholeRays, direction: torch.Tensor, depth: torch.Tensor, row: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Linear RGB [N, 3], label uint8 [N] and depth [N] of all rays."""
        position, weather, device = rays.position, self.weather, self.device
        down = direction[:, 2]
        floor = torch.where(down < -1e-4, -position[2] / down.clamp(max=-1e-4), torch.full_like(down, NO_HIT))
        on_ground = (floor < depth) & (floor < GROUND_REACH)
        depth = torch.where(on_ground, floor, depth)
        on_thing = (row >= 0) & ~on_ground
        unit = torch.nn.functional.normalize(direction, dim=-1)
        label = torch.full(row.shape, FREE, dtype=torch.uint8, device=device)
        colour = torch.zeros_like(direction)
        pixel = 1.0 / (float(rays.intrinsics[0, 0]) * rays.samples)

        at = torch.nonzero(~on_ground & ~on_thing)[:, 0]
        colour[at] = weather.sky(unit[at])

        at = torch.nonzero(on_ground)[:, 0]
        point = position + depth[at, None] * direction[at]
        # The pixel's print on the ground is long and narrow; its geometric mean is a fair width for round filters.
        blur = depth[at] * pixel / (-unit[at, 2]).clamp(min=0.02).sqrt()
        x, y = point[:, 0], point[:, 1]
        surface = self.scene.streets.surface(x, y, blur)
        albedo = surfaces.ground(self.scene.streets, surface, x, y, blur)
        label[at] = surface.label
        sunlight = self._shadows.sun(point) * max(weather.sun[2], 0.0)
        ambient = self._shadows.shade(point)
        light = sunlight[:, None] * weather.vector("sunlight", device)
        colour[at] = albedo * (light + ambient[:, None] * weather.vector("ambient", device))

        at = torch.nonzero(on_thing)[:, 0]
        which = row[at]
        label[at] = table.label[which]
        point = position + depth[at, None] * direction[at]
        yaw, half = table.yaw[which], table.half[which]
        local = to_local(point - table.centre[which], yaw)
        normal = normals(table.kind[which], local, half, table.taper[which])
        blur = depth[at] * pixel
        look = surfaces.primitives(table, which, local, normal, blur)
        colour[at] = self._lit(look, point, to_local(normal, -yaw), unit[at])

        haze = 1.0 - torch.exp(-((depth * weather.haze) ** 1.2).clamp(max=60.0))
        haze = torch.where(on_ground | on_thing, haze, torch.zeros_like(haze))
        air = weather.vector("horizon", device)
        return colour + (air - colour) * haze[:, None], label, depth

    def _lit(self, look: surfaces.Look, point: torch.Tensor, normal: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        weather, device = self.weather, self.device
        sun = weather.vector("sun", device)
        facing = (normal @ sun).clamp(min=0.0)
        visible = torch.zeros_like(facing)
        lit = torch.nonzero(facing > 0)[:, 0]
        visible[lit] = self._shadows.sun(point[lit] + 0.06 * normal[lit])
        up = 0.5 + 0.5 * normal[:, 2]
        sky, earth = weather.vector("ambient", device), weather.vector("bounce", device)
        # Near the ground half of what a surface sees is ground in shade.
        open_air = 0.72 + 0.28 * (point[:, 2] / 1.2).clamp(0, 1)
        ambient = (sky * up[:, None] + earth * (1 - up)[:, None]) * open_air[:, None]
        light = (visible * facing)[:, None] * weather.vector("sunlight", device)
        colour = look.albedo * (light + ambient) + look.glow
        at = torch.nonzero(look.mirror > 0)[:, 0]
        if len(at):
            cosine = (view[at] * normal[at]).sum(-1)
            bounced = view[at] - 2 * cosine[:, None] * normal[at]
            fresnel = look.mirror[at] + (1 - look.mirror[at]) * (1 - cosine.abs()).clamp(0, 1) ** 5 * 0.6
            above = ((bounced[:, 2] + 0.04) / 0.10).clamp(0, 1)[:, None]
            seen = weather.sky(bounced, detail=False) * above + 0.35 * earth * (1 - above)
            glint = visible[at] * (bounced @ sun).clamp(min=0.0) ** 90 * 3.0
            seen = seen + glint[:, None] * weather.vector("sunlight", device)
            colour[at] = colour[at] * (1 - fresnel)[:, None] + seen * fresnel[:, None]
        return colour
