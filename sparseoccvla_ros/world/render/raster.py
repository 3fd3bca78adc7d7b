"""Which primitive each ray sees first: a z-buffer over (primitive, pixel) pairs, without a loop over primitives.

Every primitive claims the rectangle of pixels its bounding box covers; all pairs are intersected at once and the
nearest wins. The same code casts the pinhole rays of a camera and the parallel rays of the sun.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from ...core.errors import InvalidInput
from ..shapes.solids import NO_HIT, Kind, Material, Primitives, intersect
from .textures import grain

NEAR = 0.1
"""Metres in front of a camera below which nothing is drawn."""
LEAF = 0.16
"""Size of a clump of leaves in metres."""
_EDGES = torch.tensor([(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)])


class Rays(Protocol):
    """A grid of rays, row-major; `width` x `height` of them."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def rectangles(self, corners: torch.Tensor) -> torch.Tensor:
        """int64 [P, 4] = x0, y0, x1, y1 (exclusive) of the pixels that can see boxes with corners [P, 8, 3]."""
        ...

    def base(self, device: torch.device) -> torch.Tensor:
        """Point [3] of the map from which ray origins are counted."""
        ...

    def along(self, pixel: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Origins from `base` [3, N] (None: all at the base) and directions [3, N] or [3, 1] of rays at `pixel` [N]."""
        ...


def _covering(low: torch.Tensor, high: torch.Tensor, empty: torch.Tensor, width: int, height: int) -> torch.Tensor:
    limit = torch.tensor([width, height], device=low.device)
    first = torch.minimum(torch.ceil(low - 1e-3).clamp(min=0, max=1e6).long(), limit)
    last = torch.minimum(torch.floor(high + 1e-3).clamp(min=-1, max=1e6).long() + 1, limit)
    last = torch.where(empty[:, None], first, torch.maximum(first, last))
    return torch.cat([first, last], -1)


@dataclass(frozen=True, eq=False)
class PinholeRays:
    """Rays of a camera, `samples` x `samples` per pixel; ray parameters are depths along the optical axis in metres.

    intrinsics float64 [3, 3] (integer coordinates are pixel centres); camera2map float64 [4, 4], optical frame to map;
    device: where directions and position are made, that of the primitives to be seen.
    """

    intrinsics: np.ndarray
    camera2map: np.ndarray
    image_height: int
    image_width: int
    samples: int = 1
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.image_height < 1 or self.image_width < 1 or self.samples < 1:
            raise InvalidInput("view", f"{self.image_height} x {self.image_width} x {self.samples} holds no ray")

    @property
    def width(self) -> int:
        return self.image_width * self.samples

    @property
    def height(self) -> int:
        return self.image_height * self.samples

    @property
    def position(self) -> torch.Tensor:
        """Camera centre float32 [3] in the map."""
        return torch.tensor(self.camera2map[:3, 3], dtype=torch.float32, device=self.device)

    def _sample_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Coordinates in the sample grid of pixel coordinates."""
        return (pixels + 0.5) * self.samples - 0.5

    def directions(self) -> torch.Tensor:
        """float32 [height * width, 3], map axes, scaled to advance 1 m along the optical axis."""
        k = self.intrinsics
        u = (np.arange(self.width) + 0.5) / self.samples - 0.5
        v = (np.arange(self.height) + 0.5) / self.samples - 0.5
        y = (v - k[1, 2]) / k[1, 1]
        x = (u[None, :] - k[0, 2] - k[0, 1] * y[:, None]) / k[0, 0]
        camera = np.stack([x, np.broadcast_to(y[:, None], x.shape), np.ones_like(x)], -1)
        world = camera.reshape(-1, 3) @ self.camera2map[:3, :3].T
        return torch.from_numpy(world.astype(np.float32)).to(self.device)

    def rectangles(self, corners: torch.Tensor) -> torch.Tensor:
        rotation = torch.tensor(self.camera2map[:3, :3], dtype=torch.float32, device=corners.device)
        camera = (corners - self.position.to(corners.device)) @ rotation
        a, b = camera[:, _EDGES[:, 0]], camera[:, _EDGES[:, 1]]
        # Each edge is cut off at the near plane, so that boxes beside the camera get the rectangle they really cover.
        za, zb = a[..., 2:], b[..., 2:]
        step = torch.where((zb - za).abs() < 1e-9, torch.full_like(za, 1e-9), zb - za)
        at_near = a + (b - a) * ((NEAR - za) / step).clamp(0, 1)
        a, b = torch.where(za < NEAR, at_near, a), torch.where(zb < NEAR, at_near, b)
        hidden = (za < NEAR) & (zb < NEAR)
        ends = torch.cat([a, b], 1)
        k = torch.tensor(self.intrinsics, dtype=torch.float32, device=corners.device)
        pixels = ends[..., :2] / ends[..., 2:].clamp(min=NEAR)
        pixels = torch.stack([pixels[..., 0] * k[0, 0] + pixels[..., 1] * k[0, 1], pixels[..., 1] * k[1, 1]], -1)
        grid = self._sample_of(pixels + k[:2, 2])
        both = torch.cat([hidden, hidden], 1)
        low = torch.where(both, torch.full_like(grid, 1e6), grid).amin(1)
        high = torch.where(both, torch.full_like(grid, -1e6), grid).amax(1)
        return _covering(low, high, both.all(1)[:, 0], self.width, self.height)

    def base(self, device: torch.device) -> torch.Tensor:
        return self.position.to(device)

    def along(self, pixel: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        return None, self._components.index_select(1, pixel)

    @cached_property
    def _components(self) -> torch.Tensor:
        return self.directions().T.contiguous()


@dataclass(frozen=True, eq=False)
class ParallelRays:
    """Rays from a plane `height_above` metres up the direction `towards_source`, on a square grid of `resolution` m.

    axes float32 [3, 3]: rows are the grid's u axis, its v axis and the unit vector towards the source. lower [2]: grid
    coordinates (m) of the first ray's cell corner. Ray parameters are metres travelled from that plane.
    """

    axes: torch.Tensor
    lower: tuple[float, float]
    resolution: float
    width: int
    height: int
    height_above: float = 200.0

    def coordinates(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Grid coordinates [..., 2] in cells (integers are cell centres) and travelled metres [...] of points."""
        turned = points @ self.axes.T
        lower = torch.tensor(self.lower, dtype=torch.float32, device=points.device)
        return (turned[..., :2] - lower) / self.resolution - 0.5, self.height_above - turned[..., 2]

    def rectangles(self, corners: torch.Tensor) -> torch.Tensor:
        grid, _ = self.coordinates(corners)
        never = torch.zeros(len(grid), dtype=torch.bool, device=grid.device)
        return _covering(grid.amin(1), grid.amax(1), never, self.width, self.height)

    def base(self, device: torch.device) -> torch.Tensor:
        return (self.height_above * self.axes[2] + self.lower[0] * self.axes[0] + self.lower[1] * self.axes[1]).to(
            device
        )

    def along(self, pixel: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        u = (pixel % self.width + 0.5) * self.resolution
        v = (pixel // self.width + 0.5) * self.resolution
        return self.axes[0, :, None] * u + self.axes[1, :, None] * v, -self.axes[2, :, None]


def _batches(rectangles: torch.Tensor, rows: torch.Tensor, limit: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs (primitive row [N], x and y as int64 [2, N]) for the rows' rectangles, about `limit` pairs at a time."""
    size = rectangles[rows, 2:] - rectangles[rows, :2]
    area = size[:, 0] * size[:, 1]
    rows, size, area = rows[area > 0], size[area > 0], area[area > 0]
    if not len(rows):
        return
    batch = torch.cumsum(area, 0) // limit
    for part in torch.unique_consecutive(batch).tolist():
        chosen = batch == part
        counts = area[chosen]
        row = torch.repeat_interleave(rows[chosen], counts)
        first = torch.stack([torch.cumsum(counts, 0) - counts, size[chosen, 0], *rectangles[rows[chosen], :2].T])
        start, width, x0, y0 = torch.repeat_interleave(first, counts, 1)
        place = torch.arange(len(row), device=row.device) - start
        line = torch.div(place, width, rounding_mode="floor")
        yield row, torch.stack([x0 + place - line * width, y0 + line])


def to_local(vectors: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """Vectors [N, 3] of map axes in frames turned by yaw [N]."""
    c, s = torch.cos(yaw), torch.sin(yaw)
    return torch.stack(
        [c * vectors[:, 0] + s * vectors[:, 1], c * vectors[:, 1] - s * vectors[:, 0], vectors[:, 2]], -1
    )


def _turned(vectors: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """`to_local` for vectors [3, N or 1] and the turn's cosine and sine [N]."""
    x, y, z = vectors
    return torch.stack([cosine * x + sine * y, cosine * y - sine * x, z.expand_as(cosine)])


def _leafy(local: torch.Tensor, direction: torch.Tensor, half: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """Whether a crown has leaves where a ray enters it: always in its middle, in clumps towards its outline.

    local, direction, half [3, N] in the crown's frame.
    """
    normal = torch.nn.functional.normalize(local / half**2, dim=0)
    facing = -(normal * torch.nn.functional.normalize(direction, dim=0)).sum(0)
    return grain((local / LEAF + pattern * 61.0).T) < 0.28 + 1.3 * facing


def cast(primitives: Primitives, rays: Rays, limit: int = 1 << 19) -> tuple[torch.Tensor, torch.Tensor]:
    """The first primitive along every ray.

    Returns (ray parameter float32 [height * width], NO_HIT where nothing is met; row int64, -1 there). limit: pairs
    worked on at once, bounds memory.
    """
    device = primitives.centre.device
    nothing = (torch.tensor([NO_HIT]).view(torch.int32).long() << 32).item()
    keys = torch.full((rays.width * rays.height,), nothing, dtype=torch.int64, device=device)
    rectangles = rays.rectangles(primitives.corners())
    base = to_local(rays.base(device) - primitives.centre, primitives.yaw)
    turn = torch.stack([torch.cos(primitives.yaw), torch.sin(primitives.yaw), primitives.pattern])
    # One row per property: base 0-2, half 3-5, taper 6-8, cosine 9, sine 10, pattern 11.
    table = torch.cat([base.T, primitives.half.T, primitives.taper.T, turn]).contiguous()
    for kind in Kind:
        rows = torch.nonzero(primitives.kind == int(kind))[:, 0]
        for row, xy in _batches(rectangles, rows, limit):
            pixel = xy[1] * rays.width + xy[0]
            p = table.index_select(1, row)
            offset, direction = rays.along(pixel)
            direction = _turned(direction, p[9], p[10])
            origin = p[:3] if offset is None else p[:3] + _turned(offset, p[9], p[10])
            t = intersect(kind, origin, direction, p[3:6], p[6:9])
            hit = torch.nonzero(t < NO_HIT)[:, 0]
            row, pixel, t = row[hit], pixel[hit], t[hit]
            if kind == Kind.ELLIPSOID:
                foliage = primitives.material[row] == int(Material.FOLIAGE)
                direction = direction[:, hit]
                keep = ~foliage | _leafy(origin[:, hit] + t * direction, direction, p[3:6, hit], p[11, hit])
                row, pixel, t = row[keep], pixel[keep], t[keep]
            # Positive floats order like their bits: depth above, row below makes one key with a fixed winner on ties.
            key = (t.contiguous().view(torch.int32).long() << 32) | row
            keys.scatter_reduce_(0, pixel, key, "amin")
    depth = (keys >> 32).to(torch.int32).view(torch.float32)
    row = torch.where(depth < NO_HIT, keys & 0xFFFFFFFF, torch.full_like(keys, -1))
    return depth, row
