"""Cars, trucks, buses, trailers and construction vehicles as lists of parts; real sizes in metres."""

from __future__ import annotations

import numpy as np

from ...core.classes import LABEL
from .objects import CAR_COLOURS, DARK, GLASS, HEADLAMP, STEEL, TAILLAMP, Colour, Shape, pick, wheels
from .solids import Kind, Material, Part


def car(rng: np.random.Generator) -> Shape:
    """Saloon, hatchback, SUV or van."""
    label = LABEL["car"]
    # length, width, height, belt line, cabin centre, cabin half length (shares of the length), screen and rear lean
    body = [
        (4.70, 1.84, 1.45, 0.93, -0.05, 0.30, 1.15, 0.95),
        (4.10, 1.76, 1.48, 0.94, -0.10, 0.33, 0.95, 0.40),
        (4.60, 1.90, 1.70, 1.06, -0.09, 0.35, 0.80, 0.35),
        (4.90, 1.95, 1.95, 1.12, -0.07, 0.41, 0.75, 0.10),
    ][int(rng.choice(4, p=[0.4, 0.25, 0.25, 0.1]))]
    length, width, height, belt, cabin_x, cabin_half, screen, rear = body
    length *= float(rng.uniform(0.96, 1.05))
    paint = pick(rng, CAR_COLOURS)
    half, side = 0.5 * length, 0.5 * width
    sill, shoulder = 0.24, belt - 0.16

    def box(x: float, y: float, z: float, hx: float, hy: float, hz: float, colour: Colour, material: Material) -> Part:
        return Part(Kind.BOX, (x, y, z), (hx, hy, hz), colour, material, label=label)

    lower = Part(
        Kind.WEDGE, (0, 0, 0.5 * (sill + shoulder)), (half, side, 0.5 * (shoulder - sill)), paint, Material.PAINT,
        (0.10, 0.08, 0.05), label=label,
    )  # fmt: skip
    upper = Part(
        Kind.WEDGE, (0, 0, 0.5 * (shoulder + belt)), (half - 0.06, side - 0.03, 0.5 * (belt - shoulder)), paint,
        Material.PAINT, (2.2, 0.9, 0.30), label=label,
    )  # fmt: skip
    tall = height - 0.05 - belt + 0.04
    x0, hx, hy = cabin_x * length, cabin_half * length, side - 0.08
    cabin = Part(
        Kind.WEDGE, (x0, 0, belt - 0.04 + 0.5 * tall), (hx, hy, 0.5 * tall), GLASS, Material.GLASS,
        (screen, rear, 0.28), label=label,
    )  # fmt: skip
    front, back, top = hx - screen * tall, hx - rear * tall, hy - 0.28 * tall
    roof = Part(
        Kind.WEDGE, (x0 + 0.5 * (front - back), 0, height - 0.035),
        (0.5 * (front + back) + 0.05, top + 0.04, 0.035), paint, Material.PAINT, (0.9, 0.9, 0.9), label=label,
    )  # fmt: skip
    pillars = [
        Part(
            Kind.WEDGE, (x0 + shift, 0, belt - 0.04 + 0.5 * tall), (0.05, hy + 0.012, 0.5 * tall), paint,
            Material.PAINT, (0, 0, 0.28), label=label,
        )
        for shift in (0.02, -0.62 * back - 0.1)
    ]  # fmt: skip
    parts = [lower, upper, cabin, roof, *pillars]
    parts += wheels(label, (-0.30 * length, 0.30 * length), side + 0.01, 0.325, 0.11)
    parts += [
        box(half - 0.02, 0, 0.40, 0.06, side - 0.10, 0.12, DARK, Material.PLAIN),
        box(half - 0.05, 0, shoulder - 0.09, 0.06, 0.34, 0.06, DARK, Material.PLAIN),
        box(-half + 0.02, 0, 0.36, 0.06, side - 0.10, 0.09, DARK, Material.PLAIN),
        box(-half + 0.04, 0, 0.70, 0.06, 0.26, 0.06, (0.85, 0.85, 0.82), Material.PLAIN),
        box(half, 0, 0.46, 0.05, 0.26, 0.055, (0.85, 0.85, 0.82), Material.PLAIN),
        box(0, 0, sill + 0.03, 0.36 * length - 0.4, side + 0.005, 0.05, DARK, Material.PLAIN),
    ]
    for y in (-1, 1):
        parts += [
            box(half - 0.09, y * (side - 0.24), shoulder - 0.06, 0.07, 0.18, 0.065, HEADLAMP, Material.LAMP),
            box(-half + 0.08, y * (side - 0.21), shoulder - 0.04, 0.07, 0.17, 0.085, TAILLAMP, Material.LAMP),
            box(x0 + hx - 0.45, y * (side + 0.03), belt + 0.07, 0.06, 0.09, 0.07, paint, Material.PAINT),
        ]
    return Shape("car", parts, length, width)


