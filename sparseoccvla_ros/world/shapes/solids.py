"""Primitive solids that objects are composed of, and the table that holds all primitives of a world.

There are five analytic kinds: boxes, wedges (boxes whose sides lean inwards towards the top), upright cones (tapered
cylinders), ellipsoids and wheels (cylinders lying across). All rotate about z only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np

from ...core.classes import LABEL


class Kind(IntEnum):
    """Shape of a primitive; `half` holds its half extents along its own axes."""

    BOX = 0
    WEDGE = 1
    """taper: inward lean of the front, the back and both sides, metres per metre of height."""
    CONE = 2
    """half x: radius at the foot; taper[0]: share of the radius lost at the top."""
    ELLIPSOID = 3
    WHEEL = 4
    """half x = half z: radius; half y: half the width."""


class Material(IntEnum):
    """Shading model of a surface."""

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
    """A table of P primitives.

    kind int64 [P]; centre, half, taper, colour float32 [P, 3] (metres; colour linear RGB); yaw float32 [P] rad;
    material int64 [P]; label uint8 [P], Occ3D; owner int64 [P], index of the object; pattern float32 [P], a random
    number 0..1 per object that varies its texture.
    """

    kind: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    taper: np.ndarray
    yaw: np.ndarray
    colour: np.ndarray
    material: np.ndarray
    label: np.ndarray
    owner: np.ndarray
    pattern: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: np.ndarray) -> Primitives:
        return Primitives(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def concatenate(cls, tables: list[Primitives]) -> Primitives:
        """Concatenate several tables."""
        return cls(*(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)))

    @classmethod
    def of(cls, parts: list[Part], owner: int, pattern: float) -> Primitives:
        """Create the table of one object's parts, in the object's frame."""
        floats = {
            name: np.array([getattr(p, name) for p in parts], np.float32).reshape(len(parts), -1)
            for name in ("centre", "half", "taper", "yaw", "colour")
        }
        return cls(
            kind=np.array([int(p.kind) for p in parts]),
            centre=floats["centre"],
            half=floats["half"],
            taper=floats["taper"],
            yaw=floats["yaw"][:, 0],
            colour=linear(floats["colour"]),
            material=np.array([int(p.material) for p in parts]),
            label=np.array([p.label for p in parts], np.uint8),
            owner=np.full(len(parts), owner),
            pattern=np.full(len(parts), pattern, np.float32),
        )

    def posed(self, poses: np.ndarray) -> Primitives:
        """Transform primitives from object frames to the map; poses float [P, 3]: x, y, yaw of each one's owner."""
        c, s = np.cos(poses[:, 2]), np.sin(poses[:, 2])
        x = poses[:, 0] + c * self.centre[:, 0] - s * self.centre[:, 1]
        y = poses[:, 1] + s * self.centre[:, 0] + c * self.centre[:, 1]
        centre = np.stack([x, y, self.centre[:, 2]], -1).astype(np.float32)
        return replace(self, centre=centre, yaw=(self.yaw + poses[:, 2]).astype(np.float32))


def linear(colour: np.ndarray) -> np.ndarray:
    """Convert sRGB 0..1 to linear light (power-law approximation, inverse of the renderer's encoding)."""
    return np.maximum(colour, 0.0) ** np.float32(2.2)
