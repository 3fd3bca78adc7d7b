"""Objects as lists of parts: people, two-wheelers, street furniture, plants, buildings; real sizes in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.classes import LABEL
from .solids import Kind, Material, Part

Colour = tuple[float, float, float]

CAR_COLOURS: tuple[Colour, ...] = (
    (0.92, 0.92, 0.93), (0.86, 0.86, 0.86), (0.07, 0.07, 0.08), (0.14, 0.14, 0.15), (0.55, 0.56, 0.58),
    (0.40, 0.41, 0.43), (0.55, 0.06, 0.07), (0.10, 0.18, 0.42), (0.16, 0.30, 0.50), (0.20, 0.27, 0.20),
    (0.72, 0.66, 0.55), (0.75, 0.38, 0.10),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (0.15, 0.16, 0.20), (0.55, 0.12, 0.12), (0.85, 0.84, 0.80), (0.16, 0.28, 0.48), (0.78, 0.66, 0.20),
    (0.28, 0.42, 0.26), (0.48, 0.30, 0.46), (0.36, 0.37, 0.40),
)  # fmt: skip
SKIN: tuple[Colour, ...] = ((0.87, 0.68, 0.55), (0.70, 0.50, 0.37), (0.45, 0.30, 0.21))
GLASS: Colour = (0.05, 0.07, 0.09)
RUBBER: Colour = (0.045, 0.045, 0.05)
RIM: Colour = (0.62, 0.63, 0.65)
DARK: Colour = (0.09, 0.09, 0.10)
HEADLAMP: Colour = (0.97, 0.96, 0.88)
TAILLAMP: Colour = (0.62, 0.03, 0.03)
STEEL: Colour = (0.36, 0.38, 0.40)


@dataclass(frozen=True)
class Shape:
    """An object: its parts and its footprint, a rectangle of `length` x `width` about (centre, 0) in its frame."""

    name: str
    parts: list[Part]
    length: float
    width: float
    centre: float = 0.0


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 0.02) -> Colour:
    """Return one of the colours at random, slightly varied."""
    base = np.asarray(colours[int(rng.integers(len(colours)))])
    r, g, b = np.clip(base + rng.uniform(-spread, spread, 3), 0.0, 1.0)
    return float(r), float(g), float(b)


def wheels(
    label: int, positions: tuple[float, ...], track: float, radius: float, half_width: float, rims: bool = True
) -> list[Part]:
    """Return pairs of wheels at distances `positions` ahead of the object's origin."""
    parts = []
    for x in positions:
        for side in (-1, 1):
            y = side * (track - half_width)
            parts.append(
                Part(Kind.WHEEL, (x, y, radius), (radius, half_width, radius), RUBBER, Material.RUBBER, label=label)
            )
            if rims:
                hub = 0.58 * radius
                size = (hub, half_width + 0.012, hub)
                parts.append(Part(Kind.WHEEL, (x, y, radius), size, RIM, Material.METAL, label=label))
    return parts


def bicycle(rng: np.random.Generator, rider: bool = False) -> Shape:
    """Bicycle, optionally with a rider (nuScenes labels both as bicycle)."""
    label, paint = LABEL["bicycle"], pick(rng, CAR_COLOURS)
    parts = [
        *wheels(label, (-0.52, 0.52), 0.03, 0.34, 0.03, rims=False)[::2],
        Part(Kind.BOX, (0.02, 0, 0.62), (0.40, 0.025, 0.04), paint, Material.PAINT, label=label),
        Part(Kind.BOX, (-0.2, 0, 0.62), (0.03, 0.025, 0.28), paint, Material.PAINT, label=label),
        Part(Kind.BOX, (-0.2, 0, 0.92), (0.12, 0.06, 0.03), DARK, label=label),
        Part(Kind.BOX, (0.45, 0, 0.72), (0.025, 0.025, 0.32), paint, Material.PAINT, label=label),
        Part(Kind.BOX, (0.42, 0, 1.03), (0.03, 0.27, 0.02), DARK, label=label),
    ]
    if rider:
        shirt, trousers = pick(rng, CLOTHES), pick(rng, CLOTHES)
        parts += [
            Part(Kind.ELLIPSOID, (-0.02, 0, 1.22), (0.24, 0.19, 0.34), shirt, label=label),
            Part(Kind.ELLIPSOID, (0.14, 0, 1.62), (0.12, 0.1, 0.14), pick(rng, SKIN), label=label),
            Part(Kind.ELLIPSOID, (0.12, 0, 1.69), (0.15, 0.12, 0.1), pick(rng, CAR_COLOURS), label=label),
            Part(Kind.ELLIPSOID, (0.26, 0, 1.2), (0.26, 0.24, 0.07), shirt, label=label),
        ]
        parts += [
            Part(Kind.CONE, (0.02, y, 0.68), (0.085, 0.085, 0.32), trousers, taper=(-0.2, 0, 0), label=label)
            for y in (-0.11, 0.11)
        ]
    return Shape("cyclist" if rider else "bicycle", parts, 1.75, 0.6)


