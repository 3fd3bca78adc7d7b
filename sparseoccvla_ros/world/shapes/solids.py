"""The solids every object is made of, and the table that holds a whole world of them.

Five analytic kinds are enough for a street: plain boxes, wedges (boxes whose sides lean inwards towards the top),
upright cones (cylinders with a taper), ellipsoids and wheels (cylinders that lie across). All turn about z only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
import torch

from ...core.classes import LABEL


class Kind(IntEnum):
    """Shape of a primitive; `half` holds its half extents along its own axes."""

    BOX = 0
    WEDGE = 1
    """taper: metres the front, the back and both sides lean inwards per metre of height."""
    CONE = 2
    """half x: radius at the foot; taper[0]: share of the radius lost at the top."""
    ELLIPSOID = 3
    WHEEL = 4
    """half x = half z: radius; half y: half the width."""


class Material(IntEnum):
    """How a surface is shaded."""

    PLAIN = 0
    PAINT = 1
    GLASS = 2
    RUBBER = 3
    LAMP = 4
    WALL = 5
    FOLIAGE = 6
    METAL = 7
    STRIPES = 8
    PANELS = 9


@dataclass(frozen=True)
class Part:
    """One primitive of an object, in the object's frame (x forward, y left, z up from the ground; metres).

    colour: sRGB 0..1.
    """

    kind: Kind
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    colour: tuple[float, float, float]
    material: Material = Material.PLAIN
    taper: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    label: int = LABEL["manmade"]


@dataclass(frozen=True, eq=False)
class Primitives:
    """A table of P primitives on one device.

    kind int64 [P]; centre, half, taper, colour float32 [P, 3] (metres; colour linear RGB); yaw float32 [P] rad;
    material int64 [P]; label uint8 [P], Occ3D; owner int64 [P], the object it belongs to; pattern float32 [P], a
    random number 0..1 per object for textures.
    """

    kind: torch.Tensor
    centre: torch.Tensor
    half: torch.Tensor
    taper: torch.Tensor
    yaw: torch.Tensor
    colour: torch.Tensor
    material: torch.Tensor
    label: torch.Tensor
    owner: torch.Tensor
    pattern: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def to(self, device: torch.device | str) -> Primitives:
        """The same table on another device."""
        return Primitives(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __getitem__(self, rows: torch.Tensor) -> Primitives:
        return Primitives(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def concatenate(cls, tables: list[Primitives]) -> Primitives:
        """One table of several."""
        return cls(*(torch.cat([getattr(t, f.name) for t in tables]) for f in fields(cls)))

    @classmethod
    def of(cls, parts: list[Part], owner: int, pattern: float) -> Primitives:
        """The parts of one object, in its own frame."""
        floats = {
            name: torch.tensor([getattr(p, name) for p in parts], dtype=torch.float32).reshape(len(parts), -1)
            for name in ("centre", "half", "taper", "yaw", "colour")
        }
        return cls(
            kind=torch.tensor([int(p.kind) for p in parts]),
            centre=floats["centre"],
            half=floats["half"],
            taper=floats["taper"],
            yaw=floats["yaw"][:, 0],
            colour=linear(floats["colour"]),
            material=torch.tensor([int(p.material) for p in parts]),
            label=torch.tensor([p.label for p in parts], dtype=torch.uint8),
            owner=torch.full((len(parts),), owner),
            pattern=torch.full((len(parts),), pattern),
        )

    def posed(self, poses: torch.Tensor) -> Primitives:
        """Primitives moved from their objects' frames to the map; poses float [P, 3]: x, y, yaw of each one's owner."""
        c, s = torch.cos(poses[:, 2]), torch.sin(poses[:, 2])
        x = poses[:, 0] + c * self.centre[:, 0] - s * self.centre[:, 1]
        y = poses[:, 1] + s * self.centre[:, 0] + c * self.centre[:, 1]
        centre = torch.stack([x, y, self.centre[:, 2]], -1).float()
        return replace(self, centre=centre, yaw=(self.yaw + poses[:, 2]).float())

    def corners(self) -> torch.Tensor:
        """float32 [P, 8, 3]: corners of each primitive's oriented bounding box in the map frame."""
        signs = torch.tensor(
            [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=torch.float32, device=self.half.device
        )
        local = self.half[:, None] * signs
        c, s = torch.cos(self.yaw)[:, None], torch.sin(self.yaw)[:, None]
        turned = torch.stack(
            [c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1], local[..., 2]], -1
        )
        return turned + self.centre[:, None]


def linear(colour: torch.Tensor) -> torch.Tensor:
    """sRGB 0..1 to linear light (power-law approximation; the renderer's encoder is its inverse)."""
    return colour.clamp(min=0.0) ** 2.2


def footprint_radius(parts: list[Part]) -> float:
    """Radius in metres of the smallest circle about the object's origin that holds its ground plan."""
    return max(float(np.hypot(p.centre[0], p.centre[1]) + np.hypot(p.half[0], p.half[1])) for p in parts)


# -- ray against primitive ---------------------------------------------------------------------------------------

NO_HIT = 1e9


