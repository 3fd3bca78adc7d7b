"""Placement of static objects: buildings, trees, poles, parked vehicles, a construction site."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..agents.traffic import overlap, rectangle
from ..shapes import objects, vehicles
from ..shapes.objects import Shape
from .streets import SIDEWALK, Street, Streets

REACH = 150.0
"""Half the street length in m to which the counts of signs, bins and bushes in `Layout._along` refer."""


@dataclass(frozen=True)
class Furnishing:
    """Parameters of the static objects beside the streets.

    site: arc length on the main street where a construction site begins and the side of its centreline (1 left, -1
    right), None for none; parked: share of occupied parking bays; trees: share of tree positions with a tree; spacing:
    metres between street lamps; floors: fewest and most floors of the houses at the street; park: share of lots with
    trees and bushes instead of a house; hedges: share of the land's edge with a hedge.
    """

    site: tuple[float, float] | None
    parked: float = 0.68
    trees: float = 0.75
    spacing: float = 26.0
    floors: tuple[int, int] = (2, 5)
    park: float = 0.0
    hedges: float = 0.0


@dataclass(frozen=True)
class Placed:
    """A static shape at pose x, y, yaw in the map."""

    shape: Shape
    pose: tuple[float, float, float]

    @cached_property
    def rectangle(self) -> np.ndarray:
        """Footprint [5], as traffic.rectangle."""
        return rectangle(np.array(self.pose), self.shape.length, self.shape.width, self.shape.centre)


class Layout:
    """Builder of the static scene beside the streets; each object keeps clear of those already placed."""

    def __init__(self, streets: Streets, rng: np.random.Generator, furnishing: Furnishing) -> None:
        self.streets = streets
        self.rng = rng
        self.furnishing = furnishing
        self.placed: list[Placed] = []
        self._taken = np.zeros((0, 5))

    def put(self, shape: Shape, pose: np.ndarray, margin: float = 0.2, clear: float | None = None) -> bool:
        """Place a shape unless it touches another or is within `clear` metres of the road's edge; True if placed."""
        plan = rectangle(pose, shape.length, shape.width, shape.centre)
        if len(self._taken) and overlap(self._taken, plan, margin).any():
            return False
        if clear is not None and self.streets.edge(_outline(plan)).min() < clear:
            return False
        self.placed.append(Placed(shape, (float(pose[0]), float(pose[1]), float(pose[2]))))
        self._taken = np.concatenate([self._taken, plan[None]])
        return True

    def build(self) -> list[Placed]:
        """Place everything, important objects first, and return it."""
        self._signals()
        self._site()
        for street in (self.streets.cross, self.streets.main):
            if street.parking:
                self._parked(street)
        for street in (self.streets.main, self.streets.cross):
            for row in (0, 1):
                self._buildings(street, row)
        for street in (self.streets.main, self.streets.cross):
            for side in (-1, 1):
                self._along(street, side)
                self._hedge(street, side)
        self._median()
        return self.placed

    def _signals(self) -> None:
        main, cross = self.streets.main.half_width, self.streets.cross.half_width
        arms = self.streets.arms
        far_x = cross + 4.6
        # The signal of a single arm stands beyond the main street's far kerb.
        far_y = {side: main + (4.6 if side in arms else 0.7) for side in (1.0, -1.0)}
        places = [(far_x, -main - 0.7, 0.0), (-far_x, main + 0.7, np.pi)]
        if -1.0 in arms:
            places.append((cross + 0.7, far_y[1.0], np.pi / 2))
        if 1.0 in arms:
            places.append((-cross - 0.7, -far_y[-1.0], -np.pi / 2))
        for x, y, yaw in places:
            self.put(objects.signal(self.rng), np.array([x, y, yaw]))

    def _site(self) -> None:
        """Close the outer lane (or parking lane of a one-lane street) with cones, barriers and a wheel loader."""
        if self.furnishing.site is None:
            return
        street, (start, side) = self.streets.main, self.furnishing.site
        wide = len(street.lanes) > 1
        lane = street.lanes[-1] if wide else street.parking
        kerb, taper = (1.7, 3.2) if wide else (0.9, 1.9)
        for k in range(9):
            across = lane + kerb - taper * min(k / 4, 1.0)
            self.put(objects.traffic_cone(self.rng), street.pose(start + side * (34 - 3.5 * k), side * across), 0.0)
        for k in range(5):
            pose = street.pose(start + side * (14 - 2.6 * k), side * (lane - (1.2 if wide else 0.7)))
            self.put(objects.barrier(self.rng), pose)
        loader = vehicles.construction_vehicle(self.rng)
        self.put(loader, street.pose(start + side * 9, side * (lane + 0.6)))

    def _parked(self, street: Street) -> None:
        for side in (-1, 1):
            for bay in np.arange(street.built[0] + 3.0, street.built[1], 6.0):
                if self.rng.random() > self.furnishing.parked or abs(bay) < 24.0:
                    continue
                pose = street.pose(bay, side * street.parking)
                pose[2] += (np.pi if side > 0 else 0.0) + self.rng.normal(0, 0.015)
                draw = self.rng.random()
                make = (
                    vehicles.car if draw < 0.84 else objects.motorcycle if draw < 0.90
                    else vehicles.trailer if draw < 0.94 else vehicles.truck
                )  # fmt: skip
                self.put(make(self.rng), pose, 0.4)

    def _buildings(self, street: Street, row: int) -> None:
        rng = self.rng
        low, high = self.furnishing.floors
        for side in (-1, 1):
            along = max(street.built[0] - 20.0, street.pieces[0].s0)
            while along < min(street.built[1] + 20.0, street.pieces[-1].s1 - 20.0):
                width, depth = float(rng.uniform(9, 19)), float(rng.uniform(9, 14))
                floors = int(rng.integers(low, high + 1)) if row == 0 else int(rng.integers(4, 11))
                offset = street.half_width + SIDEWALK + float(rng.uniform(1.6, 3.2)) + 0.5 * depth + 21.0 * row
                pose = street.pose(along + 0.5 * width, side * offset)
                if rng.random() < self.furnishing.park:
                    self._park(pose, width, depth)
                elif row == 0 or rng.random() < 0.6:
                    shape = objects.building(rng, width, depth, 3.9 + 3.1 * (floors - 1))
                    self.put(shape, pose, 0.3, clear=SIDEWALK + 1.0)
                along += width + (float(rng.uniform(0.4, 1.0)) if rng.random() < 0.7 else float(rng.uniform(3, 8)))

    def _park(self, pose: np.ndarray, width: float, depth: float) -> None:
        """Place trees and bushes on a lot of width x depth metres."""
        rng, (c, s) = self.rng, (np.cos(pose[2]), np.sin(pose[2]))
        for _ in range(int(width * depth / 22.0)):
            x, y = rng.uniform(-0.5, 0.5, 2) * (width, depth)
            spot = pose + np.array([c * x - s * y, s * x + c * y, rng.uniform(0, np.pi)])
            self.put(objects.tree(rng) if rng.random() < 0.6 else objects.bush(rng), spot, 0.4, clear=SIDEWALK + 0.5)

    def _hedge(self, street: Street, side: int) -> None:
        """Place rows of bushes, with gaps, along the edge of the land."""
        rng, along = self.rng, street.built[0]
        while along < street.built[1]:
            end = along + float(rng.uniform(6, 25))
            if rng.random() < self.furnishing.hedges:
                for spot in np.arange(along, end, 1.3):
                    pose = street.pose(spot, side * (street.half_width + SIDEWALK + 0.7))
                    self.put(objects.bush(rng), pose, 0.0, clear=SIDEWALK)
            along = end + float(rng.uniform(2, 10))

    def _along(self, street: Street, side: int) -> None:
        """Place lamps, trees, signs, bins, bicycles and bushes along one side."""
        rng, furnishing = self.rng, self.furnishing
        low, high = street.built
        share = (high - low) / (2 * REACH)

        def pose(along: float, beyond: float, yaw: float = 0.0) -> np.ndarray:
            out = street.pose(along, side * (street.half_width + beyond))
            out[2] += yaw
            return out

        towards = -0.5 * np.pi * side
        for along in np.arange(low, high, furnishing.spacing) + float(rng.uniform(0, 20)):
            self.put(objects.lamp_post(rng), pose(along, 0.6, towards), 0.1, clear=0.3)
        for along in np.arange(low, high, 10.0) + float(rng.uniform(0, 9)):
            if rng.random() < furnishing.trees:
                self.put(objects.tree(rng), pose(along + float(rng.uniform(-1, 1)), 2.85), 0.1, clear=2.0)
        for _ in range(round(10 * share)):
            along = float(rng.uniform(low, high))
            self.put(objects.sign(rng), pose(along, 0.7, 0.0 if side < 0 else np.pi), 0.1, clear=0.3)
            self.put(objects.bin_(rng), pose(float(rng.uniform(low, high)), 0.9), 0.3, clear=0.4)
            cycle = pose(float(rng.uniform(low, high)), 2.9, float(rng.uniform(-0.2, 0.2)))
            self.put(objects.bicycle(rng), cycle, 0.2, clear=1.8)
        for _ in range(round(30 * share)):
            spot = pose(float(rng.uniform(low, high)), SIDEWALK + float(rng.uniform(0.6, 1.2)))
            self.put(objects.bush(rng), spot, 0.05, clear=SIDEWALK)

    def _median(self) -> None:
        street = self.streets.main
        if not street.median:
            return
        for side, end in zip((-1, 1), (-street.built[0], street.built[1]), strict=True):
            for along in np.arange(self.streets.cross.half_width + 14.0, end, 5.5):
                shape = objects.lamp_post(self.rng) if self.rng.random() < 0.12 else objects.bush(self.rng)
                self.put(shape, street.pose(side * along, 0.0), 0.0)


def _outline(plan: np.ndarray, steps: int = 5) -> np.ndarray:
    """Return points [4 * steps, 2] on the border of a rectangle [5]."""
    t = np.linspace(-0.5, 0.5, steps)
    edge = np.full(steps, 0.5)
    x = np.concatenate([t, t, edge, -edge]) * plan[3]
    y = np.concatenate([edge, -edge, t, t]) * plan[4]
    c, s = np.cos(plan[2]), np.sin(plan[2])
    return np.stack([plan[0] + c * x - s * y, plan[1] + s * x + c * y], -1)