def motorcycle(rng: np.random.Generator) -> Shape:
    """Parked motorcycle."""
    label, paint = LABEL["motorcycle"], pick(rng, CAR_COLOURS)
    parts = [
        *wheels(label, (-0.7, 0.7), 0.075, 0.31, 0.075, rims=False)[::2],
        Part(Kind.BOX, (0, 0, 0.5), (0.35, 0.16, 0.2), DARK, Material.METAL, label=label),
        Part(Kind.ELLIPSOID, (0.18, 0, 0.85), (0.34, 0.17, 0.17), paint, Material.PAINT, label=label),
        Part(Kind.BOX, (-0.45, 0, 0.82), (0.35, 0.13, 0.06), DARK, label=label),
        Part(Kind.BOX, (0.62, 0, 0.8), (0.05, 0.06, 0.32), STEEL, Material.METAL, label=label),
        Part(Kind.BOX, (0.5, 0, 1.1), (0.04, 0.36, 0.03), DARK, label=label),
        Part(Kind.ELLIPSOID, (0.72, 0, 0.98), (0.08, 0.11, 0.1), HEADLAMP, Material.LAMP, label=label),
    ]
    return Shape("motorcycle", parts, 2.05, 0.75)


def pedestrian(rng: np.random.Generator) -> Shape:
    """Pedestrian of 1.6 to 1.93 m, mid-stride."""
    label = LABEL["pedestrian"]
    scale = float(rng.uniform(0.90, 1.08))
    shirt, trousers, skin = pick(rng, CLOTHES), pick(rng, CLOTHES), pick(rng, SKIN)
    hair = pick(rng, ((0.08, 0.06, 0.05), (0.25, 0.16, 0.09), (0.5, 0.4, 0.25)))
    stride = float(rng.uniform(0.08, 0.18))
    rows: list[tuple[Kind, tuple[float, float, float], tuple[float, float, float], Colour, float]] = [
        (Kind.CONE, (stride, 0.1, 0.42), (0.075, 0.075, 0.42), trousers, -0.35),
        (Kind.CONE, (-stride, -0.1, 0.42), (0.075, 0.075, 0.42), trousers, -0.35),
        (Kind.BOX, (stride + 0.05, 0.1, 0.05), (0.14, 0.05, 0.05), DARK, 0),
        (Kind.BOX, (-stride + 0.05, -0.1, 0.05), (0.14, 0.05, 0.05), DARK, 0),
        (Kind.ELLIPSOID, (0, 0, 0.86), (0.15, 0.19, 0.16), trousers, 0),
        (Kind.ELLIPSOID, (0, 0, 1.16), (0.145, 0.22, 0.34), shirt, 0),
        (Kind.CONE, (-stride * 0.7, 0.25, 1.08), (0.05, 0.05, 0.3), shirt, -0.1),
        (Kind.CONE, (stride * 0.7, -0.25, 1.08), (0.05, 0.05, 0.3), shirt, -0.1),
        (Kind.CONE, (0, 0, 1.5), (0.06, 0.06, 0.06), skin, 0),
        (Kind.ELLIPSOID, (0.01, 0, 1.63), (0.105, 0.09, 0.125), skin, 0),
        (Kind.ELLIPSOID, (-0.02, 0, 1.67), (0.11, 0.1, 0.115), hair, 0),
    ]
    parts = [
        Part(
            kind, (scale * centre[0], scale * centre[1], scale * centre[2]),
            (scale * half[0], scale * half[1], scale * half[2]), colour, taper=(taper, 0, 0),
            label=label,
        )
        for kind, centre, half, colour, taper in rows
    ]  # fmt: skip
    return Shape("pedestrian", parts, 0.6, 0.6)


def traffic_cone(rng: np.random.Generator) -> Shape:
    """Orange cone with white sleeves."""
    label, orange = LABEL["traffic_cone"], (0.93, 0.30, 0.05)
    parts = [
        Part(Kind.BOX, (0, 0, 0.02), (0.19, 0.19, 0.02), DARK, label=label),
        Part(Kind.CONE, (0, 0, 0.39), (0.15, 0.15, 0.35), orange, Material.STRIPES, (0.78, 0, 0), label=label),
    ]
    return Shape("traffic_cone", parts, 0.4, 0.4)