def _entry(near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    return torch.where((near < far) & (near > 0), near, torch.full_like(near, NO_HIT))


def _nonzero(value: torch.Tensor) -> torch.Tensor:
    return torch.where(value.abs() < 1e-9, torch.full_like(value, 1e-9), value)


def _box(o: torch.Tensor, d: torch.Tensor, half: torch.Tensor, taper: torch.Tensor) -> torch.Tensor:
    inverse = 1.0 / _nonzero(d)
    middle, reach = -o * inverse, half * inverse.abs()
    return _entry((middle - reach).amax(0), (middle + reach).amin(0))


def _wedge(o: torch.Tensor, d: torch.Tensor, half: torch.Tensor, taper: torch.Tensor) -> torch.Tensor:
    height, rise = o[2] + half[2], d[2]
    near, far = torch.full_like(height, -NO_HIT), torch.full_like(height, NO_HIT)
    for axis, sign, lean in ((0, 1, 0), (0, -1, 1), (1, 1, 2), (1, -1, 2), (2, 1, None), (2, -1, None)):
        slack, speed = half[axis] - sign * o[axis], sign * d[axis]
        if lean is not None:
            slack, speed = slack - taper[lean] * height, speed + taper[lean] * rise
        t, entering = slack / _nonzero(speed), speed < 0
        near = torch.where(entering, torch.maximum(near, t), near)
        far = torch.where(entering, far, torch.minimum(far, t))
    return _entry(near, far)


def _cone(o: torch.Tensor, d: torch.Tensor, half: torch.Tensor, taper: torch.Tensor) -> torch.Tensor:
    radius, height = half[0], half[2]
    slope = radius * taper[0] / (2 * height)
    here = radius - slope * (o[2] + height)  # radius of the mantle at the height of the ray's origin
    a = d[0] ** 2 + d[1] ** 2 - (slope * d[2]) ** 2
    b = o[0] * d[0] + o[1] * d[1] + slope * d[2] * here
    c = o[0] ** 2 + o[1] ** 2 - here**2
    disc = b * b - a * c
    t = (-b - disc.clamp(min=0).sqrt()) / a.clamp(min=1e-12)
    met = (disc > 0) & (a > 0) & (t > 0) & ((o[2] + t * d[2]).abs() <= height)
    mantle = torch.where(met, t, torch.full_like(t, NO_HIT))
    # Entering through an end: the upper one when looking down, the lower one when looking up.
    level = -torch.sign(d[2]) * height
    t = (level - o[2]) / _nonzero(d[2])
    reach = torch.where(level > 0, radius * (1 - taper[0]), radius)
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    cap = torch.where((x * x + y * y <= reach**2) & (t > 0), t, torch.full_like(t, NO_HIT))
    return torch.minimum(mantle, cap)


def _ellipsoid(o: torch.Tensor, d: torch.Tensor, half: torch.Tensor, taper: torch.Tensor) -> torch.Tensor:
    o, d = o / half, d / half
    a, b, c = (d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1.0
    disc = b * b - a * c
    t = (-b - disc.clamp(min=0).sqrt()) / a
    return torch.where((disc > 0) & (t > 0), t, torch.full_like(t, NO_HIT))


def _wheel(o: torch.Tensor, d: torch.Tensor, half: torch.Tensor, taper: torch.Tensor) -> torch.Tensor:
    lying = [0, 2, 1]
    return _cone(o[lying], d[lying], half[lying], torch.zeros_like(taper))


_INTERSECTIONS = {
    Kind.BOX: _box,
    Kind.WEDGE: _wedge,
    Kind.CONE: _cone,
    Kind.ELLIPSOID: _ellipsoid,
    Kind.WHEEL: _wheel,
}


def intersect(
    kind: Kind, origin: torch.Tensor, direction: torch.Tensor, half: torch.Tensor, taper: torch.Tensor
) -> torch.Tensor:
    """Ray parameter t float32 [N] of the first entry at t > 0, NO_HIT where the ray misses.

    origin, direction float32 [3, N] in the primitives' own frames (centre at the origin); half, taper [3, N].
    Components come first, so that each is one run of memory.
    """
    return _INTERSECTIONS[kind](origin, direction, half, taper)


def normals(kind: torch.Tensor, local: torch.Tensor, half: torch.Tensor, taper: torch.Tensor) -> torch.Tensor:
    """Outward unit normals float32 [N, 3] at surface points `local` [N, 3], in the primitives' own frames."""
    out = torch.zeros_like(local)
    boxy, wedge = kind <= Kind.WEDGE, kind == Kind.WEDGE
    x, y, z = local.unbind(-1)
    height = z + half[:, 2]
    lean_x = torch.where(x >= 0, taper[:, 0], taper[:, 1]) * wedge
    lean_y = taper[:, 2] * wedge
    slack = torch.stack(
        [half[:, 0] - x.abs() - lean_x * height, half[:, 1] - y.abs() - lean_y * height, half[:, 2] - z.abs()], -1
    )
    face = slack.argmin(-1)
    zero = torch.zeros_like(x)
    choice = torch.stack(
        [
            torch.stack([torch.sign(x), zero, lean_x], -1),
            torch.stack([zero, torch.sign(y), lean_y], -1),
            torch.stack([zero, zero, torch.sign(z)], -1),
        ],
        1,
    )
    out = torch.where(boxy[:, None], choice[torch.arange(len(face), device=face.device), face], out)
    out = torch.where((kind == Kind.ELLIPSOID)[:, None], local / half**2, out)
    mantle = torch.stack([x, y, half[:, 0] ** 2 * taper[:, 0] / (2 * half[:, 2])], -1)
    cap = (z.abs() > half[:, 2] * 0.9999)[:, None] & (kind == Kind.CONE)[:, None]
    upright = torch.stack([zero, zero, torch.sign(z)], -1)
    out = torch.where((kind == Kind.CONE)[:, None], torch.where(cap, upright, mantle), out)
    side = (y.abs() > half[:, 1] * 0.999)[:, None]
    wheel = torch.where(side, torch.stack([zero, torch.sign(y), zero], -1), torch.stack([x, zero, z], -1))
    out = torch.where((kind == Kind.WHEEL)[:, None], wheel, out)
    return torch.nn.functional.normalize(out, dim=-1)