def truck(rng: np.random.Generator) -> Shape:
    """Box truck with a separate cab."""
    label, cargo, cab = (
        LABEL["truck"],
        pick(rng, ((0.90, 0.90, 0.88), (0.80, 0.76, 0.62), (0.30, 0.42, 0.55))),
        pick(rng, CAR_COLOURS),
    )
    length, side = float(rng.uniform(7.0, 8.6)), 1.22
    half = 0.5 * length
    bed = half - 1.05
    parts = [
        Part(Kind.BOX, (-1.05, 0, 2.1), (bed, side, 1.2), cargo, Material.PANELS, label=label),
        Part(Kind.BOX, (0, 0, 0.72), (half - 0.1, 0.45, 0.16), DARK, label=label),
        Part(Kind.WEDGE, (half - 0.95, 0, 0.95), (0.95, 1.15, 0.55), cab, Material.PAINT, (0.04, 0, 0.02), label=label),
        Part(Kind.WEDGE, (half - 1.0, 0, 1.95), (0.93, 1.12, 0.5), cab, Material.PAINT, (0.30, 0, 0.06), label=label),
        Part(
            Kind.WEDGE, (half - 0.92, 0, 1.93), (0.88, 1.0, 0.36), GLASS, Material.GLASS, (0.28, 0, 0.05), label=label
        ),
        Part(Kind.BOX, (half - 0.75, 0, 1.90), (0.42, 1.13, 0.28), GLASS, Material.GLASS, label=label),
        Part(Kind.BOX, (half, 0, 0.50), (0.07, 1.1, 0.18), DARK, label=label),
        Part(Kind.BOX, (-half + 0.02, 0, 0.62), (0.05, 1.1, 0.09), DARK, label=label),
    ]
    for y in (-0.85, 0.85):
        parts.append(Part(Kind.BOX, (half, y, 0.78), (0.05, 0.17, 0.10), HEADLAMP, Material.LAMP, label=label))
        parts.append(Part(Kind.BOX, (-half, y, 0.80), (0.05, 0.16, 0.08), TAILLAMP, Material.LAMP, label=label))
    parts += wheels(label, (-half + 1.4, -half + 2.4, half - 1.1), 1.2, 0.47, 0.16)
    return Shape("truck", parts, length, 2.5)


def bus(rng: np.random.Generator) -> Shape:
    """City bus, 11 to 12 m."""
    label = LABEL["bus"]
    paint = pick(rng, ((0.72, 0.12, 0.10), (0.12, 0.36, 0.60), (0.90, 0.88, 0.84), (0.16, 0.45, 0.30)))
    length, side = float(rng.uniform(11.0, 12.0)), 1.27
    half = 0.5 * length
    parts = [
        Part(Kind.BOX, (0, 0, 0.90), (half, side, 0.60), paint, Material.PAINT, label=label),
        Part(Kind.BOX, (0, 0, 2.05), (half - 0.04, side - 0.02, 0.56), GLASS, Material.GLASS, label=label),
        Part(Kind.BOX, (0, 0, 2.83), (half, side, 0.24), paint, Material.PAINT, label=label),
        Part(Kind.BOX, (0.5, 0, 3.14), (2.2, 0.9, 0.10), (0.8, 0.8, 0.8), label=label),
        Part(Kind.BOX, (half, 0, 2.78), (0.03, 0.9, 0.14), (0.95, 0.60, 0.10), Material.LAMP, label=label),
        Part(Kind.BOX, (half, 0, 0.42), (0.06, 1.2, 0.12), DARK, label=label),
    ]
    parts += [
        Part(Kind.BOX, (x, 0, 2.05), (0.05, side, 0.56), paint, Material.PAINT, label=label)
        for x in np.linspace(-half + 0.1, half - 1.3, 6)
    ]
    for y in (-0.95, 0.95):
        parts.append(Part(Kind.BOX, (half, y, 0.75), (0.04, 0.2, 0.11), HEADLAMP, Material.LAMP, label=label))
        parts.append(Part(Kind.BOX, (-half, y, 0.85), (0.04, 0.14, 0.18), TAILLAMP, Material.LAMP, label=label))
    parts += wheels(label, (-0.24 * length, 0.29 * length), 1.275, 0.48, 0.15)
    return Shape("bus", parts, length, 2.55)


def trailer(rng: np.random.Generator) -> Shape:
    """Flat car trailer with a tarpaulin."""
    label = LABEL["trailer"]
    parts = [
        Part(Kind.BOX, (-0.2, 0, 0.62), (1.9, 0.95, 0.14), STEEL, Material.METAL, label=label),
        Part(Kind.WEDGE, (-0.2, 0, 1.25), (1.85, 0.93, 0.5), pick(rng, ((0.22, 0.33, 0.42), (0.55, 0.53, 0.47))),
             Material.PANELS, (0.05, 0.05, 0.12), label=label),
        Part(Kind.BOX, (2.2, 0, 0.5), (0.55, 0.06, 0.05), STEEL, Material.METAL, label=label),
        *wheels(label, (-0.6, 0.3), 1.05, 0.32, 0.1),
    ]  # fmt: skip
    return Shape("trailer", parts, 4.4, 2.1)


def construction_vehicle(rng: np.random.Generator) -> Shape:
    """Wheel loader."""
    label, yellow = LABEL["construction_vehicle"], (0.90, 0.62, 0.08)
    parts = [
        Part(Kind.WEDGE, (-1.2, 0, 1.25), (1.2, 0.95, 0.55), yellow, Material.PAINT, (0, 0.25, 0.06), label=label),
        Part(Kind.BOX, (0.6, 0, 0.95), (1.2, 0.55, 0.28), yellow, Material.PAINT, label=label),
        Part(Kind.WEDGE, (0.05, 0, 2.2), (0.65, 0.72, 0.62), GLASS, Material.GLASS, (0.12, 0.1, 0.08), label=label),
        Part(Kind.BOX, (0.0, 0, 2.86), (0.68, 0.74, 0.06), yellow, Material.PAINT, label=label),
        Part(Kind.BOX, (1.9, 0, 1.0), (0.75, 0.35, 0.12), DARK, Material.METAL, label=label),
        Part(Kind.WEDGE, (2.85, 0, 0.62), (0.5, 1.25, 0.5), STEEL, Material.METAL, (0.45, 0.1, 0), label=label),
        *wheels(label, (-1.25, 1.15), 1.2, 0.72, 0.26),
    ]
    return Shape("construction_vehicle", parts, 6.0, 2.5, 0.4)