def barrier(rng: np.random.Generator) -> Shape:
    """Concrete (jersey), striped or water-filled plastic barrier, 2 m."""
    label, kind = LABEL["barrier"], rng.random()
    if kind < 0.3:
        plastic = pick(rng, ((0.80, 0.20, 0.12), (0.86, 0.86, 0.84), (0.85, 0.40, 0.10)))
        parts = [
            Part(Kind.WEDGE, (0, 0, 0.25), (1.0, 0.25, 0.25), plastic, taper=(0.05, 0.05, 0.12), label=label),
            Part(Kind.WEDGE, (0, 0, 0.72), (0.96, 0.16, 0.22), plastic, taper=(0.05, 0.05, 0.1), label=label),
        ]
    elif kind < 0.6:
        parts = [
            Part(Kind.WEDGE, (0, 0, 0.2), (1.0, 0.28, 0.2), (0.62, 0.61, 0.58), taper=(0, 0, 0.4), label=label),
            Part(Kind.WEDGE, (0, 0, 0.6), (1.0, 0.13, 0.25), (0.64, 0.63, 0.60), taper=(0, 0, 0.1), label=label),
        ]
    else:
        parts = [
            Part(Kind.BOX, (0, 0, 0.85), (1.0, 0.04, 0.12), (0.9, 0.28, 0.06), Material.STRIPES, label=label),
            Part(Kind.BOX, (0, 0, 0.45), (1.0, 0.04, 0.10), (0.9, 0.28, 0.06), Material.STRIPES, label=label),
            *(Part(Kind.BOX, (x, 0, 0.5), (0.04, 0.25, 0.5), STEEL, Material.METAL, label=label) for x in (-0.8, 0.8)),
        ]
    return Shape("barrier", parts, 2.0, 0.56)


def tree(rng: np.random.Generator) -> Shape:
    """Street tree, 3.4 to 11.2 m."""
    label = LABEL["vegetation"]
    trunk, crown = float(rng.uniform(1.8, 3.8)), float(rng.choice([rng.uniform(1.0, 2.0), rng.uniform(1.8, 3.2)]))
    green = leaves(rng)
    parts = [
        Part(
            Kind.CONE, (0, 0, 0.5 * (trunk + 0.6)), (0.17, 0.17, 0.5 * (trunk + 0.6)), (0.27, 0.20, 0.15),
            taper=(0.35, 0, 0), label=label,
        )
    ]  # fmt: skip
    for k in range(6):
        angle, out = 2 * np.pi * (k + rng.uniform(-0.3, 0.3)) / 5, (0.0 if k == 5 else 0.55 * crown)
        size = crown * rng.uniform(0.60, 0.85)
        z = trunk + 0.5 * crown + rng.uniform(-0.15, 0.35) * crown + (0.75 * crown if k == 5 else 0.0)
        r, g, b = np.clip(green * rng.uniform(0.85, 1.15), 0, 1)
        parts.append(
            Part(
                Kind.ELLIPSOID, (float(out * np.cos(angle)), float(out * np.sin(angle)), float(z)),
                (float(size), float(size), float(0.85 * size)), (float(r), float(g), float(b)), Material.FOLIAGE,
                label=label,
            )
        )  # fmt: skip
    return Shape("tree", parts, 1.0, 1.0)


def leaves(rng: np.random.Generator) -> np.ndarray:
    """Return a random leaf colour, from grey olive to fresh green; 8 % are autumnal."""
    if rng.random() < 0.08:
        return np.array([rng.uniform(0.38, 0.52), rng.uniform(0.28, 0.40), rng.uniform(0.10, 0.20)])
    red, green, blue = rng.uniform(0.16, 0.36), rng.uniform(0.26, 0.45), rng.uniform(0.11, 0.22)
    grey = (red + green + blue) / 3
    return grey + (np.array([red, max(green, red + 0.02), blue]) - grey) * rng.uniform(0.45, 1.1)


def bush(rng: np.random.Generator) -> Shape:
    """Bush, also used as a piece of a hedge."""
    red, green, blue = (float(v) for v in leaves(rng))
    size = float(rng.uniform(0.45, 0.9))
    parts = [
        Part(Kind.ELLIPSOID, (x, y, 0.7 * size), (size, size, 0.85 * size), (red, green, blue), Material.FOLIAGE,
             label=LABEL["vegetation"])
        for x, y in ((0.0, 0.0), (0.7 * size, 0.3 * size), (-0.6 * size, -0.2 * size))
    ]  # fmt: skip
    return Shape("bush", parts, 2.4 * size, 2.0 * size)


def lamp_post(rng: np.random.Generator) -> Shape:
    """Street lamp; its arm extends along +x."""
    parts = [
        Part(Kind.CONE, (0, 0, 3.6), (0.10, 0.10, 3.6), STEEL, Material.METAL, (0.45, 0, 0)),
        Part(Kind.CONE, (0, 0, 0.3), (0.16, 0.16, 0.3), STEEL, Material.METAL),
        Part(Kind.BOX, (0.9, 0, 7.15), (0.95, 0.05, 0.04), STEEL, Material.METAL),
        Part(Kind.BOX, (1.8, 0, 7.08), (0.32, 0.13, 0.06), (0.75, 0.76, 0.76), Material.METAL),
    ]
    return Shape("lamp_post", parts, 0.4, 0.4)


