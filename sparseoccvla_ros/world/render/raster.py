"""Ray casting of primitives, for the pinhole rays of a camera and the parallel rays of the sun."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...core.errors import InvalidInput
from ..kernels.casting import Solids, cast_parallel, cast_pinhole, parallel_footprints, pinhole_footprints
from ..kernels.solids import ELLIPSOID, NO_HIT
from ..shapes.solids import Material, Primitives
from .textures import tables


@dataclass(frozen=True, eq=False)
class PinholeRays:
    """Rays of a camera, `samples` x `samples` per pixel; ray parameters are depths along the optical axis in metres.

    intrinsics float64 [3, 3] (integer coordinates are pixel centres); camera2map float64 [4, 4], optical frame to map.
    """

    intrinsics: np.ndarray
    camera2map: np.ndarray
    image_height: int
    image_width: int
    samples: int = 1

    def __post_init__(self) -> None:
        if self.image_height < 1 or self.image_width < 1 or self.samples < 1:
            raise InvalidInput("view", f"{self.image_height} x {self.image_width} x {self.samples} holds no ray")

    @property
    def width(self) -> int:
        """Rays in a row."""
        return self.image_width * self.samples

    @property
    def height(self) -> int:
        """Rows of rays."""
        return self.image_height * self.samples

    @cached_property
    def position(self) -> np.ndarray:
        """Camera centre float32 [3] in the map."""
        return self.camera2map[:3, 3].astype(np.float32)

    @cached_property
    def directions(self) -> np.ndarray:
        """float32 [height * width, 3], map axes, scaled to advance 1 m along the optical axis."""
        k = self.intrinsics
        u = (np.arange(self.width) + 0.5) / self.samples - 0.5
        v = (np.arange(self.height) + 0.5) / self.samples - 0.5
        y = (v - k[1, 2]) / k[1, 1]
        x = (u[None, :] - k[0, 2] - k[0, 1] * y[:, None]) / k[0, 0]
        camera = np.stack([x, np.broadcast_to(y[:, None], x.shape), np.ones_like(x)], -1)
        return (camera.reshape(-1, 3) @ self.camera2map[:3, :3].T).astype(np.float32)

    def footprints(self, table: Primitives, c: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rectangles int64 [P, 4] of the rays that can hit primitives with yaw cosines c and sines s, and lower
        bounds of the primitives' ray parameters float32 [P]."""
        rectangles, nearest = np.empty((len(table), 4), np.int64), np.empty(len(table), np.float32)
        rotation, k = self.camera2map[:3, :3].astype(np.float32), self.intrinsics.astype(np.float32)
        pinhole_footprints(
            table.centre, table.half, c, s, self.position, rotation, k, np.float32(self.samples), self.width,
            self.height, rectangles, nearest,
        )  # fmt: skip
        return rectangles, nearest


@dataclass(frozen=True, eq=False)
class ParallelRays:
    """Rays from a plane `height_above` metres up the direction towards their source, on a grid of `resolution` m.

    axes float32 [3, 3]: rows are the grid's u axis, its v axis and the unit vector towards the source. lower [2]: grid
    coordinates (m) of the first ray's cell corner. Ray parameters are metres travelled from that plane.
    """

    axes: np.ndarray
    lower: tuple[float, float]
    resolution: float
    width: int
    height: int
    height_above: float = 200.0

    @property
    def position(self) -> np.ndarray:
        """Corner float32 [3] of the plane's grid, in the map."""
        u, v, z = self.axes
        return (self.height_above * z + self.lower[0] * u + self.lower[1] * v).astype(np.float32)

    def footprints(self, table: Primitives, c: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As PinholeRays.footprints."""
        rectangles, nearest = np.empty((len(table), 4), np.int64), np.empty(len(table), np.float32)
        parallel_footprints(
            table.centre, table.half, c, s, self.axes, np.array(self.lower, np.float32), np.float32(self.resolution),
            np.float32(self.height_above), self.width, self.height, rectangles, nearest,
        )  # fmt: skip
        return rectangles, nearest


def solids_of(primitives: Primitives, rays: PinholeRays | ParallelRays) -> Solids:
    """Return the primitives for kernels, with the order of those that rays can hit."""
    c, s = np.cos(primitives.yaw), np.sin(primitives.yaw)
    rectangles, nearest = rays.footprints(primitives, c, s)
    order = np.flatnonzero((rectangles[:, 2] > rectangles[:, 0]) & (rectangles[:, 3] > rectangles[:, 1]))
    order = order[np.argsort(nearest[order], kind="stable")]
    x, y, z = (rays.position - primitives.centre).T
    leaves = (primitives.kind == ELLIPSOID) & (primitives.material == int(Material.FOLIAGE))
    return Solids(
        order, np.stack([c * x + s * y, c * y - s * x, z], -1), primitives.kind, primitives.half, primitives.taper,
        c, s, primitives.pattern, leaves, rectangles, nearest,
    )  # fmt: skip


def cast(primitives: Primitives, rays: PinholeRays, before: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Find the first primitive along every ray of a camera.

    before: float32 [height * width], depth limits, updated in place. Returns (depth float32 [height * width], NO_HIT
    or `before` without a hit; row int64, -1 there).
    """
    count = rays.width * rays.height
    depth = np.full(count, NO_HIT, np.float32) if before is None else before
    row = np.full(count, -1, np.int64)
    cast_pinhole(solids_of(primitives, rays), rays.directions, rays.width, tables().blocky, depth, row)
    return depth, row


def cast_down(primitives: Primitives, rays: ParallelRays, depth: np.ndarray) -> np.ndarray:
    """Update `depth` float32 [height, width] (metres from the plane) in place where a primitive is closer.

    Returns the rectangles int64 [R, 4] = u0, v0, u1, v1 that may have changed.
    """
    solids = solids_of(primitives, rays)
    cast_parallel(solids, rays.axes, np.float32(rays.resolution), tables().blocky, depth)
    return solids.rectangle[solids.order]