def sign(rng: np.random.Generator) -> Shape:
    """Traffic sign on a pole, facing -x."""
    colour = pick(rng, ((0.10, 0.28, 0.60), (0.72, 0.08, 0.08), (0.9, 0.9, 0.9)))
    parts = [
        Part(Kind.CONE, (0, 0, 1.25), (0.04, 0.04, 1.25), STEEL, Material.METAL),
        Part(Kind.BOX, (-0.05, 0, 2.25), (0.02, 0.3, 0.3), colour),
        Part(Kind.BOX, (-0.075, 0, 2.25), (0.01, 0.18, 0.06), (0.95, 0.95, 0.95)),
    ]
    return Shape("sign", parts, 0.3, 0.3)


def signal(rng: np.random.Generator) -> Shape:
    """Traffic light with one head on the pole and one over the road; it faces -x, its arm extends along +y.

    SIGNAL_LAMPS lists the red, amber and green lamps of both heads; Scene.at switches them.
    """
    parts = [
        Part(Kind.CONE, (0, 0, 2.9), (0.10, 0.10, 2.9), DARK, Material.METAL, (0.3, 0, 0)),
        Part(Kind.BOX, (0, 2.2, 5.6), (0.05, 2.2, 0.05), DARK, Material.METAL),
    ]
    for y, z in ((0.0, 2.9), (4.2, 5.4)):
        parts.append(Part(Kind.BOX, (-0.16, y, z), (0.12, 0.19, 0.52), (0.06, 0.07, 0.07)))
        parts += [
            Part(Kind.BOX, (-0.29, y, z + dz), (0.03, 0.12, 0.12), colour, Material.LAMP)
            for dz, colour in ((0.34, (0.2, 0.02, 0.02)), (0.0, (0.2, 0.12, 0.02)), (-0.34, (0.02, 0.16, 0.08)))
        ]
    return Shape("signal", parts, 0.4, 0.4)


SIGNAL_LAMPS = ((3, 7), (4, 8), (5, 9))
"""Part indices of the red, amber and green lamps of `signal`."""


def bin_(rng: np.random.Generator) -> Shape:
    """Litter bin (class others)."""
    colour = pick(rng, ((0.16, 0.3, 0.2), (0.2, 0.2, 0.22)))
    parts = [
        Part(Kind.CONE, (0, 0, 0.5), (0.28, 0.28, 0.5), colour, taper=(-0.15, 0, 0), label=LABEL["others"]),
        Part(Kind.CONE, (0, 0, 1.03), (0.33, 0.33, 0.05), DARK, taper=(0.2, 0, 0), label=LABEL["others"]),
    ]
    return Shape("bin", parts, 0.7, 0.7)


def building(rng: np.random.Generator, width: float, depth: float, height: float) -> Shape:
    """Building with its front along x; width along x, depth along y."""
    wall = pick(
        rng,
        ((0.66, 0.46, 0.36), (0.74, 0.68, 0.58), (0.58, 0.56, 0.54), (0.80, 0.76, 0.68), (0.52, 0.38, 0.32),
         (0.62, 0.62, 0.66), (0.72, 0.60, 0.46), (0.45, 0.46, 0.48), (0.36, 0.40, 0.46), (0.86, 0.86, 0.85)),
        0.05,
    )  # fmt: skip
    hx, hy = 0.5 * width, 0.5 * depth
    red, green, blue = (min(1.0, 0.75 * c + 0.22) for c in wall)
    trim = (red, green, blue)
    parts = [
        Part(Kind.BOX, (0, 0, 0.5 * height), (hx, hy, 0.5 * height), wall, Material.WALL),
        Part(Kind.BOX, (0, 0, height), (hx + 0.2, hy + 0.2, 0.28), trim),
        Part(Kind.BOX, (0, 0, 3.75), (hx + 0.12, hy + 0.12, 0.14), trim),
        Part(Kind.BOX, (0, 0, 0.25), (hx + 0.06, hy + 0.06, 0.25), (0.42, 0.41, 0.40)),
    ]
    if rng.random() < 0.6:
        size = (float(rng.uniform(0.8, 2)), float(rng.uniform(0.8, 2)), float(rng.uniform(0.6, 1.3)))
        spot = (float(rng.uniform(-0.5, 0.5) * hx), float(rng.uniform(-0.5, 0.5) * hy), height + size[2])
        parts.append(Part(Kind.BOX, spot, size, (0.55, 0.55, 0.56), Material.METAL))
    return Shape("building", parts, width, depth)
